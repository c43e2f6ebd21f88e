"""The interface of language models: rows of segments, their scores and states, and continuations.

    documents -> rows -> score, states               prompts -> continue_ -> replies

A document or a prompt is a list of segments, each of speech tokens or of text. `LanguageModel` is what models of text
alone share too (text_lm.py); `SpokenLM` adds the tokenizer. Implementations: unit_lm.py, joint_lm.py,
word_lm.py.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.assets.weights import weights_record
from vocable.errors import ConfigError
from vocable.files import write_json
from vocable.lm.branches import Tree, TreeNLL, tree_nll
from vocable.lm.checkpoint import LMCard, LoadedLM, load_folder
from vocable.lm.generation import GenerationConfig, StopReason, TokenRules, continue_rows, start_rows
from vocable.lm.packed import hidden_states
from vocable.lm.rows import Progress, Row, RowScore, score_rows
from vocable.lm.scoring import Boundary
from vocable.sequences.joint_rows import JointSequence, Segment
from vocable.sequences.spans import Modality
from vocable.sequences.subwords import units_over
from vocable.tokens.fingerprint import check_fingerprint, tensor_sha256
from vocable.tokens.streams import fingerprints_of_card
from vocable.tokens.tokenizer import CONFIG_FILE, SpeechTokenizer, load_tokenizer, read_card
from vocable.types import SpeechTokens

Target = Literal["speech", "text", "both"]
"""Modality of a continuation; with both, the model switches by itself."""
Task = Literal["continue", "transcribe", "speak"]
"""Go on; say the same in text (after a spoken prompt); say the same in speech (after a written one)."""

TEXT_MAX_TOKENS = 1024
"""Tokens in one forward pass, at most, where the vocabulary has text: logits over it are big."""
UNITS_ONLY = (
    "The language model reads units only; what was asked for needs one that reads text too. Train one with a recipe of "
    "recipes/sutlm."
)


class Reply(NamedTuple):
    """A continuation of one prompt."""

    segments: tuple[Segment, ...]
    """New speech and text. Speech is ready for a synthesizer: runs, without durations where it must predict them."""
    seconds: float
    """Expected length of the new speech."""
    stopped: StopReason
    """Why generation ended; `eos` is the end symbol."""
    prompt_ids: Int[Tensor, " prompt"]
    """Token ids of the prompt, symbols included."""
    token_ids: Int[Tensor, " positions"]
    """New token ids, without the end symbol."""

    @property
    def text(self) -> str:
        """All new text, joined."""
        return JointSequence(token_ids=self.token_ids, segments=self.segments).text

    @property
    def tokens(self) -> SpeechTokens:
        """All new speech, joined."""
        return JointSequence(token_ids=self.token_ids, segments=self.segments).tokens


class NewPiece(NamedTuple):
    """What has been added to a continuation."""

    text: str
    """New text; of a text-aligned model also the text of what it speaks, token by token."""
    tokens: SpeechTokens | None = None
    """New speech, ready for a synthesizer: of a text-aligned model, a sentence."""


class LanguageModel(ABC):
    """A language model, as those see it who score it or let it continue."""

    model: Any
    """A Hugging Face causal LM."""
    modalities: tuple[Modality, ...]
    """Modalities that it reads and generates."""
    collapsed: bool = False
    """Whether runs of equal units are merged."""
    text_form: Literal["text", "words"] = "text"
    """Whether it was trained on texts, or on words as they were aligned."""
    joins: str
    """How the segments of a row meet, in words, for results."""
    prompt_form: str
    """Make-up of a prompt, in words, for results."""

    @property
    def context_tokens(self) -> int | None:
        """Longest row that the model reads; None where its config does not say."""
        return getattr(getattr(self.model, "config", None), "max_position_embeddings", None)

    @property
    def classes(self) -> Int[Tensor, " vocabulary"] | None:
        """Modality of each token id; None where all are text."""
        return None

    @abstractmethod
    def opener(self, modality: Modality) -> Int[Tensor, " opener"]:
        """Return the symbol before a row that begins in a modality: what a continuation without a prompt follows."""

    @abstractmethod
    def content(self, segment: Segment) -> Int[Tensor, " positions"]:
        """Return the token ids of a segment, without symbols.

        Raises:
            ConfigError: the model does not read this modality.
        """

    @abstractmethod
    def prompt(
        self, segments: Sequence[Segment], *, to: Target | None = None, task: Task = "continue"
    ) -> Int[Tensor, " prompt"]:
        """Return what is read before a continuation: opener, content, and the symbol that asks for the other modality.

        Args:
            segments: at least one.
            to: what shall follow; None: the modality of the last segment.
            task: decides the symbol after the prompt.

        Raises:
            ConfigError: the model does not read the modalities, they do not fit the task, or nothing is there to
                transcribe or speak.
        """

    @abstractmethod
    def row(self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False) -> Row:
        """Make one row; see `rows`."""

    @abstractmethod
    def token_rules(self, to: Target, max_text_tokens: int) -> TokenRules:
        """Say which token ids may follow a prompt, how long each lasts, and when to stop.

        Raises:
            ConfigError: the model's card lacks what lengths in seconds need.
        """

    @abstractmethod
    def segments(self, token_ids: Int[Tensor, " positions"]) -> tuple[Segment, ...]:
        """Return what new token ids say; speech is ready for a synthesizer."""

    def continue_(
        self,
        prompts: Sequence[Sequence[Segment]],
        config: GenerationConfig,
        *,
        to: Target | None = None,
        task: Task = "continue",
        max_text_tokens: int = 128,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Continue prompts, or say them in the other modality.

        Args:
            to: what continuations may hold; None: the modality that the first prompt ends in.
            max_text_tokens: stop after this many tokens that are not speech.
            seeds: one per prompt, instead of `config.seed` + position.

        Raises:
            ConfigError: see `prompt` and `token_rules`; `max_text_tokens` is 0 or less, or the number of seeds differs
                from that of prompts.
            NumericsError: the model returned NaN.
        """
        if max_text_tokens < 1:
            raise ConfigError(f"max_text_tokens is {max_text_tokens}; it must be at least 1.")
        to = to or prompts[0][-1].modality
        starts = [self.prompt(segments, to=to, task=task) for segments in prompts]
        rows = start_rows([start.tolist() for start in starts], config, seeds)
        continue_rows(self.model, rows, config, self.token_rules(to, max_text_tokens))
        replies = []
        for start, row in zip(starts, rows):
            token_ids = torch.tensor(row.tokens, dtype=torch.int64)
            replies.append(Reply(self.segments(token_ids), row.seconds, row.stopped or "context", start, token_ids))
        return replies

    def rows(
        self, documents: Sequence[Sequence[Segment]], *, boundary: Boundary | None = None, ending_only: bool = False
    ) -> list[Row]:
        """Make a row of each document.

        Args:
            documents: their segments, at least one each.
            boundary: symbols around a row (scoring.py); None: those that the model was trained with.
            ending_only: score the last segment alone, given what comes before.

        Raises:
            ConfigError: the model does not read a modality.
        """
        return [self.row(segments, boundary=boundary, ending_only=ending_only) for segments in documents]

    def score(
        self,
        rows: Sequence[Row],
        *,
        logits: Literal["kept", "masked"] = "kept",
        share_prefixes: bool = True,
        max_tokens: int = 4096,
        on_progress: Progress | None = None,
    ) -> list[RowScore]:
        """Return the negative log-likelihood of each row; see `score_rows`.

        Args:
            logits: probabilities among all ids, or among those of the token's own modality.
            max_tokens: tokens in one forward pass; fewer where the vocabulary has text.
        """
        limit = min(max_tokens, TEXT_MAX_TOKENS) if "text" in self.modalities else max_tokens
        return score_rows(
            self.model,
            rows,
            classes=self.classes,
            masked=logits == "masked",
            share_prefixes=share_prefixes,
            max_tokens=limit,
            on_progress=on_progress,
        )

    def compare(self, prompt: Sequence[Segment], answers: Sequence[Segment], *, max_tokens: int = 4096) -> list[float]:
        """Return the mean log-probability per token of each answer to a prompt, so that long ones are not put behind.

        The end symbol counts as a token of the answer, where rows have one. The likeliest answer has the largest value.
        """
        rows = self.rows([[*prompt, answer] for answer in answers], ending_only=True)
        return [-found.nll / found.num_tokens for found in self.score(rows, max_tokens=max_tokens)]

    def score_branches(
        self, trees: Sequence[Tree], *, logits: Literal["kept", "masked"] = "kept", max_tokens: int = 4096
    ) -> list[TreeNLL]:
        """Score several continuations of each prompt, reading the prompt once; see branches.py."""
        classes = self.classes if logits == "masked" else None
        return tree_nll(self.model, trees, max_tokens=max_tokens, classes=classes)

    def states(self, rows: Sequence[Row]) -> list[Float[Tensor, "positions dim"]]:
        """Return the final hidden states of each row (after the last norm), with gradients where they are wanted."""
        return hidden_states(self.model, [row.token_ids for row in rows])

    def description(self) -> dict[str, Any]:
        """Say how rows are made, for results."""
        return {}


class SpokenLM(LanguageModel):
    """A language model that reads speech tokens, with its card and its tokenizer."""

    streams: bool = False
    """Whether `stream` yields pieces while the rest is still to come."""

    def __init__(
        self,
        loaded: LoadedLM,
        folder: Path | None = None,
        tokenizer: SpeechTokenizer | Path | None = None,
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        """Take a model as `read_lm` returns it.

        Args:
            loaded: model, card, and what text and subwords are read with.
            folder: where it came from.
            tokenizer: the speech tokenizer, or its folder; None looks beside `folder` when it is first needed.
            device: where the tokenizer shall compute.
            name: how results call it; None: by its folder.
        """
        self.name = name or str(folder or "unnamed")
        self.model, self.card, self.folder, self.device = loaded.model, loaded.card, folder, device
        self.text_tokenizer, self.subwords = loaded.text_tokenizer, loaded.subwords
        self.modalities = loaded.card.vocabulary.modalities
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, folder: Path, card: LMCard, dtype: str | None, device: str) -> LoadedLM:
        """Read what a model of this kind is made of.

        Raises:
            AssetError: the folder is damaged.
        """
        return load_folder(folder, card, dtype, device)

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The speech tokenizer, opened when it is first asked for.

        Raises:
            ConfigError: none was named, and none is beside the model.
            FingerprintError: it is not the one that the model was trained with.
        """
        if not isinstance(self._tokenizer, SpeechTokenizer):
            expected = self.card.tokenizer_fingerprint
            place = self._tokenizer or find_tokenizer(self.folder, expected)
            found = load_tokenizer(place, device=self.device).matching(expected)
            owner = f"The language model {self.folder}"
            check_fingerprint(expected, found.fingerprint, owner, f"the tokenizer {place}")
            self._tokenizer = found
        return self._tokenizer

    @property
    def classes(self) -> Int[Tensor, " vocabulary"]:
        """Modality of each token id."""
        return self.card.vocabulary.classes

    @property
    def fingerprint(self) -> str:
        """Hash of the weights: what is kept of its continuations belongs to them, wherever the folder moves."""
        return tensor_sha256(self.model.state_dict())

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all that token ids come from, for results."""
        known = self.card.vocabulary
        parts = {"text_tokenizer": "text_fingerprint", "subwords": "subwords_fingerprint"}
        found = {name: getattr(known, attribute, None) for name, attribute in parts.items()}
        return {"tokenizer": self.card.tokenizer_fingerprint, **{k: v for k, v in found.items() if v is not None}}

    def record(self) -> dict[str, Any]:
        """Name the weights for a result: folder, hash, and the type that they are computed in."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {**(weights_record(str(self.folder), self.folder) if self.folder else {}), "dtype": dtype}

    @abstractmethod
    def unit_durations(self, tokens: SpeechTokens) -> list[Int[Tensor, " units"]]:
        """Return the frames of each unit that each position of a spoken segment holds: one unit, or a subword's."""

    def text_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first character of each position of a written segment, and one past its last.

        Raises:
            ConfigError: the model reads no text, or its text tokenizer does not say where tokens lie.
        """
        raise ConfigError(UNITS_ONLY)

    def segments(self, token_ids: Int[Tensor, " positions"]) -> tuple[Segment, ...]:
        """See `LanguageModel`."""
        return tuple(
            segment if segment.tokens is None else replace(segment, tokens=self.speakable(segment.tokens))
            for segment in self.revert(token_ids).segments
        )

    @abstractmethod
    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """Return what a row says: its segments, with their places."""

    def join(self, prompt: SpeechTokens, new: SpeechTokens) -> SpeechTokens:
        """Join a spoken prompt and new speech, ready for a synthesizer.

        The prompt's durations are true. New units without durations get their mean duration in the training data.
        """
        durations = new.durations
        if durations is None:
            rate = self.card.tokenizer_card["frame_rate"]
            if self.card.unit_seconds is None or rate is None:
                raise ConfigError(f"{self.name}: nothing says how long its units last, so speech cannot be joined.")
            seconds = torch.tensor(self.card.unit_seconds)[new.units] if len(new.units) else torch.zeros(0)
            durations = (seconds * rate).round().long().clamp(min=1)
        before = torch.ones_like(prompt.units) if prompt.durations is None else prompt.durations
        return SpeechTokens(
            codes=torch.cat([prompt.codes, new.codes.to(prompt.codes.dtype)], dim=1),
            durations=torch.cat([before, durations.to(before.dtype)]),
        )

    def stream(
        self,
        prompt: Sequence[Segment],
        config: GenerationConfig,
        *,
        to: Target | None = None,
        task: Task = "continue",
        max_text_tokens: int = 128,
    ) -> Iterator[NewPiece]:
        """Yield a continuation in pieces, each as soon as it is known; here all of it at once.

        Arguments and errors are those of `continue_`, for one prompt.
        """
        (reply,) = self.continue_([prompt], config, to=to, task=task, max_text_tokens=max_text_tokens)
        yield NewPiece(reply.text, reply.tokens if any(one.tokens is not None for one in reply.segments) else None)

    def speakable(self, tokens: SpeechTokens) -> SpeechTokens:
        """Make units ready for a synthesizer: where runs are merged, without durations; else as runs of frames."""
        if self.collapsed:
            return SpeechTokens(codes=tokens.units.long()[None])
        runs = units_over(tokens, "runs")
        return SpeechTokens(codes=runs.units[None], durations=runs.durations)


TOKENIZER_RECORD = "given-tokenizer.json"
"""File in the folder of a run that says where the tokenizer is that it was given."""


def record_tokenizer(run: Path, tokenizer: Path) -> None:
    """Note in the folder of a run which tokenizer it was given, so that `find_tokenizer` finds it."""
    found = {"folder": str(tokenizer.resolve()), "fingerprints": sorted(fingerprints_of_card(read_card(tokenizer)))}
    write_json(found, run / TOKENIZER_RECORD)


def find_tokenizer(lm: Path | None, fingerprint: str) -> Path:
    """Return the tokenizer folder with this fingerprint, or a stream with it, among the parents of a model.

    Where a run was given its tokenizer, it is looked for where it was then.

    Raises:
        ConfigError: there is none.
    """
    was = ""
    for parent in [] if lm is None else list(lm.resolve().parents)[:4]:
        folders = [parent / "tokenizer"]
        if (parent / TOKENIZER_RECORD).is_file():
            folders.append(Path(json.loads((parent / TOKENIZER_RECORD).read_text(encoding="utf-8"))["folder"]))
            was = f" It was in {folders[-1]}."
        for folder in folders:
            if (folder / CONFIG_FILE).is_file() and fingerprint in fingerprints_of_card(read_card(folder)):
                return folder
    raise ConfigError(
        f"{lm or 'The language model'} was trained on tokens of the tokenizer {fingerprint}, which is not beside it."
        f"{was} Name its folder: --tokenizer"
    )
