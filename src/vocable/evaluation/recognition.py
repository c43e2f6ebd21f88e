"""How well can text be recognised from units? A small network, trained with CTC on some utterances, tested on others.

    tokens + texts (train)  ->  units of equal rate, characters  ->  network  \\
    tokens + texts (test)   ->  units of equal rate              ------------->  texts  ->  CER, WER with intervals

The same network, the same training and the same texts for every tokenizer, so that what differs is the units. LAST
(Turetzky and Adi, 2024, arXiv:2409.03701) compares tokenizers by recognition from their units; its recogniser is not
known to us, and this one is small: error rates are high, and only their differences say something.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch

from vocable.errors import ConfigError
from vocable.evaluation.ctc_probe_model import Example, ProbeConfig, recognise, train_recogniser
from vocable.evaluation.metrics.wer import NORMALISERS, column_error_rate, error_columns
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, Item, Items
from vocable.evaluation.token_sources import TokenSource, TrainTest, TrainTestConfig
from vocable.evaluation.units import check_ids
from vocable.evaluation.unusable import reasons
from vocable.recognition.ctc import min_frames
from vocable.registry import look_up
from vocable.tokens.fingerprint import fingerprint
from vocable.types import SpeechTokens, Utterance

SCORES = {"character": "cer_units", "word": "wer_units"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionConfig(ProbeConfig, TrainTestConfig):
    """Units to read, and the network that reads them. Both manifests have text."""

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)
        TrainTestConfig.__post_init__(self)
        look_up("text normaliser", self.normaliser, NORMALISERS)


@dataclass(slots=True)
class _Spoken:
    """An utterance as the network reads it."""

    utterance: Utterance
    text: str
    """Normalised; not empty."""
    codes: torch.Tensor
    """(num_codebooks, inputs)."""
    num_frames: int


class Recognition(Benchmark[RecognitionConfig]):
    """Train a small CTC network from units to characters, and count its errors on other utterances.

    Writes recognition.json (character and word error rates with 95 % intervals, the loss of every epoch) and
    recognition.items.parquet (reference, hypothesis and errors of every test utterance). The same network and training
    for every tokenizer: compare results with 'vocable compare'.

    An utterance without text is left out. One whose units are fewer than CTC needs for its characters cannot be
    trained on, and is left out of training; in the test it counts, as everything there.

    vocable evaluate recognition --manifest train.jsonl --test-manifest dev.jsonl --tokenizer units --out results
    """

    name, Config = "recognition", RecognitionConfig

    def items(self) -> Iterator[Item]:
        """Train on the one manifest, and recognise the utterances of the other."""
        config, excluded = self.config, self.run.excluded
        train, test = TrainTest.open(self.run, config)
        self.stream, self.training_set = train.stream, sorted([one.id, one.text or ""] for one in train.utterances)
        learn, self.heard = self._read(train, "train"), self._read(test, "test")
        self.possible = [one for one in learn if self._steps_enough(one)]
        if len(self.possible) < len(learn):
            excluded["train: fewer steps than CTC needs for the characters"] = len(learn) - len(self.possible)
        if not self.possible or not self.heard:
            raise ConfigError(
                f"{len(self.possible)} utterances to train on and {len(self.heard)} to test; both need some. "
                f"Left out: {reasons(excluded, 'the manifest is empty')}."
            )
        self.characters = sorted({character for one in self.possible for character in one.text})
        numbers = {character: number for number, character in enumerate(self.characters, start=1)}
        examples = [Example(one.codes, torch.tensor([numbers[c] for c in one.text])) for one in self.possible]
        sizes, on_update = (max(train.stream.codebook_sizes), len(numbers) + 1), partial(self.run.advance, "Training")
        self.trained = train_recogniser(examples, *sizes, config, self.run.device, on_update)
        paths = recognise(self.trained.model, [one.codes for one in self.heard], config.batch_utterances)
        for one, path in zip(self.heard, paths, strict=True):
            yield self._row(one, "".join(self.characters[number - 1] for number in path))

    def _read(self, source: TokenSource, part: str) -> list[_Spoken]:
        """Units and normalised texts; what has none is counted under the name of the part."""
        found, excluded = [], self.run.excluded
        before = Counter(source.excluded)
        for utterance, tokens in source:
            text = NORMALISERS[self.config.normaliser](utterance.text or "")
            if not text:
                excluded[f"{part}: no text"] += 1
                continue
            check_ids(
                tokens.codes, source.stream.codebook_sizes, f"{utterance.id}, tokenizer {source.card.get('name')!r}: "
            )
            salt = zlib.crc32(utterance.id.encode())
            codes = probe_inputs(tokens, source.stream.rate, self.config, salt)
            found.append(_Spoken(utterance, text, codes, tokens.num_frames if tokens.has_frames else 0))
        excluded.update({f"{part}: {reason}": count for reason, count in (source.excluded - before).items()})
        return found

    def _steps_enough(self, one: _Spoken) -> bool:
        return self.config.num_steps(one.codes.shape[1]) >= min_frames(one.text)

    def _row(self, one: _Spoken, heard: str) -> dict[str, Any]:
        """Texts and counted errors, in columns that `compare` knows."""
        row: dict[str, Any] = {
            "id": one.utterance.id,
            "speaker": one.utterance.speaker,
            "num_frames": one.num_frames,
            "num_steps": self.config.num_steps(one.codes.shape[1]),
            "possible": self._steps_enough(one),
            "reference": one.text,
            "reference_source": "manifest",
            "hypothesis": heard,
        }
        return row | error_columns("units", one.text, heard, self.config.normaliser)

    def scores(self, items: Items) -> dict[str, Score]:
        """Error rates in characters and in words."""
        meaning = "{0} errors of a small recogniser that reads units, over the reference's {0}s"
        return {
            name: column_error_rate(items, f"units_{level}", meaning=meaning.format(level), **self.draws)
            for level, name in SCORES.items()
        }

    def conventions(self) -> dict[str, Any]:
        """The network, its training, and the texts it was trained on."""
        settings = [field.name for field in fields(ProbeConfig) if field.name != "seed"]
        return {
            **{name: getattr(self.config, name) for name in settings},
            "decoding": "CTC, best path, no language model",
            "training_set": fingerprint({"texts": self.training_set}),
            "device": self.run.device,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """How training went, and what the test holds."""
        rate, learn, heard = self.stream.rate, self.possible, self.heard
        frames = sum(one.num_frames for one in heard)
        speakers = {one.utterance.speaker for one in learn}
        texts = {one.text for one in learn}
        self.measured = {
            "num_parameters": sum(parameter.numel() for parameter in self.trained.model.parameters()),
            "num_updates": self.trained.num_updates,
            "train_loss": self.trained.losses,
            "num_train_utterances": len(learn),
            "train_hours": sum(one.num_frames for one in learn) / rate / 3600 if rate else None,
            "codebook_size": max(self.stream.codebook_sizes),
            "num_codebooks": self.stream.num_levels,
            "frame_rate": rate,
            "frame_repeats": _repeats(rate, self.config) if rate and self.config.input == "frames" else None,
            "steps_per_second": sum(item["num_steps"] for item in items) / frames * rate if rate else None,
            "characters": "".join(self.characters),
            "test_characters_not_in_train": sum(c not in self.characters for one in heard for c in one.text),
            "test_impossible": sum(not item["possible"] for item in items),
            "test_empty": sum(not item["hypothesis"] for item in items) / len(items),
            "test_utterances_of_train_speakers": sum(
                one.utterance.speaker in speakers for one in heard if one.utterance.speaker is not None
            ),
            "test_texts_in_train": sum(one.text in texts for one in heard),
            "error_rate_of_empty_texts": 1.0,
        }
        return self.measured

    def notes(self, items: Items) -> list[str]:
        """Say what the numbers do not show."""
        notes = [
            "Intervals are over test utterances, not over training seeds: train several before ranking tokenizers."
        ]
        found = self.measured
        if self.config.control == "shuffled":
            notes.append("A control: the runs of every utterance were in random order.")
        if found["test_impossible"]:
            notes.append(
                f"{found['test_impossible']} test utterances have fewer steps than their text needs. They count, "
                "and cannot be right."
            )
        if found["test_texts_in_train"]:
            notes.append(f"{found['test_texts_in_train']} test texts also occur in training.")
        if found["test_empty"] > 0.5:
            notes.append("Most texts came out empty: the network has not begun to learn. Train longer (epochs).")
        if any(reason.startswith("train: fewer") for reason in self.run.excluded):
            notes.append(
                "Utterances with too few steps were left out of training: compare with tokenizers of like rate."
            )
        return notes


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
