"""Rows that hold speech, text, or both: one modality, a pair one after the other, or a sentence that alternates.

    unit-only   <U> units <E>                      cst   <U> units <U2T> text <E>,  <T> text <T2U> units <E>
    text-only   <T> text <E>                       ast   <U> units(the cat) <U2T> sat on <T2U> units(the mat) <E>

The four formats of SUTLM (Chou et al., 2023, arXiv:2310.08715): concatenated (CST) rows teach what corresponds to what,
alternating (AST) rows make the context of each word cross-modal. `PRESETS` has the interleaving of SIMS and of
Spirit-LM too. Values: settings and a vocabulary make a card; `bind` adds the text tokenizer and the subwords.
Next: mixing.py, packing.py.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.config import config_to_dict
from vocable.errors import ConfigError, ManifestError
from vocable.registry import look_up
from vocable.sequences.joint_rows import JointExample, JointSequence, Part, Segment
from vocable.sequences.joint_vocabulary import JointVocabulary, text_tokenizer_fingerprint
from vocable.sequences.spans import Modality, PoissonSpans, RangeSpans, SpanPolicy, plan_spans, random_numbers
from vocable.sequences.subwords import UnitSubwords, units_over
from vocable.sequences.vocabulary import check_ids
from vocable.sequences.word_slices import Pause, slice_frames, word_borders, word_texts
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import SpeechTokens

L = TypeVar("L", bound="JointLayout")


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLayout:
    """What the layouts of this file share. Subclasses say which parts a row has."""

    name: ClassVar[str] = ""

    vocabulary: JointVocabulary
    collapsed: bool = True
    """Merge runs of equal units, inside each segment. Subwords must be over runs then, else over frames."""
    end: bool = True
    """Close each row with the end symbol."""
    text_form: Literal["text", "words"] = "text"
    """Write the utterance's text, cut at its words (the words where it has no text), or always the words as aligned."""
    seed: int = 0
    """With epoch and utterance id, decides all that is drawn."""
    text_tokenizer: Any = field(default=None, compare=False, repr=False)
    """Any Hugging Face tokenizer; see `bind`. Not part of the card."""
    subwords: Any = field(default=None, compare=False, repr=False)
    """`UnitSubwords`, where the vocabulary is made of them; see `bind`. Not part of the card."""

    @property
    def vocabulary_size(self) -> int:
        """Text, special symbols, and units or subwords."""
        return self.vocabulary.size

    def bind(self: L, text_tokenizer: Any = None, subwords: UnitSubwords | None = None) -> L:
        """Return the layout with its text tokenizer and its subwords, either of which a row may not need.

        Raises:
            FingerprintError: the vocabulary was made for others.
            ConfigError: subwords for a vocabulary of units, or over frames for collapsed rows, or the reverse.
        """
        known = self.vocabulary
        if text_tokenizer is not None and known.text_fingerprint is not None:
            found = text_tokenizer_fingerprint(text_tokenizer)
            check_fingerprint(known.text_fingerprint, found, "the vocabulary", "the text tokenizer")
        if subwords is not None:
            if known.num_subwords != subwords.size:
                raise ConfigError(
                    f"There are {subwords.size} subwords, but the vocabulary has {known.num_speech} "
                    f"{'units' if known.num_subwords is None else 'subwords'}. See joint_vocabulary."
                )
            if known.subwords_fingerprint is not None:
                expected, what = known.subwords_fingerprint, "the set of unit subwords"
                check_fingerprint(expected, subwords.fingerprint, "the vocabulary", what)
            if (subwords.card.over == "runs") != self.collapsed:
                raise ConfigError(
                    f"The subwords are over {subwords.card.over}, but collapsed is {self.collapsed}. Set collapsed to "
                    f"{subwords.card.over == 'runs'}, or fit subwords over the other."
                )
        return replace(self, text_tokenizer=text_tokenizer or self.text_tokenizer, subwords=subwords or self.subwords)

    def build(self, example: JointExample, *, epoch: int = 0) -> Int[Tensor, " positions"]:
        """Turn one example into one document; what is drawn is drawn anew in each epoch.

        Raises:
            ManifestError: the example lacks what the layout needs, or its words do not fit its tokens.
            ConfigError: ids outside the vocabulary, or the layout needs `bind`.
        """
        return self.build_sequence(example, epoch=epoch).token_ids

    def build_sequence(self, example: JointExample, *, epoch: int = 0) -> JointSequence:
        """Like `build`, with the segments and what they hold."""
        parts = self.parts(example, epoch)
        if self.end:
            parts.append(Part(special=self.vocabulary.end_id))
        pieces, segments, start = [torch.zeros(0, dtype=torch.int64)], [], 0
        for part in parts:
            pieces.append(self.ids_of(part))
            stop = start + len(pieces[-1])
            if part.special is None:
                found = {"tokens": part.tokens, "text": part.text, "words": part.words, "frames": part.frames}
                segments.append(Segment(start=start, stop=stop, **found))
            start = stop
        return JointSequence(token_ids=torch.cat(pieces), segments=tuple(segments))

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return symbols and contents in the order of the row, without the end symbol."""
        raise NotImplementedError

    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """Return what a row, whole, cut or generated, says: its segments with their modality, speech tokens and text.

        Ids decide the modality, not the symbols between them, so that rows of a model that forgot a symbol can be read.

        Raises:
            ConfigError: an id is outside the vocabulary, or the layout needs `bind`.
        """
        token_ids = token_ids.cpu().long()
        known = self.vocabulary
        if len(token_ids) and (int(token_ids.min()) < 0 or int(token_ids.max()) >= known.size):
            raise ConfigError(f"Ids run from {int(token_ids.min())} to {int(token_ids.max())}; there are {known.size}.")
        classes = known.classes[token_ids]
        changes = torch.cat([torch.ones(1, dtype=torch.bool), classes[1:] != classes[:-1]])[: len(token_ids)]
        starts = [*changes.nonzero()[:, 0].tolist(), len(token_ids)]
        segments = []
        for start, stop in itertools.pairwise(starts):
            ids = token_ids[start:stop]
            if bool(known.is_speech(ids[:1])):
                tokens = SpeechTokens(codes=self._units(known.speech(ids))[None])
                segments.append(Segment(start=start, stop=stop, tokens=tokens))
            elif bool(known.is_text(ids[:1])):
                segments.append(Segment(start=start, stop=stop, text=self._text(ids)))
        return JointSequence(token_ids=token_ids, segments=tuple(segments))

    def card(self) -> dict[str, Any]:
        """Return the layout as JSON values, without tokenizer and subwords, whose fingerprints the vocabulary has."""
        values = config_to_dict(replace(self, text_tokenizer=None, subwords=None))
        del values["text_tokenizer"], values["subwords"]
        return {"name": self.name, **values}

    def ids_of(self, part: Part) -> Int[Tensor, " positions"]:
        """Return the token ids of a symbol or of the content of a segment, as they stand in a row."""
        if part.special is not None:
            return torch.tensor([part.special])
        if part.tokens is None:
            return self.vocabulary.text_ids(self._text_ids(part.text or ""))
        if self.vocabulary.num_subwords is not None:
            return self.vocabulary.speech_ids(self._bound_subwords().encode(part.tokens).ids)
        units = units_over(part.tokens, "runs" if self.collapsed else "frames").units
        size = self.vocabulary.codebook_size
        check_ids(units, size, "Unit", f"the codebook of {size} units")
        return self.vocabulary.speech_ids(units)

    def _text_ids(self, text: str) -> Int[Tensor, " positions"]:
        ids = self._bound_tokenizer().encode(text, add_special_tokens=False, verbose=False)
        return torch.tensor(ids, dtype=torch.int64)

    def _text(self, ids: Int[Tensor, " positions"]) -> str:
        return self._bound_tokenizer().decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _units(self, speech: Int[Tensor, " positions"]) -> Int[Tensor, " units"]:
        return speech if self.vocabulary.num_subwords is None else self._bound_subwords().decode(speech)

    def _bound_tokenizer(self) -> Any:
        if self.text_tokenizer is None:
            raise ConfigError(f"The layout {self.name!r} has no text tokenizer yet: layout.bind(text_tokenizer).")
        return self.text_tokenizer

    def _bound_subwords(self) -> UnitSubwords:
        if self.subwords is None:
            raise ConfigError(
                f"The vocabulary of the layout {self.name!r} is made of unit subwords, which it does not have yet: "
                "layout.bind(subwords=UnitSubwords.load(folder))."
            )
        return self.subwords

    def _speech(self, example: JointExample) -> Part:
        if example.tokens is None:
            raise ManifestError(f"Utterance {example.id!r} has no speech tokens; the layout {self.name!r} needs them.")
        return Part(tokens=example.tokens, words=example.words, frames=(0, example.tokens.num_frames))

    def _written(self, example: JointExample) -> Part:
        text = None if self.text_form == "words" and example.words else example.text
        if text is None and example.words:
            text = "".join(word_texts(None, example.words))
        if text is None:
            raise ManifestError(f"Utterance {example.id!r} has no text; the layout {self.name!r} needs it.")
        return Part(text=text, words=example.words)


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
    kind.name: kind for kind in (UnitOnlyLayout, TextOnlyLayout, ConcatenatedLayout, AlternatingLayout)
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
