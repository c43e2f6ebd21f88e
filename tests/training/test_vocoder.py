"""Vocoder training: it learns, it resumes to the same weights, it holds out, it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vocable.errors import ConfigError, ManifestError, OutputError
from vocable.splits import by_rank
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.discriminators import DiscriminatorConfig
from vocable.tokens.shard_columns import TokenRows
from vocable.training.logs import read_metrics
from vocable.training.vocoder import VocoderTrainingConfig, _split, train_vocoder
from vocable.training.vocoder_data import VocoderData, voices_by_speech
from vocable.types import SpeechTokens, Utterance

TINY = DiscriminatorConfig(periods=(3,), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4)


def make_pairs(make_speechlike, num: int = 4):
    """Utterances whose units follow the loudness of their waveform, so that there is something to learn."""
    pairs, waveforms = [], {}
    for seed in range(num):
        waveform = make_speechlike(50 * 320 + 100, seed=seed)
        loudness = waveform[: 50 * 320].view(50, 320).square().mean(1).sqrt()
        runs, durations = torch.unique_consecutive((loudness / loudness.max() * 9).long(), return_counts=True)
        name = f"clip-{seed}"
        waveforms[name] = waveform
        pairs.append(
            (
                Utterance(id=name, audio=Path(name), speaker=f"speaker-{seed % 2}"),
                SpeechTokens(codes=runs[None], durations=durations),
            )
        )
    return pairs, lambda utterance, sample_rate: waveforms[utterance.id]


def make_config(pairs, **settings) -> VocoderConfig:
    sizes = {"dim": 32, "hidden_dim": 64, "num_layers": 2, "prosody_dim": 16, "pitch_layers": 1, "codebook_size": 10}
    return VocoderConfig(voices=voices_by_speech(pairs), **sizes | settings)


def make_training(**settings) -> VocoderTrainingConfig:
    defaults = {
        "max_steps": 30,
        "batch_size": 4,
        "segment_seconds": 0.4,
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "adversarial_from": None,
        "discriminators": TINY,
        "validation_utterances": 1,
        "log_every": 10,
        "validate_every": 15,
        "checkpoint_every": 15,
        "precision": "fp32",
    }
    return VocoderTrainingConfig(**defaults | settings)


@pytest.mark.parametrize("excitation", ["none", "harmonic"])
def test_training_lowers_every_loss(tmp_path, make_speechlike, excitation):
    pairs, read = make_pairs(make_speechlike)
    config = make_config(pairs, excitation=excitation)
    vocoder = train_vocoder(pairs, config, make_training(), tmp_path, read)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [10, 20, 30]
    for name in ("mel", "duration", *(["pitch"] if excitation == "harmonic" else [])):
        assert lines[-1][name] < 0.8 * lines[0][name]
    held_out = [line for line in read_metrics(tmp_path) if line["split"] == "valid"]
    assert held_out[-1]["mel"] < held_out[0]["mel"]
    saved = UnitVocoder.from_pretrained(tmp_path / "vocoder")
    tokens = [pairs[0][1]]
    assert torch.equal(saved.synthesize(tokens)[0], vocoder.synthesize(tokens)[0])
    assert saved.config.duration_scale != 1  # predicted durations add up to the true ones
    trained_on = [
        (len(vocoder.synthesize([SpeechTokens(codes=tokens.codes)], utterance.speaker)[0]) / 320, tokens.num_frames)
        for utterance, tokens in pairs
    ]
    predicted, true = map(sum, zip(*trained_on))
    assert predicted == pytest.approx(true, rel=0.1)


def test_marks_of_the_manifest_decide_what_is_trained_on(make_speechlike):
    pairs, _ = make_pairs(make_speechlike)
    held_out, rest = _split(TokenRows.of(pairs), 1)
    ordered = by_rank([utterance for utterance, _ in pairs])
    assert [pairs[index][0].id for index in held_out] == [ordered[0].id]
    assert [pairs[index][0].id for index in rest] == [utterance.id for utterance in ordered[1:]]
    marks = ["test", "train", "valid", "train"]
    marked = [(replace(u, split=mark), tokens) for (u, tokens), mark in zip(pairs, marks, strict=True)]
    held_out, rest = _split(TokenRows.of(marked), 8)
    assert held_out.tolist() == [2] and sorted(rest) == [1, 3]


def test_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path, make_speechlike, monkeypatch):
    pairs, read = make_pairs(make_speechlike)
    config, training = make_config(pairs), make_training(max_steps=6, checkpoint_every=3, adversarial_from=0.3)
    whole = train_vocoder(pairs, config, training, tmp_path / "whole", read)

    original = VocoderData.__getitem__

    def dying_item(self, step):
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VocoderData, "__getitem__", dying_item)
        train_vocoder(pairs, config, training, tmp_path / "parts", read)
    assert (tmp_path / "parts" / "checkpoints" / "step-00000003").is_dir()
    resumed = train_vocoder(pairs, config, training, tmp_path / "parts", read)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_adversarial_part_runs_and_is_logged(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    training = make_training(max_steps=6, adversarial_from=0.5, adversarial_segment_seconds=0.2, log_every=1)
    train_vocoder(pairs, make_config(pairs), training, tmp_path, read)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert ["adversarial" in line for line in lines] == [False, False, False, True, True, True]
    assert all(line["discriminator"] > 0 and line["feature"] > 0 for line in lines[3:])


def test_run_ends_after_its_minutes(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    train_vocoder(pairs, make_config(pairs), make_training(max_steps=100_000, max_minutes=1e-6), tmp_path, read)
    assert read_metrics(tmp_path)[-1]["step"] == 1
    assert (tmp_path / "vocoder" / "model.safetensors").is_file()


def test_folder_of_another_run_is_refused(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    train_vocoder(pairs, make_config(pairs), make_training(max_steps=1), tmp_path, read)
    with pytest.raises(OutputError, match=r"holds another run \(vocoder.dim: 32 -> 16"):
        train_vocoder(pairs, make_config(pairs, dim=16), make_training(max_steps=1), tmp_path, read)


def test_a_run_goes_on_longer_but_not_with_other_settings(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    config = make_config(pairs)
    train_vocoder(pairs, config, make_training(max_steps=1), tmp_path, read)
    other = make_training(max_steps=2, learning_rate=1e-3, mel_weight=1.0)
    message = r"another run \(training.learning_rate: 0.002 -> 0.001; training.mel_weight: 15.0 -> 1.0\)"
    with pytest.raises(OutputError, match=message):
        train_vocoder(pairs, config, other, tmp_path, read)
    with pytest.raises(OutputError, match=r"training.discriminators.periods: \[3\] -> "):
        train_vocoder(pairs, config, make_training(discriminators=DiscriminatorConfig()), tmp_path, read)
    with pytest.raises(OutputError, match=r"data.num_utterances: 4 -> 3"):
        train_vocoder(pairs[:3], config, make_training(), tmp_path, read)
    longer = make_training(max_steps=2, max_minutes=50.0, log_every=1, checkpoint_every=1, keep_checkpoints=1)
    train_vocoder(pairs, config, longer, tmp_path, read)
    assert [line["step"] for line in read_metrics(tmp_path) if line["split"] == "train"] == [1, 2]
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_folder_of_an_older_version_is_refused(tmp_path, make_speechlike):
    """Runs once had vocoder_config.yaml and checkpoint-00000001/state.pt; they cannot go on."""
    pairs, read = make_pairs(make_speechlike)
    (tmp_path / "checkpoint-00000001").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    with pytest.raises(OutputError, match=r"has no training.yaml, .* holds metrics.jsonl. Choose a new folder"):
        train_vocoder(pairs, make_config(pairs), make_training(max_steps=1), tmp_path, read)


def test_worker_processes_prepare_the_same_batches(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    config, training = make_config(pairs), make_training(max_steps=4, checkpoint_every=2, log_every=1)
    train_vocoder(pairs, config, training, tmp_path / "here", read)
    train_vocoder(pairs, config, replace(training, max_steps=2, num_workers=1), tmp_path / "workers", read)
    train_vocoder(pairs, config, replace(training, num_workers=1), tmp_path / "workers", read)
    numbers = [
        [
            (line["step"], line["mel"])
            for line in read_metrics(tmp_path / name)
            if line["step"] <= 2 and "duration" in line
        ]
        for name in ("here", "workers")
    ]
    assert len(numbers[0]) == 2
    assert numbers[0][0] == numbers[1][0]  # the second step has another rate: the shorter run is nearer its end
    assert numbers[0][1][1] == pytest.approx(numbers[1][1][1], rel=0.05)


def test_batches_may_be_accumulated(tmp_path, make_speechlike):
    """Without dropout, one step on two batches has the loss of both."""
    pairs, read = make_pairs(make_speechlike)
    config = make_config(pairs)
    one = make_training(
        max_steps=2, log_every=1, learning_rate=1e-9, discriminator_learning_rate=1e-9, adversarial_from=0
    )
    train_vocoder(pairs, config, one, tmp_path / "one", read)
    two = replace(one, max_steps=1, batches_per_step=2)
    train_vocoder(pairs, config, two, tmp_path / "two", read)
    first, second = [line for line in read_metrics(tmp_path / "one") if line["split"] == "train"]
    both = read_metrics(tmp_path / "two")[0]
    # the same segments with unchanged weights, but other noise in the second batch
    for name in ("mel", "pitch", "discriminator", "adversarial"):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=0.02)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, make_speechlike):
    resource = pytest.importorskip("resource")  # not on Windows
    pairs, read = make_pairs(make_speechlike)
    config = make_config(pairs)
    train_vocoder(pairs, config, make_training(max_steps=1), tmp_path, read)
    old = tmp_path / "checkpoints" / "step-00000001" / "optimizer.bin"
    before = old.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3 // 4, hard))  # a real failing write, in mid-file
    try:
        with pytest.raises(OutputError, match=r"step-00000002: could not write .*Is the disk full\? Older"):
            train_vocoder(pairs, config, make_training(max_steps=2), tmp_path, read)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert old.read_bytes() == before
    assert [item.name for item in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    train_vocoder(pairs, config, make_training(max_steps=2), tmp_path, read)
    assert (tmp_path / "checkpoints" / "step-00000002").is_dir()


def test_batches_depend_on_seed_and_step_only(make_speechlike):
    pairs, read = make_pairs(make_speechlike)

    def data(seed):
        return VocoderData(pairs, make_config(pairs), read, batch_size=3, segment_frames=20, seed=seed)

    first, other = data(1), data(1)
    other[0], other[5]
    for a, b in zip(first[7][0][:3], other[7][0][:3]):
        assert torch.equal(a, b)
    assert not torch.equal(first[7][0].codes, data(2)[7][0].codes)


def test_segments_and_their_codes_belong_together(make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    data = VocoderData(pairs, make_config(pairs), read, batch_size=8, segment_frames=10, loudness_db=None)
    segments, prosody = data[0]
    for waveform, codes in zip(segments.waveforms, segments.codes):
        places = []
        for utterance, tokens in pairs:
            frames = tokens.codes.repeat_interleave(tokens.durations, 1)
            whole = read(utterance, 16_000)
            for first in range(41):
                part = whole[first * 320 : (first + 10) * 320]
                # clips are kept as 16-bit integers
                if torch.allclose(part, waveform, atol=1e-4) and torch.equal(frames[:, first : first + 10], codes):
                    places.append((utterance.id, first))
        assert len(places) == 1
    for row in range(len(prosody.codes)):
        runs = prosody.run_codes[row].repeat_interleave(prosody.durations[row], 1)
        assert torch.equal(runs[0], prosody.codes[row, 0, prosody.mask[row]])


def test_impossible_data_and_settings_are_refused(make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    config = make_config(pairs)
    with pytest.raises(ManifestError, match=r"None of 4 utterances lasts 4\.02 s"):
        VocoderData(pairs, config, read, batch_size=1, segment_frames=200)
    short = VocoderData(pairs, config, lambda *_: torch.randn(8000), batch_size=1, segment_frames=20)
    with pytest.raises(ManifestError, match=r"0\.50 s of audio, but tokens for 1\.00 s"):
        short[0]
    with pytest.raises(ConfigError, match="adversarial_from is 3"):
        VocoderTrainingConfig(adversarial_from=3)
    with pytest.raises(ConfigError, match="max_steps is 0"):
        VocoderTrainingConfig(max_steps=0)
