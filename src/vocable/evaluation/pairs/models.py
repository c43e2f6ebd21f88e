"""What can be scored on pairs: a language model of units or of speech and text, and the controls beside it.

a folder          a language model that `vocable train` wrote; one of speech and text reads segments as pairs have them
unigram, bigram   counts of training units: what needs no network
random            chance, with its interval on this set
text              a text language model on the written pairs: the topline
asr               a recogniser and the text language model: the cascade that TWIST's comparison leaves out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vocable.errors import ConfigError
from vocable.evaluation.once import Progress, encode_once, transcribe_once
from vocable.evaluation.pairs.items import PairSet
from vocable.evaluation.pairs.joint_rows import JointRows
from vocable.evaluation.pairs.rows import EmptyRows, RowBuilder, TextRows, UnitRows
from vocable.evaluation.pairs.scoring import NeuralScorer, NgramScorer, PairScorer, PairScoringConfig, RandomScorer
from vocable.evaluation.text_lm import load_text_lm
from vocable.evaluation.trained_lms import default_cache, find_lm, lm_record, load_tokenizer_of
from vocable.lm.checkpoint import LMCard, load_lm
from vocable.lm.ngram import NgramLM
from vocable.lm.scoring import Boundary
from vocable.recognition.transcribe_ctc import load_transcriber
from vocable.registry import look_up
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.types import SpeechTokens

TEXT_MAX_TOKENS = 1024
"""Tokens in one forward pass, at most, where the vocabulary has text: logits over it are big."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairModelConfig:
    """What is scored, and what it needs."""

    model: str
    """Folder of a language model or of its run, or a control: unigram, bigram, random, text, asr."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; None looks beside the model for the one that it was trained with."""
    train_tokens: Path | None = None
    """Token shards that unigram and bigram count."""
    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """Of text and asr."""
    transcriber: str = "openai/whisper-base"
    """Of asr."""
    boundary: Boundary = "bos"
    dtype: str | None = None
    """Of the language model's weights, e.g. bfloat16; None keeps the saved one."""
    device: str = "cpu"
    cache: Path = field(default_factory=default_cache)
    """Where tokens and transcripts are kept for the next model."""


class Watch(NamedTuple):
    """Who is told how far long work has come: called with what was done since the last call, and the total."""

    encoding: Progress | None = None
    """Of utterances, while they are encoded or transcribed."""
    scoring: Progress | None = None
    """Of rows."""


UNWATCHED = Watch()


class PairModel(NamedTuple):
    """All that `evaluate_pairs` needs to know of a model."""

    rows: RowBuilder
    scorer: PairScorer
    fingerprints: dict[str, str]
    weights: dict[str, Any]
    notes: list[str]


def load_pair_model(
    pair_set: PairSet,
    config: PairModelConfig,
    scoring: PairScoringConfig,
    watch: Watch = UNWATCHED,
) -> PairModel:
    """Load what `config.model` names, and encode or transcribe what the pairs say.

    Args:
        pair_set: the pairs.
        config: what to load.
        scoring: how rows will be scored.
        watch: who is told of progress.

    Raises:
        UnknownNameError: the model is neither a folder nor a control.
        FingerprintError: the tokenizer is not the one that the language model was trained with.
        ConfigError: something that the model needs was not named.
    """
    if Path(config.model).is_dir():
        return _load_lm(pair_set, config, scoring, watch)
    return look_up("model folder or control", config.model, CONTROLS)(pair_set, config, scoring, watch)


def _load_lm(pair_set: PairSet, config: PairModelConfig, scoring: PairScoringConfig, watch: Watch) -> PairModel:
    folder = find_lm(Path(config.model))
    lm = load_lm(folder, dtype=config.dtype, device=config.device)
    joint = isinstance(lm.card.vocabulary, JointVocabulary)
    if not joint and _has_text(pair_set):
        raise ConfigError(
            f"{folder} reads units only, but the pairs hold written text. Score a model of speech and text "
            "(recipes/sutlm), or --model text; or leave --modalities at S."
        )
    tokens = _encode(pair_set, lm.card, folder, config, watch)
    known, masked = lm.card.vocabulary, scoring.text_logits == "masked"
    fingerprints = {"tokenizer": lm.card.tokenizer_fingerprint}
    if isinstance(known, JointVocabulary):
        rows, classes = JointRows(lm.joint_layout(), tokens, config.boundary), known.classes
        prints = {"text_tokenizer": known.text_fingerprint, "subwords": known.subwords_fingerprint}
        fingerprints |= {name: value for name, value in prints.items() if value is not None}
    else:
        rows, classes = UnitRows(tokens, lm.card, config.boundary), _speech_ids(known)
    return PairModel(
        rows,
        NeuralScorer(
            model=lm.model,
            share_prefixes=scoring.share_prefixes,
            max_tokens=min(scoring.max_tokens, TEXT_MAX_TOKENS) if joint else scoring.max_tokens,
            classes=classes if masked else None,
            on_progress=watch.scoring,
        ),
        fingerprints,
        {"model": lm_record(folder, lm)},
        [],
    )


def _has_text(pair_set: PairSet) -> bool:
    return any(
        segment.text is not None
        for item in pair_set.items
        for half in (item.positive, item.negative)
        for segment in half
    )


def _encode(
    pair_set: PairSet, card: LMCard, folder: Path, config: PairModelConfig, watch: Watch
) -> dict[str, SpeechTokens]:
    """Tokens of what is spoken in the pairs; where all is written, no tokenizer is needed."""
    spoken = pair_set.spoken()
    if not spoken:
        return {}
    tokenizer = load_tokenizer_of(folder, card, config.tokenizer, config.device)
    return encode_once(spoken, tokenizer, config.cache, on_progress=watch.encoding)


def _speech_ids(vocabulary: UnitVocabulary) -> Tensor:
    """Class 1 for units and the symbol around them, 0 for all other ids below: text, in a model that has both."""
    classes = vocabulary.is_unit(torch.arange(vocabulary.size)).long()
    classes[vocabulary.bos_eos_id] = 1
    return classes


def _load_ngram(pair_set: PairSet, config: PairModelConfig, scoring: PairScoringConfig, watch: Watch) -> PairModel:
    if config.train_tokens is None:
        raise ConfigError(f"{config.model} counts training units: name their token shards with --train-tokens.")
    shards = TokenShards(config.train_tokens)
    if config.tokenizer is None:
        raise ConfigError(f"{config.model} needs the tokenizer of its token shards: --tokenizer")
    tokenizer = load_tokenizer(config.tokenizer, device=config.device)
    check_fingerprint(shards.fingerprint, tokenizer.fingerprint, f"The shards {config.train_tokens}", "the tokenizer")
    collapsed = bool(shards.card.get("collapse", True))
    vocabulary = UnitVocabulary(codebook_size=tokenizer.codebook_size)
    layout = UnitsLayout(vocabulary=vocabulary, collapsed=collapsed)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint=tokenizer.fingerprint)
    order = 1 if config.model == "unigram" else 2
    ngram = NgramLM([layout.build(tokens) for _, tokens in shards], vocabulary.size, order)
    tokens = encode_once(pair_set.spoken(), tokenizer, config.cache, on_progress=watch.encoding)
    return PairModel(
        UnitRows(tokens, card, config.boundary),
        NgramScorer(ngram=ngram),
        {"tokenizer": tokenizer.fingerprint},
        {"model": {"control": config.model, "train_tokens": str(config.train_tokens), "utterances": len(shards)}},
        [],
    )


def _load_random(pair_set: PairSet, config: PairModelConfig, scoring: PairScoringConfig, watch: Watch) -> PairModel:
    scorer = RandomScorer(seed=scoring.seed)
    return PairModel(EmptyRows(), scorer, {}, {"model": {"control": "random", "seed": scoring.seed}}, [])


def _load_text(pair_set: PairSet, config: PairModelConfig, scoring: PairScoringConfig, watch: Watch) -> PairModel:
    texts = {utterance.id: utterance.text for utterance in pair_set.spoken()}
    return _text_model(texts, config, scoring, watch, {}, [])


def _load_cascade(pair_set: PairSet, config: PairModelConfig, scoring: PairScoringConfig, watch: Watch) -> PairModel:
    transcriber = load_transcriber(config.transcriber, language=_language(pair_set), device=config.device)
    heard = transcribe_once(pair_set.spoken(), transcriber, config.cache, watch.encoding)
    weights = {"transcriber": dict(transcriber.weights)}  # part of the model here, not a judge
    return _text_model(
        heard, config, scoring, watch, weights, ["Texts are what the recogniser heard, errors included."]
    )


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
    texts: Mapping[str, str | None],
    config: PairModelConfig,
    scoring: PairScoringConfig,
    watch: Watch,
    weights: dict[str, Any],
    notes: list[str],
) -> PairModel:
    dtype: Any = config.dtype or "float32"
    loaded = load_text_lm(config.text_model, opening="none", dtype=dtype, device=config.device)
    return PairModel(
        TextRows(loaded.tokenizer, texts, config.boundary),
        NeuralScorer(
            model=loaded.model,
            share_prefixes=scoring.share_prefixes,
            max_tokens=min(scoring.max_tokens, TEXT_MAX_TOKENS),
            on_progress=watch.scoring,
        ),
        {},
        {"model": {"control": config.model, "text_model": dict(loaded.weights), **weights}},
        notes,
    )


CONTROLS: dict[str, Callable[[PairSet, PairModelConfig, PairScoringConfig, Watch], PairModel]] = {
    "unigram": _load_ngram,
    "bigram": _load_ngram,
    "random": _load_random,
    "text": _load_text,
    "asr": _load_cascade,
}
