"""How well can text be recognised from units? A small network, trained with CTC on some utterances, tested on others.

    tokens + texts (train)  ->  units of equal rate, characters  ->  network  \\
    tokens + texts (test)   ->  units of equal rate              ------------->  texts  ->  CER, WER with intervals

The same network, the same training and the same texts for every tokenizer, so that what differs is the units. LAST
(Turetzky and Adi, 2024, arXiv:2409.03701) compares tokenizers by recognition from their units; its recogniser is not
known to us, and this one is small: error rates are high, and only their differences say something.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vocable.errors import ConfigError, FingerprintError
from vocable.evaluation.ctc_probe_model import (
    Example,
    ProbeConfig,
    Trained,
    recognise,
    steps_needed,
    train_recogniser,
)
from vocable.evaluation.metrics.wer import LEVELS, NORMALISERS, ErrorCounts, count_errors, error_rate
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.token_sources import TokenSource
from vocable.registry import look_up
from vocable.tokens.fingerprint import check_fingerprint, fingerprint
from vocable.types import SpeechTokens, Utterance

SCORES = {"character": "cer_units", "word": "wer_units"}
OF_THE_RUN = ("seed", "num_resamples")
"""Settings that are no conventions: they move the numbers by chance only."""


@dataclass(slots=True)
class _Spoken:
    """An utterance as the network reads it."""

    utterance: Utterance
    text: str
    """Normalised; not empty."""
    codes: torch.Tensor
    """(num_codebooks, inputs)."""
    num_frames: int


def evaluate_recognition(
    train: TokenSource,
    test: TokenSource,
    config: ProbeConfig | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Train a recogniser on the units of `train` and count its errors on `test`.

    An utterance without text is left out. One whose units are fewer than CTC needs for its characters cannot be
    trained on, and is left out of training; in the test it counts, as everything there.

    Args:
        train: utterances with texts, and their tokens.
        test: others, by the same tokenizer.
        config: see `ProbeConfig`.
        device: where the network runs.
        on_progress: called with 1 after every update, and with how many there are.

    Raises:
        ConfigError: an utterance is in both, or nothing is left to train on or to test.
        FingerprintError: the tokens are of two tokenizers, or an id is not the tokenizer's.
        NumericsError: the loss is not a number.
        UnknownNameError: `config.normaliser` is unknown.
    """
    config = config or ProbeConfig()
    look_up("text normaliser", config.normaliser, NORMALISERS)
    started = time.perf_counter()
    _check_sources(train, test)
    excluded: Counter[str] = Counter()
    learn = _read(train, "train", config, excluded)
    heard = _read(test, "test", config, excluded)
    possible = [one for one in learn if _steps_enough(one, config)]
    if len(possible) < len(learn):
        excluded["train: fewer steps than CTC needs for the characters"] = len(learn) - len(possible)
    if not possible or not heard:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items()) or "the manifest is empty"
        raise ConfigError(
            f"{len(possible)} utterances to train on and {len(heard)} to test; both need some. Left out: {reasons}."
        )
    characters = sorted({character for one in possible for character in one.text})
    numbers = {character: number for number, character in enumerate(characters, start=1)}
    examples = [Example(one.codes, torch.tensor([numbers[c] for c in one.text])) for one in possible]
    size = int(train.card["codebook_size"])
    trained = train_recogniser(examples, size, len(characters) + 1, config, device, on_progress)
    paths = recognise(trained.model, [one.codes for one in heard], config.batch_utterances)
    said = ["".join(characters[number - 1] for number in path) for path in paths]
    rows = [_row(one, text, config) for one, text in zip(heard, said, strict=True)]
    measurements = _measurements(possible, heard, rows, characters, trained, config, train.card)
    return EvaluationResult(
        benchmark="recognition",
        scores=_scores(rows, config),
        conventions=_conventions(train.utterances, config, device),
        fingerprints={"tokenizer": train.card["fingerprint"]},
        weights={},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=_notes(measurements, excluded, config),
        measurements=measurements,
        items=rows,
    )


def _check_sources(train: TokenSource, test: TokenSource) -> None:
    check_fingerprint(
        train.card["fingerprint"], test.card["fingerprint"], "The token set to train on", "the one to test on"
    )
    both = {one.id for one in train.utterances} & {one.id for one in test.utterances}
    if both:
        raise ConfigError(
            f"{len(both)} utterances are in both manifests, {min(both)!r} for one: test on others than were trained on."
        )


def _read(source: TokenSource, part: str, config: ProbeConfig, excluded: Counter[str]) -> list[_Spoken]:
    """Units and normalised texts; what has none is counted under the name of the part."""
    found = []
    before = Counter(source.excluded)
    for utterance, tokens in source:
        text = NORMALISERS[config.normaliser](utterance.text or "")
        if not text:
            excluded[f"{part}: no text"] += 1
            continue
        _check_tokens(utterance, tokens, source.card)
        codes = probe_inputs(tokens, source.card.get("frame_rate"), config, zlib.crc32(utterance.id.encode()))
        found.append(_Spoken(utterance, text, codes, tokens.num_frames))
    excluded.update({f"{part}: {reason}": count for reason, count in (source.excluded - before).items()})
    return found


def probe_inputs(tokens: SpeechTokens, frame_rate: float | None, config: ProbeConfig, salt: int = 0) -> torch.Tensor:
    """Return what the network reads of an utterance, (num_codebooks, inputs), int64.

    Runs, each once; or frames at about `config.input_rate`, each repeated round(input_rate / frame_rate) times, at
    least once. The control first puts the runs in a random order, which depends on its seed and on `salt` alone.

    Raises:
        ConfigError: frames are wanted of tokens that follow words.
    """
    codes, durations = tokens.codes.cpu().long(), tokens.durations
    if durations is None:
        codes, durations = torch.unique_consecutive(codes, dim=1, return_counts=True)
    durations = durations.cpu()
    if config.control == "shuffled":
        generator = torch.Generator().manual_seed(config.seed * 2**32 + salt)
        order = torch.randperm(codes.shape[1], generator=generator)
        codes, durations = codes[:, order], durations[order]
    if config.input == "runs":
        return codes
    if not frame_rate:
        raise ConfigError("These tokens follow words and have no frames. Read them as they are, with input=runs.")
    return codes.repeat_interleave(durations * _repeats(frame_rate, config), dim=1)


def _repeats(frame_rate: float, config: ProbeConfig) -> int:
    return max(1, round(config.input_rate / frame_rate))


def _check_tokens(utterance: Utterance, tokens: SpeechTokens, card: dict[str, Any]) -> None:
    """Raise FingerprintError where tokens are not of the tokenizer that their card names."""
    codes, books, size = tokens.codes, card.get("num_codebooks", 1), card["codebook_size"]
    if codes.shape[0] != books:
        raise FingerprintError(
            f"{utterance.id}: tokens of {codes.shape[0]} codebooks, but {card.get('name')!r} has {books}."
        )
    if not 0 <= int(codes.min()) <= int(codes.max()) < size:
        raise FingerprintError(
            f"{utterance.id}: ids from {int(codes.min())} to {int(codes.max())}, outside a codebook of {size}: these "
            f"tokens are not of {card.get('name')!r}."
        )


def _steps_enough(one: _Spoken, config: ProbeConfig) -> bool:
    return config.num_steps(one.codes.shape[1]) >= steps_needed(one.text)


def _row(one: _Spoken, heard: str, config: ProbeConfig) -> dict[str, Any]:
    """Texts and counted errors, in columns that `compare` knows."""
    row: dict[str, Any] = {
        "id": one.utterance.id,
        "speaker": one.utterance.speaker,
        "num_frames": one.num_frames,
        "num_steps": config.num_steps(one.codes.shape[1]),
        "possible": _steps_enough(one, config),
        "reference": one.text,
        "reference_source": "manifest",
        "hypothesis": heard,
    }
    for level in LEVELS:
        counts = count_errors(one.text, heard, level, config.normaliser)
        row |= {f"units_{level}_{part}": getattr(counts, part) for part in ErrorCounts._fields}
    return row


def _scores(rows: Sequence[dict[str, Any]], config: ProbeConfig) -> dict[str, Score]:
    speakers = [row["speaker"] for row in rows]
    return {
        name: error_rate(
            [ErrorCounts(*(row[f"units_{level}_{part}"] for part in ErrorCounts._fields)) for row in rows],
            speakers,
            meaning=f"{level} errors of a small recogniser that reads units, over the reference's {level}s",
            seed=config.seed,
            num_resamples=config.num_resamples,
        )
        for level, name in SCORES.items()
    }


def _conventions(train: Sequence[Utterance], config: ProbeConfig, device: str) -> dict[str, Any]:
    texts = sorted([one.id, one.text or ""] for one in train)
    return {
        **{name: value for name, value in asdict(config).items() if name not in OF_THE_RUN},
        "decoding": "CTC, best path, no language model",
        "training_set": fingerprint({"texts": texts}),
        "device": device,
    }


def _measurements(
    learn: Sequence[_Spoken],
    heard: Sequence[_Spoken],
    rows: Sequence[dict[str, Any]],
    characters: Sequence[str],
    trained: Trained,
    config: ProbeConfig,
    card: dict[str, Any],
) -> dict[str, Any]:
    rate = card.get("frame_rate")
    frames = sum(one.num_frames for one in heard)
    speakers = {one.utterance.speaker for one in learn}
    texts = {one.text for one in learn}
    return {
        "num_parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "num_updates": trained.num_updates,
        "train_loss": trained.losses,
        "num_train_utterances": len(learn),
        "train_hours": sum(one.num_frames for one in learn) / rate / 3600 if rate else None,
        "codebook_size": card["codebook_size"],
        "num_codebooks": card.get("num_codebooks", 1),
        "frame_rate": rate,
        "frame_repeats": _repeats(rate, config) if rate and config.input == "frames" else None,
        "steps_per_second": sum(row["num_steps"] for row in rows) / frames * rate if rate else None,
        "characters": "".join(characters),
        "test_characters_not_in_train": sum(c not in characters for one in heard for c in one.text),
        "test_impossible": sum(not row["possible"] for row in rows),
        "test_empty": sum(not row["hypothesis"] for row in rows) / len(rows),
        "test_utterances_of_train_speakers": sum(
            one.utterance.speaker in speakers for one in heard if one.utterance.speaker is not None
        ),
        "test_texts_in_train": sum(one.text in texts for one in heard),
        "error_rate_of_empty_texts": 1.0,
    }


def _notes(measurements: dict[str, Any], excluded: Counter[str], config: ProbeConfig) -> list[str]:
    notes = ["Intervals are over test utterances, not over training seeds: train several before ranking tokenizers."]
    if config.control == "shuffled":
        notes.append("A control: the runs of every utterance were in random order.")
    if measurements["test_impossible"]:
        notes.append(
            f"{measurements['test_impossible']} test utterances have fewer steps than their text needs. They count, "
            "and cannot be right."
        )
    if measurements["test_texts_in_train"]:
        notes.append(f"{measurements['test_texts_in_train']} test texts also occur in training.")
    if measurements["test_empty"] > 0.5:
        notes.append("Most texts came out empty: the network has not begun to learn. Train longer (epochs).")
    if any(reason.startswith("train: fewer") for reason in excluded):
        notes.append("Utterances with too few steps were left out of training: compare with tokenizers of like rate.")
    return notes
