"""Learning rates: linear warm-up, then inverse square root, cosine to a floor, or constant."""

import math

from vocable.training.config import AdamWTrainingConfig, TrainingConfig


def learning_rate(config: AdamWTrainingConfig, step: int, decayed: float) -> float:
    """Return the rate of optimiser step `step`, counted from 1.

    Warm-up rises linearly and reaches the peak at step `warmup_steps`. Then the inverse square root follows
    sqrt(warmup_steps / step), as in fairseq; the cosine goes from the peak to `final_learning_rate_ratio` of it.

    Args:
        config: names the schedule.
        step: from 1.
        decayed: how much of the budget after warm-up is spent, 0 to 1; only the cosine reads it.
    """
    warmup = config.warmup_steps
    if step <= warmup:
        return config.learning_rate * step / warmup
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(warmup, 1) / step)
    if config.schedule == "cosine":
        floor = config.final_learning_rate_ratio
        return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, decayed))))
    return config.learning_rate


def budget_spent(config: TrainingConfig, steps: int, tokens: int, seconds: float) -> float:
    """Return how much of the budget is spent, 0 to 1: of the budgets that are set, the one nearest its end."""
    budgets = (steps, config.max_steps), (tokens, config.max_tokens), (seconds / 60, config.max_minutes)
    return min(1.0, max(done / budget for done, budget in budgets if budget is not None))
