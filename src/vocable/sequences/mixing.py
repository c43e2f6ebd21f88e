"""Mix speech, text and pairs in given shares; which document comes at which step follows from the seed alone.

    units  u0 u1 u2 ...  \\
    text   t0 t1 t2 ...   >   epoch 0: t7 u3 p1 u0 p4 t2 ...   epoch 1: ...
    pairs  p0 p1 p2 ...  /

One third each of speech, text and pairs, as SUTLM (Chou et al., 2023, arXiv:2310.08715) has them; whether it counts
tokens or sequences is unread, so both are there (SIMS and Spirit-LM balance tokens). Each source is gone through in a
new order again and again, whole passes at a time: no document is used twice before all have been used once. An epoch of
the mixture holds as much as all sources together, unless it is set. Next: packing.py.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch

from vocable.errors import ConfigError
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.lazy import Lazy
from vocable.sequences.packing import Document
from vocable.sequences.spans import random_numbers
from vocable.splits import hash_place

LENGTH_SAMPLE = 2000  # documents that a source's mean length is measured on; all, where there are not more


@runtime_checkable
class DocumentSource(Protocol):
    """Documents of one kind."""

    def __len__(self) -> int:
        """Documents that there are."""
        ...

    def document(self, index: int, repeat: int) -> Document:
        """Return one of them; `repeat` counts how often it has been used before, for what is drawn anew each time."""
        ...


class BuiltDocuments:
    """Documents that a layout builds from examples; each repeat is an epoch of the layout, so spans are drawn anew."""

    def __init__(self, examples: Sequence[JointExample], layout: JointLayout) -> None:
        self.examples = examples
        self.layout = layout

    def __len__(self) -> int:
        return len(self.examples)

    def document(self, index: int, repeat: int) -> Document:
        """Build example `index`."""
        return self.layout.document(self.examples[index], epoch=repeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """In which shares sources are mixed."""

    ratios: Mapping[str, float] | None = None
    """Share of each source, by name, in any scale; None: the same of each."""
    by: Literal["tokens", "sequences"] = "tokens"
    """What the shares count. Tokens are counted by the mean length of a source's documents, so that shares hold over
    passes, not in every epoch."""
    epoch_documents: int | None = None
    """Documents of an epoch, about; None: as many tokens (or sequences) as all sources hold together."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, ratio in (self.ratios or {}).items():
            if not 0 < ratio < math.inf:
                raise ConfigError(
                    f"mixture.ratios.{name} is {ratio}; a share is above 0. Leave the source out instead."
                )
        if self.epoch_documents is not None and self.epoch_documents < 1:
            raise ConfigError(f"mixture.epoch_documents is {self.epoch_documents}; it must be at least 1.")


class Draw(NamedTuple):
    """One document of a mixture."""

    source: str
    index: int
    """Number of the document in its source."""
    repeat: int
    """Number of earlier uses of the document."""


class Mixture:
    """An endless mixed order of documents; `draws(epoch)` and `draw(step)` are functions of the seed and nothing else.

    Raises:
        ConfigError: a source is empty, or the shares name other sources than there are.
    """

    def __init__(self, sources: Mapping[str, DocumentSource], config: MixtureConfig | None = None) -> None:
        self.sources = dict(sources)
        self.config = config or MixtureConfig()
        empty = [name for name, source in self.sources.items() if not len(source)]
        if empty or not self.sources:
            raise ConfigError(f"The source {empty[0]!r} is empty." if empty else "There is no source to mix.")
        self.ratios = _normalised(self.config.ratios, list(self.sources))
        self.mean_tokens = {name: _mean_tokens(source) for name, source in self.sources.items()}
        """Mean length of the documents of each source: all, or an even sample of 2,000, as they are the first time."""
        self.rates = self._rates()
        """Documents that each source gives to an epoch, on average; the fractions add up over epochs."""
        self._plan: tuple[int, list[Draw]] | None = None  # the epoch that was asked for last

    def draws(self, epoch: int) -> list[Draw]:
        """Return what an epoch holds, in its order."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self._draws(epoch)
        return self._plan[1]

    def num_documents(self, epoch: int) -> int:
        """Documents of an epoch; a few more or less than of another one."""
        return self._before(epoch + 1) - self._before(epoch)

    def document(self, draw: Draw) -> Document:
        """Build the document of a draw."""
        return self.sources[draw.source].document(draw.index, draw.repeat)

    def epoch(self, epoch: int) -> Lazy[Document]:
        """Return the documents of an epoch, each built when it is asked for."""
        return Lazy(self.draws(epoch), self.document)

    def _rates(self) -> dict[str, float]:
        names = list(self.sources)
        size = dict.fromkeys(names, 1.0) if self.config.by == "sequences" else self.mean_tokens
        total = sum(len(self.sources[name]) * size[name] for name in names)
        rates = {name: self.ratios[name] * total / size[name] for name in names}
        if self.config.epoch_documents is None:
            return rates
        scale = self.config.epoch_documents / sum(rates.values())
        return {name: rate * scale for name, rate in rates.items()}

    def _before(self, epoch: int) -> int:
        """Documents of all epochs before this one."""
        return sum(_used_before(epoch, rate) for rate in self.rates.values())

    def _draws(self, epoch: int) -> list[Draw]:
        found = []
        for name, rate in self.rates.items():
            size, order, known = len(self.sources[name]), (), -1
            for place in range(_used_before(epoch, rate), _used_before(epoch + 1, rate)):
                repeat, index = divmod(place, size)
                if repeat != known:
                    order = random_numbers(self.config.seed, repeat, f"source {name}").permutation(size)
                    known = repeat
                found.append(Draw(name, int(order[index]), repeat))
        order = random_numbers(self.config.seed, epoch, "order").permutation(len(found))
        return [found[place] for place in order]


def assign_roles(
    ids: Iterable[str], shares: Mapping[str, float], seed: int = 0, group: Callable[[str], str] | None = None
) -> dict[str, list[str]]:
    """Divide paired utterances into those used as speech only, as text only, and as pairs, by the hash of their id.

    Speech and text that are to count as unpaired must not be two sides of one utterance: give this function all ids and
    e.g. `{"units": 1.0, "text": 1.0, "pairs": 1.0}`. An id always gets the same role, whatever else is there.

    Args:
        ids: of the utterances.
        shares: of each role, in any scale.
        seed: another one divides otherwise.
        group: what must stay together, e.g. the text of an id, so that no text has two roles; None: each id alone.

    Raises:
        ConfigError: a share is not positive.
    """
    ratios = _normalised(shares, list(shares))
    names, borders = list(ratios), list(itertools.accumulate(ratios.values()))
    roles: dict[str, list[str]] = {name: [] for name in names}
    for id in ids:
        place = hash_place(f"{seed}\n{group(id) if group else id}")
        roles[names[min(bisect.bisect_right(borders, place), len(names) - 1)]].append(id)
    return roles


def _used_before(epoch: int, rate: float) -> int:
    """Documents of one source in all epochs before this one; the small number keeps 10 from being 9.9999."""
    return math.floor(epoch * rate + 1e-6)


def _normalised(ratios: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    ratios = dict.fromkeys(names, 1.0) if ratios is None else ratios
    if set(ratios) != set(names) or not names or min(ratios.values()) <= 0:
        found = ", ".join(f"{name} ({value:g})" for name, value in sorted(ratios.items()))
        raise ConfigError(
            f"Shares are set for {found or 'none'}; there are {', '.join(sorted(names)) or 'none'}. Each needs a share "
            "above 0."
        )
    total = sum(ratios.values())
    return {name: ratios[name] / total for name in names}


def _mean_tokens(source: DocumentSource) -> float:
    stride = max(1, len(source) // LENGTH_SAMPLE)
    lengths = [len(source.document(index, 0)) for index in range(0, len(source), stride)]
    return max(1.0, torch.tensor(lengths, dtype=torch.float64).mean().item())
