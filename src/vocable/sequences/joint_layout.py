"""What the layouts of rows of speech and text share: they build rows from parts, and read rows back.

    JointExample -> parts: symbols and contents -> token ids, segments -> (revert) -> segments

Which parts a row has, the layouts of joint_layouts.py and speech_text.py say. Values: settings and a vocabulary make a
card; `bind` adds the text tokenizer and the subwords.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.config import config_to_dict
from vocable.errors import ConfigError, ManifestError
from vocable.sequences.joint_rows import JointExample, JointSequence, Part, Segment
from vocable.sequences.joint_vocabulary import JointVocabulary, text_tokenizer_fingerprint
from vocable.sequences.packing import Document
from vocable.sequences.spans import Modality
from vocable.sequences.subwords import UnitSubwords, units_over
from vocable.sequences.vocabulary import check_ids
from vocable.sequences.word_slices import word_texts
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import SpeechTokens

L = TypeVar("L", bound="JointLayout")


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLayout:
    """Settings of all layouts of speech and text. Subclasses say which parts a row has."""

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
            if part.is_segment:
                found = {"tokens": part.tokens, "text": part.text, "words": part.words, "frames": part.frames}
                segments.append(Segment(start=start, stop=stop, **found))
            start = stop
        return JointSequence(token_ids=torch.cat(pieces), segments=tuple(segments))

    def document(self, example: JointExample, *, epoch: int = 0) -> Document:
        """Like `build`, with a mask where the loss counts only some of the tokens."""
        return self.build(example, epoch=epoch)

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return symbols and contents in the order of the row, without the end symbol."""
        raise NotImplementedError

    def teaches(self, task: str) -> bool:
        """Say whether a model of such rows may be asked to `transcribe`, or to `speak`."""
        return True

    def instruction(self, first: Modality, then: Modality) -> str:
        """Return the text before a row that goes from one modality to another: here none."""
        return ""

    def written(self, text: str) -> str:
        """Return a text as rows have it: here as it is."""
        return text

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
            return self.vocabulary.text_ids(self._text_ids(part.text or "", part.is_instruction))
        if self.vocabulary.num_subwords is not None:
            return self.vocabulary.speech_ids(self._bound_subwords().encode(part.tokens).ids)
        units = units_over(part.tokens, "runs" if self.collapsed else "frames").units
        size = self.vocabulary.codebook_size
        check_ids(units, size, "Unit", f"the codebook of {size} units")
        return self.vocabulary.speech_ids(units)

    def _text_ids(self, text: str, is_instruction: bool = False) -> Int[Tensor, " positions"]:
        text = text if is_instruction else self.written(text)
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
