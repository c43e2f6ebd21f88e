"""What can be scored on pairs: a language model of units or of speech and text, and the controls beside it.

a folder          a language model that `vocable train` wrote; one of speech and text reads segments as pairs have them
unigram, bigram   counts of training units: what needs no network
random            chance, with its interval on this set
text              a text language model on the written pairs: the topline
asr               a recogniser and the text language model: the cascade that TWIST's comparison leaves out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from vocable.assets.cache import cache_folder
from vocable.devices import best_device
from vocable.errors import ConfigError, UnknownNameError
from vocable.evaluation.once import Progress, encode_once, transcribe_once
from vocable.evaluation.pairs.items import Modalities, PairSet
from vocable.evaluation.pairs.items import Segment as PairSegment
from vocable.evaluation.runner import BenchmarkConfig
from vocable.evaluation.unusable import UnusableError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.ngram import NgramCounts, NgramLM
from vocable.lm.rows import Row, RowScore
from vocable.lm.scoring import Boundary
from vocable.lm.spoken import LanguageModel, Segment, load_lm
from vocable.lm.text_lm import load_text_lm
from vocable.lm.unit_lm import UnitLM
from vocable.recognition.transcribe import load_transcriber
from vocable.registry import look_up
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.sequences.word_layout import WordRow
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.types import SpeechTokens, Utterance

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(BenchmarkConfig):
    """Model, pairs and conventions of a pair benchmark."""

    data: Path
    """Folder of the benchmark."""
    normalise: Literal["mean", "sum"] = "mean"
    """The headline: mean log-likelihood per scored token, as TWIST, or sum. The other one is reported beside it."""
    scored: Literal["whole", "ending"] = "whole"
    """Part of each half that is scored: the whole, or only its last segment (ending), given what comes before."""
    modalities: Modalities | None = None
    """Context and ending each as speech (S) or text (T): S, S->T, T->S or T. Without it, as the pairs are."""
    text_logits: Literal["kept", "masked"] = "kept"
    """For models of speech and text: probabilities among all ids (kept), or among those of the token's own modality."""
    scored_part: Literal["both", "text", "speech"] = "both"
    """For models of speech and text: likelihood of all that is scored, or of the text or the speech in it alone. In a
    text-aligned model, spoken words have both: tokens of the text, and codes."""
    share_prefixes: bool = True
    """Read once what rows begin with alike. Changes no score but by rounding."""
    max_tokens: int = 4096
    """Tokens in one forward pass."""
    model: str
    """Folder of a language model, or of its training run; or a control: unigram, bigram (counts of units), random, text
    (a text model on the written pairs), asr (a recogniser, then the text model)."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; without it, the one beside the model."""
    train_tokens: Path | None = None
    """Token shards that unigram and bigram count."""
    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """The text model of text and asr."""
    transcriber: str = "openai/whisper-base"
    """The recogniser of asr, and of text-aligned models where pairs come without texts; it listens for the language
    that the set's manifest names, or English."""
    boundary: Boundary = "bos"
    """Symbols around a row: none (the first token is not scored), bos, or bos_eos (the end is scored too)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the model's weights: float32 or bfloat16. Without it, as saved."""
    device: str | None = None
    """Where to compute, such as cpu or cuda. Without it, a GPU if there is one."""
    cache: Path | None = None
    """Folder where tokens and transcripts are kept for the next model. Without it, that of the assets."""
    seed: int = 0
    """Seed of the random control. Intervals have a fixed seed, so that results differ by their items alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairModel:
    """A model, and the form in which it reads the utterances of pairs."""

    lm: LanguageModel | RandomLM
    tokens: Mapping[str, SpeechTokens] | None = None
    """Speech tokens by utterance, for a model that reads speech."""
    texts: Mapping[str, str | None] | None = None
    """Texts by utterance, read in the place of speech: as written (the topline), or as a recogniser heard them."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def row(self, half: Sequence[PairSegment], boundary: Boundary, ending_only: bool) -> Row | WordRow:
        """Make the row of one half; with `ending_only`, what comes before the last segment is not scored.

        Segments are read apart; a text gets the space that divides it from what comes before.

        Raises:
            UnusableError: a segment has no tokens or text, or nothing is left to score.
        """
        if ending_only and len(half) < 2:
            raise UnusableError("only the ending is scored, but there is no context before it")
        segments = [self._segment(segment, place) for place, segment in enumerate(half)]
        row = self.lm.row(segments, boundary=boundary, ending_only=ending_only)
        if row.num_scored == 0:
            raise UnusableError("nothing is left to score")
        return row

    def description(self) -> dict[str, Any]:
        """Say how rows are made, for results."""
        return {**self.lm.description(), **({"segments": self.lm.joins} if self.lm.joins else {})}

    def _segment(self, segment: PairSegment, place: int) -> Segment:
        text = segment.text
        if text is None and self.texts is not None:
            text = self.texts.get(segment.speech or "")
            if text is None:
                raise UnusableError("an utterance has no text")
        if text is not None:
            if not text.strip():
                raise UnusableError("a text or transcript is empty")
            return Segment(text=(" " if place else "") + text.strip())
        if self.tokens is None:  # a control that reads nothing
            return Segment(text="")
        tokens = self.tokens.get(segment.speech or "")
        if tokens is None or tokens.codes.shape[1] == 0:
            raise UnusableError("an utterance has no tokens")
        return Segment(tokens=tokens)


class CountingLM(UnitLM):
    """Counts of units, or of pairs of units, in the place of a network: the control that one has to beat."""

    def score(self, rows: Sequence[Row], **_: Any) -> list[RowScore]:
        """See `LanguageModel`."""
        scores = []
        for row in rows:
            losses = self.model.nll(row.token_ids)[row.scored[1:]]
            scores.append(RowScore(float(losses.sum()), len(losses)))
        return scores


class RandomLM:
    """Draws a score for each row: what chance looks like on this set, with its interval."""

    joins = ""

    def __init__(self, seed: int = 0) -> None:
        """Take the seed of the draws."""
        self.seed = seed

    def row(self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False) -> Row:
        """Return a row without content."""
        return Row(torch.zeros(2, dtype=torch.long), torch.tensor([False, True]))

    def score(self, rows: Sequence[Row], **_: Any) -> list[RowScore]:
        """See `LanguageModel`."""
        drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [RowScore(value, 1) for value in drawn]

    def description(self) -> dict[str, Any]:
        """Nothing is read."""
        return {}


def load_pair_model(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None = None) -> PairModel:
    """Load what `config.model` names, and encode or transcribe what the pairs say.

    Raises:
        UnknownNameError: the model is neither a folder nor a control.
        FingerprintError: the tokenizer is not the one that the language model was trained with.
        ConfigError: something that the model needs was not named.
    """
    config = replace(config, device=best_device(config.device))
    if Path(config.model).is_dir():
        return _load_folder(pair_set, config, on_progress)
    return find_control(config.model, CONTROLS)(pair_set, config, on_progress)


def find_control(name: str, controls: Mapping[str, T]) -> T:
    """Return a control.

    Raises:
        UnknownNameError: there is none of this name; a folder of a trained model would have been one, too.
    """
    try:
        return look_up("control", name, controls)
    except UnknownNameError as error:
        raise UnknownNameError(f"{name}: no such folder of a trained model. {error}") from None


def _load_folder(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None) -> PairModel:
    lm = load_lm(config.model, tokenizer=config.tokenizer, dtype=config.dtype, device=config.device or "cpu")
    if "text" not in lm.modalities and any(s.text is not None for item in pair_set.items for s in item.segments):
        raise ConfigError(
            f"{lm.folder} reads units only, but the pairs hold written text. Score a model of speech and text "
            "(recipes/sutlm), or --model text; or leave --modalities at S."
        )
    spoken, cache = pair_set.spoken(), config.cache or cache_folder()  # where all is written, no tokenizer is needed
    if spoken and lm.tokenizer.needs_text:
        spoken = _with_texts(spoken, pair_set, config, cache, on_progress)
    tokens = encode_once(spoken, lm.tokenizer, cache, on_progress=on_progress) if spoken else {}
    return PairModel(lm=lm, tokens=tokens, fingerprints=lm.fingerprints, weights={"model": lm.record()})


def _with_texts(
    spoken: Sequence[Utterance], pair_set: PairSet, config: PairsConfig, cache: Path, on_progress: Progress | None
) -> list[Utterance]:
    """Give utterances that come without text what a recogniser hears."""
    bare = [utterance for utterance in spoken if not utterance.text]
    if not bare:
        return list(spoken)
    transcriber = load_transcriber(config.transcriber, language=_language(pair_set), device=config.device or "cpu")
    texts = transcribe_once(bare, transcriber, cache, on_progress)
    return [replace(one, text=texts.get(one.id)) if one.id in texts else one for one in spoken]


def _load_counts(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None) -> PairModel:
    if config.train_tokens is None:
        raise ConfigError(f"{config.model} counts training units: name their token shards with --train-tokens.")
    shards = TokenShards(config.train_tokens)
    if config.tokenizer is None:
        raise ConfigError(f"{config.model} needs the tokenizer of its token shards: --tokenizer")
    tokenizer = load_tokenizer(config.tokenizer, device=config.device or "cpu")
    check_fingerprint(shards.fingerprint, tokenizer.fingerprint, f"The shards {config.train_tokens}", "the tokenizer")
    collapsed = bool(shards.card.get("collapse", True))
    vocabulary = UnitVocabulary(codebook_size=tokenizer.codebook_size)
    layout = UnitsLayout(vocabulary=vocabulary, collapsed=collapsed)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint=tokenizer.fingerprint)
    counts = NgramCounts.of([layout.build(tokens) for _, tokens in shards], vocabulary.size)
    table: Any = NgramLM(counts, 1 if config.model == "unigram" else 2)
    record = {"control": config.model, "train_tokens": str(config.train_tokens), "utterances": len(shards)}
    return PairModel(
        lm=CountingLM(LoadedLM(table, card)),
        tokens=encode_once(pair_set.spoken(), tokenizer, config.cache or cache_folder(), on_progress=on_progress),
        fingerprints={"tokenizer": tokenizer.fingerprint},
        weights={"model": record},
    )


def _load_random(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None) -> PairModel:
    return PairModel(lm=RandomLM(config.seed), weights={"model": {"control": "random", "seed": config.seed}})


def _load_text(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None) -> PairModel:
    return _text_model({utterance.id: utterance.text for utterance in pair_set.spoken()}, config, {}, [])


def _load_cascade(pair_set: PairSet, config: PairsConfig, on_progress: Progress | None) -> PairModel:
    transcriber = load_transcriber(config.transcriber, language=_language(pair_set), device=config.device or "cpu")
    texts = transcribe_once(pair_set.spoken(), transcriber, config.cache or cache_folder(), on_progress)
    weights = {"transcriber": dict(transcriber.weights)}  # part of the model here, not a judge
    return _text_model(texts, config, weights, ["Texts are what the recogniser heard, errors included."])


def _language(pair_set: PairSet) -> str:
    """What is spoken, as the utterances say; English where none does.

    Raises:
        ConfigError: they say several.
    """
    codes = {utterance.language.lower() for utterance in pair_set.spoken() if utterance.language}
    found = sorted({code.replace("_", "-").split("-")[0] for code in codes}) or ["en"]
    if len(found) > 1:
        raise ConfigError(f"The pairs are in several languages ({', '.join(found)}); asr listens for one at a time.")
    return found[0]


def _text_model(
    texts: Mapping[str, str | None], config: PairsConfig, weights: Mapping[str, Any], notes: Sequence[str]
) -> PairModel:
    dtype: Any = config.dtype or "float32"
    lm = load_text_lm(config.text_model, opening="none", dtype=dtype, device=config.device or "cpu")
    record = {"control": config.model, "text_model": dict(lm.weights), **weights}
    return PairModel(lm=lm, texts=texts, weights={"model": record}, notes=notes)


CONTROLS: dict[str, Callable[[PairSet, PairsConfig, Progress | None], PairModel]] = {
    "unigram": _load_counts,
    "bigram": _load_counts,
    "random": _load_random,
    "text": _load_text,
    "asr": _load_cascade,
}
