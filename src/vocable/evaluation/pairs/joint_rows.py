"""Rows of pairs for a model that reads speech and text: each segment in the form in which the pair has it.

    context spoken, ending written    <U> 5 9 2 <U2T> and he went home        scored: the ending, or all
    context written, ending spoken    <T> Anna fell <T2U> 7 3 9

This is what cross-modal StoryCloze asks for (S, S->T, T->S, T). Symbols and ids are those of a joint layout
(sequences/joint_layouts.py), bound to its text tokenizer and its subwords.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vocable.evaluation.pairs.items import Segment
from vocable.evaluation.pairs.rows import Row
from vocable.evaluation.unusable import UnusableError
from vocable.lm.scoring import Boundary
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_rows import Part
from vocable.types import SpeechTokens


class JointRows:
    """See the module. Boundary `none` leaves out the opener, `bos_eos` adds and scores the end symbol.

    Between segments of one modality there is no symbol; where the modality changes, the switch symbol stands. With
    the ending alone scored, the switch symbol before it is context: only what is said counts.
    """

    def __init__(self, layout: JointLayout, tokens: Mapping[str, SpeechTokens], boundary: Boundary) -> None:
        """Take a bound layout, and the speech tokens of every utterance that pairs speak of."""
        self.layout, self.tokens, self.boundary = layout, tokens, boundary

    def __call__(self, segments: Sequence[Segment], ending_only: bool) -> Row:
        """See `RowBuilder`."""
        if ending_only and len(segments) < 2:
            raise UnusableError("only the ending is scored, but there is no context before it")
        pieces: list[Tensor] = []
        context, previous = 0, None
        for segment in segments:
            symbol = self._symbol(previous, segment)
            pieces += [] if symbol is None else [torch.tensor([symbol])]
            context = sum(len(piece) for piece in pieces)  # at the end: of all before the last segment
            pieces.append(self.layout.ids_of(self._content(previous, segment)))
            previous = segment
        if self.boundary == "bos_eos":
            pieces.append(torch.tensor([self.layout.vocabulary.end_id]))
        token_ids = torch.cat(pieces)
        first_scored = max(1, context if ending_only else 1)
        if len(token_ids) <= first_scored:
            raise UnusableError("nothing is left to score")
        return Row(token_ids, first_scored)

    def description(self) -> dict[str, Any]:
        """Layout and joins."""
        joins = "one after the other, a switch symbol where the modality changes"
        return {"layout": self.layout.card(), "segments": joins}

    def _symbol(self, previous: Segment | None, segment: Segment) -> int | None:
        """What stands before a segment."""
        known = self.layout.vocabulary
        spoken = segment.speech is not None
        if previous is None:
            if self.boundary == "none":
                return None
            return known.unit_open_id if spoken else known.text_open_id
        if (previous.speech is not None) == spoken:
            return None
        return known.text_to_unit_id if spoken else known.unit_to_text_id

    def _content(self, previous: Segment | None, segment: Segment) -> Part:
        if segment.text is not None:
            if not segment.text.strip():
                raise UnusableError("a text or transcript is empty")
            return Part(text=(" " if previous is not None else "") + segment.text.strip())
        tokens = self.tokens.get(segment.speech or "")
        if tokens is None or tokens.codes.shape[1] == 0:
            raise UnusableError("an utterance has no tokens")
        return Part(tokens=tokens)
