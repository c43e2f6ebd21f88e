"""The small network of the recognition probe: from units to characters, trained with CTC and read greedily.

    codes (codebooks, frames) -> summed embeddings -> convolution, every second frame -> 2 x BiLSTM -> characters, blank

CTC (Graves et al., 2006) needs no alignment: it sums over all ways to spread the characters over the steps. Who reads
units and texts, and reports: `recognition`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vocable.errors import ConfigError
from vocable.training.config import TrainingConfig
from vocable.training.loop import Loop, fit
from vocable.training.task import Learner, LossSum, Progress, TrainingTask

BLANK = 0
"""The class that stands for no character; characters are numbered from 1."""
POOL_BATCHES = 16
"""Batches whose utterances are sorted by length together: like lengths, but another order in every epoch."""


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How a probe is trained."""

    epochs: int = 8
    """How often every utterance is trained on."""
    batch_utterances: int = 16
    """Utterances in one update."""
    learning_rate: float = 3e-3
    """The highest learning rate; it rises over a tenth of the updates, then falls to 0 as a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_gradient_norm: float = 1.0
    """Longer gradients are shortened to this norm."""
    seed: int = 0
    """Seed of first weights, dropout, the order of utterances, the control, and the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_utterances"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must be 0 or more.")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ProbeTraining):
    """What the probe reads, its size and its training; LAST's own recogniser is not known to us, these are ours."""

    input: Literal["frames", "runs"] = "frames"
    """Frames, at about `input_rate`: an equal time axis for all tokenizers. Or runs of equal frames, without their
    durations: what a language model reads."""
    input_rate: float = 50.0
    """Frames a second to come near to: slower frames are repeated a whole number of times."""
    control: Literal["none", "shuffled"] = "none"
    """shuffled: the runs of every utterance in random order, in training and test. What is then still recognised does
    not come from the order of units."""
    normaliser: str = "basic"
    """Normalisation of texts: english, basic or none. english turns spelt numbers into digits."""
    embedding_dim: int = 128
    """Width of the vector of a unit."""
    hidden_dim: int = 128
    """Width of the recurrent layers, in each direction, and half the width of the convolution."""
    num_layers: int = 2
    """Recurrent layers."""
    kernel_size: int = 5
    """Inputs that the convolution sees at once."""
    dropout: float = 0.1
    """Share of numbers that are dropped in training."""

    def __post_init__(self) -> None:
        ProbeTraining.__post_init__(self)
        if self.input not in ("frames", "runs"):
            raise ConfigError(f"input is {self.input!r}; it is frames or runs.")
        if self.control not in ("none", "shuffled"):
            raise ConfigError(f"control is {self.control!r}; it is none or shuffled.")
        for name in ("embedding_dim", "hidden_dim", "num_layers", "kernel_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {self.kernel_size}; it must be odd, so that the middle is a frame.")
        if not self.input_rate > 0 or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout} (0 to below 1), input_rate {self.input_rate} (above 0).")

    @property
    def stride(self) -> int:
        """Inputs to one step of the network: two frames, since 25 steps a second are enough for text; or one run."""
        return 2 if self.input == "frames" else 1

    def num_steps(self, num_inputs: int) -> int:
        """Steps at which the network may say a character."""
        return -(-num_inputs // self.stride)


M = TypeVar("M", bound=nn.Module)
P = TypeVar("P", bound=ProbeTraining)


class Example(NamedTuple):
    """Inputs to read, and the characters that are said in them."""

    codes: Int[Tensor, "num_codebooks inputs"]
    targets: Int[Tensor, " characters"]


class UnitRecogniser(nn.Module):
    """Log-probabilities of characters at every step, the same whatever else is in the batch (up to rounding)."""

    offsets: Tensor

    def __init__(self, codebook_size: int, num_codebooks: int, num_classes: int, config: ProbeConfig) -> None:
        """Make random weights; `num_classes` counts the blank."""
        super().__init__()
        self.config = config
        width = 2 * config.hidden_dim
        self.embedding = nn.Embedding(num_codebooks * codebook_size, config.embedding_dim)
        self.register_buffer("offsets", torch.arange(num_codebooks)[:, None] * codebook_size, persistent=False)
        self.convolution = nn.Conv1d(
            config.embedding_dim, width, config.kernel_size, stride=config.stride, padding=config.kernel_size // 2
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_BothWays(width, config.hidden_dim) for _ in range(config.num_layers))
        self.head = nn.Linear(width, num_classes)

    def forward(
        self, codes: Int[Tensor, "batch num_codebooks inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch steps classes"]:
        """Return log-probabilities; row i is valid up to `config.num_steps(lengths[i])`. `lengths` are on the CPU."""
        inside = torch.arange(codes.shape[2])[None] < lengths[:, None]  # (batch, inputs)
        embedded = self.embedding(codes + self.offsets).sum(1) * inside[..., None].to(codes.device)
        hidden = self.convolution(embedded.mT).mT
        hidden = self.dropout(nn.functional.gelu(self.norm(hidden)))
        steps = torch.tensor([self.config.num_steps(length) for length in lengths.tolist()])
        places = torch.arange(hidden.shape[1])[None]
        backwards = torch.where(places < steps[:, None], steps[:, None] - 1 - places, places).to(codes.device)
        for layer in self.layers:
            hidden = self.dropout(layer(hidden, backwards))
        return self.head(hidden).log_softmax(-1)


class _BothWays(nn.Module):
    """A bidirectional LSTM layer over rows of several lengths.

    Each row is turned round within its length, so that the padding comes last both ways. Packed sequences would do it
    too, but on a CPU their gradient takes time quadratic in the length: seven times as long here.
    """

    def __init__(self, width: int, hidden_dim: int) -> None:
        super().__init__()
        self.onwards = nn.LSTM(width, hidden_dim, batch_first=True)
        self.back = nn.LSTM(width, hidden_dim, batch_first=True)

    def forward(
        self, hidden: Float[Tensor, "batch steps width"], backwards: Int[Tensor, "batch steps"]
    ) -> Float[Tensor, "batch steps both"]:
        """`backwards` holds, for each place of a row, the one that it is exchanged with."""
        back, _ = self.back(_exchange(hidden, backwards))
        return torch.cat([self.onwards(hidden)[0], _exchange(back, backwards)], dim=-1)


def _exchange(hidden: Float[Tensor, "batch steps dim"], places: Int[Tensor, "batch steps"]) -> Tensor:
    return hidden.gather(1, places[..., None].expand_as(hidden))


class Trained(NamedTuple):
    """A recogniser, and how its training went."""

    model: UnitRecogniser
    losses: list[float]
    """Mean CTC loss of each epoch, in nats per character."""
    num_updates: int


def train_recogniser(
    examples: Sequence[Example],
    codebook_size: int,
    num_classes: int,
    config: ProbeConfig,
    device: str = "cpu",
    on_update: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a recogniser for `config.epochs` epochs; on a CPU the same seed gives the same weights.

    Args:
        examples: each with at least `recognition.ctc.min_frames` steps.
        num_classes: characters and the blank.
        on_update: called with 1 after every update, and with how many there are.

    Raises:
        NumericsError: the loss is not a number.
    """
    num_codebooks = examples[0].codes.shape[0]
    model, losses = train_probe(
        lambda: UnitRecogniser(codebook_size, num_codebooks, num_classes, config),
        CtcTask,
        examples,
        config,
        device,
        on_update,
    )
    return Trained(model.eval(), losses, config.epochs * math.ceil(len(examples) / config.batch_utterances))


def train_probe(
    make: Callable[[], M],
    task: "type[ProbeTask[P]]",
    examples: Sequence[Example],
    config: P,
    device: str = "cpu",
    on_update: Callable[[int, int], None] | None = None,
) -> tuple[M, list[float]]:
    """Make a model and train it; on a CPU the same seed gives the same weights.

    Returns:
        The model, and the loss of each epoch.

    Raises:
        NumericsError: the loss is not a number.
    """
    per_epoch = math.ceil(len(examples) / config.batch_utterances)
    training = TrainingConfig(
        max_steps=config.epochs * per_epoch,
        max_gradient_norm=config.max_gradient_norm,
        precision="fp32",
        log_every=per_epoch,
        validate_every=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = make().to(device)
        lines = fit(task(model, examples, config, on_update), training, device)
    return model, [line["loss"] for line in lines]


class ProbeTask(TrainingTask, Generic[P]):
    """Training of a probe, for the loop in training/loop.py; its tokens are utterances."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        config: P,
        on_update: Callable[[int, int], None] | None = None,
    ) -> None:
        """Arguments as in `train_recogniser`."""
        self.examples, self.config, self.on_update = examples, config, on_update
        self.num_updates = config.epochs * math.ceil(len(examples) / config.batch_utterances)
        optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        self.learners = {"model": Learner(model, optimizer)}
        self._order = self._batches()

    def _batches(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.config.seed)
        lengths = [one.codes.shape[1] for one in self.examples]
        for epoch in range(self.config.epochs):
            yield from epoch_batches(lengths, self.config, epoch, generator)

    def next_batches(self, count: int, process: int, num_processes: int) -> list[list[Example]]:
        """Return the next batches of like length."""
        return [[self.examples[index] for index in next(self._order)] for _ in range(count)]

    def num_targets(self, batch: list[Example]) -> int:
        """Count utterances."""
        return len(batch)

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Rise over the first tenth of the updates, then fall as a cosine."""
        update, rising = progress.step - 1, max(1, self.num_updates // 10)
        if update < rising:
            return peak * ((update + 1) / rising)
        return peak * (0.5 * (1 + math.cos(math.pi * (update - rising) / max(1, self.num_updates - rising))))

    def step(self, loop: Loop, batches: Sequence[list[Example]]) -> None:
        """Make one update, and report it."""
        super().step(loop, batches)
        if self.on_update is not None:
            self.on_update(1, self.num_updates)


class CtcTask(ProbeTask[ProbeConfig]):
    """Training of a recogniser."""

    def loss_sum(self, model: nn.Module, batch: list[Example]) -> LossSum:
        """Sum the CTC loss per character over utterances."""
        padded, lengths = _pad([one.codes for one in batch])
        device = next(model.parameters()).device
        log_probs = model(padded.to(device), lengths)
        steps = torch.tensor([self.config.num_steps(length) for length in lengths.tolist()])
        sizes = torch.tensor([len(one.targets) for one in batch])
        targets = torch.cat([one.targets for one in batch]).to(device)
        losses = nn.functional.ctc_loss(log_probs.transpose(0, 1), targets, steps, sizes, blank=BLANK, reduction="none")
        return LossSum((losses / sizes.to(device)).sum(), {})


@torch.inference_mode()
def recognise(
    model: UnitRecogniser, codes: Sequence[Int[Tensor, "num_codebooks _"]], batch_utterances: int = 16
) -> list[list[int]]:
    """Return the characters heard in each, by number: the best class of every step, repeats and blanks dropped."""
    device = model.head.weight.device
    by_length = sorted(range(len(codes)), key=lambda index: codes[index].shape[1])
    found: list[list[int]] = [[] for _ in codes]
    for start in range(0, len(codes), batch_utterances):
        chosen = by_length[start : start + batch_utterances]
        padded, lengths = _pad([codes[index] for index in chosen])
        best = model(padded.to(device), lengths).argmax(-1).cpu()
        for index, row, length in zip(chosen, best, lengths.tolist(), strict=True):
            found[index] = collapse_path(row[: model.config.num_steps(length)])
    return found


def collapse_path(path: Int[Tensor, " steps"]) -> list[int]:
    """Drop repeats, then blanks: 1 1 0 1 2 -> 1 1 2. Source: Graves et al., 2006, section 3.1, the map B."""
    return [label for label in torch.unique_consecutive(path).tolist() if label != BLANK]


def epoch_batches(
    lengths: Sequence[int], config: ProbeTraining, epoch: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Yield the utterances of every batch: of like length, in random order; in epoch 0 from short to long.

    Short ones first help CTC to begin. Source: SortaGrad (Deep Speech 2, Amodei et al., 2015, arXiv:1512.02595).
    """
    size = config.batch_utterances
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = len(order) if epoch == 0 else size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [part[place : place + size] for place in range(0, len(part), size)]
    if epoch > 0:
        batches = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
    yield from batches


def _pad(
    codes: Sequence[Int[Tensor, "num_codebooks _"]],
) -> tuple[Int[Tensor, "batch num_codebooks inputs"], Int[Tensor, " batch"]]:
    padded = pad_sequence([one.mT for one in codes], batch_first=True)  # (batch, inputs, num_codebooks)
    return padded.mT.contiguous(), torch.tensor([one.shape[1] for one in codes])
