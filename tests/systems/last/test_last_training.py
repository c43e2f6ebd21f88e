"""Training LAST from speech: what is cached, logged, checkpointed and saved, and that a run goes on exactly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from processes import run_together
from tiny import save_tiny_encoder, save_tiny_lm, write_speech
from vocable.audio.io import read_utterance
from vocable.audio.manifest import Rejections, read_manifest
from vocable.config import save_config
from vocable.errors import AudioFormatError, ConfigError, OutputError
from vocable.features import EncoderConfig, load_encoder
from vocable.features.frame_transformer import FrameTransformerConfig
from vocable.systems.last import LastConfig, LastTokenizer, build_model, prepare_data, train_from_speech
from vocable.systems.last.batches import Crop, cut_clips, group_crops, read_batch
from vocable.systems.last.clips import StreamedClips, cache_clips
from vocable.systems.last.config import FrozenLMConfig, LastTrainingConfig
from vocable.systems.last.model import LastDecoderConfig, LastLossConfig, LastModelConfig, LastQuantizerConfig
from vocable.systems.last.task import LastTask
from vocable.tokens import load_tokenizer
from vocable.training.logs import read_metrics
from vocable.types import Utterance

SIZES = {"width": 16, "num_heads": 2, "feedforward_dim": 32, "dropout": 0.1}
TRAINING = LastTrainingConfig(
    max_steps=6,
    crop_frames=60,
    batch_frames=240,
    batches_per_step=2,
    learning_rate=1e-3,
    warmup_steps=2,
    precision="fp32",
    log_every=1,
    validate_every=2,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_speechlike):
    """Twelve short recordings, and folders of a tiny frozen encoder and a tiny frozen language model."""
    folder = tmp_path_factory.mktemp("last")
    manifest = write_speech(folder / "speech", make_speechlike)
    encoder = save_tiny_encoder("whisper", folder / "encoder")
    return read_manifest(manifest), encoder, save_tiny_lm("opt", folder / "lm"), folder


@pytest.fixture
def config(world) -> LastConfig:
    _, encoder, lm, _ = world
    return LastConfig(
        encoder=EncoderConfig(name=str(encoder), layer=2),
        model=LastModelConfig(
            encoder=FrameTransformerConfig(num_layers=1, **SIZES),
            decoder=LastDecoderConfig(num_layers=1, **SIZES),
            quantizer=LastQuantizerConfig(dim=8, codebook_size=12, window_frames=500),
            loss=LastLossConfig(nll_start_step=1, nll_ramp_steps=0, reconstruction_weight=1.0),
        ),
        lm=FrozenLMConfig(text_model=str(lm)),
        training=TRAINING,
        gradient_norms_every=2,
        valid_share=0.3,
    )


@pytest.fixture
def run(world, config, tmp_path):
    utterances, *_ = world

    def start(name: str, settings: LastConfig = config, **rest):
        data = prepare_data(settings, utterances, tmp_path / name)
        return train_from_speech(settings, data, tmp_path / name, show=False, **rest)

    return start


def curve(lines, *names):
    return [tuple(line.get(name) for name in ("step", *names)) for line in lines]


def test_a_stopped_run_goes_on_exactly(run, tmp_path):
    whole = run("whole")
    assert not run("parts", stop_at_step=3).finished
    assert not (tmp_path / "parts" / "tokenizer").exists()
    parts = run("parts")
    names = ("loss", "nll", "reconstruction", "gradient_norm", "perplexity", "usage", "revived", "collapsed")
    gradients = ("nll_gradient", "reconstruction_gradient", "quantizer_gradient")
    assert curve(parts.train_curve, *names, *gradients) == curve(whole.train_curve, *names, *gradients)
    assert curve(parts.valid_curve, *names) == curve(whole.valid_curve, *names)
    found = [load_tokenizer(tmp_path / name / "tokenizer").fingerprint for name in ("whole", "parts")]
    assert found[0] == found[1]


def test_what_is_logged(run):
    result = run("run")
    first, second, third = result.train_curve[:3]
    # the language model counts from the second step on; gradients are measured in every second step
    assert "nll" not in first and first["nll_gradient"] == 0 and first["reconstruction_gradient"] > 0
    assert second["nll"] > 0 and second["change_nll"] > 0 and "nll_gradient" not in second
    assert third["nll_gradient"] > 0 and third["reconstruction_gradient"] > 0 and third["quantizer_gradient"] > 0
    assert second["loss"] == pytest.approx(second["nll"] + second["reconstruction"] + second["commitment"], rel=1e-5)
    assert 1 <= second["perplexity"] <= 12 and 0 < second["usage"] <= 1 and second["collapsed"] in (0, 1)
    valid = result.valid_curve[-1]
    assert valid["nll_per_second"] == pytest.approx(50 * valid["nll"])
    assert valid["loss"] == pytest.approx(valid["nll"] + valid["reconstruction"] + valid["commitment"], rel=1e-5)


def test_marks_of_the_manifest_decide_what_is_trained_on(world, config, tmp_path):
    marks = ["train", "train", "valid", "test"] * 3
    marked = [replace(u, split=mark) for u, mark in zip(world[0], marks, strict=True)]
    data = prepare_data(config, marked, tmp_path / "run")
    apart = prepare_data(config, [u for u in marked if u.split == "train"], tmp_path / "apart", marked[2::4])
    assert list(data.train.lengths) == list(apart.train.lengths) and len(data.train.lengths) == 6
    assert list(data.valid.lengths) == list(apart.valid.lengths) and len(data.valid.lengths) == 3


def test_validation_counts_its_own_units(run, config, world, tmp_path):
    result = run("run")
    data = prepare_data(config, world[0], tmp_path / "run")
    tokenizer = LastTokenizer.from_pretrained(result.last)
    units = []
    for clip, length in enumerate(data.valid.lengths):
        for crop in cut_clips([length], 60):  # validation sees crops
            features = data.valid.read(clip, crop.start, crop.stop)
            units.append(tokenizer.window_units(features))
    shares = torch.bincount(torch.cat(units), minlength=12).double() / len(torch.cat(units))
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum()
    last = result.valid_curve[-1]
    assert last["perplexity"] == pytest.approx(float(entropy.exp()), rel=1e-9)
    assert last["top_share"] == pytest.approx(float(shares.max()))


def test_the_language_model_is_in_no_checkpoint_and_no_optimiser(run, config, tmp_path):
    run("run")
    *_, folder = sorted((tmp_path / "run" / "training" / "checkpoints").iterdir())
    model = build_model(config, 32)
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == set(model.state_dict())
    assert not any(name.startswith("lm") for name in tensors)
    state = torch.load(folder / "optimizer.bin", weights_only=True)
    assert len(state["state"]) == len(list(model.parameters()))
    assert len(list(model.lm.parameters())) > 0
    assert not {id(p) for p in model.parameters()} & {id(p) for p in model.lm.parameters()}


def test_the_language_model_moves_along(config):
    model = build_model(config, 32)
    assert model.lm.dtype == torch.float32
    model.to(torch.float64)
    assert model.lm.dtype == torch.float64 and model.adapter.start.dtype == torch.float64


def test_the_tokenizer_is_the_best_one_and_the_language_model_did_not_change(run, world, config, tmp_path):
    lm = AutoModelForCausalLM.from_pretrained(config.lm.text_model)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    result = run("run", lm=lm)
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert isinstance(tokenizer, LastTokenizer)
    assert tokenizer.fingerprint == load_tokenizer(result.best).fingerprint
    assert not {path.name for path in (tmp_path / "run" / "tokenizer").iterdir()} - {"config.json", "model.safetensors"}


def test_another_run_is_refused(run, config):
    run("run", stop_at_step=1)
    with pytest.raises(OutputError, match=r"model.adapter.match_scale: True -> False"):
        run(
            "run",
            replace(config, model=replace(config.model, adapter=replace(config.model.adapter, match_scale=False))),
        )


def test_cached_features_are_those_of_the_encoder_and_are_made_once(world, config, tmp_path, monkeypatch):
    utterances, *_ = world
    encoder = load_encoder(config.encoder)
    seen = []
    clips = cache_clips(
        utterances, encoder, tmp_path / "cache", on_utterance=lambda: seen.append(1), frames_per_file=100
    )
    assert len(seen) == 12 and len(list((tmp_path / "cache").glob("*.npy"))) > 3
    for index, utterance in enumerate(utterances):
        (expected,) = encoder.encode([read_utterance(utterance, 16_000)])
        assert clips.names[index] == utterance.id and clips.lengths[index] == len(expected)
        assert torch.equal(clips.read(index, 3, 20), expected[3:20])
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", None)  # nothing is encoded again
        again = cache_clips(utterances, encoder, tmp_path / "cache")
    assert again.describe() == clips.describe()
    fewer = cache_clips(utterances[:3], encoder, tmp_path / "cache")  # other speech: the cache is made anew
    assert fewer.names == [utterance.id for utterance in utterances[:3]]


def test_a_cache_that_was_cut_off_is_made_again(world, config, tmp_path):
    utterances, *_ = world
    encoder = load_encoder(config.encoder)
    cache_clips(utterances, encoder, tmp_path, frames_per_file=100)
    (tmp_path / "index.json").unlink()
    (tmp_path / "features-00099.npy").write_bytes(b"half")
    assert len(cache_clips(utterances, encoder, tmp_path).names) == 12
    assert [path.name for path in tmp_path.glob("*.npy")] == ["features-00000.npy"]


def test_long_recordings_become_several_clips(world, config, tmp_path, monkeypatch):
    from vocable.tokens import streaming

    monkeypatch.setattr(streaming, "STREAM_SECONDS", 1.5)
    utterances, *_ = world
    encoder = load_encoder(replace(config.encoder, window_seconds=1.0, context_seconds=0.2))
    clips = cache_clips(utterances, encoder, tmp_path)
    assert clips.names.count("clip00") == 1 and clips.names.count("clip11") > 1
    (whole,) = encoder.encode([read_utterance(utterances[11], 16_000)])
    pieces = [clips.read(i, 0, clips.lengths[i]) for i, name in enumerate(clips.names) if name == "clip11"]
    assert torch.equal(torch.cat(pieces), whole)


def test_streamed_features_are_those_of_the_cache(world, config, tmp_path):
    utterances, *_ = world
    encoder = load_encoder(replace(config.encoder, context_seconds=0.4))
    cached, streamed = cache_clips(utterances, encoder, tmp_path), StreamedClips(utterances, encoder)
    assert streamed.describe() == cached.describe()
    for clip, length in enumerate(cached.lengths):
        assert torch.equal(streamed.read(clip, 0, length), cached.read(clip, 0, length))
    # a crop hears 0.4 s around itself; this encoder hears everything, and its positions are absolute
    assert streamed.read(11, 40, 60).shape == (20, 32)


def test_streaming_trains_as_the_cache_does(run, config):
    whole_clips = replace(config, training=replace(config.training, crop_frames=200, batch_frames=400))
    cached = run("cached", whole_clips)
    streamed = run("streamed", replace(whole_clips, cache_features=False))
    assert curve(streamed.train_curve, "loss", "perplexity") == curve(cached.train_curve, "loss", "perplexity")


def test_unreadable_recordings_are_noted_or_stop_the_run(world, config, tmp_path):
    utterances = [*world[0][:2], Utterance(id="bad", audio=tmp_path / "bad.wav")]
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    encoder = load_encoder(config.encoder)
    for make in (
        lambda **how: cache_clips(utterances, encoder, tmp_path / "cache", **how),
        lambda **how: StreamedClips(utterances, encoder, **how),
    ):
        rejections = Rejections(tmp_path / "out")
        assert make(rejections=rejections).names == ["clip00", "clip01"]
        assert rejections.count == 1
        with pytest.raises(AudioFormatError, match=r"bad\.wav"):
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            make(strict=True)
    with pytest.raises(ConfigError, match="None of the 1 recordings can be read"):
        cache_clips(utterances[2:], encoder, tmp_path / "cache")
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()[0])["id"] == "bad"


def test_recordings_that_vanish_during_a_streamed_run_are_left_out(world, config, tmp_path):
    copy = tmp_path / "copy.wav"
    shutil.copy(world[0][1].audio, copy)
    clips = StreamedClips([world[0][0], replace(world[0][1], audio=copy)], load_encoder(config.encoder))
    copy.unlink()
    batch = read_batch(clips, [Crop(0, 0, 30), Crop(1, 0, 40)])
    assert batch.features.shape == (1, 30, 32) and batch.mask.all()
    with pytest.raises(AudioFormatError, match="None of the recordings clip01 can be read any more"):
        read_batch(clips, [Crop(1, 0, 40)])


def test_crops_cover_every_frame_once_and_batches_stay_small():
    lengths = [7, 250, 60, 61, 1, 130]
    for rng in (None, np.random.default_rng(3)):
        crops = cut_clips(lengths, 60, rng)
        covered = [np.zeros(length, dtype=int) for length in lengths]
        for crop in crops:
            assert 2 <= crop.length <= 60
            covered[crop.clip][crop.start : crop.stop] += 1
        missing = sum(int((item == 0).sum()) for item in covered)
        assert all(item.max() <= 1 for item in covered) and missing <= len(lengths)  # crops of one frame are dropped
        batches = group_crops(crops, 130)
        assert sorted(crop for batch in batches for crop in batch) == sorted(crops)
        assert all(len(batch) * max(crop.length for crop in batch) <= 130 for batch in batches)
    different = {tuple(cut_clips(lengths, 60, np.random.default_rng(seed))) for seed in range(5)}
    assert len(different) > 1


def test_epochs_differ_and_positions_can_be_gone_to(world, config, tmp_path):
    data = prepare_data(config, world[0], tmp_path)
    task = LastTask(build_model(config, 32), data.encoder, config, data.train, data.valid)
    epoch = len(task.stream.plan)
    first = task.stream.next_batches(epoch)
    state = task.stream.state_dict()
    second = task.stream.next_batches(epoch)
    assert sum(int(batch.mask.sum()) for batch in first) == pytest.approx(sum(data.train.lengths), abs=len(first) * 4)
    assert not all(torch.equal(a.features, b.features) for a, b in zip(first, second))
    task.stream.load_state_dict(state)
    again = task.stream.next_batches(epoch)
    assert all(torch.equal(a.features, b.features) for a, b in zip(second, again, strict=True))
    task.stream.load_state_dict(state)
    shares = [task.stream.next_batches(2, process, 2) for process in (0,)]
    assert torch.equal(shares[0][0].features, second[0].features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valid_share": 1.0}, "valid_share is 1.0"),
        ({"gradient_norms_every": 0}, "gradient_norms_every is 0"),
    ],
)
def test_bad_settings(config, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **change)


def test_settings_that_do_not_fit_together(config, world, tmp_path):
    slow = replace(config.model, quantizer=replace(config.model.quantizer, init_batches=3))
    with pytest.raises(ConfigError, match=r"validate_every is 2, but the codebook is fitted after 3 batches"):
        replace(config, model=slow)
    with pytest.raises(ConfigError, match=r"model.feature_dim is 7, but .* gives 32 dimensions"):
        build_model(replace(config, model=replace(config.model, feature_dim=7)), 32)
    data = prepare_data(config, world[0], tmp_path)
    long = replace(config, training=replace(config.training, crop_frames=3000, batch_frames=3000))
    with pytest.raises(ConfigError, match=r"crop_frames is 3000, but .* has 2048 positions"):
        LastTask(build_model(config, 32), data.encoder, long, data.train)


def test_two_processes_learn_the_same(world, config, tmp_path):
    """Each reads its own batches; encoder, adapter and codebook stay equal to the bit."""
    save_config(config, tmp_path / "config.yaml")
    worker = Path(__file__).with_name("worker.py")
    arguments = [tmp_path / "config.yaml", world[3] / "speech" / "manifest.jsonl", tmp_path / "run"]
    run_together(2, [worker, *arguments])
    hashes = [(tmp_path / "run" / f"process-{index}").read_text() for index in (0, 1)]
    assert hashes[0] == hashes[1]
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "training") if line["split"] == "train"] == [
        *range(1, 7)
    ]
    assert load_tokenizer(tmp_path / "run" / "tokenizer").codebook_size == 12
