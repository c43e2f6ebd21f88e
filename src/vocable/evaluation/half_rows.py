"""Rows of prompt and continuation, each in either modality, for every kind of model.

    u2u   <U> units(x) | units(y)              t2t   <T> text(x) | text(y)
    u2t   <U> units(x) <U2T> | text(y)         t2u   <T> text(x) <T2U> | units(y)

What stands before the bar is read, what stands behind it scored: the switch symbol is never scored. Symbols are those
of the model's layout (where its marks are openers, as in SIMS, an opener stands for the switch symbol). Text and units
of the halves are turned into ids apart, so that y has the same ids behind every prompt. Models of units alone have the
cell u2u, models of text alone t2t.
"""

from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.evaluation.halves import Half
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.joint_lm import JointLM
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_rows import Part, Segment
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.spans import Modality
from vocable.types import SpeechTokens

Cell = Literal["u2u", "t2t", "u2t", "t2u"]
"""Modality of the prompt, and of the continuation: units or text."""
CELLS: tuple[Cell, ...] = get_args(Cell)
MODALITIES: dict[str, Modality] = {"u": "speech", "t": "text"}


class HalfRows(Protocol):
    """Turns halves into token ids."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that the model can read."""
        ...

    @property
    def collapsed(self) -> bool:
        """Whether runs of equal units are merged."""
        ...

    @property
    def classes(self) -> Int[Tensor, " vocabulary"] | None:
        """Modality of each token id, for probabilities within one modality; None where there is one only."""
        ...

    def prompt(self, half: Half, cell: Cell) -> Int[Tensor, " prompt"]:
        """Return what is read: opener, prompt, and the switch symbol where the modality changes."""
        ...

    def continuation(self, half: Half, cell: Cell) -> Int[Tensor, " continuation"]:
        """Return what is scored."""
        ...

    def opening(self, cell: Cell) -> Int[Tensor, " opening"]:
        """Return what a continuation without a prompt is read behind: the opener of its modality."""
        ...

    def description(self) -> dict[str, Any]:
        """Return how rows are made, for results."""
        ...


class JointHalfRows:
    """Rows of a model that reads both, by its layout."""

    cells: tuple[Cell, ...] = CELLS

    def __init__(self, layout: JointLayout) -> None:
        """Take a layout that is bound to its text tokenizer and its subwords."""
        self.layout = layout
        self.collapsed = layout.collapsed
        self.classes: Tensor | None = layout.vocabulary.classes

    def prompt(self, half: Half, cell: Cell) -> Int[Tensor, " prompt"]:
        """See `HalfRows`."""
        card = LMCard(vocabulary=self.layout.vocabulary, layout=self.layout.card(), tokenizer_fingerprint="")
        lm = JointLM(LoadedLM(None, card, self.layout.text_tokenizer, self.layout.subwords))  # type: ignore[arg-type]
        segment = Segment(tokens=half.tokens) if cell[0] == "u" else Segment(text=half.text)
        return lm.prompt([segment], to=MODALITIES[cell[2]])

    def continuation(self, half: Half, cell: Cell) -> Int[Tensor, " continuation"]:
        """See `HalfRows`."""
        return self.layout.ids_of(Part(tokens=half.tokens) if cell[2] == "u" else Part(text=half.text))

    def opening(self, cell: Cell) -> Int[Tensor, " opening"]:
        """See `HalfRows`."""
        known = self.layout.vocabulary
        return torch.tensor([known.unit_open_id if cell[2] == "u" else known.text_open_id])

    def description(self) -> dict[str, Any]:
        """Layout and symbols."""
        return {"layout": self.layout.card(), "halves": "opener of the prompt's modality, prompt, switch, continuation"}


class UnitHalfRows:
    """Rows of a language model of units: the start symbol, then units."""

    cells: tuple[Cell, ...] = ("u2u",)
    classes: Tensor | None = None

    def __init__(self, card: LMCard) -> None:
        """Take the model's card."""
        layout = card.build_layout()
        if not isinstance(layout, UnitsLayout):
            raise ConfigError(f"The layout {card.layout.get('name')!r} is not one of units alone.")
        self.layout, self.collapsed = layout, layout.collapsed

    def prompt(self, half: Half, cell: Cell) -> Int[Tensor, " prompt"]:
        """See `HalfRows`."""
        return torch.cat([self.opening(cell)[: int(self.layout.bos)], self.continuation(half, cell)])

    def continuation(self, half: Half, cell: Cell) -> Int[Tensor, " continuation"]:
        """See `HalfRows`."""
        assert half.tokens is not None
        row = self.layout.build(half.tokens)
        return row[int(self.layout.bos) : len(row) - int(self.layout.eos)]

    def opening(self, cell: Cell) -> Int[Tensor, " opening"]:
        """See `HalfRows`; the start symbol also where the layout has none, or there were nothing to read."""
        return torch.tensor([self.layout.vocabulary.bos_eos_id])

    def description(self) -> dict[str, Any]:
        """Layout and symbols."""
        return {"layout": self.layout.card(), "halves": "start symbol, prompt, continuation"}


class TextHalfRows:
    """Rows of a text language model: the start symbol, where it has one (else its end), then text."""

    cells: tuple[Cell, ...] = ("t2t",)
    collapsed = False
    classes: Tensor | None = None

    def __init__(self, tokenizer: Any) -> None:
        """Take the model's tokenizer."""
        symbols = [tokenizer.bos_token_id, tokenizer.eos_token_id]
        self.tokenizer, self.symbol = tokenizer, next((one for one in symbols if one is not None), None)
        if self.symbol is None:
            raise ConfigError("The text tokenizer names neither a start nor an end symbol to open a text with.")

    def prompt(self, half: Half, cell: Cell) -> Int[Tensor, " prompt"]:
        """See `HalfRows`."""
        return torch.cat([self.opening(cell), self.continuation(half, cell)])

    def continuation(self, half: Half, cell: Cell) -> Int[Tensor, " continuation"]:
        """See `HalfRows`."""
        ids = self.tokenizer(plain_case(half.text), add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    def opening(self, cell: Cell) -> Int[Tensor, " opening"]:
        """See `HalfRows`."""
        return torch.tensor([self.symbol])

    def description(self) -> dict[str, Any]:
        """Symbols and case."""
        return {"halves": "start symbol, prompt, continuation", "capitals": "lowercased where nothing else is there"}


def plain_case(text: str) -> str:
    """Lowercase a text in capitals alone, as LibriSpeech writes them: text models hardly know such text."""
    return text.lower() if text.isupper() else text


def continues_run(prompt: Half, continuation: Half) -> bool:
    """Whether the prompt's last unit is the continuation's first: one run, in a recording without a cut."""
    first, last = continuation.tokens, prompt.tokens
    if first is None or last is None or last.codes.shape[1] < 2 or not first.codes.shape[1]:
        return False
    return int(last.units[-1]) == int(first.units[0])


def without_last_run(half: Half) -> Half:
    """Return the half without its last unit, which belongs to a run that goes on in the continuation."""
    assert half.tokens is not None
    durations = half.tokens.durations
    tokens = SpeechTokens(codes=half.tokens.codes[:, :-1], durations=None if durations is None else durations[:-1])
    return half._replace(tokens=tokens)
