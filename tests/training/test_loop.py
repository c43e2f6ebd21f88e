"""The loop: token-weighted steps, exact resume, logs, checkpoints, refusals."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from processes import environment, run_together
from training.conftest import CONFIG, curve
from vocable.errors import ConfigError, NumericsError, OutputError
from vocable.lm.checkpoint import read_lm
from vocable.lm.packed import enable_packing, token_losses
from vocable.lm.scoring import token_nll
from vocable.sequences import MaskedDocument, concatenate
from vocable.tokens.quantizers import VectorQuantizer, VectorQuantizerConfig
from vocable.training.announcements import amount, describe, folder_bytes
from vocable.training.language_model import train_lm
from vocable.training.logs import Display, RunLog, clock, read_metrics
from vocable.training.task import DataSize, make_optimizer

WORKER = Path(__file__).with_name("worker.py")


def test_the_loss_falls_and_the_best_model_is_kept(run, make_documents):
    config = dataclasses.replace(CONFIG, max_steps=60, validate_every=20, checkpoint_every=None)
    result = run("run", config, valid_seconds=5.0)
    losses = [line["loss"] for line in result.valid_curve]
    assert losses[-1] < losses[0] < 3.5  # ln 30 = 3.4 is what guessing gets
    assert curve(result.valid_curve) == [(20,), (40,), (60,)]
    line = result.valid_curve[-1]
    # the logged numbers against scoring of the saved model; rows are packed otherwise, hence the tolerance of rounding
    model = read_lm(result.best).model
    scores = torch.cat(token_nll(model, [piece for d in make_documents(6, seed=1) for piece in _pieces(d)], "none"))
    assert min(losses) == pytest.approx(float(scores.mean()), rel=1e-5)
    assert line["nll_per_second"] == pytest.approx(line["nll_per_token"] * len(scores) / 5.0)


def _pieces(document):
    """Cut at 32 tokens, with one token of context carried over."""
    return [document[start : start + 32] for start in range(0, len(document) - 1, 31)]


def test_stopping_and_going_on_changes_nothing(run):
    whole = run("whole")
    part = run("parts", stop_at_step=3)
    assert not part.finished
    run("parts", stop_at_step=5)
    parts = run("parts")
    assert parts.finished
    names = ("loss", "learning_rate", "gradient_norm", "tokens")
    assert curve(parts.train_curve, *names) == curve(whole.train_curve, *names)
    assert curve(parts.valid_curve, "loss") == curve(whole.valid_curve, "loss")
    for name in ("best", "last"):
        a, b = (read_lm(getattr(result, name)).model.state_dict() for result in (whole, parts))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_killed_run_goes_on_exactly(run, tmp_path):
    """A process that dies between checkpoints repeats the steps since the last one, to the bit, and logs them once."""
    whole = run("whole")
    killed = subprocess.run([sys.executable, WORKER, tmp_path / "killed", "5"], env=environment(), timeout=300)
    assert killed.returncode == 9
    assert [line["step"] for line in read_metrics(tmp_path / "killed") if line["split"] == "train"] == [1, 2, 3, 4, 5]
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-00000003"]
    resumed = run("killed")
    names = ("loss", "learning_rate", "gradient_norm", "tokens")
    assert curve(resumed.train_curve, *names) == curve(whole.train_curve, *names)
    assert curve(resumed.valid_curve, "loss") == curve(whole.valid_curve, "loss")


def test_a_half_written_checkpoint_is_ignored(run, tmp_path):
    run("run", stop_at_step=3)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / ".step-00000004.writing").mkdir()
    (checkpoints / ".step-00000004.writing" / "loop.json").write_text("{")
    (tmp_path / "run" / "metrics.jsonl").open("a").write('{"step": 4, "spl')
    result = run("run")
    assert curve(result.train_curve) == [(step,) for step in range(1, 9)]


def test_two_processes_train_as_one(run, tmp_path):
    one = run("one", dataclasses.replace(CONFIG, max_steps=4), model=_no_dropout())
    run_together(2, [WORKER, tmp_path / "two", "processes"])
    two = read_metrics(tmp_path / "two")
    expected = [(line["step"], line["split"], line["loss"]) for line in one.train_curve + one.valid_curve]
    found = [(line["step"], line["split"], line["loss"]) for line in two]
    assert sorted((step, split) for step, split, _ in found) == sorted((step, split) for step, split, _ in expected)
    for step, split, loss in expected:
        # the two gradients are summed in another order: rounding of float32, which AdamW's division amplifies
        assert {(s, k): value for s, k, value in found}[step, split] == pytest.approx(loss, rel=1e-4)
    assert [line["tokens"] for line in two if line["split"] == "train"] == [line["tokens"] for line in one.train_curve]


def _no_dropout():
    from vocable.lm.shapes import shape_config
    from vocable.lm.surgery import cold_start
    from vocable.sequences import UnitVocabulary

    return cold_start(shape_config("tiny"), UnitVocabulary(codebook_size=30))


def test_uneven_micro_batches_weigh_by_tokens(tiny_lm, make_documents, card, tmp_path):
    """One step on rows of unequal length equals one step on all documents in one batch, done by hand."""
    documents = make_documents(7, longest=30)
    config = dataclasses.replace(CONFIG, max_steps=1, tokens_per_batch=40, batches_per_step=4, warmup_steps=1)
    trained, by_hand = tiny_lm(dropout=0.0), tiny_lm(dropout=0.0)
    enable_packing(by_hand)
    from vocable.training.data import PackedStream

    settings = {"context_tokens": config.context_tokens, "max_tokens": 40, "seed": config.seed}
    rows = PackedStream(documents, **settings).next_rows(4)
    assert len({row.num_targets for row in rows}) > 1
    batch = concatenate([piece for row in rows for piece in row.token_ids[0].split(list(row.lengths))])
    optimizer = make_optimizer(by_hand, config)
    loss = token_losses(by_hand.train(), batch).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    result = train_lm(trained, documents, [], config, tmp_path / "run", card, show=False)
    assert result.train_curve[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert result.train_curve[0]["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)
    for name, tensor in trained.state_dict().items():
        # where a gradient is nearly 0, AdamW's first step (its sign, times the rate of 3e-3) may turn on rounding
        close = torch.isclose(tensor, by_hand.state_dict()[name], atol=1e-6)
        assert close.float().mean() > 0.99, name
    assert result.best == result.last


def test_only_matrices_decay(tiny_lm):
    decayed, plain = make_optimizer(tiny_lm(), CONFIG).param_groups
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (CONFIG.weight_decay, 0.0)


def test_entries_of_a_codebook_do_not_decay():
    quantizer = VectorQuantizer(VectorQuantizerConfig(dim=4, code_dim=2, codebook_size=8, update="gradient"))
    decayed, plain = make_optimizer(quantizer, CONFIG).param_groups
    assert {tuple(p.shape) for p in decayed["params"]} == {(2, 4), (4, 2)}
    assert any(p is quantizer.codebook for p in plain["params"])


def test_bf16_trains_float32_weights(run):
    result = run("run", dataclasses.replace(CONFIG, max_steps=4, precision="bf16"))
    exact = run("exact", dataclasses.replace(CONFIG, max_steps=4))
    assert read_lm(result.last).model.dtype == torch.float32
    for a, b in zip(result.train_curve, exact.train_curve):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)  # bf16 keeps 8 bits


def test_newest_checkpoints_are_kept(run, tmp_path):
    run("run", dataclasses.replace(CONFIG, checkpoint_every=2, keep_checkpoints=2))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000008"]


def test_a_finished_run_is_not_trained_again(run):
    first = run("run")
    again = run("run")
    assert again == first
    assert again.finished


def test_another_runs_folder_is_refused(run, tmp_path):
    run("run", stop_at_step=1)
    with pytest.raises(OutputError, match=r"holds another run \(training.learning_rate: 0.003 -> 0.001\)"):
        run("run", dataclasses.replace(CONFIG, learning_rate=1e-3))
    (tmp_path / "other" / "best").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"has no training.yaml, .* holds best"):
        run("other")


def test_budgets_in_tokens_and_minutes(run):
    by_tokens = run("tokens", dataclasses.replace(CONFIG, max_steps=None, max_tokens=500))
    assert by_tokens.train_curve[-1]["tokens"] >= 500 > by_tokens.train_curve[-2]["tokens"]
    by_time = run("minutes", dataclasses.replace(CONFIG, max_steps=None, max_minutes=0.01))
    assert by_time.finished
    assert by_time.train_curve[-1]["seconds"] >= 0.6


def test_broken_weights_stop_the_run(run, tiny_lm, tmp_path):
    model = tiny_lm()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match=r"the loss is nan at step 1. Lower the learning rate \(now 0.003"):
        run("run", model=model)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_documents_that_do_not_fit_the_model(run, tiny_lm, card, tmp_path):
    with pytest.raises(ConfigError, match="A document holds token id 40"):
        train_lm(tiny_lm(), [torch.tensor([1, 40])], [], CONFIG, tmp_path / "a", card, show=False)
    long = dataclasses.replace(CONFIG, context_tokens=4096, tokens_per_batch=4096)
    with pytest.raises(ConfigError, match="context_tokens is 4096, but the model has 2048 positions"):
        run("b", long)


def test_logs(run, tmp_path):
    result = run("run", dataclasses.replace(CONFIG, log_every=3))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [3, 6, 8]
    assert set(result.train_curve[0]) == {
        "step",
        "split",
        "loss",
        "learning_rate",
        "gradient_norm",
        "tokens_per_second",
        "tokens",
        "seconds",
    }
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert [step for step, _ in logged] == [3, 6, 8]
    assert [value for _, value in logged] == pytest.approx([line["loss"] for line in result.train_curve])


def test_a_log_line_is_the_mean_since_the_last(run):
    every, third = run("every"), run("third", dataclasses.replace(CONFIG, log_every=4))
    tokens = [0, *(line["tokens"] for line in every.train_curve)]
    losses = [line["loss"] for line in every.train_curve]
    mean = sum(losses[i] * (tokens[i + 1] - tokens[i]) for i in range(4)) / tokens[4]
    assert third.train_curve[0]["loss"] == pytest.approx(mean)


def test_resuming_a_log_takes_back_later_lines(tmp_path):
    log = RunLog(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": float(step)})
    log.close()
    log = RunLog(tmp_path, resume_step=2)
    log.write(3, "train", {"loss": 30.0})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]


def test_plain_display_without_a_terminal():
    stream = io.StringIO()
    display = Display(stream=stream)
    display.say("precision: fp32")
    display.update(0.25, 10, {"loss": 3.14159}, seconds=100)
    display.update(1.0, 40, {"loss": 3.0}, seconds=400)
    display.close()
    lines = ["precision: fp32", "[ 25%] 5:00 left  step 10  loss 3.142", "[100%] step 40  loss 3"]
    assert stream.getvalue().splitlines() == lines
    assert [clock(seconds) for seconds in (7.4, 725, 12_000)] == ["0:07", "12:05", "3:20:00"]


def test_what_the_mask_of_a_document_leaves_out_is_not_learnt(tiny_lm, make_documents, card, tmp_path):
    """A step on masked documents has the loss and the gradient of the tokens in the mask, done by hand."""
    generator = torch.Generator().manual_seed(0)
    masked = [MaskedDocument(d, torch.rand(len(d), generator=generator) < 0.5) for d in make_documents(8, longest=20)]
    config = dataclasses.replace(CONFIG, max_steps=1, tokens_per_batch=400, batches_per_step=1, warmup_steps=1)
    by_hand = tiny_lm(dropout=0.0)
    losses = []
    for document in masked:
        logits = by_hand(document.token_ids[None]).logits[0, :-1]
        found = torch.nn.functional.cross_entropy(logits, document.token_ids[1:], reduction="none")
        losses.append(found[document.mask[1:]])
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    (line,) = train_lm(tiny_lm(dropout=0.0), masked, masked, config, tmp_path / "run", card, show=False).train_curve
    assert line["tokens"] == len(torch.cat(losses))
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)  # float32 sums in another order
    assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    others = [MaskedDocument(d.token_ids, ~d.mask) for d in masked]
    with pytest.raises(OutputError, match=r"data\.sha256"):
        train_lm(tiny_lm(dropout=0.0), others, masked, config, tmp_path / "run", card, show=False)


def test_fp16_scales_the_loss(run):
    """Half precision needs its losses scaled, and the scale is kept when the run goes on."""
    exact = run("exact", dataclasses.replace(CONFIG, max_steps=4))
    config = dataclasses.replace(CONFIG, max_steps=4, precision="fp16")
    whole = run("whole", config)
    run("parts", config, stop_at_step=2)
    assert curve(run("parts", config).train_curve, "loss") == curve(whole.train_curve, "loss")
    for a, b in zip(whole.train_curve, exact.train_curve):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.005)  # fp16 keeps 11 bits


def test_a_run_says_what_it_trains_and_where_it_all_is(run, tmp_path, capfd):
    """Numbers on the screen against the files and the documents that they speak of."""
    config = dataclasses.replace(CONFIG, max_steps=4, checkpoint_every=2, ema_decay=0.5)
    result = run("told", config, show=True, valid_seconds=90.0, train_seconds=7200.0)
    said = capfd.readouterr().err.splitlines()
    lines = {name: next(line for line in said if line.startswith(name)) for name in ("model ", "train ", "valid ")}
    model = read_lm(result.last).model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert lines["model "] == f"model {count / 1e6:.2f} M parameters on cpu, fp32"
    assert re.fullmatch(r"train \d+ documents, [\d,]+ tokens, 2\.00 h", lines["train "])
    assert re.fullmatch(r"valid 6 documents, \d+ tokens, 1\.5 min", lines["valid "])
    step = next(line for line in said if line.startswith("step  "))
    first = result.train_curve[0]
    assert step == f"step  {first['tokens']} tokens in 2 batches; loss before the first step {first['loss']:.4g}"
    assert said.index(step) < next(i for i, line in enumerate(said) if line.startswith("[ 25%]"))
    checkpoints = sorted((tmp_path / "told" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000002", "step-00000004"]  # two are kept
    sizes = [folder_bytes(path) for path in checkpoints]
    assert f"checkpoint {checkpoints[0]}, {amount(sizes[0])}" in said
    disk = next(line for line in said if line.startswith("disk  "))
    estimate = float(re.search(r"checkpoint ([\d.]+) MB, 2 are kept", disk)[1])
    assert estimate == pytest.approx(sizes[0] / 1e6, rel=0.05)
    assert f" in {tmp_path / 'told'} (" in disk and "are free" in disk
    best = min(result.valid_curve, key=lambda line: line["loss"])
    assert re.fullmatch(
        rf"done  4 steps in [\d:]+; best validation loss {best['loss']:.4g}, at step {best['step']}", said[-3]
    )
    assert said[-2] == f"model {tmp_path / 'told' / 'best'}, {amount(folder_bytes(tmp_path / 'told' / 'best'))}"
    assert said[-1].startswith(f"kept  2 checkpoints of {amount(sum(sizes))} in {checkpoints[0].parent}")
    assert said[-1].endswith("needed only to go on (training.max_steps=8, say)")


def test_a_run_that_goes_on_says_so_and_a_finished_one_says_nothing(run, capfd):
    run("on", show=True, stop_at_step=3)
    capfd.readouterr()
    run("on", show=True)
    said = capfd.readouterr().err
    assert "fp32, going on after step 3" in said
    assert "loss before the first step" not in said
    run("on", show=True)
    assert capfd.readouterr().err == ""


def test_amounts_are_read_easily():
    assert [amount(size) for size in (900, 23_140_000, 1_649_000_000)] == ["1 kB", "23.1 MB", "1.6 GB"]
    assert describe(DataSize(1, "clip", 59.0)) == "1 clip, 1.0 min"
    assert describe(DataSize(1200, tokens=1)) == "1,200 utterances, 1 token"


def test_too_little_room_is_said_beforehand(run, capfd, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 1_000_000))
    run("full", dataclasses.replace(CONFIG, max_steps=1), show=True)
    assert "1.0 MB are free, which is too little" in capfd.readouterr().err
