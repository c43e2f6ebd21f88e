"""Where the units of the unit decoder come from, and what speaks them.

    waveform -> unit tokenizer -> units            or            id of the utterance -> token shards -> units
    units -> synthesizer of that tokenizer -> waveform

Any tokenizer of units serves, also one stream of a codec. One that does not run where the decoder is trained, such as
CosyVoice's S3, tokenizes elsewhere: `UnitSource` then reads its shards, and a synthesizer that is named speaks.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from vocable.audio.waveforms import resample
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.voice import Voice
from vocable.synthesis.opening import load_synthesizer
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.runs import collapse_runs, frames_of
from vocable.tokens.shards import TokenShards
from vocable.tokens.streams import card_of_stream, streams_of_card
from vocable.tokens.tokenizer import SpeechTokenizer, Synthesizer, load_tokenizer, read_card
from vocable.types import SpeechTokens, Utterance

SAMPLE_RATE = 16_000
"""Samples per second of recordings, as Whisper reads them."""


class UnitSource:
    """A unit tokenizer or its shards, and a synthesizer; each is opened when it is first needed."""

    def __init__(
        self, name: str, stream: str | None = None, synthesizer: str | None = None, collapse: bool = False
    ) -> None:
        """Read what the tokenizer says of itself.

        Args:
            name: Name or folder of a tokenizer, or folder of token shards.
            stream: Stream that is read, of several.
            synthesizer: Name or folder of what speaks; None: the tokenizer's own, else the one that comes with Vocable.
            collapse: Whether runs of a unit are one, without their duration.

        Raises:
            AssetError: there is no such tokenizer.
            ConfigError: it has several streams and none is named, or its units are of several levels or follow words.
        """
        self.name, self.synthesizer_name, self.collapse = name, synthesizer, collapse
        self.is_shards = Path(name).is_dir() and any(Path(name).glob("tokens-*.parquet"))
        whole = TokenShards(name).card if self.is_shards else read_card(name)
        self.stream = stream
        self.card: Mapping[str, Any] = card_of_stream(whole, stream)
        (only,) = streams_of_card(self.card)
        self.codebook_size = only.codebook_size
        if only.rate is None:
            raise ConfigError(f"The tokens of {name} follow words, not time: the decoder writes units of frames.")
        self.rate = only.rate

    def __deepcopy__(self, memo: dict[int, Any]) -> "UnitSource":
        """Return itself: nothing in it learns, and copies of a decoder would hold the same encoders."""
        return self

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the tokenizer whose units these are."""
        return self.card["fingerprint"]

    @functools.cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """The tokenizer; not there for shards."""
        return load_tokenizer(self.name).stream(self.stream)

    @functools.cached_property
    def synthesizer(self) -> Synthesizer:
        """What speaks the units.

        Raises:
            ConfigError: units come from shards and no synthesizer is named.
            FingerprintError: it speaks the units of another tokenizer.
        """
        if not self.is_shards:
            return load_synthesizer(self.synthesizer_name, self.tokenizer)
        if self.synthesizer_name is None:
            raise ConfigError(
                f"Units come from the shards in {self.name}, and nothing is known to speak them. Set synthesizer."
            )
        found = load_synthesizer(self.synthesizer_name)
        if found.tokenizer_fingerprint is not None:
            shards = f"the shards in {self.name}"
            check_fingerprint(found.tokenizer_fingerprint, self.fingerprint, self.synthesizer_name, shards)
        return found

    @functools.cached_property
    def _rows(self) -> tuple[TokenShards, dict[str, int]]:
        shards = TokenShards(self.name).stream(self.stream)
        return shards, {utterance.id: row for row, (utterance, _) in enumerate(shards)}

    def units(self, utterance: Utterance, waveform: Float[Tensor, " samples"]) -> Int[Tensor, " units"]:
        """Return the units of a recording, or of the part of an utterance that it is; of shards, by the utterance's id.

        Raises:
            AudioFormatError: the shards lack it, or it is too short for a unit.
        """
        if self.is_shards:
            frames = self._stored(utterance, len(waveform) / SAMPLE_RATE)
        else:
            (tokens,) = self.tokenizer.encode([resample(waveform, SAMPLE_RATE, self.tokenizer.sample_rate)])
            frames = frames_of(tokens)[0]
        if not len(frames):
            raise AudioFormatError(f"{utterance.id}: there are no units, for {len(waveform)} samples.")
        return collapse_runs(frames).units if self.collapse else frames

    def _stored(self, utterance: Utterance, seconds: float) -> Int[Tensor, " frames"]:
        shards, rows = self._rows
        if utterance.id not in rows:
            raise AudioFormatError(f"{utterance.id}: the shards in {self.name} have no such utterance.")
        whole, tokens = shards[rows[utterance.id]]
        first = round((utterance.start - whole.start) * self.rate)
        if first < 0:
            raise AudioFormatError(f"{utterance.id}: it starts before the utterance of that id in {self.name}.")
        return frames_of(tokens)[0, first : first + round(seconds * self.rate)]

    def speak(self, units: Int[Tensor, " units"], voice: Voice | None) -> Float[Tensor, " samples"]:
        """Turn units into sound; where runs are collapsed, the synthesizer decides how long each lasts."""
        if self.collapse:
            tokens = SpeechTokens(codes=units[None])
        else:
            runs = collapse_runs(units)
            tokens = SpeechTokens(codes=runs.units[None], durations=runs.durations)
        return self.synthesizer.synthesize([tokens], voice=voice)[0]
