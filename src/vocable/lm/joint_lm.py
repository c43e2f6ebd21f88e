"""A language model of units and text, as SUTLM trains it: one of the spoken language models of spoken.py."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LoadedLM
from vocable.lm.generation import TokenRules
from vocable.lm.joint_generation import joint_rules
from vocable.lm.model import SpokenLM, Target, Task
from vocable.lm.rows import Row, scored_from
from vocable.lm.scoring import Boundary
from vocable.sequences.joint_layouts import AlternatingLayout, JointLayout
from vocable.sequences.joint_rows import JointSequence, Part, Segment
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.spans import Modality
from vocable.sequences.subwords import units_over
from vocable.types import SpeechTokens


class JointLM(SpokenLM):
    """A model of units (or unit subwords) and text, with symbols where a row begins and where its modality changes."""

    joins = "one after the other, a switch symbol where the modality changes"
    prompt_form = "opener of the prompt's modality, prompt, switch"

    def __init__(self, loaded: LoadedLM, *rest: Any, **named: Any) -> None:
        """See `SpokenLM`.

        Raises:
            FingerprintError: text tokenizer or subwords are not those of the model's vocabulary.
        """
        super().__init__(loaded, *rest, **named)
        layout = loaded.card.build_layout()
        if not isinstance(layout, JointLayout):
            raise ConfigError(f"The layout {loaded.card.layout.get('name')!r} is not one of units and text.")
        self.layout = layout.bind(loaded.text_tokenizer, loaded.subwords)
        self.collapsed, self.text_form = layout.collapsed, layout.text_form

    @property
    def vocabulary(self) -> JointVocabulary:
        """Token ids of text, speech and symbols."""
        return self.layout.vocabulary

    def opener(self, modality: Modality) -> Int[Tensor, " opener"]:
        """Return the opener of units or of text."""
        return torch.tensor([self.vocabulary.unit_open_id if modality == "speech" else self.vocabulary.text_open_id])

    def content(self, segment: Segment) -> Int[Tensor, " positions"]:
        """See `LanguageModel`; subwords are made inside the segment."""
        return self.layout.ids_of(Part(tokens=segment.tokens, text=segment.text))

    def prompt(
        self, segments: Sequence[Segment], *, to: Target | None = None, task: Task = "continue"
    ) -> Int[Tensor, " prompt"]:
        """See `LanguageModel`.

        Transcribe and speak are the concatenated rows, `<U> units <U2T>` and `<T> text <T2U>`. Continue does as the
        model's layout: one whose marks are openers (SIMS) asks for the other modality with an opener.
        """
        last = segments[-1].modality
        expected = {"transcribe": ("speech", "text"), "speak": ("text", "speech")}.get(task)
        if expected is not None and (last, to or last) != expected:
            raise ConfigError(
                f"Task {task!r} goes from {expected[0]} to {expected[1]}, but the prompt is {last} and {to or last} is "
                "asked for."
            )
        layout = self.layout if isinstance(self.layout, AlternatingLayout) and task == "continue" else None
        pieces = [self.opener(segments[0].modality)] if layout is None or layout.opener else []
        for place, segment in enumerate(segments):
            if place and segments[place - 1].modality != segment.modality:
                pieces.append(self._mark(segment.modality, layout))
            if segment.text is not None:
                text = segment.text.lstrip() if place == 0 else segment.text
                segment = Segment(text=text.rstrip() if place == len(segments) - 1 else text)
            pieces.append(self.content(segment))
        if task != "continue" and len(pieces[-1]) == 0:
            raise ConfigError(f"The prompt is empty: there is nothing to {task}.")
        if to not in (None, last, "both"):
            pieces.append(self._mark("text" if to == "text" else "speech", layout))
        return torch.cat(pieces)

    def row(self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False) -> Row:
        """See `LanguageModel`. A switch symbol before the last segment is context: only what is said counts."""
        pieces = [] if boundary == "none" else [self.opener(segments[0].modality)]
        bounds: list[tuple[int, int]] = []
        for place, segment in enumerate(segments):
            if place and segments[place - 1].modality != segment.modality:
                pieces.append(self._mark(segment.modality, None))
            pieces.append(self.content(segment))
            stop = sum(len(piece) for piece in pieces)
            bounds.append((stop - len(pieces[-1]), stop))
        if boundary in (None, "bos_eos"):
            pieces.append(torch.tensor([self.vocabulary.end_id]))
        return scored_from(torch.cat(pieces), bounds[-1][0] if ending_only else 1, bounds)

    def token_rules(self, to: Target, max_text_tokens: int) -> TokenRules:
        """See `LanguageModel`."""
        return joint_rules(self.layout, self.card, to, max_text_tokens)

    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """See `SpokenLM`."""
        return self.layout.revert(token_ids)

    def unit_durations(self, tokens: SpeechTokens) -> list[Int[Tensor, " units"]]:
        """See `SpokenLM`."""
        durations = units_over(tokens, "runs" if self.collapsed else "frames").durations
        if self.vocabulary.num_subwords is None:
            return list(durations.split(1))
        return list(durations.split(self.layout.subwords.encode(tokens).num_units.tolist()))

    def text_spans(self, text: str) -> list[tuple[int, int]]:
        """See `SpokenLM`."""
        if not getattr(self.text_tokenizer, "is_fast", False):
            raise ConfigError("The model's text tokenizer is not a fast one, which knows where each token lies.")
        encoded = self.text_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [tuple(offset) for offset in encoded["offset_mapping"]]

    def description(self) -> dict[str, Any]:
        """Return the layout's card."""
        return {"layout": self.layout.card()}

    def _mark(self, modality: Modality, layout: AlternatingLayout | None) -> Tensor:
        """The symbol between segments, before one of this modality, as a layout has it."""
        if layout is not None and layout.marks == "modality":
            return self.opener(modality)
        known = self.vocabulary
        return torch.tensor([known.text_to_unit_id if modality == "speech" else known.unit_to_text_id])
