"""Tokens to evaluate: from shards on disk, or encoded now; each with its utterance, frame by frame.

Encoded once, evaluated often: with shards, no encoder is loaded. Both ways give the tokens in the order of the
manifest, and count what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.errors import AudioFormatError, ConfigError
from vocable.tokens.streams import streams_of_card
from vocable.types import SpeechTokens, Stream, Utterance

if TYPE_CHECKING:
    from vocable.tokens.tokenizer import SpeechTokenizer


class TokenSource:
    """Tokens by utterance; `card` is the tokenizer's, `excluded` counts utterances without tokens, by reason.

    Args:
        utterances: The manifest.
        tokens: Folder of token shards. Either this or `tokenizer`.
        tokenizer: Encodes the utterances.
        stream: Name of the stream to read, where the tokens have several.

    Raises:
        ConfigError: neither or both are given, the stream is not known, or no utterance of the manifest has tokens.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokens: Path | None = None,
        tokenizer: SpeechTokenizer | None = None,
        stream: str | None = None,
    ) -> None:
        if (tokens is None) == (tokenizer is None):
            raise ConfigError("Give either a folder of token shards (tokens) or a tokenizer, not both and not neither.")
        self.utterances = list(utterances)
        self.excluded: Counter[str] = Counter()
        self._tokenizer = None if tokenizer is None else tokenizer.stream(stream)
        self._stored: Mapping[str, SpeechTokens] | None = None
        if tokens is not None:
            from vocable.tokens.shards import TokenShards

            shards = TokenShards(tokens).stream(stream)
            wanted = {utterance.id for utterance in self.utterances}
            self._stored = {found.id: item for found, item in shards if found.id in wanted}
            self.card: dict[str, Any] = shards.card
            if not self._stored:
                raise ConfigError(f"{tokens}: none of the manifest's {len(wanted)} utterances has tokens there.")
        elif self._tokenizer is not None:
            self.card = self._tokenizer.card()

    @property
    def stream(self) -> Stream:
        """The stream that is read."""
        return streams_of_card(self.card)[0]

    @property
    def frame_rate(self) -> float:
        """Frames per second.

        Raises:
            ConfigError: the tokens follow words.
        """
        rate = self.stream.rate
        if not rate:
            raise ConfigError(f"The tokens of {self.card.get('name')!r} follow words, not frames: they have no phones.")
        return float(rate)

    def __iter__(self) -> Iterator[tuple[Utterance, SpeechTokens]]:
        for utterance in self.utterances:
            tokens = self._of(utterance)
            if tokens is not None and tokens.num_positions:
                yield utterance, tokens
            elif tokens is not None:
                self.excluded["no tokens: audio too short"] += 1

    def _of(self, utterance: Utterance) -> SpeechTokens | None:
        if self._stored is not None:
            if utterance.id not in self._stored:
                self.excluded["no tokens in the shards"] += 1
            return self._stored.get(utterance.id)
        from vocable.audio.io import read_clip

        assert self._tokenizer is not None
        try:
            return self._tokenizer.encode([read_clip(utterance, self._tokenizer.sample_rate)])[0]
        except AudioFormatError:
            self.excluded["unreadable or refused audio"] += 1
            return None
