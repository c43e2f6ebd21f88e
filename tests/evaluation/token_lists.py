"""Tokens that were made by hand, in place of those of a folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vocable.tokens.streams import streams_of_card, streams_to_card
from vocable.types import SpeechTokens, Stream, Utterance


class TokenList:
    """Iterates as TokenSource does."""

    def __init__(self, pairs: Sequence[tuple[Utterance, SpeechTokens]], *streams: Stream, name: str = "hand") -> None:
        self.pairs, self.excluded = list(pairs), Counter()
        self.utterances = [utterance for utterance, _ in self.pairs]
        self.card = {"name": name, "fingerprint": name, **streams_to_card(streams)}
        self.streams = streams_of_card(self.card)
        self.stream = self.streams[0]
        self.frame_rate = self.stream.rate

    def __iter__(self):
        return iter(self.pairs)


def said(number: int, speaker: str | None = None, text: str | None = None, **extra) -> Utterance:
    """An utterance whose recording nobody reads."""
    return Utterance(id=f"u{number}", audio=Path("x"), text=text, speaker=speaker, extra=extra)
