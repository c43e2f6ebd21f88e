"""A language model of units alone, as TWIST trains it: one of the spoken language models of spoken.py."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LoadedLM
from vocable.lm.generation import TokenRules, token_seconds
from vocable.lm.model import UNITS_ONLY, SpokenLM, Target, Task
from vocable.lm.rows import Row, join_parts
from vocable.lm.scoring import Boundary
from vocable.sequences.joint_rows import JointSequence, Segment
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.spans import Modality
from vocable.sequences.subwords import units_over
from vocable.types import SpeechTokens


class UnitLM(SpokenLM):
    """A model of units alone: start symbol, units, end symbol. Segments of one row are encoded apart, units joined.

    Where runs are merged, a run that goes on over a join is one run, as in a recording without a cut.
    """

    joins = "encoded apart, units joined"
    prompt_form = "start symbol, prompt"

    def __init__(self, loaded: LoadedLM, *rest: Any, **named: Any) -> None:
        """See `SpokenLM`."""
        super().__init__(loaded, *rest, **named)
        layout = loaded.card.build_layout()
        if not isinstance(layout, UnitsLayout):
            raise ConfigError(f"The layout {loaded.card.layout.get('name')!r} is not one of units alone.")
        self.layout, self.collapsed = layout, layout.collapsed

    def opener(self, modality: Modality) -> Int[Tensor, " opener"]:
        """Return the start symbol, also where the layout has none: there would be nothing to read."""
        return torch.tensor([self.layout.vocabulary.bos_eos_id])

    def content(self, segment: Segment) -> Int[Tensor, " positions"]:
        """See `LanguageModel`."""
        return self._ids([segment])

    def prompt(
        self, segments: Sequence[Segment], *, to: Target | None = None, task: Task = "continue"
    ) -> Int[Tensor, " prompt"]:
        """See `LanguageModel`."""
        if to not in (None, "speech") or task != "continue":
            raise ConfigError(UNITS_ONLY)
        return torch.cat([self.opener("speech")[: int(self.layout.bos)], self._ids(segments)])

    def row(self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False) -> Row:
        """See `LanguageModel`."""
        symbol = self.opener("speech")
        before = symbol[: int(self.layout.bos if boundary is None else boundary != "none")]
        after = symbol[: int(self.layout.eos if boundary is None else boundary == "bos_eos")]
        ends = [len(self._ids(segments[:place])) for place in range(1, len(segments))]
        parts = [(symbol[:0], units) for units in self._ids(segments).tensor_split(ends)]
        return join_parts(before, parts, after, ending_only)

    def token_rules(self, to: Target, max_text_tokens: int) -> TokenRules:
        """See `LanguageModel`."""
        known = self.layout.vocabulary
        if self.card.unit_seconds is None:
            raise ConfigError("The language model's card has no unit durations, so lengths in seconds cannot be kept.")
        return TokenRules(
            banned=known.bans(),
            seconds=token_seconds(known.size, known.unit_offset, torch.tensor(self.card.unit_seconds)),
            end_id=known.end_id,
            pad_id=known.pad_id,
            silence=frozenset(unit + known.unit_offset for unit in self.card.silence_units),
        )

    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """See `SpokenLM`."""
        segment = Segment(tokens=self.layout.revert(token_ids), stop=len(token_ids))
        return JointSequence(token_ids=token_ids, segments=(segment,) if len(token_ids) else ())

    def unit_durations(self, tokens: SpeechTokens) -> list[Int[Tensor, " units"]]:
        """See `SpokenLM`."""
        return list(units_over(tokens, "runs" if self.collapsed else "frames").durations.split(1))

    def description(self) -> dict[str, Any]:
        """Return the layout's card."""
        return {"layout": dict(self.card.layout)}

    def _ids(self, segments: Sequence[Segment]) -> Int[Tensor, " positions"]:
        """Token ids of segments one after the other, without symbols."""
        frames = []
        for segment in segments:
            if segment.tokens is None:
                raise ConfigError(UNITS_ONLY)
            frames.append(units_over(segment.tokens, "frames").units)
        return replace(self.layout, bos=False, eos=False).build(SpeechTokens(codes=torch.cat(frames)[None]))
