"""Tiny language models and documents for training tests."""

import pytest
import torch

from vocable.lm.checkpoint import LMCard
from vocable.lm.shapes import shape_config
from vocable.lm.surgery import cold_start
from vocable.sequences import UnitsLayout, UnitVocabulary
from vocable.training.language_model import LMTrainingConfig, train_lm

VOCABULARY = UnitVocabulary(codebook_size=30)
CONFIG = LMTrainingConfig(
    max_steps=8,
    context_tokens=32,
    tokens_per_batch=96,
    batches_per_step=2,
    learning_rate=3e-3,
    warmup_steps=2,
    precision="fp32",
    log_every=1,
    validate_every=4,
    checkpoint_every=3,
)


@pytest.fixture(scope="session")
def card():
    return LMCard(vocabulary=VOCABULARY, layout=UnitsLayout(vocabulary=VOCABULARY).card(), tokenizer_fingerprint="test")


@pytest.fixture(scope="session")
def tiny_lm():
    """Return a maker of equal tiny models; with dropout, so that random states matter."""

    def make(seed=0, dropout=0.1):
        config = shape_config("tiny")
        config.attention_dropout = dropout
        return cold_start(config, VOCABULARY, seed=seed)

    return make


@pytest.fixture(scope="session")
def make_documents():
    """Return a maker of documents in which each unit mostly determines the next."""

    def make(count, seed=0, shortest=5, longest=40):
        generator = torch.Generator().manual_seed(seed)
        documents = []
        for _ in range(count):
            length = int(torch.randint(shortest, longest, (), generator=generator))
            units = torch.randint(0, 30, (length,), generator=generator)
            for i in range(1, length):
                if torch.rand((), generator=generator) < 0.8:
                    units[i] = (7 * units[i - 1] + 3) % 30
            documents.append(torch.cat([torch.tensor([1]), units + 2, torch.tensor([1])]))
        return documents

    return make


def curve(lines, *names):
    return [tuple(line[name] for name in ("step", *names)) for line in lines]


@pytest.fixture
def run(tiny_lm, make_documents, card, tmp_path):
    def start(name, config=CONFIG, model=None, **settings):
        model = model or tiny_lm()
        documents, valid = make_documents(40), make_documents(6, seed=1)
        settings = {"show": False, **settings}
        return train_lm(model, documents, valid, config, tmp_path / name, card, **settings)

    return start
