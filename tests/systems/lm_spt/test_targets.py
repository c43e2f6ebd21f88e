"""Targets that are kept: those of the teacher, once for each crop, and runs that go on as they would have."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from systems.lm_spt.tiny_codec import HOP, RATE, VOCOS, codec_config, tiny_config, weights_of, write_recordings
from tiny import save_tiny_encoder
from vocable.errors import ConfigError, OutputError
from vocable.systems.lm_spt.data import CropData
from vocable.systems.lm_spt.distillation import DistillationConfig, Teacher
from vocable.systems.lm_spt.stages import build_codec, train_codec
from vocable.systems.lm_spt.targets import TargetFile
from vocable.systems.lm_spt.task import CodecBatch, CodecTask
from vocable.training.task import Progress

PLAIN = codec_config(decoder=VOCOS)  # no pitch to measure
CROP = 10 * HOP


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, make_speechlike):
    return write_recordings(tmp_path_factory.mktemp("recordings"), make_speechlike)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_tiny_encoder("whisper", tmp_path_factory.mktemp("teacher"))


def recipe(teacher, cache="float32", padding="crop", **training):
    config = tiny_config(teacher, codec=PLAIN, **training)
    listening = replace(config.distillation.teacher, padding=padding)
    return replace(config, distillation=replace(config.distillation, cache=cache, teacher=listening))


def crops_of(recordings, seed=0, batch_size=4, gain_db=(-9.0, 6.0)) -> CropData:
    decoder = build_codec(tiny_config(codec=PLAIN)).decoder
    given = {"batch_size": batch_size, "seed": seed, "gain_db": gain_db, "loudness_db": -27.0}
    return CropData(recordings, decoder, crop_samples=CROP, fixed=True, **given)


def test_fixed_crops_are_where_they_are_said_to_be_and_always_the_same(recordings):
    data = crops_of(recordings)
    counts = [max(1, int(seconds * RATE) // CROP) for seconds in (1.5, 0.3, 2.0, 1.1)]
    assert counts == [1, 1, 2, 1] and data.first_places.tolist() == [0, 1, 2, 4, 5]
    found: dict[int, torch.Tensor] = {}
    for step in range(30):
        crops = data[step]
        for place, waveform in zip(crops.places.tolist(), crops.waveforms, strict=True):
            assert torch.equal(found.setdefault(place, waveform), waveform)
    assert sorted(found) == [0, 1, 2, 3, 4]
    plain = crops_of(recordings, gain_db=(0.0, 0.0)).whole(2, 3 * CROP, CROP).waveforms[0]
    for place, first in ((2, 0), (3, CROP)):
        part = plain[first : first + CROP]
        gain = found[place].square().sum().sqrt() / part.square().sum().sqrt()
        torch.testing.assert_close(found[place], part * gain, atol=1e-6, rtol=1e-5)
        assert -9 <= 20 * np.log10(float(gain)) <= 6
    assert len({round(float(waveform.abs().max()), 6) for waveform in found.values()}) == 5  # gains differ


@pytest.mark.parametrize(("cache", "padding"), [("float32", "crop"), ("float16", "crop"), ("float32", "masked")])
def test_kept_targets_are_those_of_the_teacher(recordings, teacher, tmp_path, monkeypatch, padding, cache):
    data = crops_of(recordings)
    config = recipe(teacher, cache, padding)
    task = CodecTask(build_codec(config), config, data, None, {}, lambda *_: None, tmp_path)
    calls = Counter()
    hear = Teacher.target
    monkeypatch.setattr(
        Teacher, "target", lambda self, waves, *rest: calls.update(heard=len(waves)) or hear(self, waves, *rest)
    )
    seen = set()
    for step in (0, 1, 2, 0):
        crops = data[step]
        seen |= set(crops.places.tolist())
        wanted = hear(task.teacher, crops.waveforms, RATE, crops.lengths)
        found = task._target(crops)
        # float32: the same sums over batches of other sizes; float16: 11 bits, of values of a few units at most
        tolerance = {"atol": 1e-5, "rtol": 1e-5} if cache == "float32" else {"atol": 4e-3, "rtol": 1e-3}
        torch.testing.assert_close(found.features, wanted.features, **tolerance)
        assert torch.equal(found.lengths, wanted.lengths)
        again = task._target(crops)
        assert torch.equal(again.features, found.features)  # computed or read, it is the same
    assert calls["heard"] == len(seen) > 3  # each crop once, though some batches draw one twice
    (file,) = tmp_path.iterdir()
    frames, dim = wanted.features.shape[1:]
    assert file.stat().st_size == (1 + max(seen)) * (4 + frames * dim * (4 if cache == "float32" else 2))


def test_broken_rows_are_missing(tmp_path):
    file = TargetFile(tmp_path, {"a": 1}, 3, 2, "float32")
    assert file.get(0) is None
    rows = {number: torch.randn(3, 2) for number in (4, 1)}
    for number, row in rows.items():
        file.put(number, row)
    assert all(torch.equal(file.get(number), row) for number, row in rows.items())
    assert file.get(0) is None and file.get(2) is None and file.get(9) is None  # holes, and beyond the end
    content = bytearray(file.path.read_bytes())
    content[28 + 10] ^= 1
    file.path.write_bytes(content)
    assert file.get(1) is None and torch.equal(file.get(4), rows[4])
    assert TargetFile(tmp_path, {"a": 2}, 3, 2, "float32").path != file.path
    assert TargetFile(tmp_path, {"a": 1}, 3, 2, "float16").path != file.path
    blocked = TargetFile(tmp_path / "file", {}, 3, 2, "float32")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        blocked.put(0, rows[1])


def test_a_run_with_kept_targets_goes_on_exactly(recordings, teacher, tmp_path):
    config = recipe(teacher, max_steps=4, checkpoint_every=2, validate_every=None, validation_examples=0)
    train_codec(config, recordings, tmp_path / "whole", recordings[:1], show=False)
    train_codec(config, recordings, tmp_path / "parts", recordings[:1], stop_at_step=2, show=False)
    train_codec(config, recordings, tmp_path / "parts", recordings[:1], show=False)
    whole, parts = (weights_of(tmp_path / name / "tokenizer") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len(list((tmp_path / "whole" / "targets").iterdir())) == 1
    with pytest.raises(OutputError, match="cache"):  # which draws other crops
        other = recipe(teacher, "none", max_steps=4, checkpoint_every=2, validate_every=None, validation_examples=0)
        train_codec(other, recordings, tmp_path / "whole", recordings[:1], show=False)
    with pytest.raises(ConfigError, match="float16"):
        DistillationConfig(cache="float17")  # type: ignore[arg-type]


def test_the_teacher_hears_the_recordings_once_a_step(recordings, teacher, monkeypatch):
    """As target of the distillation, and of the distance on the full reconstruction."""
    config = recipe(teacher, "none")
    config = replace(config, distillation=replace(config.distillation, reconstruction_weight=1.0))
    codec = build_codec(config)
    task = CodecTask(codec, config, None, None, {}, lambda *_: None)  # type: ignore[arg-type]  # no data is drawn
    calls = Counter()
    hear = Teacher.target
    monkeypatch.setattr(Teacher, "target", lambda self, *rest: calls.update(heard=1) or hear(self, *rest))
    crops = crops_of(recordings)[0]._replace(places=None)
    batch = CodecBatch(crops).to(torch.device("cpu"))

    class Loop:
        """A run at its end that adds up losses and updates nothing."""

        def __init__(self):
            self.progress, self.process, self.modules = Progress(step=1, spent=1.0), 0, {"codec": task.trainee}
            self.sums = []

        def update(self, name, batches, loss):
            self.sums += [loss(self.modules[name], one) for one in batches]

    loop = Loop()
    task.step(loop, [batch])  # type: ignore[arg-type]
    assert calls["heard"] == 1
    made = batch.heard.output.taught.waveforms
    wanted = task.teacher.distance(made, RATE, hear(task.teacher, crops.waveforms, RATE, crops.lengths))
    assert loop.sums[0].parts["heard"][0] / len(made) == pytest.approx(float(wanted), rel=1e-5)
