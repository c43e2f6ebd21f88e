"""Load what `run_slue` needs: the language model, tokens of the set, and what a recogniser hears in the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vocable.evaluation.once import Progress, default_cache, encode_once, transcribe_once
from vocable.evaluation.slue.examples import Speech
from vocable.evaluation.slue.labelled_set import LabelledSet
from vocable.lm.spoken import SpokenLM, load_lm
from vocable.recognition.transcribe_ctc import load_transcriber
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards


@dataclass(frozen=True, slots=True, kw_only=True)
class SlueInputs:
    """What to load."""

    model: Path
    """Folder of a language model, or of its training run. A model of units only is tested on speech alone."""
    tokenizer: Path | None = None
    """Folder of the tokenizer. Without it, the one beside the model."""
    tokens: Path | None = None
    """Token shards of the set's manifest, instead of encoding it now."""
    transcriber: str | None = None
    """The recogniser of the pipeline; None leaves the pipeline out."""
    dtype: str | None = None
    """Type of the language model's weights. Without it, as saved."""
    device: str = "cpu"
    """Where to compute."""
    cache: Path = field(default_factory=default_cache)
    """Folder where tokens and transcripts are kept for the next model. Without it, that of the assets."""


class Prepared(NamedTuple):
    """Arguments of `run_slue`."""

    lm: SpokenLM
    speech: Speech
    transcripts: Mapping[str, str] | None
    fingerprints: Mapping[str, str]
    weights: Mapping[str, Any]


def prepare(
    labelled: LabelledSet,
    task: str,
    inputs: SlueInputs,
    on_encoding: Progress | Callable[..., None] | None = None,
    on_transcribing: Progress | Callable[..., None] | None = None,
) -> Prepared:
    """Load the model, and encode and transcribe the utterances that are labelled for a task, once.

    Raises:
        ConfigError: no model is there, or its tokenizer is not beside it.
        FingerprintError: tokenizer or tokens are not those that the model was trained with.
        AssetError: the recogniser is not at hand.
    """
    lm = load_lm(inputs.model, tokenizer=inputs.tokenizer, dtype=inputs.dtype, device=inputs.device)
    ids = {label.id for split in ("train", "dev", "test") for label in labelled.split(split, task)}
    utterances = [labelled.utterances[id] for id in labelled.utterances if id in ids]
    expected = lm.card.tokenizer_fingerprint
    if inputs.tokens is not None:
        shards = TokenShards(inputs.tokens)
        owner = f"The language model {lm.folder}"
        check_fingerprint(expected, shards.fingerprint, owner, f"the set of token shards {inputs.tokens}")
        tokens = {utterance.id: found for utterance, found in shards if utterance.id in ids}
        frame_rate = shards.card.get("frame_rate")
    else:
        tokenizer = lm.tokenizer
        tokens = encode_once(utterances, tokenizer, inputs.cache, on_progress=on_encoding)
        frame_rate = tokenizer.frame_rate
    weights: dict[str, Any] = {"model": lm.record()}
    transcripts = None
    if inputs.transcriber is not None and "text" in lm.modalities:
        recogniser = load_transcriber(inputs.transcriber, device=inputs.device)
        weights["transcriber"] = dict(recogniser.weights)  # part of the pipeline here, not a judge
        test = [labelled.utterances[label.id] for label in labelled.split("test", task)]
        transcripts = transcribe_once(test, recogniser, inputs.cache, on_transcribing)
    speech = Speech(tokens, None if frame_rate is None else float(frame_rate))
    return Prepared(lm, speech, transcripts, {"tokenizer": expected}, weights)
