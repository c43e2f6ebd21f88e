"""Recordings with text as training reads them: what is frozen or measured is computed once, batches follow the seed.

    manifest -> pieces that fit into Whisper's window -> states of two layers, tokens of the words    states-*.bin
                                                      -> speaker vector                               voices-*.bin
                                                      -> what the decoder learns from (`targets`)     targets-*.bin
    pieces that have all three -> batches of about so many seconds of speech, by epoch and number

States take 2 bytes a number: 0.37 GB an hour for two layers of whisper-base. What is left out, for want of text, sound
or alignment, is noted in rejected.jsonl.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vocable.audio.io import read_utterance
from vocable.audio.manifest import Rejections
from vocable.errors import AlignmentError, AudioFormatError, ManifestError
from vocable.features.speaker import SpeakerEncoder
from vocable.features.whisper import WhisperEncoder
from vocable.sequences.word_tokens import WordTextTokenizer, split_words
from vocable.systems.taste.aggregator import Aggregator
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.model import pad_words
from vocable.systems.taste.pieces import Piece, check_amount, cut_pieces, time_words
from vocable.systems.taste.records import Record, RecordFile, text_of, text_tensor
from vocable.systems.taste.speech_decoder import SpeechDecoder, WordBatch
from vocable.types import Utterance, Word

SORTED_BATCHES = 16
"""Pieces of about so many batches are sorted by length together, and the rest is chance."""
UNUSABLE = (AlignmentError, AudioFormatError, ManifestError)


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteBatch:
    """Pieces side by side."""

    names: tuple[str, ...]
    """Ids of their recordings."""
    texts: tuple[tuple[str, ...], ...]
    ids: Int[Tensor, "batch tokens"]
    word_ids: Int[Tensor, "batch tokens"]
    last: Float[Tensor, "batch frames dim"]
    shallow: Float[Tensor, "batch frames dim"]
    frame_mask: Bool[Tensor, "batch frames"]
    speaker: Float[Tensor, "batch speaker_dim"]
    targets: tuple[dict[str, Tensor], ...]

    @property
    def num_words(self) -> int:
        """Words of all texts."""
        return sum(map(len, self.texts))

    def words(self, vectors: Float[Tensor, "batch words dim"] | None) -> WordBatch:
        """Return what a decoder reads, with the vectors of the words."""
        counts = self.word_ids.amax(1) + 1
        mask = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
        return WordBatch(self.texts, self.ids, self.word_ids, vectors, mask, self.speaker)

    def to(self, device: torch.device | str) -> "TasteBatch":
        """Return the same on `device`."""
        moved: dict[str, Any] = {
            one.name: getattr(self, one.name).to(device)
            for one in fields(self)
            if isinstance(getattr(self, one.name), Tensor)
        }
        targets = tuple({name: value.to(device) for name, value in one.items()} for one in self.targets)
        return replace(self, **moved, targets=targets)


class Pieces:
    """Pieces of recordings, in files."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        config: TasteConfig,
        reader: WordTextTokenizer,
        encoder: WhisperEncoder,
        aggregator: Aggregator,
        speaker_encoder: SpeakerEncoder,
        decoder: SpeechDecoder,
        store: Path,
        *,
        rejections: Rejections | None = None,
        strict: bool = False,
        on_utterance: Callable[[], None] | None = None,
    ) -> None:
        """Compute what `store` does not have yet.

        Args:
            utterances: Recordings with text.
            config: Layers, and whether the aggregator attends to padding.
            reader: Text tokenizer of the aggregator.
            encoder: The frozen encoder, on its device.
            aggregator: For the number of tokens that it has positions for.
            speaker_encoder: Encoder of speaker vectors.
            decoder: What it learns from is measured.
            store: Folder of the files.
            rejections: Where recordings that are left out are noted.
            strict: Whether such a recording is an error instead.
            on_utterance: Called after each recording.

        Raises:
            AlignmentError, AudioFormatError, ManifestError: as `strict` says; ManifestError also where nothing is left.
            OutputError: the files cannot be written.
        """
        self.config, self.reader, self.encoder, self.aggregator = config, reader, encoder, aggregator
        self.speaker_encoder, self.decoder, self.strict = speaker_encoder, decoder, strict
        recordings, known = _digest(utterances), _digest(utterances, extra=True)
        places = {"recordings": recordings, "window": encoder.window_frames, "sample_rate": encoder.sample_rate}
        own = {"encoder": encoder.description(), "shallow_layer": config.shallow_layer}
        own |= {"keep_padding": config.aggregator.attend_padding, "text": reader.name, "dtype": "float16"}
        own["most_tokens"] = aggregator.most_tokens
        key = {"kind": decoder.kind, **decoder.targets_key()}
        self.states = RecordFile(store, "states", {**places, **own})
        self.voices = RecordFile(store, "voices", {**places, "encoder": dict(speaker_encoder.weights)})
        self.targets = RecordFile(store, "targets", {**places, "known": known, "decoder": key})
        self.identity = {"recordings": known, "num_recordings": len(utterances), "encoder": own, "decoder": key}
        self._prepare(utterances, on_utterance)
        self._note(utterances, rejections)
        self._join(utterances)

    def __len__(self) -> int:
        return len(self.seconds)

    def _prepare(self, utterances: Sequence[Utterance], on_utterance: Callable[[], None] | None) -> None:
        """Read each recording once, and make what its files lack."""
        makers = ((self.states, self._state), (self.voices, self._voice), (self.targets, self._target))
        for number in range(min(file.num_owners for file, _ in makers), len(utterances)):
            missing = [(file, make) for file, make in makers if file.num_owners == number]
            try:
                waveform, pieces, words = self._cut(utterances[number])
            except UNUSABLE as error:
                if self.strict:
                    raise
                for file, _ in missing:
                    file.extend(number, [Record({}, reason=str(error))])
            else:
                for file, make in missing:
                    found = [self._record(make, utterances[number], waveform, piece, words) for piece in pieces]
                    file.extend(number, found)
            if on_utterance is not None:
                on_utterance()

    def _cut(self, utterance: Utterance) -> tuple[Tensor, list[Piece], list[str]]:
        """Read a recording, and cut it as the tokenizer does."""
        words = split_words(utterance.text or "")
        if not words:
            raise ManifestError("It has no text, from which words are read. Add `text` to the manifest.")
        rate = self.encoder.sample_rate
        waveform = read_utterance(utterance, rate)
        check_amount(words, len(waveform), rate)
        times = None if utterance.words is None else time_words(words, utterance.words)
        window = self.encoder.num_samples(self.encoder.window_frames) / rate
        return waveform, cut_pieces(waveform, rate, words, times, window), words

    def _record(
        self, make: Callable[..., Record], utterance: Utterance, waveform: Tensor, piece: Piece, words: list[str]
    ) -> Record:
        sound, own = waveform[piece.start : piece.stop], words[piece.first : piece.last]
        try:
            return make(_part_of(utterance, piece, words, self.encoder.sample_rate, len(waveform)), sound, own)
        except UNUSABLE as error:
            if self.strict:
                raise
            return Record({}, reason=str(error))

    def _state(self, utterance: Utterance, sound: Tensor, words: list[str]) -> Record:
        tokens = self.reader.encode(words)
        if len(tokens.ids) > self.aggregator.most_tokens:
            raise AlignmentError(
                f"The text has {len(tokens.ids)} tokens in {len(sound) / self.encoder.sample_rate:.1f} s, but "
                f"{self.encoder.name!r} has positions for {self.aggregator.most_tokens}."
            )
        layers = (self.encoder.layer, self.config.shallow_layer)
        last, shallow = self.encoder.encode_layers(sound, layers, self.config.aggregator.attend_padding)
        tensors = {"last": last.half(), "shallow": shallow.half(), "ids": tokens.ids, "word_ids": tokens.word_ids}
        tensors["words"] = text_tensor(json.dumps(words))
        return Record(tensors, frames=len(last), words=len(words))

    def _voice(self, utterance: Utterance, sound: Tensor, words: list[str]) -> Record:
        return Record({"vector": self.speaker_encoder.embed(sound)})

    def _target(self, utterance: Utterance, sound: Tensor, words: list[str]) -> Record:
        return Record(self.decoder.targets(utterance, sound, words))

    def _note(self, utterances: Sequence[Utterance], rejections: Rejections | None) -> None:
        if rejections is None:
            return
        for file in (self.states, self.voices, self.targets):
            for owner, reason in file.left_out():
                rejections.add(utterances[owner].id, utterances[owner].audio, reason)

    def _join(self, utterances: Sequence[Utterance]) -> None:
        """Find the pieces that all files have."""
        rows = []
        for file in (self.states, self.voices, self.targets):
            kept = np.flatnonzero(file.rows["is_kept"])
            rows.append((file.rows["owner"][kept] * 2**32 + file.rows["piece"][kept], kept))
        keys = rows[0][0]
        for other, _ in rows[1:]:
            keys = np.intersect1d(keys, other)
        self._rows = [kept[np.searchsorted(own, keys)] for own, kept in rows]
        if not len(keys):
            _, reason = next(iter(self.states.left_out() + self.voices.left_out() + self.targets.left_out()), (0, ""))
            raise ManifestError(
                f"None of {len(utterances)} recordings can be used, the first for this reason: {reason}"
            )
        states = self.states.rows[self._rows[0]]
        self.seconds = states["frames"] / self.encoder.frame_rate
        self.num_words = states["words"]
        self._owners = states["owner"]
        names = [one.speaker for one in utterances]
        groups = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.speakers = np.array([-1 - n if names[n] is None else groups[names[n]] for n in self._owners])
        self._ids = [utterances[n].id for n in self._owners]

    def batch(self, numbers: Sequence[int], voices: Sequence[int] | None = None) -> TasteBatch:
        """Read pieces, with the speaker vectors of other pieces where `voices` names them."""
        states = [self.states.read(int(self._rows[0][number])) for number in numbers]
        vectors = [self.voices.read(int(self._rows[1][number]))["vector"] for number in (voices or numbers)]
        lengths = torch.tensor([len(one["last"]) for one in states])
        return TasteBatch(
            names=tuple(self._ids[number] for number in numbers),
            texts=tuple(tuple(json.loads(text_of(one["words"]))) for one in states),
            ids=pad_words([one["ids"] for one in states]),
            word_ids=pad_words([one["word_ids"] for one in states]),
            last=pad_sequence([one["last"].float() for one in states], batch_first=True),
            shallow=pad_sequence([one["shallow"].float() for one in states], batch_first=True),
            frame_mask=torch.arange(int(lengths.max())) < lengths[:, None],
            speaker=torch.stack(vectors),
            targets=tuple(self.targets.read(int(self._rows[2][number])) for number in numbers),
        )

    def same_speaker(self, number: int, rng: np.random.Generator) -> int:
        """Draw another piece of the speaker, the same one where there is no other."""
        others = np.flatnonzero(self.speakers == self.speakers[number])
        others = others[others != number]
        return int(rng.choice(others)) if len(others) else number

    def describe(self) -> dict[str, Any]:
        """Describe the pieces well enough to notice other ones."""
        return {**self.identity, "num_pieces": len(self), "seconds": round(float(self.seconds.sum()), 2)}


class PieceStream:
    """Batches without end: every piece once an epoch, in an order that follows from seed and epoch."""

    def __init__(self, pieces: Pieces, batch_seconds: float, seed: int, speaker: Literal["same", "other"]) -> None:
        """Plan the first epoch.

        Args:
            pieces: What to read.
            batch_seconds: Seconds of a batch, padding included; a longer piece is a batch by itself.
            seed: Decides the order, with the epoch.
            speaker: Recording that the speaker vector is of: the piece's own, or another one of the speaker.
        """
        self.pieces, self.batch_seconds, self.seed, self.speaker = pieces, batch_seconds, seed, speaker
        self._start_epoch(0)

    def next_batches(self, count: int, process: int = 0, num_processes: int = 1) -> list[TasteBatch]:
        """Return this process's share of the next `count` batches, and move on by `count`."""
        batches = []
        for place in range(count):
            if self.batch == len(self.plan):
                self._start_epoch(self.epoch + 1)
            if place % num_processes == process:
                batches.append(self._read(self.plan[self.batch]))
            self.batch += 1
        return batches

    def state_dict(self) -> dict[str, int]:
        """Return the position in the stream."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self._start_epoch(state["epoch"])
        self.batch = state["batch"]

    def _read(self, numbers: Sequence[int]) -> TasteBatch:
        voices = None
        if self.speaker == "other":
            rng = np.random.default_rng([self.seed, self.epoch, self.batch])
            voices = [self.pieces.same_speaker(number, rng) for number in numbers]
        return self.pieces.batch(numbers, voices)

    def _start_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        batches = list(group_pieces(self.pieces.seconds, rng.permutation(len(self.pieces)), self.batch_seconds))
        self.plan = [batches[index] for index in rng.permutation(len(batches))]
        self.epoch, self.batch = epoch, 0


def group_pieces(seconds: np.ndarray, order: np.ndarray, batch_seconds: float) -> Iterator[list[int]]:
    """Group pieces into batches of at most `batch_seconds`, padding included; neighbours in length go together."""
    windows = np.cumsum(seconds[order]) // (SORTED_BATCHES * batch_seconds)
    for window in np.unique(windows):
        batch: list[int] = []
        found = order[windows == window]
        for number in found[np.argsort(-seconds[found], kind="stable")].tolist():
            if batch and (len(batch) + 1) * seconds[batch[0]] > batch_seconds:
                yield batch
                batch = []
            batch.append(number)
        yield batch


def _part_of(utterance: Utterance, piece: Piece, words: Sequence[str], sample_rate: int, num_samples: int) -> Utterance:
    """Return the line of the manifest as it would be for a piece alone: its text, times from its start on."""
    if piece.last - piece.first == len(words) and piece.start == 0 and piece.stop == num_samples:
        return utterance
    start, stop = piece.start / sample_rate, piece.stop / sample_rate
    own = None
    if utterance.words is not None:
        times = time_words(words, utterance.words)[piece.first : piece.last]
        own = tuple(Word(word=one.word, start=one.start - start, end=one.end - start) for one in times)
    extra = {key: value for key, value in utterance.extra.items() if key != "symbols"}  # of the whole recording
    if "phones" in extra:
        extra["phones"] = [
            {**one, "start": one["start"] - start, "end": one["end"] - start}
            for one in extra["phones"]
            if one["start"] < stop and one["end"] > start
        ]
    text = " ".join(words[piece.first : piece.last])
    return replace(utterance, start=utterance.start + start, duration=stop - start, text=text, words=own, extra=extra)


def _digest(utterances: Sequence[Utterance], extra: bool = False) -> str:
    """Hash what decides where recordings are cut, and with `extra` all that decoders may measure."""
    digest = hashlib.sha256()
    for one in utterances:
        words = None if one.words is None else [[word.word, word.start, word.end] for word in one.words]
        row = [one.id, str(one.audio), one.start, one.duration, one.text, words, dict(one.extra) if extra else None]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
