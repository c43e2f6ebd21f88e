"""Cut utterances in two at a word border: a prompt and what follows it, spoken and written, with the same cut.

    words   the    cat    sat    on     mats               share 0.5 of 5 words: 2 in the prompt
    text    "The cat"  |  " sat on mats."
    units    5 9 9 2 2 |   2 7 7 1 1 3 8                   a run of equal units over the cut becomes two runs

Source: context retrieval accuracy and PELM of SUTLM (Chou et al., 2023, arXiv:2310.08715) take a prompt and its
continuation from one sentence. Where the paper cuts is not known to us; here it is a share of the words. The rule for
units at a border is that of sequences/word_slices.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from jaxtyping import Int
from torch import Tensor

from vocable.assets.cache import cache_folder
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.once import Progress, encode_once
from vocable.evaluation.pairs.models import find_control
from vocable.evaluation.runner import Benchmark, SampledConfig
from vocable.evaluation.unusable import UnusableError, reasons
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import LanguageModel, Reply, Segment, load_lm
from vocable.lm.text_lm import load_text_lm
from vocable.sequences.spans import Modality
from vocable.sequences.word_slices import Pause, slice_frames, word_borders, word_texts
from vocable.types import SpeechTokens, Utterance

Cell = Literal["u2u", "t2t", "u2t", "t2u"]
"""Modality of the prompt, and of the continuation: units or text."""
CELLS: tuple[Cell, ...] = get_args(Cell)
MODALITIES: dict[str, Modality] = {"u": "speech", "t": "text"}


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """Where utterances are cut."""

    share: float = 0.5
    """Share of the words that the prompt gets; of an odd number at 0.5, the continuation gets one more."""
    min_words: int = 2
    """Fewest words of prompt and of continuation; shorter utterances are left out, and counted."""
    pause: Pause = "middle"
    """Which half gets the pause at the cut: both (middle), the prompt (before) or the continuation (after)."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share is {self.share}; it must be above 0 and below 1.")
        if self.min_words < 1:
            raise ConfigError(f"min_words is {self.min_words}; a half needs at least 1 word.")

    def cut_conventions(self) -> dict[str, Any]:
        """Where utterances are cut, for results."""
        return {setting.name: getattr(self, setting.name) for setting in fields(CutConfig)}


class Half(NamedTuple):
    """The prompt or the continuation."""

    text: str
    """Text of the half; that of a continuation begins with the blank that divides it from the prompt."""
    num_words: int
    tokens: SpeechTokens | None = None
    """None where speech is not read."""

    def segment(self, modality: str) -> Segment:
        """Return the half as units ("u") or as text ("t")."""
        return Segment(tokens=self.tokens) if modality == "u" else Segment(text=self.text)


class CutUtterance(NamedTuple):
    """An utterance in two halves."""

    id: str
    speaker: str | None
    prompt: Half
    continuation: Half


class SpeechForm(NamedTuple):
    """How a model reads the speech of an utterance."""

    frame_rate: float
    """Frames per second of the tokens."""
    collapsed: bool
    """Merge runs of equal units, inside each half."""


def words_in_prompt(num_words: int, config: CutConfig) -> int:
    """Return how many words the prompt gets.

    Raises:
        UnusableError: there are too few words for two halves.
    """
    if num_words < 2 * config.min_words:
        raise UnusableError(f"fewer than {2 * config.min_words} words")
    # the small number keeps 0.3 * 10 from being 2
    return min(max(int(config.share * num_words + 1e-9), config.min_words), num_words - config.min_words)


def cut_utterance(
    utterance: Utterance,
    config: CutConfig,
    tokens: SpeechTokens | None = None,
    speech: SpeechForm | None = None,
    text_form: Literal["text", "words"] = "text",
) -> CutUtterance:
    """Cut one utterance.

    Args:
        tokens: of the whole utterance; needed with `speech`.
        speech: how the model reads speech; None: it reads none.
        text_form: write the utterance's text (its words where it has none), or always the words, as a layout says.

    Raises:
        UnusableError: it cannot be cut; the message is the reason that is counted.
    """
    if not utterance.words:
        raise UnusableError("no word times")
    words = utterance.words
    count = words_in_prompt(len(words), config)
    pieces = word_texts(utterance.text if text_form == "text" else None, words)
    texts = "".join(pieces[:count]).strip(), "".join(pieces[count:]).rstrip()
    if not all(text.strip() for text in texts):
        raise UnusableError("a half has no text")
    spoken: tuple[SpeechTokens | None, SpeechTokens | None] = (None, None)
    if speech is not None:
        if tokens is None or tokens.num_frames == 0:
            raise UnusableError("no tokens: audio unreadable or refused")
        try:
            border = int(word_borders(words, tokens.num_frames, speech.frame_rate, config.pause)[count])
        except ManifestError as error:
            raise UnusableError("words and tokens do not fit each other") from error
        ends = (0, border), (border, tokens.num_frames)
        spoken = tuple(slice_frames(tokens, *end, collapsed=speech.collapsed) for end in ends)  # type: ignore[assignment]
    return CutUtterance(
        utterance.id,
        utterance.speaker,
        Half(texts[0], count, spoken[0]),
        Half(texts[1], len(words) - count, spoken[1]),
    )


def cut_all(
    utterances: Sequence[Utterance],
    cut: Callable[[Utterance], CutUtterance],
) -> tuple[list[CutUtterance], Counter[str]]:
    """Cut all that can be cut; return them with what was left out, counted by reason."""
    found, left_out = [], Counter[str]()
    for utterance in utterances:
        try:
            found.append(cut(utterance))
        except UnusableError as error:
            left_out[str(error)] += 1
    return found, left_out


class HalfModel(NamedTuple):
    """A model, and how it reads halves:

        u2u   <U> units(x) | units(y)              t2t   <T> text(x) | text(y)
        u2t   <U> units(x) <U2T> | text(y)         t2u   <T> text(x) <T2U> | units(y)

    What stands before the bar is read, what stands after it is scored: the switch symbol never is. The halves are
    turned into ids apart, so that y has the same ids after every prompt. Models of units alone have the cell u2u,
    models of text alone t2t.
    """

    lm: LanguageModel | None
    """None: the random control."""
    fingerprints: dict[str, str]
    weights: dict[str, Any]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that the model can read; random ones need no reading."""
        known = None if self.lm is None else self.lm.modalities
        return tuple(cell for cell in CELLS if known is None or {MODALITIES[cell[0]], MODALITIES[cell[2]]} <= {*known})

    def prompt(self, half: Half, cell: Cell) -> Int[Tensor, " prompt"]:
        """Return what is read: opener, prompt, and the switch symbol where the modality changes."""
        return self._lm.prompt([half.segment(cell[0])], to=MODALITIES[cell[2]])

    def continuation(self, half: Half, cell: Cell) -> Int[Tensor, " continuation"]:
        """Return what is scored."""
        return self._lm.content(half.segment(cell[2]))

    def opener(self, cell: Cell) -> Int[Tensor, " opener"]:
        """Return what a continuation without a prompt follows: the opener of its modality."""
        return self._lm.opener(MODALITIES[cell[2]])

    def description(self) -> dict[str, Any]:
        """Say how rows are made, for results."""
        return {**self._lm.description(), "halves": f"{self._lm.prompt_form}, continuation"}

    @property
    def _lm(self) -> LanguageModel:
        assert self.lm is not None, "the random control reads nothing"
        return self.lm


def load_half_model(
    model: str, *, tokenizer: Path | None, text_model: str, dtype: str | None, device: str
) -> HalfModel:
    """Load a folder (all cells that the model reads) or a control: text (a text model), random (chance).

    Raises:
        UnknownNameError: the model is neither a folder nor a control.
        ConfigError: the folder holds no language model of Vocable, or its tokenizer is not beside it.
        FingerprintError: the tokenizer is not the one that the language model was trained with.
    """
    if Path(model).is_dir():
        lm = load_lm(model, tokenizer=tokenizer, dtype=dtype, device=device)
        found = HalfModel(lm, {"tokenizer": lm.tokenizer.fingerprint}, {})
        return found._replace(weights={"model": {**lm.record(), "rows": found.description()}})
    if find_control(model, {"text": "text", "random": "random"}) == "random":
        return HalfModel(None, {}, {"model": {"control": "random"}})
    weight_type: Any = dtype or "float32"
    text = load_text_lm(text_model, opening="none", dtype=weight_type, device=device)
    found = HalfModel(text, {}, {})
    record = {"control": "text", "text_model": dict(text.weights), "rows": found.description()}
    return found._replace(weights={"model": record})


def cut_for(
    model: HalfModel,
    utterances: Sequence[Utterance],
    cut: CutConfig,
    cache: Path,
    left_out: Counter[str],
    on_progress: Progress | None = None,
) -> list[CutUtterance]:
    """Encode utterances as the model reads them, and cut them; what is left out is counted in `left_out`, by reason.

    Raises:
        ManifestError: no utterance can be cut.
    """
    by_words, reasons_of_words = cut_all(utterances, lambda u: cut_utterance(u, cut))  # others need not be encoded
    left_out += reasons_of_words
    ids = {one.id for one in by_words}
    kept = [utterance for utterance in utterances if utterance.id in ids]
    tokens, speech = {}, None
    if kept and model.lm is not None and "speech" in model.lm.modalities:
        tokenizer = model.lm.tokenizer  # type: ignore[attr-defined]  # all that read speech have one
        rate = tokenizer.frame_rate
        if rate is None or tokenizer.num_codebooks != 1:
            raise ConfigError(
                f"{tokenizer.name!r} has {tokenizer.num_codebooks} codebooks and the frame rate {rate}; "
                "cutting units at words needs one codebook and a frame rate."
            )
        tokens = encode_once(kept, tokenizer, cache, on_progress=on_progress)
        speech = SpeechForm(frame_rate=rate, collapsed=model.lm.collapsed)
    form = "text" if model.lm is None else model.lm.text_form
    found, more = cut_all(kept, lambda u: cut_utterance(u, cut, tokens.get(u.id), speech, form))
    left_out += more
    if not found:
        raise ManifestError(
            f"None of {len(utterances)} utterances can be cut in two ({reasons(left_out)}). Word times come from "
            "'vocable align', or from a synthesiser."
        )
    return found


def readable(model: HalfModel, utterances: Sequence[CutUtterance], excluded: Counter[str]) -> list[CutUtterance]:
    """Drop utterances of which a half takes more than half of the model's positions, and count them in `excluded`.

    Any prompt can then stand before any continuation.
    """
    positions = None if model.lm is None else model.lm.context_tokens
    if positions is None:
        return list(utterances)
    kept = []
    for one in utterances:
        longest = max(
            max(len(model.prompt(half, cell)), len(model.continuation(half, cell)))
            for half in (one.prompt, one.continuation)
            for cell in model.cells
        )
        if longest <= positions // 2:
            kept.append(one)
    if len(kept) < len(utterances):
        excluded[f"a half is longer than half of the model's {positions} positions"] = len(utterances) - len(kept)
    return kept


def continues_run(prompt: Half, continuation: Half) -> bool:
    """Whether the prompt's last unit is the continuation's first: one run, in a recording without a cut."""
    first, last = continuation.tokens, prompt.tokens
    if first is None or last is None or last.codes.shape[1] < 2 or not first.codes.shape[1]:
        return False
    return int(last.units[-1]) == int(first.units[0])


def without_last_run(half: Half) -> Half:
    """Return the half without its last unit, which belongs to a run that goes on in the continuation."""
    assert half.tokens is not None
    durations = half.tokens.durations
    tokens = SpeechTokens(codes=half.tokens.codes[:, :-1], durations=None if durations is None else durations[:-1])
    return half._replace(tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvesConfig(CutConfig, SampledConfig):
    """The settings of a benchmark over utterances in halves."""

    manifest: Path
    """Recordings with texts and word times (JSONL); see 'vocable align'."""
    model: str
    """Folder of a language model, or of its training run; or a control: text (a text model, t2t), random."""
    tokenizer: Path | None = None
    """Folder of the speech tokenizer; without it, the one beside the model."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the model's weights. Without it, as saved."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for tokens. Without it, that of the assets."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        CutConfig.__post_init__(self)


H = TypeVar("H", bound=HalvesConfig)


class HalvesBenchmark(Benchmark[H], Generic[H]):
    """A benchmark over utterances in halves."""

    positional = ("manifest",)

    def open_model(self, text_model: str) -> HalfModel:
        """Load the model or control, `text_model` for the control text, and record it."""
        config, run = self.config, self.run
        names = {"tokenizer": config.tokenizer, "dtype": config.dtype, "text_model": text_model}
        model = run.open("model", lambda: load_half_model(config.model, **names, device=run.device))
        run.fingerprints |= model.fingerprints
        run.weights |= model.weights
        return model

    def cut_utterances(self, model: HalfModel) -> list[CutUtterance]:
        """Cut the utterances, and leave out what the model cannot read."""
        config, run = self.config, self.run

        def cut() -> list[CutUtterance]:
            watch = lambda count, total: run.advance("Encoding speech", count, total)  # noqa: E731
            return cut_for(model, run.utterances(), config, config.cache, run.excluded, watch)

        return readable(model, run.open("cut", cut), run.excluded)


class Made(NamedTuple):
    """One continuation: text, or units."""

    text: str | None
    tokens: SpeechTokens | None
    num_tokens: int
    """New tokens, without the end symbol."""
    stopped: str


def continue_halves(
    model: HalfModel,
    utterances: Sequence[CutUtterance],
    cell: Cell,
    config: GenerationConfig,
    *,
    max_text_tokens: int,
    seed: int,
) -> Iterator[dict[int, Made]]:
    """Continue the prompt half of every utterance; yield the continuations of each batch, by the utterance's place.

    Each utterance and cell has its own seed, so that a continuation does not depend on what else is in the run.

    Args:
        config: sampling, lengths of speech, guards; its seed is not used.
        seed: with the utterance's id and the cell, decides what is drawn.

    Raises:
        ConfigError: the model cannot say how long its units last.
        NumericsError: the model returned NaN.
    """
    assert model.lm is not None
    limits: dict[str, Any] = {"to": MODALITIES[cell[2]], "max_text_tokens": max_text_tokens}
    order = sorted(range(len(utterances)), key=lambda place: _size(utterances[place].prompt, cell))  # wastes least
    for start in range(0, len(order), config.batch_size):
        places = order[start : start + config.batch_size]
        prompts = [[utterances[place].prompt.segment(cell[0])] for place in places]
        seeds = [stable_seed(seed, utterances[place].id, cell) for place in places]
        replies = model.lm.continue_(prompts, config, **limits, seeds=seeds)
        yield {place: _made(reply, cell) for place, reply in zip(places, replies, strict=True)}


def random_words(utterances: Sequence[CutUtterance], seed: int) -> list[str]:
    """For each utterance, words drawn by how often continuations hold them; as many as its own continuation has."""
    words = [one.continuation.text.split() for one in utterances]
    known = [word for found in words for word in found]
    texts = []
    for one, own in zip(utterances, words):
        rng = np.random.default_rng(stable_seed(seed, one.id, "random words"))
        texts.append(" ".join(known[place] for place in rng.integers(0, len(known), len(own))))
    return texts


def _size(prompt: Half, cell: Cell) -> int:
    return prompt.tokens.codes.shape[1] if cell[0] == "u" and prompt.tokens is not None else len(prompt.text)


def _made(reply: Reply, cell: Cell) -> Made:
    text, tokens = (reply.text, None) if cell[2] == "t" else (None, reply.tokens)
    return Made(text, tokens, len(reply.token_ids), reply.stopped)
