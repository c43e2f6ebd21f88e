"""A language model of units and text, as SUTLM trains it: one of the spoken language models of spoken.py.

    <U> units        ->  units          <U> units <U2T>  ->  text       what was said, or how it goes on
    <T> text         ->  text           <T> text <T2U>   ->  units

A switch symbol after the prompt asks for the other modality. Concatenated rows (CST) teach a model to say the same
again there, alternating rows (AST) to go on; after training on both, the prompt alone does not say which. Where a
model's rows begin with an instruction, as those of LM-SPT's speech-text models may, so do its prompts.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import TokenRules, token_seconds
from vocable.lm.model import SpokenLM, Target, Task
from vocable.lm.rows import Row, join_parts
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

    @property
    def _alternating(self) -> AlternatingLayout | None:
        """The layout, where it says how a modality is opened inside a row."""
        return self.layout if isinstance(self.layout, AlternatingLayout) else None

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
        if task != "continue" and not self.layout.teaches(task):
            raise ConfigError(f"{self.name}: this model was not trained to {task}. Train one with this task.")
        layout = self._alternating if task == "continue" else None
        first, other = segments[0].modality, last if to in (None, "both") else to
        pieces = [self._instruction(first, other)]
        pieces += [self.opener(first)] if layout is None or layout.opener else []
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
        """See `LanguageModel`. A symbol before the last segment is context: only what is said counts."""
        layout, none = self._alternating, torch.zeros(0, dtype=torch.long)
        opens = boundary != "none" and (boundary is not None or layout is None or layout.opener)
        first = segments[0].modality
        before = torch.cat([self._instruction(first, segments[-1].modality), self.opener(first)]) if opens else none
        parts = []
        for place, segment in enumerate(segments):
            switches = place > 0 and segments[place - 1].modality != segment.modality
            parts.append((self._mark(segment.modality, layout) if switches else none, self.content(segment)))
        ends = boundary == "bos_eos" or (boundary is None and self.layout.end)
        return join_parts(before, parts, torch.tensor([self.vocabulary.end_id]) if ends else none, ending_only)

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
        text = self.layout.written(text)
        encoded = self.text_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [tuple(offset) for offset in encoded["offset_mapping"]]

    def description(self) -> dict[str, Any]:
        """Return the layout's card."""
        return {"layout": self.layout.card()}

    def _instruction(self, first: Modality, then: Modality) -> Tensor:
        """Return the beginning of rows that go from one modality to another."""
        text = self.layout.instruction(first, then)
        return self.layout.ids_of(Part(text=text, is_instruction=True)) if text else torch.zeros(0, dtype=torch.long)

    def _mark(self, modality: Modality, layout: AlternatingLayout | None) -> Tensor:
        """The symbol between segments, before one of this modality, as a layout has it."""
        if layout is not None and layout.marks == "modality":
            return self.opener(modality)
        known = self.vocabulary
        return torch.tensor([known.text_to_unit_id if modality == "speech" else known.unit_to_text_id])


def joint_rules(
    layout: JointLayout, card: LMCard, to: Literal["speech", "text", "both"], max_text_tokens: int
) -> TokenRules:
    """Say what may be drawn: units (or subwords), text, or both and then also openers and switch symbols.

    Args:
        layout: the model's, bound to its text tokenizer; without one, all text ids may be drawn.
        max_text_tokens: stop after this many tokens that are not speech, where text is allowed.

    Raises:
        ConfigError: the card lacks what lengths in seconds need.
    """
    known, speech, text = layout.vocabulary, to != "text", to != "speech"
    banned = known.bans(speech=speech, text=text)
    banned[unwritten(layout) if text else []] = True
    lasting = speech_seconds(layout, card) if speech else None
    silence = silent_speech(layout, card.silence_units) if speech else []
    return TokenRules(
        banned=banned,
        seconds=torch.zeros(known.size) if lasting is None else token_seconds(known.size, known.speech_offset, lasting),
        end_id=known.end_id,
        pad_id=known.pad_id,
        silence=frozenset(unit + known.speech_offset for unit in silence),
        held=speech and not layout.collapsed,
        max_text_tokens=max_text_tokens if text else None,
    )


def speech_seconds(layout: JointLayout, card: LMCard) -> Float[Tensor, " speech"]:
    """Return how long each unit, or each subword, of the speech block lasts: a subword as long as its units together.

    In rows of frames, a unit lasts one frame; in rows of runs, its mean in the training data, which the card has.

    Raises:
        ConfigError: the card lacks it.
    """
    known = layout.vocabulary
    if not layout.collapsed:
        frame_rate = card.tokenizer_card.get("frame_rate")
        if frame_rate is None:
            raise ConfigError("The language model's card has no frame rate, so lengths in seconds cannot be kept.")
        seconds = torch.full((known.codebook_size,), 1 / frame_rate)
    elif card.unit_seconds is None:
        raise ConfigError("The language model's card has no unit durations, so lengths in seconds cannot be kept.")
    else:
        seconds = torch.tensor(card.unit_seconds, dtype=torch.float32)
    return _sum_over_subwords(layout, seconds)


def _sum_over_subwords(layout: JointLayout, values: Float[Tensor, " units"]) -> Float[Tensor, " speech"]:
    """Sum a value of each unit over the units of each subword; without subwords, the values themselves."""
    size = layout.vocabulary.num_subwords
    if size is None:
        return values
    if layout.subwords is None:
        raise ConfigError("The vocabulary is made of unit subwords, which are not there. Bind them to the layout.")
    units = layout.subwords.decode(torch.arange(size))
    owners = torch.arange(size).repeat_interleave(layout.subwords.lengths[:size])
    return torch.zeros(size).index_add_(0, owners, values[units])


def silent_speech(layout: JointLayout, silence_units: Collection[int]) -> list[int]:
    """Units, or subwords all of whose units, stand for silence."""
    sounding = torch.ones(layout.vocabulary.codebook_size)
    sounding[list(silence_units)] = 0.0
    return (_sum_over_subwords(layout, sounding) == 0).nonzero()[:, 0].tolist()


def unwritten(layout: JointLayout) -> list[int]:
    """Ids of the text part that write nothing: the tokenizer's own symbols, and rows that it never uses."""
    tokenizer = layout.text_tokenizer
    if tokenizer is None:
        return []
    text_size = layout.vocabulary.text_size
    used = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return [id for id in range(text_size) if id not in used]
