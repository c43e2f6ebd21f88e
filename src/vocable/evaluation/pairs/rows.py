"""From the segments of one half of a pair to the row of token ids that a language model scores.

    [context] [ending]  ->  <s> 5 9 2 | 7 7 3 (<s>)      scored: all of it, or the ending alone

One class per kind of model: unit language models read spoken segments, text language models their texts; for models
that read both see joint_rows.py. Anything else with this call will do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.evaluation.pairs.items import Segment
from vocable.evaluation.unusable import UnusableError
from vocable.lm.checkpoint import LMCard
from vocable.lm.scoring import Boundary
from vocable.types import SpeechTokens


class Row(NamedTuple):
    """Token ids of one half, boundary symbols included."""

    token_ids: Int[Tensor, " positions"]
    first_scored: int
    """Tokens before this place are context only. At least 1: nothing predicts the first token."""


class RowBuilder(Protocol):
    """Turns the segments of a half into a row."""

    def __call__(self, segments: Sequence[Segment], ending_only: bool) -> Row:
        """Build the row; with `ending_only`, what comes before the last segment is not scored.

        Raises:
            UnusableError: a segment has no tokens, or nothing is left to score.
        """
        ...

    def description(self) -> dict[str, Any]:
        """Return how the model reads a half: layout, joins."""
        ...


class UnitRows:
    """Rows for a unit language model: segments are encoded apart, and their units joined.

    Where runs are collapsed, a run that goes on over a join is one run, as in a recording without a cut.
    """

    def __init__(self, tokens: Mapping[str, SpeechTokens], card: LMCard, boundary: Boundary) -> None:
        self.tokens, self.card, self.boundary = tokens, card, boundary
        layout = {**card.layout, "bos": False, "eos": False}
        self.layout = LMCard(vocabulary=card.vocabulary, layout=layout, tokenizer_fingerprint="").build_layout()

    def __call__(self, segments: Sequence[Segment], ending_only: bool) -> Row:
        """See `RowBuilder`."""
        codes = [self._frames(segment) for segment in segments]
        symbol = torch.tensor([self.card.vocabulary.end_id])
        before = symbol[: int(self.boundary != "none")]
        after = symbol[: int(self.boundary == "bos_eos")]
        units = self.layout.build(SpeechTokens(codes=torch.cat(codes)[None]))
        context = 0
        if ending_only:
            if len(segments) < 2:
                raise UnusableError("only the ending is scored, but there is no context before it")
            context = len(self.layout.build(SpeechTokens(codes=torch.cat(codes[:-1])[None])))
        return _checked(torch.cat([before, units, after]), len(before) + context)

    def description(self) -> dict[str, Any]:
        """Layout and joins."""
        return {"layout": dict(self.card.layout), "segments": "encoded apart, units joined"}

    def _frames(self, segment: Segment) -> Tensor:
        if segment.speech is None:
            raise ConfigError(
                "The pair holds written text, which a unit language model cannot read. Score it with a text model "
                "(--model text), or with a model that reads both."
            )
        tokens = self.tokens.get(segment.speech)
        if tokens is None or tokens.codes.shape[1] == 0:
            raise UnusableError("an utterance has no tokens")
        units = tokens.units.long()
        return units if tokens.durations is None else units.repeat_interleave(tokens.durations.long())


class TextRows:
    """Rows for a text language model: what the segments say, in written form.

    The texts of spoken segments are those of the manifest (the topline), or what a recogniser heard (the cascade).
    Each segment is tokenized apart, with a space between, so that halves which share a context share its tokens. A text
    in capitals alone, as LibriSpeech writes them, is lowercased: text models hardly know such text.
    """

    def __init__(self, tokenizer: Any, texts: Mapping[str, str | None], boundary: Boundary) -> None:
        self.tokenizer, self.texts, self.boundary = tokenizer, texts, boundary

    def __call__(self, segments: Sequence[Segment], ending_only: bool) -> Row:
        """See `RowBuilder`."""
        before, after = self._symbols()
        parts = []
        for place, segment in enumerate(segments):
            text = segment.text if segment.text is not None else self.texts.get(segment.speech or "")
            if text is None:
                raise UnusableError("an utterance has no text")
            if not text.strip():
                raise UnusableError("a text or transcript is empty")
            words = (" " if place else "") + (text.lower() if text.isupper() else text).strip()
            parts.append(torch.tensor(self.tokenizer(words, add_special_tokens=False)["input_ids"]).long())
        context = sum(len(part) for part in parts[:-1]) if ending_only else 0
        return _checked(torch.cat([before, *parts, after]), len(before) + context)

    def description(self) -> dict[str, Any]:
        """Joins."""
        return {"segments": "tokenized apart, joined by a space", "capitals": "lowercased where nothing else is there"}

    def _symbols(self) -> tuple[Tensor, Tensor]:
        """Start and end symbol, as far as the boundary asks for them; a model without a start symbol uses its end."""
        end = self.tokenizer.eos_token_id
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else end
        wanted = [(start, self.boundary != "none"), (end, self.boundary == "bos_eos")]
        if any(symbol is None and asked for symbol, asked in wanted):
            raise ConfigError("The text tokenizer has no start or end symbol; score with boundary 'none'.")
        first, last = (torch.tensor([symbol] if asked else [], dtype=torch.long) for symbol, asked in wanted)
        return first, last


class EmptyRows:
    """Rows without content, for a scorer that does not look at them."""

    def __call__(self, segments: Sequence[Segment], ending_only: bool) -> Row:
        """See `RowBuilder`."""
        return Row(torch.zeros(2, dtype=torch.long), 1)

    def description(self) -> dict[str, Any]:
        """Nothing is read."""
        return {}


def _checked(token_ids: Tensor, first_scored: int) -> Row:
    first_scored = max(first_scored, 1)
    if len(token_ids) <= first_scored:
        raise UnusableError("nothing is left to score")
    return Row(token_ids, first_scored)
