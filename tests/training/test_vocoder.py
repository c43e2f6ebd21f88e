"""Vocoder training: it learns, phase by phase; it resumes to the same weights, it holds out, it refuses."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import save_tiny_encoder
from vocable.errors import ConfigError, OutputError
from vocable.features import EncoderConfig
from vocable.features.speaker import SpeakerEncoder
from vocable.splits import by_rank
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.discriminators import DiscriminatorConfig
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.tokens.shard_columns import TokenRows
from vocable.training import vocoder as training_vocoder
from vocable.training.logs import read_metrics
from vocable.training.vocoder import (
    VocoderTrainingConfig,
    _split,
    mean_speakers,
    measure_content,
    take_weights,
    train_vocoder,
)
from vocable.training.vocoder_data import Content, VocoderData
from vocable.types import SpeechTokens, Utterance

RATE = 8000
TINY = DiscriminatorConfig(periods=(3,), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4)
SIZES = {"content_dim": 4, "dim": 16, "hidden_dim": 32, "num_layers": 2, "kernel_size": 3}
SIZES |= {"sample_rate": RATE, "hop_length": 100, "n_fft": 200}


def make_pairs(make_speechlike, num: int = 4):
    """Utterances whose units follow the loudness of their waveform, so that there is something to learn."""
    pairs, waveforms = [], {}
    for seed in range(num):
        waveform = make_speechlike(50 * 160 + 50, seed=seed, sample_rate=RATE)
        loudness = waveform[: 50 * 160].view(50, 160).square().mean(1).sqrt()
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


def make_config(speaker_dim: int | None = None, dim: int = 16, num_symbols: int = 0, **settings) -> VocoderConfig:
    frontend = FrontendConfig(
        dim=dim, hidden_dim=32, token_layers=1, frame_layers=1, kernel_size=3, num_symbols=num_symbols
    )
    decoder = SourceFilterConfig(**SIZES, speaker_dim=speaker_dim)
    return VocoderConfig(
        **{"codebook_size": 10, "prosody_dim": 16, "frontend": frontend, "decoder": decoder} | settings
    )


def make_training(**settings) -> VocoderTrainingConfig:
    defaults = {
        "max_steps": 30,
        "batch_size": 4,
        "segment_seconds": 0.4,
        "learning_rate": 5e-3,
        "decoder_learning_rate": 5e-3,
        "warmup_steps": 3,
        "discriminators": TINY,
        "validation_utterances": 1,
        "ema_decay": None,
        "log_every": 10,
        "validate_every": 15,
        "checkpoint_every": 15,
        "precision": "fp32",
    }
    return VocoderTrainingConfig(**defaults | settings)


def targets(utterance: Utterance, num_frames: int):
    """Content that follows from the utterance: known for all but the last."""
    if utterance.id == "clip-3":
        return None
    generator = torch.Generator().manual_seed(int(utterance.id[-1]))
    vectors, ids = 2 + 3 * torch.randn(5, 4, generator=generator), torch.randint(0, 7, (5,), generator=generator)
    return Content(vectors, ids, torch.arange(num_frames) * 5 // num_frames)


def make_encoder() -> SpeakerEncoder:
    torch.manual_seed(3)
    return SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()


def train_lines(folder: Path) -> list[dict]:
    return [line for line in read_metrics(folder) if line["split"] == "train"]


def test_training_lowers_every_loss(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    settings = {"encoder": make_encoder(), "targets": targets, "voices": ["speaker-1", "speaker-0"], "show": False}
    training = make_training(
        max_steps=60, decoder_learning_rate=2e-2, teacher_from=0.0, waveform_from=0.3, log_every=1, validate_every=30
    )
    vocoder = train_vocoder(pairs, make_config(6, num_symbols=7), training, tmp_path, read, **settings)
    lines = train_lines(tmp_path)

    def fell(name: str) -> None:
        values = [line[name] for line in lines if name in line]
        # the spectra of noise never agree bin by bin, so their distance cannot fall far
        assert sum(values[-8:]) < (0.9 if name == "stft" else 0.8) * sum(values[:8]), name

    for name in ("mel", "stft", "duration", "pitch", "voiced", "energy", "content", "symbols", "teacher", "voice"):
        fell(name)
    held_out = [line for line in read_metrics(tmp_path) if line["split"] == "valid"]
    assert held_out[-1]["mel"] < held_out[0]["mel"]
    assert all(line["mel_predicted_prosody"] > 0 and line["pitch_semitones"] >= 0 for line in held_out)
    saved = UnitVocoder.from_pretrained(tmp_path / "vocoder")
    tokens = [pairs[0][1]]
    assert saved.voices == ["speaker-1", "speaker-0"]
    assert torch.equal(saved.synthesize(tokens)[0], vocoder.synthesize(tokens)[0])
    assert saved.config.duration_scale != 1  # predicted durations add up to the true ones
    held = by_rank([utterance for utterance, _ in pairs])[0].id
    lengths = [
        (len(vocoder.synthesize([SpeechTokens(codes=tokens.codes)])[0]) / 160, tokens.num_frames)
        for utterance, tokens in pairs
        if utterance.id != held
    ]
    predicted, true = map(sum, zip(*lengths))
    assert predicted == pytest.approx(true, rel=0.1)


def test_phases_of_a_run(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    training = make_training(
        max_steps=8,
        teacher_from=0.25,
        waveform_from=0.5,
        adversarial_from=0.75,
        adversarial_segment_seconds=0.2,
        log_every=1,
        checkpoint_every=None,
        validate_every=None,
    )
    states: list[dict[str, torch.Tensor]] = []
    original = training_vocoder.VocoderTask.step

    def watched(self, loop, batches):
        original(self, loop, batches)
        weights = {
            **self.vocoder.state_dict(),
            **{f"judge {k}": v for k, v in self.discriminators.state_dict().items()},
        }
        states.append({name: value.clone() for name, value in weights.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_vocoder.VocoderTask, "step", watched)
        train_vocoder(pairs, make_config(6), training, tmp_path, read, encoder=make_encoder(), targets=targets)
    lines = train_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 9))
    for name, first, last in (
        *((name, 1, 8) for name in ("pitch", "voiced", "energy", "duration", "voice")),
        ("teacher", 3, 4),
        *((name, 5, 8) for name in ("mel", "stft")),
        *((name, 7, 8) for name in ("adversarial", "feature", "discriminator")),
    ):
        assert [line["step"] for line in lines if name in line] == list(range(first, last + 1)), name
    assert any("content" in line for line in lines)
    assert not any("symbols" in line or "listener" in line for line in lines)  # neither was asked for

    def moved(prefix: str, a: int, b: int) -> list[bool]:
        """Whether each of these weights differs between the ends of two steps."""
        return [not torch.equal(states[a - 1][n], states[b - 1][n]) for n in states[0] if n.startswith(prefix)]

    assert not any(moved("decoder.", 1, 4)) and all(moved("frontend.content.", 1, 4))
    assert any(moved("decoder.", 4, 5)) and any(moved("decoder.film", 4, 6)) and any(moved("decoder.head", 4, 5))
    assert not any(moved("judge ", 1, 6)) and any(moved("judge ", 6, 7))


def test_a_listener_teaches_words(tmp_path, make_speechlike):
    """A frozen encoder hears every step; it gets no optimiser, and no place in the vocoder."""
    pairs, read = make_pairs(make_speechlike)
    listener = EncoderConfig(name=str(save_tiny_encoder("whisper", tmp_path / "whisper")), layer=2)
    alone = {"mel_weight": 0.0, "stft_weight": 0.0, "max_steps": 20, "validate_every": None, "log_every": 1}
    training = make_training(listener=listener, **alone)
    vocoder = train_vocoder(pairs, make_config(), training, tmp_path / "run", read, show=False)
    heard = [line["listener"] for line in train_lines(tmp_path / "run")]
    assert len(heard) == 20 and sum(heard[-5:]) < 0.95 * sum(heard[:5])
    assert not any("encoder" in name or "listener" in name for name in vocoder.state_dict())
    train_vocoder(pairs, make_config(), replace(training, max_steps=21), tmp_path / "run", read, show=False)
    assert train_lines(tmp_path / "run")[-1]["step"] == 21  # a resume finds its optimiser as it was


def test_what_recordings_lack_is_that_of_a_reference(tmp_path, make_speechlike):
    """Above `top_hz`, magnitudes are held to those of a pretrained decoder, which stays as it was."""
    pairs, read = make_pairs(make_speechlike)
    torch.manual_seed(4)
    start = UnitVocoder(make_config())
    reference = copy.deepcopy(start.decoder)
    settings = {"start_from": start, "reference": reference, "show": False}
    training = make_training(max_steps=1, top_hz=2000.0, log_every=1, validate_every=None)
    train_vocoder(pairs, make_config(), training, tmp_path / "same", read, **settings)
    assert train_lines(tmp_path / "same")[0]["high"] == pytest.approx(0, abs=1e-5)
    # harmonics louder by 0.6 and noise by 0.3 (log magnitude), at every frequency
    bias, bins = reference.head.bias.data, start.decoder.config.bins
    bias[:bins] += 0.6
    bias[2 * bins : 3 * bins] += 0.3
    before = copy.deepcopy(reference.state_dict())
    train_vocoder(pairs, make_config(), training, tmp_path / "louder", read, **settings)
    assert train_lines(tmp_path / "louder")[0]["high"] == pytest.approx((0.6 + 0.3) / 3, rel=1e-3)
    longer = replace(training, max_steps=30, high_weight=5.0)
    train_vocoder(pairs, make_config(), longer, tmp_path / "long", read, **settings)
    values = [line["high"] for line in train_lines(tmp_path / "long")]
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    whole = replace(training, top_hz=7600.0)  # above all that this decoder makes
    train_vocoder(pairs, make_config(), whole, tmp_path / "whole", read, **settings)
    assert "high" not in train_lines(tmp_path / "whole")[0]


def test_a_stage_that_does_not_sound_saves_the_decoder_as_it_was(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    start = UnitVocoder(make_config())
    training = make_training(max_steps=4, waveform_from=1.0, ema_decay=0.9)
    vocoder = train_vocoder(pairs, make_config(), training, tmp_path, read, start_from=start)
    for name, value in start.decoder.state_dict().items():
        assert torch.equal(vocoder.decoder.state_dict()[name], value), name
    assert not torch.equal(vocoder.frontend.prosody.weight, start.frontend.prosody.weight)
    assert vocoder.voices == []


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


@pytest.mark.parametrize("stop", [2, 3])
def test_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path, make_speechlike, monkeypatch, stop):
    """Whether it was stopped before the border of a phase, or on it."""
    pairs, read = make_pairs(make_speechlike)
    settings = {"max_steps": 6, "checkpoint_every": 1, "keep_checkpoints": 1, "ema_decay": 0.5}
    training = make_training(**settings, teacher_from=0.0, waveform_from=0.5, adversarial_from=0.6)
    given = {"targets": targets, "encoder": make_encoder(), "show": False}
    whole = train_vocoder(pairs, make_config(6), training, tmp_path / "whole", read, **given)

    original = VocoderData.__getitem__

    def dying_item(self, step):
        if step == stop:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VocoderData, "__getitem__", dying_item)
        train_vocoder(pairs, make_config(6), training, tmp_path / "parts", read, **given)
    assert (tmp_path / "parts" / "checkpoints" / f"step-0000000{stop}").is_dir()
    resumed = train_vocoder(pairs, make_config(6), training, tmp_path / "parts", read, **given)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_run_ends_after_its_minutes(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    train_vocoder(pairs, make_config(), make_training(max_steps=100_000, max_minutes=1e-6), tmp_path, read)
    assert read_metrics(tmp_path)[-1]["step"] == 1
    assert (tmp_path / "vocoder" / "model.safetensors").is_file()


def test_folder_of_another_run_is_refused(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    train_vocoder(pairs, make_config(), make_training(max_steps=1), tmp_path, read)
    with pytest.raises(OutputError, match=r"holds another run \(vocoder\.frontend\.dim: 16 -> 12"):
        train_vocoder(pairs, make_config(dim=12), make_training(max_steps=1), tmp_path, read)


def test_a_run_goes_on_longer_but_not_with_other_settings(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    config = make_config()
    train_vocoder(pairs, config, make_training(max_steps=1), tmp_path, read)
    other = make_training(max_steps=2, learning_rate=1e-3, mel_weight=2.0)
    message = r"another run \(training.learning_rate: 0.005 -> 0.001; training.mel_weight: 1.0 -> 2.0\)"
    with pytest.raises(OutputError, match=message):
        train_vocoder(pairs, config, other, tmp_path, read)
    with pytest.raises(OutputError, match=r"training.discriminators.periods: \[3\] -> "):
        train_vocoder(pairs, config, make_training(discriminators=DiscriminatorConfig()), tmp_path, read)
    with pytest.raises(OutputError, match=r"data.num_utterances: 4 -> 3"):
        train_vocoder(pairs[:3], config, make_training(), tmp_path, read)
    longer = make_training(max_steps=2, max_minutes=50.0, log_every=1, checkpoint_every=1, keep_checkpoints=1)
    train_vocoder(pairs, config, longer, tmp_path, read)
    assert [line["step"] for line in train_lines(tmp_path)] == [1, 2]
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_folder_of_an_older_version_is_refused(tmp_path, make_speechlike):
    """Runs once had vocoder_config.yaml and checkpoint-00000001/state.pt; they cannot go on."""
    pairs, read = make_pairs(make_speechlike)
    (tmp_path / "checkpoint-00000001").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    with pytest.raises(OutputError, match=r"has no training.yaml, .* holds metrics.jsonl. Choose a new folder"):
        train_vocoder(pairs, make_config(), make_training(max_steps=1), tmp_path, read)


def test_worker_processes_prepare_the_same_batches(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    config, training = make_config(), make_training(max_steps=4, checkpoint_every=2, log_every=1)
    train_vocoder(pairs, config, training, tmp_path / "here", read)
    train_vocoder(pairs, config, replace(training, max_steps=2, num_workers=1), tmp_path / "workers", read)
    train_vocoder(pairs, config, replace(training, num_workers=1), tmp_path / "workers", read)
    numbers = [
        [(line["step"], line["mel"]) for line in train_lines(tmp_path / name) if line["step"] <= 2]
        for name in ("here", "workers")
    ]
    assert len(numbers[0]) == 2
    assert numbers[0][0] == numbers[1][0]  # the second step has another rate: the shorter run is nearer its end
    assert numbers[0][1][1] == pytest.approx(numbers[1][1][1], rel=0.05)


def test_batches_may_be_accumulated(tmp_path, make_speechlike):
    """Without dropout, one step on two batches has the loss of both."""
    pairs, read = make_pairs(make_speechlike)
    slow = {"learning_rate": 1e-9, "decoder_learning_rate": 1e-9, "discriminator_learning_rate": 1e-9}
    one = make_training(max_steps=2, log_every=1, adversarial_from=0.0, **slow)
    train_vocoder(pairs, make_config(), one, tmp_path / "one", read)
    train_vocoder(pairs, make_config(), replace(one, max_steps=1, batches_per_step=2), tmp_path / "two", read)
    first, second = train_lines(tmp_path / "one")
    both = train_lines(tmp_path / "two")[0]
    # the same segments with unchanged weights, but other noise in the second batch
    for name in ("mel", "pitch", "energy", "discriminator", "adversarial"):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=0.02)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, make_speechlike):
    resource = pytest.importorskip("resource")  # not on Windows
    pairs, read = make_pairs(make_speechlike)
    config = make_config()
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


def test_named_voices_are_the_mean_of_their_recordings(make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    data = VocoderData(pairs, make_config(6), read, segment_seconds=0.4, encoder=make_encoder())
    found = mean_speakers(data, ["speaker-1", "nobody", "speaker-0"])
    assert list(found) == ["speaker-1", "speaker-0"]
    for name, rows in (("speaker-0", (0, 2)), ("speaker-1", (1, 3))):
        vector = sum_of([data.recording(row).speaker.vector for row in rows]) / 2
        torch.testing.assert_close(found[name].vector, vector / vector.square().sum().sqrt())
        torch.testing.assert_close(found[name].pitch, sum_of([data.recording(row).speaker.pitch for row in rows]) / 2)
    (everybody,) = mean_speakers(data, []).values()
    torch.testing.assert_close(everybody.pitch, sum_of([data.recording(row).speaker.pitch for row in range(4)]) / 4)


def sum_of(values: list[torch.Tensor | None]) -> torch.Tensor:
    return torch.stack([value for value in values if value is not None]).sum(0)


def test_content_is_measured_before_it_is_learned(make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    data = VocoderData(pairs, make_config(), read, segment_seconds=0.4, targets=targets)
    vocoder = UnitVocoder(make_config())
    measure_content(vocoder, data)
    known = [one for utterance, _ in pairs if (one := targets(utterance, 80)) is not None]
    frames = torch.cat([one.vectors[one.places] for one in known])
    torch.testing.assert_close(vocoder.frontend.content_mean, frames.mean(0))
    torch.testing.assert_close(vocoder.frontend.content_deviation, frames.std(0))


def test_weights_of_another_vocoder_are_the_start_where_they_fit():
    torch.manual_seed(1)
    old = UnitVocoder(make_config(6, codebook_size=7, voices=("a", "b")))
    torch.manual_seed(2)
    new = UnitVocoder(make_config(6))
    table = new.unit_embedding.weight.clone()
    take_weights(new, old)
    assert torch.equal(new.unit_embedding.weight, table)  # another codebook
    for name, value in old.decoder.state_dict().items():
        assert torch.equal(new.decoder.state_dict()[name], value)
    assert torch.equal(new.frontend.prosody.weight, old.frontend.prosody.weight)


def test_several_voices_need_a_decoder_that_reads_speakers(tmp_path, make_speechlike):
    pairs, read = make_pairs(make_speechlike)
    with pytest.raises(ConfigError, match=r"names 2 voices, but vocoder\.decoder\.speaker_dim is null"):
        train_vocoder(pairs, make_config(), make_training(), tmp_path, read, voices=["speaker-0", "speaker-1"])
    assert not read_metrics(tmp_path) if (tmp_path / "metrics.jsonl").exists() else True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial_from": 3}, "adversarial_from is 3"),
        ({"waveform_from": -0.1}, r"waveform_from is -0\.1"),
        ({"teacher_from": 1.5}, r"teacher_from is 1\.5"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"segment_seconds": 0.0}, "segment_seconds"),
        ({"decoder_learning_rate": 0.0}, "decoder_learning_rate"),
        ({"speaker_learning_rate": 0.0}, "speaker_learning_rate"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VocoderTrainingConfig(**settings)
