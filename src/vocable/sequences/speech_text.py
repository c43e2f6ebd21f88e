"""Rows that ask for the same in the other modality: write what is heard, or say what is written.

    transcribe  Transcribe: <U> units <U2T> text <E>        speak  <T> text <T2U> units <E>
    counted     .           .   .     .     x    x                 .   .    .     x     x

The language models that LM-SPT is judged by (Jo et al., 2025, arXiv:2506.16738) are fine-tuned on such rows; how the
paper writes them is not known to us. Ours are SUTLM's concatenated rows, perhaps after an instruction, and the loss
counts the answers alone.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError
from vocable.sequences.joint_layout import JointLayout
from vocable.sequences.joint_rows import JointExample, JointSequence, Part
from vocable.sequences.packing import Document, MaskedDocument
from vocable.sequences.spans import Modality, random_numbers

PairTask = Literal["transcribe", "speak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """Text before a row of each task. LM-SPT's prompts are not known to us; symbols alone are our choice."""

    transcribe: str = ""
    """Text before speech that is to be written down, such as "Transcribe: "; empty: none."""
    speak: str = ""
    """Text before text that is to be spoken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTextLayout(JointLayout):
    """Rows of a task, as of LM-SPT (Jo et al., 2025, arXiv:2506.16738): write what is heard, say what is written.

    The loss counts the answer and the end symbol; what comes before is read only. The prompt that lm/joint_lm.py makes
    for the same task is the beginning of the row, up to its answer.
    """

    name: ClassVar[str] = "speech-text"

    tasks: tuple[PairTask, ...] = ("transcribe", "speak")
    """Tasks that are trained; of several, one is drawn for each utterance and epoch."""
    instructions: Instructions = field(default_factory=Instructions)
    text_case: Literal["kept", "lower"] = "kept"
    """Write texts as they are, or in small letters, where transcripts of several corpora differ."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks are {', '.join(self.tasks) or 'empty'}; name transcribe, speak, or both once.")

    def document(self, example: JointExample, *, epoch: int = 0) -> Document:
        """Return the row, of which the answer and the end symbol are predicted."""
        row = self.build_sequence(example, epoch=epoch)
        return MaskedDocument(row.token_ids, torch.arange(len(row.token_ids)) >= row.segments[-1].start)

    def parts(self, example: JointExample, epoch: int) -> list[Part]:
        """Return instruction, opener, one modality, switch symbol, the other."""
        known, speech = self.vocabulary, self._speech(example)
        written = JointLayout._written(self, example)  # super() does not work in a dataclass with slots
        text = written._replace(text=(written.text or "").strip())
        if not text.text or not example.tokens or not example.tokens.num_frames:
            raise ManifestError(f"Utterance {example.id!r} is empty; the layout {self.name!r} needs text and speech.")
        task = self.tasks[int(random_numbers(self.seed, epoch, example.id).integers(len(self.tasks)))]
        if task == "transcribe":
            parts = [Part(special=known.unit_open_id), speech, Part(special=known.unit_to_text_id), text]
        else:
            parts = [Part(special=known.text_open_id), text, Part(special=known.text_to_unit_id), speech]
        return [Part(text=getattr(self.instructions, task), is_instruction=True), *parts]

    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """See `JointLayout`; an instruction is no segment."""
        found, known = JointLayout.revert(self, token_ids), self.vocabulary
        asked = self.instructions
        for opener, text in ((known.unit_open_id, asked.transcribe), (known.text_open_id, asked.speak)):
            ids = [*self._text_ids(text, True).tolist(), opener] if text else []
            if ids and token_ids[: len(ids)].tolist() == ids:
                return replace(found, segments=found.segments[1:])
        return found

    def teaches(self, task: str) -> bool:
        """See `JointLayout`."""
        return task in self.tasks

    def instruction(self, first: Modality, then: Modality) -> str:
        """Return the instruction of the task that goes from one modality to the other."""
        tasks = {("speech", "text"): self.instructions.transcribe, ("text", "speech"): self.instructions.speak}
        return tasks.get((first, then), "")

    def written(self, text: str) -> str:
        """Return the text in the case that rows have it in."""
        return text.lower() if self.text_case == "lower" else text
