"""Settings of a training run; defaults live here and nowhere else."""

from dataclasses import dataclass
from typing import Literal

from vocable.errors import ConfigError

MAY_CHANGE = tuple(
    f"training.{name}"
    for name in ("max_steps", "max_tokens", "max_minutes", "log_every", "validate_every", "checkpoint_every")
) + ("training.keep_checkpoints",)
"""Settings that a run may change when it goes on: its length, and what does not touch the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings that every run has, whatever it trains. At least one of the three budgets must be set."""

    max_steps: int | None = None
    """Stop after this many steps."""
    max_tokens: int | None = None
    """Stop after this many tokens: whatever the task counts its loss by."""
    max_minutes: float | None = None
    """Stop after this much training time, resumed runs counted together. Where it ends then depends on the machine."""

    batches_per_step: int = 1
    """Batches per step, over all processes and accumulation steps together."""
    max_gradient_norm: float | None = 1.0
    """Gradients are scaled down to this norm; None: never."""
    ema_decay: float | None = None
    """Decay of the averaged weights, which are then the ones that are validated and saved; None: no averaging."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; weights and optimiser stay in float32. auto: the fastest type for a
    matrix product of the model's size on this machine, measured once, at the start of the run."""
    seed: int = 0
    """Order of the data, and dropout."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; each is the mean since the line before."""
    validate_every: int | None = 200
    """Steps between validations; None: only at the end."""
    patience: int | None = None
    """Validations without a better loss after which to stop; None: go on to the end of the budget."""
    checkpoint_every: int | None = 200
    """Steps between checkpoints; None: only at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, so that one is left if the newest cannot be read; the best model is kept
    apart."""

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_tokens is None and self.max_minutes is None:
            raise ConfigError(
                "training has no end: set training.max_steps, training.max_tokens or training.max_minutes."
            )
        self.require_at_least(max_steps=1, max_tokens=1, batches_per_step=1, patience=1)
        self.require_at_least(log_every=1, validate_every=1, checkpoint_every=1, keep_checkpoints=1)
        self.require_above_zero("max_minutes", "max_gradient_norm")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay is {self.ema_decay}; it must be at least 0 and below 1.")

    def require_at_least(self, **least: int) -> None:
        """Refuse settings that are below their smallest value."""
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"training.{name} is {value}; it must be at least {smallest}.")

    def require_above_zero(self, *names: str) -> None:
        """Refuse settings that are not positive."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"training.{name} is {value}; it must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWTrainingConfig(TrainingConfig):
    """A run with one AdamW optimiser and one schedule."""

    learning_rate: float = 1e-4
    """Peak. Warm and cold starts want different ones (TWIST): comparing both at one rate is biased."""
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = "cosine"
    """After warm-up: TWIST falls with the inverse square root, slamkit with a cosine."""
    warmup_steps: int = 100
    """Steps of linear increase to the peak (TWIST: 100)."""
    final_learning_rate_ratio: float = 0.1
    """End of the cosine, as a share of the peak."""

    weight_decay: float = 0.01
    """AdamW's decoupled decay; matrices only, not norms and biases. (TWIST's is not stated.)"""
    beta1: float = 0.9
    """AdamW: memory of the gradient."""
    beta2: float = 0.98
    """AdamW: memory of the squared gradient (GSLM: 0.98)."""
    epsilon: float = 1e-8
    """AdamW: added to the root of the squared gradient."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() does not work in a dataclass with slots
        self.require_at_least(warmup_steps=0)
        self.require_above_zero("learning_rate", "epsilon")
        for name in ("beta1", "beta2", "final_learning_rate_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; it must be between 0 and 1.")
