"""Learning rates against transformers' schedules, budgets, and refused settings."""

import pytest
import torch
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_inverse_sqrt_schedule

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import ConfigError
from vocable.training.config import AdamWTrainingConfig, TrainingConfig
from vocable.training.language_model import LMTrainingConfig
from vocable.training.schedules import budget_spent, learning_rate


def reference(make, **settings):
    """Rates that a transformers schedule gives from step 1 on; its step 0 has rate 0."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = make(optimizer, **settings)
    rates = []
    for _ in range(50):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def ours(config):
    warm = budget_spent(config, config.warmup_steps, 0, 0.0)
    return [
        learning_rate(config, step, (budget_spent(config, step, 0, 0.0) - warm) / (1 - warm)) for step in range(1, 51)
    ]


def test_inverse_square_root():
    config = AdamWTrainingConfig(max_steps=50, learning_rate=0.01, warmup_steps=10, schedule="inverse_sqrt")
    assert ours(config) == pytest.approx(reference(get_inverse_sqrt_schedule, num_warmup_steps=10))


def test_cosine_with_floor():
    config = AdamWTrainingConfig(max_steps=50, learning_rate=0.01, warmup_steps=10, final_learning_rate_ratio=0.05)
    settings = {"num_warmup_steps": 10, "num_training_steps": 50, "min_lr_rate": 0.05}
    assert ours(config) == pytest.approx(reference(get_cosine_with_min_lr_schedule_with_warmup, **settings))


def test_constant_and_no_warmup():
    config = AdamWTrainingConfig(max_steps=50, learning_rate=0.01, warmup_steps=0, schedule="constant")
    assert ours(config) == [0.01] * 50
    config = AdamWTrainingConfig(max_steps=50, learning_rate=0.01, warmup_steps=0, schedule="inverse_sqrt")
    assert ours(config)[:4] == pytest.approx([0.01, 0.01 / 2**0.5, 0.01 / 3**0.5, 0.005])


def test_the_nearest_budget_counts():
    config = TrainingConfig(max_steps=100, max_tokens=1000, max_minutes=1.0)
    assert budget_spent(config, 10, 500, 6.0) == 0.5
    assert budget_spent(config, 10, 0, 30.0) == 0.5
    assert budget_spent(config, 200, 0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "training has no end"),
        ({"max_steps": 0}, "training.max_steps is 0; it must be at least 1"),
        ({"max_steps": 1, "learning_rate": 0.0}, "training.learning_rate is 0.0; it must be above 0"),
        ({"max_steps": 1, "beta2": 1.5}, "training.beta2 is 1.5; it must be between 0 and 1"),
        ({"max_steps": 1, "context_tokens": 64, "tokens_per_batch": 32}, "longer than a packed row"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LMTrainingConfig(**settings)


def test_config_round_trip():
    config = LMTrainingConfig(max_minutes=2.5, schedule="inverse_sqrt")
    assert config_from_dict(LMTrainingConfig, config_to_dict(config)) == config
