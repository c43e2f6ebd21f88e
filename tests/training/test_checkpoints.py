"""Checkpoints that are damaged in every part, averaged weights, patience, longer runs, and the choice of precision."""

import dataclasses
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from training.conftest import CONFIG, curve
from vocable.errors import OutputError
from vocable.lm.checkpoint import read_lm
from vocable.training import precision
from vocable.training.language_model import train_lm

PARTS = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "loop.json", "average")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_lm, make_documents, card):
    """A run with averaged weights that stopped at step 6 of 8, with checkpoints of steps 3 and 6, and a whole run."""
    folder, config = tmp_path_factory.mktemp("stopped"), dataclasses.replace(CONFIG, ema_decay=0.9)

    def run(out, **settings):
        documents, valid = make_documents(40), make_documents(6, seed=1)
        return train_lm(tiny_lm(), documents, valid, config, out, card, show=False, **settings)

    run(folder / "stopped", stop_at_step=6)
    return folder / "stopped", run, run(folder / "whole")


@pytest.mark.parametrize("damage", ["cut", "removed"])
@pytest.mark.parametrize("part", PARTS)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_is_taken(stopped, tmp_path, caplog, part, damage):
    folder, run, whole = stopped
    shutil.copytree(folder, tmp_path / "run")
    path = _damage(tmp_path / "run" / "checkpoints" / "step-00000006", part, damage)
    found = run(tmp_path / "run")
    assert f"step-00000006 cannot be read ({path.name} " in caplog.text.replace("\n", " ")
    names = ("loss", "learning_rate", "gradient_norm", "tokens")
    assert curve(found.train_curve, *names) == curve(whole.train_curve, *names)
    assert curve(found.valid_curve, "loss") == curve(whole.valid_curve, "loss")
    steps = sorted(item.name for item in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == ["step-00000006", "step-00000008"]  # written anew, with all parts


def test_without_a_readable_checkpoint_the_run_does_not_go_on(stopped, tmp_path):
    folder, run, _ = stopped
    shutil.copytree(folder, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    _damage(checkpoints / "step-00000003", "optimizer.bin", "removed")
    _damage(checkpoints / "step-00000006", "model.safetensors", "cut")
    message = (
        r"no checkpoint can be read \(step-00000006: model.safetensors has \d+ bytes, not \d+; step-00000003: "
        r"optimizer.bin is missing\). Put the files back from a copy, or remove .*checkpoints to begin again"
    )
    with pytest.raises(OutputError, match=message):
        run(tmp_path / "run")


def test_a_part_that_has_its_size_but_not_its_content(stopped, tmp_path, caplog):
    folder, run, whole = stopped
    shutil.copytree(folder, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000006"
    for name in ("optimizer.bin", "random_states_0.pkl"):
        (newest / name).write_bytes(bytes((newest / name).stat().st_size))
    assert curve(run(tmp_path / "run").train_curve, "loss") == curve(whole.train_curve, "loss")
    assert "step-00000006 cannot be read" in caplog.text


def _damage(checkpoint, part, damage):
    # accelerate numbers the models: the second one is the average
    path = checkpoint / ("model_1.safetensors" if part == "average" else part)
    if damage == "removed":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 100)
    return path


def test_averaged_weights_are_what_is_saved(run, tiny_lm):
    """The average by hand, of the weights after each step, which runs that stop there leave behind."""
    config = dataclasses.replace(CONFIG, max_steps=3)
    averaged = run("averaged", dataclasses.replace(config, ema_decay=0.4))
    steps = [run(f"plain-{step}", config, stop_at_step=step) for step in (1, 2, 3)]
    assert [line["loss"] for line in averaged.train_curve] == [line["loss"] for line in steps[-1].train_curve]
    weights = [
        load_file(result.last.parent / f"checkpoints/step-0000000{i}/model.safetensors")
        for i, result in enumerate(steps, 1)
    ]
    start = tiny_lm().state_dict()
    found = read_lm(averaged.last).model.state_dict()
    for name, first in weights[0].items():
        by_hand = start[name]
        for step, value in enumerate((first, weights[1][name], weights[2][name]), 1):
            decay = min(0.4, step / (9 + step))
            by_hand = decay * by_hand + (1 - decay) * value
        torch.testing.assert_close(found[name], by_hand, atol=1e-6, rtol=1e-5)


def test_patience(run):
    """With a rate of 1 the loss soon grows; the run stops two validations after its best."""
    config = dataclasses.replace(CONFIG, max_steps=40, learning_rate=1.0, validate_every=1, patience=2)
    result = run("run", config)
    losses = [line["loss"] for line in result.valid_curve]
    assert result.finished and len(losses) < 40
    assert losses.index(min(losses)) == len(losses) - 3
    assert run("run", config) == result


def test_a_run_may_become_longer(run):
    run("run", dataclasses.replace(CONFIG, max_steps=4, schedule="constant"))
    longer = run("run", dataclasses.replace(CONFIG, schedule="constant", log_every=2))
    assert [line["step"] for line in longer.train_curve] == [1, 2, 3, 4, 6, 8]


def test_precision_is_measured_once_and_kept(run, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(CONFIG, precision="auto")
    slow = {"fp32": 4.0, "bf16": 1.0}
    monkeypatch.setattr(precision, "_time_product", lambda height, width, dtype, device: slow[_name(dtype)])
    assert run("run", config, stop_at_step=4).precision == "bf16"
    slow["bf16"] = 5.0  # another machine
    resumed = run("run", config)
    assert resumed.precision == "bf16"
    fixed = run("fixed", dataclasses.replace(CONFIG, precision="bf16"))
    assert curve(resumed.train_curve, "loss") == curve(fixed.train_curve, "loss")
    assert run("other", config).precision == "fp32"
    slow["bf16"] = 3.5  # not enough to be worth the casts
    assert run("third", config).precision == "fp32"
    with pytest.raises(OutputError, match=r"training.precision: auto -> fp32"):
        run("run")
    (tmp_path / "run" / "training.yaml").write_text("precision: [fp32")
    with pytest.raises(OutputError, match=r"training.yaml: cannot be read"):
        run("run", config)


def _name(dtype):
    return next(name for name, kind in precision.DTYPES.items() if kind == dtype)


def test_what_is_timed_is_a_product_of_the_models_size():
    model = torch.nn.Sequential(
        torch.nn.Embedding(5000, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 9)
    )
    name, reason = precision.fastest_precision(model, torch.device("cpu"))
    assert name in ("fp32", "bf16") and reason.startswith(f"{name} (a product of 512 x 8 and 8 x 8 takes: fp32 ")
    assert precision.fastest_precision(torch.nn.Embedding(3, 4), torch.device("cpu"))[0] == "fp32"
