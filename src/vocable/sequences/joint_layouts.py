"""Rows that hold speech, text, or both: one modality, a pair one after the other, or a sentence that alternates.

    unit-only   <U> units <E>                      cst   <U> units <U2T> text <E>,  <T> text <T2U> units <E>
    text-only   <T> text <E>                       ast   <U> units(the cat) <U2T> sat on <T2U> units(the mat) <E>

The four formats of SUTLM (Chou et al., 2023, arXiv:2310.08715): concatenated (CST) rows teach what corresponds to what,
alternating (AST) rows make the context of each word cross-modal. `PRESETS` has the interleaving of SIMS and of
Spirit-LM too, and the rows of speech_text.py. What they share is in joint_layout.py. Next: mixing.py, packing.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jaxtyping import Int
from torch import Tensor

from vocable.errors import ManifestError
from vocable.registry import look_up
from vocable.sequences.joint_layout import JointLayout
from vocable.sequences.joint_rows import JointExample, Part
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.spans import Modality, PoissonSpans, RangeSpans, SpanPolicy, plan_spans, random_numbers
from vocable.sequences.speech_text import SpeechTextLayout
from vocable.sequences.subwords import UnitSubwords
from vocable.sequences.word_slices import Pause, slice_frames, word_borders, word_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOnlyLayout(JointLayout):
    """The opener of units, and units: for speech without text."""

    name: ClassVar[str] = "unit-only"

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return opener and units."""
        return [Part(special=self.vocabulary.unit_open_id), self._speech(example)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOnlyLayout(JointLayout):
    """The opener of text, and text: for text without speech."""

    name: ClassVar[str] = "text-only"

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return opener and text."""
        return [Part(special=self.vocabulary.text_open_id), self._written(example)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcatenatedLayout(JointLayout):
    """CST: the whole utterance in one modality, the switch symbol, and the same in the other; needs no word times."""

    name: ClassVar[str] = "cst"

    direction: Literal["u2t", "t2u", "random"] = "random"
    """Units first, text first, or either, drawn for each utterance and epoch."""

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return opener, one modality, switch symbol, the other."""
        known, units, text = self.vocabulary, self._speech(example), self._written(example)
        coin = random_numbers(self.seed, epoch, example.id).random() < 0.5
        if self.direction == "u2t" or (self.direction == "random" and coin):
            return [Part(special=known.unit_open_id), units, Part(special=known.unit_to_text_id), text]
        return [Part(special=known.text_open_id), text, Part(special=known.text_to_unit_id), units]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternatingLayout(JointLayout):
    """AST: a sentence whose words are partly spoken, partly written, each once, in order; switches at word borders.

    Units are cut by `word_slices.word_borders`; subwords are made inside each span, so that none crosses a switch. A
    sentence too short for its spans may come out in one modality.
    """

    name: ClassVar[str] = "ast"

    spans: SpanPolicy = field(default_factory=RangeSpans)
    """Which words are spoken; drawn anew in each epoch."""
    marks: Literal["switch", "modality"] = "switch"
    """Between spans: the switch symbol of the direction (SUTLM), or the opener of the modality that follows (SIMS)."""
    opener: bool = True
    """Open the row with the opener of its first modality. Whether SUTLM's alternating rows have one is not known."""
    pause: Pause = "middle"
    """Which word's units a pause between two words is in; see word_slices.py."""

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return the spans with their symbols."""
        if example.tokens is None or not example.words or example.frame_rate is None:
            raise ManifestError(
                f"Utterance {example.id!r} lacks speech tokens, word times or a frame rate; the layout {self.name!r} "
                "needs all three. Words come from a forced aligner or from a synthesiser."
            )
        words = example.words
        borders = self._borders(example).tolist()
        texts = word_texts(example.text if self.text_form == "text" else None, words)
        parts: list[Part] = []
        for modality, start, stop in plan_spans(self.spans, len(words), seed=self.seed, epoch=epoch, id=example.id):
            if parts or self.opener:
                parts.append(Part(special=self._mark(modality, is_first=not parts)))
            if modality == "text":
                parts.append(Part(text="".join(texts[start:stop]), words=words[start:stop]))
                continue
            frames = borders[start], borders[stop]
            units = slice_frames(example.tokens, *frames, collapsed=self.collapsed)
            parts.append(Part(tokens=units, words=words[start:stop], frames=frames))
        return parts

    def _borders(self, example: JointExample) -> Int[Tensor, " borders"]:
        assert example.tokens is not None and example.words is not None and example.frame_rate is not None
        try:
            return word_borders(example.words, example.tokens.num_frames, example.frame_rate, self.pause)
        except ManifestError as error:
            raise ManifestError(f"Utterance {example.id!r}: {error}") from error

    def _mark(self, modality: Modality, *, is_first: bool) -> int:
        known = self.vocabulary
        if is_first or self.marks == "modality":
            return known.unit_open_id if modality == "speech" else known.text_open_id
        return known.text_to_unit_id if modality == "speech" else known.unit_to_text_id


JOINT_LAYOUTS: Mapping[str, type[JointLayout]] = {
    kind.name: kind
    for kind in (UnitOnlyLayout, TextOnlyLayout, ConcatenatedLayout, AlternatingLayout, SpeechTextLayout)
}

SIMS_SPANS = PoissonSpans(mean_words=10.0, speech_share=0.3)
SPIRIT_LM_SPANS = RangeSpans(speech_words=(5, 15), text_words=(10, 30))

PRESETS: Mapping[str, Callable[..., JointLayout]] = {
    **JOINT_LAYOUTS,
    "cst-u2t": lambda **settings: ConcatenatedLayout(direction="u2t", **settings),
    "cst-t2u": lambda **settings: ConcatenatedLayout(direction="t2u", **settings),
    "sims": lambda **settings: AlternatingLayout(**({"spans": SIMS_SPANS, "marks": "modality"} | settings)),
    "spirit-lm": lambda **settings: AlternatingLayout(**({"spans": SPIRIT_LM_SPANS, "marks": "modality"} | settings)),
}
"""Layouts by name: those of SUTLM, and the interleaving of SIMS (arXiv:2504.02398: Poisson 10, 30 % speech, a mark
before each span) and of Spirit-LM (5 to 15 words spoken, 10 to 30 written). Cards record the settings, under 'ast'."""


def make_layout(
    name: str,
    vocabulary: JointVocabulary,
    *,
    text_tokenizer: Any = None,
    subwords: UnitSubwords | None = None,
    **settings: Any,
) -> JointLayout:
    """Make a preset, with its settings changed, and bind it.

    Raises:
        UnknownNameError: there is no such preset.
        FingerprintError: tokenizer or subwords are not those of the vocabulary.
    """
    layout = look_up("layout", name, PRESETS)(vocabulary=vocabulary, **settings)
    return layout.bind(text_tokenizer, subwords)
