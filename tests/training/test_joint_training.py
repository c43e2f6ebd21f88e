"""Training on speech and text: losses by modality and source against hand sums, what is not predicted, resuming."""

import pytest
import torch

from sequences.joint_examples import random_example, text_tokenizer
from vocable.lm.checkpoint import LMCard, read_lm
from vocable.lm.shapes import shape_config
from vocable.lm.surgery import cold_start
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.mixing import BuiltDocuments, Mixture
from vocable.training.data import EpochStream
from vocable.training.language_model import JointParts, LMTrainingConfig, train_lm
from vocable.training.logs import read_metrics

VOCABULARY = joint_vocabulary(text_tokenizer(), 12)
LAYOUTS = {name: make_layout(name, VOCABULARY, text_tokenizer=text_tokenizer()) for name in ("unit-only", "cst", "ast")}
CARD = LMCard(vocabulary=VOCABULARY, layout=LAYOUTS["unit-only"].card(), tokenizer_fingerprint="test")
CONFIG = LMTrainingConfig(
    max_steps=6,
    context_tokens=256,
    tokens_per_batch=512,
    batches_per_step=2,
    warmup_steps=1,
    log_every=1,
    validate_every=3,
    checkpoint_every=3,
    precision="fp32",
)


def mixture():
    examples = [random_example(seed) for seed in range(12)]
    return Mixture({name: BuiltDocuments(examples, layout) for name, layout in LAYOUTS.items()})


def validation():
    examples = [random_example(seed) for seed in range(100, 104)]
    return {name: [layout.build(example) for example in examples] for name, layout in LAYOUTS.items()}


def run(out, stop=None, unpredicted=None, dropout=0.1):
    config = shape_config("tiny")
    config.attention_dropout = dropout
    joint = JointParts(text_tokenizer=text_tokenizer(), unpredicted=unpredicted)
    data = mixture()
    return train_lm(
        cold_start(config, VOCABULARY), data.epoch, validation(), CONFIG, out, CARD,
        valid_seconds=10.0, joint=joint, stop_at_step=stop, show=False,
    )  # fmt: skip


def test_losses_by_modality_and_source_are_those_of_the_documents(tmp_path):
    result = run(tmp_path / "run", dropout=0.0)
    line = result.valid_curve[-1]
    model = read_lm(result.last).model
    sums, sources = {}, {}
    for source, documents in validation().items():
        for document in documents:
            with torch.no_grad():
                logits = model(document[None]).logits[0].log_softmax(-1)
            losses = (-logits[:-1].gather(1, document[1:, None])[:, 0]).tolist()
            for token, loss in zip(document[1:].tolist(), losses, strict=True):
                speech, special = token >= VOCABULARY.speech_offset, VOCABULARY.name(token) is not None
                name = "speech" if speech else "symbols" if special else "text"
                sums.setdefault(name, []).append(loss)
                sources.setdefault(source, []).append(loss)
    for name, losses in {**sums, **sources}.items():
        # float32 logits of packed rows and of single documents differ in rounding
        assert line[f"{name}_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5), name
    everything = [loss for losses in sources.values() for loss in losses]
    assert line["loss"] == pytest.approx(sum(everything) / len(everything), rel=1e-5)
    assert line["nll_per_second"] == pytest.approx(sum(sources["unit-only"]) / 10.0, rel=1e-5)
    train = result.train_curve[0]
    assert {"speech_loss", "text_loss", "symbols_loss"} <= set(train)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop=3)
    parts = run(tmp_path / "parts")
    assert [line["step"] for line in parts.train_curve] == list(range(1, 7))
    for name in ("last", "best"):
        a, b = (read_lm(getattr(result, name)).model.state_dict() for result in (whole, parts))
        assert all(torch.equal(a[key], b[key]) for key in a)
    kept = ("loss", "speech_loss", "text_loss", "symbols_loss")
    curves = [[[line[name] for name in kept] for line in result.train_curve] for result in (whole, parts)]
    assert curves[0] == curves[1]


def test_what_is_not_predicted_has_no_loss(tmp_path):
    unpredicted = VOCABULARY.is_switch(torch.arange(VOCABULARY.size))
    run(tmp_path / "run", stop=1, unpredicted=unpredicted)
    run(tmp_path / "all", stop=1)
    without, everything = (read_metrics(tmp_path / name)[0]["tokens"] for name in ("run", "all"))
    rows = EpochStream(mixture().epoch, context_tokens=256, max_tokens=512).next_rows(2)
    labels = torch.cat([row.labels[0] for row in rows])
    labels = labels[labels != -100]
    num_switches = int(VOCABULARY.is_switch(labels).sum())
    assert num_switches > 0
    assert (everything, without) == (len(labels), len(labels) - num_switches)
