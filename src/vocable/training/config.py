"""Settings of a training run; defaults live here and nowhere else."""

from dataclasses import dataclass
from typing import Literal

from vocable.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a model is trained, whatever the model. At least one of the three budgets must be set."""

    max_steps: int | None = None
    """Stop after this many optimiser steps."""
    max_tokens: int | None = None
    """Stop after this many predicted tokens."""
    max_minutes: float | None = None
    """Stop after this much training time, resumed runs counted together. Where it ends then depends on the machine."""

    context_tokens: int = 1024
    """Longest document; longer ones are cut, and every remainder is kept."""
    tokens_per_batch: int = 4096
    """Positions in one packed row, i.e. in one forward pass."""
    batches_per_step: int = 1
    """Rows per optimiser step, over all processes and accumulation steps together."""

    learning_rate: float = 1e-4
    """Peak. Warm and cold starts want different ones (TWIST): comparing both at one rate is biased."""
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = "cosine"
    """After warm-up: TWIST falls with the inverse square root, slamkit with a cosine."""
    warmup_steps: int = 100
    """Steps of linear increase to the peak (TWIST: 100)."""
    final_learning_rate_ratio: float = 0.1
    """Where the cosine ends, as a share of the peak."""

    weight_decay: float = 0.01
    """AdamW's decoupled decay; matrices only, not norms and biases. (TWIST's is not stated.)"""
    beta1: float = 0.9
    """AdamW: memory of the gradient."""
    beta2: float = 0.98
    """AdamW: memory of the squared gradient (GSLM: 0.98)."""
    epsilon: float = 1e-8
    """AdamW: added to the root of the squared gradient."""
    max_gradient_norm: float | None = 1.0
    """Gradients are scaled down to this norm; None: never."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; weights and optimiser stay in float32."""
    seed: int = 0
    """Order of the data, and dropout."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; each is the mean since the line before."""
    validate_every: int | None = 200
    """Steps between validations; None: only at the end."""
    checkpoint_every: int | None = 200
    """Steps between checkpoints; None: only at the end."""
    keep_checkpoints: int = 1
    """Newest checkpoints that are kept; the best model is kept apart."""

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_tokens is None and self.max_minutes is None:
            raise ConfigError(
                "training has no end: set training.max_steps, training.max_tokens or training.max_minutes."
            )
        at_least = {
            "max_steps": 1,
            "max_tokens": 1,
            "context_tokens": 2,
            "tokens_per_batch": 2,
            "batches_per_step": 1,
            "warmup_steps": 0,
            "log_every": 1,
            "validate_every": 1,
            "checkpoint_every": 1,
            "keep_checkpoints": 1,
        }
        for name, smallest in at_least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"training.{name} is {value}; it must be at least {smallest}.")
        for name in ("max_minutes", "learning_rate", "max_gradient_norm", "epsilon"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"training.{name} is {value}; it must be above 0.")
        for name in ("beta1", "beta2", "final_learning_rate_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; it must be between 0 and 1.")
        if self.context_tokens > self.tokens_per_batch:
            raise ConfigError(
                f"training.context_tokens is {self.context_tokens}, longer than a packed row "
                f"(training.tokens_per_batch, {self.tokens_per_batch}). Make rows at least as long."
            )
