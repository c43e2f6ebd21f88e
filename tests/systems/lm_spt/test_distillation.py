"""Distillation of LM-SPT: what the teacher hears, what is averaged, and where gradients go."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import WhisperFeatureExtractor, WhisperModel

from features.tiny_encoders import save_tiny
from vocable.errors import AudioFormatError, ConfigError
from vocable.features import EncoderConfig, log_mel
from vocable.systems.lm_spt.distillation import (
    DistillationConfig,
    TeacherConfig,
    TeacherTarget,
    cosine_distance,
    load_teacher,
    make_distillation,
    pool_frames,
)

RATE = 16_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    return {name: save_tiny(name, root / name) for name in ("whisper", "hubert-base")}


@pytest.fixture(scope="module")
def make_teacher(folders):
    def make(family="whisper", padding="crop", distance="mse"):
        encoder = EncoderConfig(name=str(folders[family]), layer=3)
        return load_teacher(TeacherConfig(encoder=encoder, padding=padding, distance=distance))

    return make


class TinyDecoder(nn.Module):
    """Vectors to waveforms by one weight-normed layer, in frames of 640 samples at 16 kHz (25 Hz)."""

    def __init__(self, dim: int = 8, sample_rate: int = RATE, hop_length: int = 640) -> None:
        super().__init__()
        self.sample_rate, self.hop_length = sample_rate, hop_length
        self.layer = weight_norm(nn.Linear(dim, hop_length))

    def forward(self, vectors):
        return 0.1 * self.layer(vectors).flatten(1)


def test_log_mel_is_that_of_transformers(make_teacher, make_speechlike):
    clip = make_speechlike(RATE)
    extractor = WhisperFeatureExtractor()
    expected = extractor(clip.numpy(), sampling_rate=RATE, return_tensors="pt").input_features[0].mT
    encoder = make_teacher(padding="30s").encoder
    # theirs sums the transform in numpy's float64; log10 amplifies float32 rounding in the quietest bands
    torch.testing.assert_close(log_mel(encoder.condition(clip), encoder.mel), expected, atol=2e-4, rtol=0)


def test_padded_features_are_those_of_transformers(make_teacher, make_speechlike, folders):
    clips = torch.stack([make_speechlike(RATE, seed=seed) for seed in range(2)])
    extractor, model = WhisperFeatureExtractor(), WhisperModel.from_pretrained(folders["whisper"]).eval()
    inputs = extractor([clip.numpy() for clip in clips], sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.encoder(inputs).last_hidden_state
    found = make_teacher(padding="30s").features(clips, RATE)
    assert found.shape == (2, 1500, 32)
    # the wild weights of the tiny model amplify the differences of the log-mel
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(make_teacher(padding="masked").features(clips, RATE), found[:, :50])
    cut = make_teacher(padding="crop").features(clips, RATE)
    assert cut.shape == (2, 50, 32)
    assert (cut - found[:, :50]).abs().mean() > 0.05  # the silence is attended to


def test_the_mean_is_over_the_frames_that_the_padding_says(make_teacher, make_speechlike):
    recording, made = (torch.stack([make_speechlike(3_200, seed=seed + k) for seed in range(2)]) for k in (0, 5))
    lengths = torch.tensor([3_200, 1_500])
    for padding, distance in itertools.product(("30s", "masked", "crop"), ("mse", "l1")):
        teacher = make_teacher(padding=padding, distance=distance)
        errors = []
        for row, length in enumerate(lengths.tolist()):
            a, b = (teacher.features(item[row : row + 1, :length], RATE)[0] for item in (made, recording))
            assert len(a) == (1500 if padding == "30s" else -(-length // 320))
            difference = (a - b).abs() if distance == "l1" else (a - b).square()
            errors.extend(difference.mean(1).tolist())
        target = teacher.target(recording, RATE, lengths)
        # what follows the end of a clip is not heard; the batch sums in another order
        found = teacher.distance(made, RATE, target)
        assert float(found) == pytest.approx(sum(errors) / len(errors), rel=2e-3)
        assert teacher.distance(recording, RATE, target) == 0


@pytest.mark.parametrize(("family", "padding"), [("whisper", "30s"), ("whisper", "crop"), ("hubert-base", "crop")])
def test_a_clip_is_heard_alike_in_any_batch(make_teacher, make_speechlike, family, padding):
    teacher = make_teacher(family, padding)
    clips = torch.stack([make_speechlike(6_400, seed=seed) for seed in range(3)])
    clips[1] *= 30  # a loud neighbour: openai-whisper floors the log-mel by the loudest value of the batch
    clips[2] *= 0.01
    lengths = torch.tensor([6_400, 5_000, 2_700])
    together = teacher.features(clips, RATE, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = teacher.features(clips[row : row + 1, :length], RATE)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-3, rtol=1e-3)
        if padding == "crop":
            assert not together[row, len(alone) :].any()


def test_a_floor_by_the_loudest_of_the_batch_would_be_seen(make_teacher, make_speechlike):
    """The test above can fail: with one floor for all, the quiet clip has another log-mel."""
    encoder = make_teacher(padding="crop").encoder
    quiet, loud = 0.01 * make_speechlike(6_400), 30 * make_speechlike(6_400, seed=1)
    alone = 4 * log_mel(quiet, encoder.mel) - 4
    batch_maximum = (4 * log_mel(loud, encoder.mel) - 4).max()
    assert ((alone - alone.clamp(min=float(batch_maximum) - 8)).abs() > 1).float().mean() > 0.2


def test_another_sample_rate_is_resampled(make_teacher):
    teacher = make_teacher()
    time = torch.arange(24_000) / 24_000
    tones = [
        sum(torch.sin(2 * math.pi * hertz * t + hertz) for hertz in (200, 450, 1_700)) / 5
        for t in (time, time[:16_000] * 1.5)
    ]
    high, low = tones[0], tones[1]
    found, expected = teacher.features(high[None], 24_000), teacher.features(low[None], RATE)
    assert found.shape == expected.shape == (1, 50, 32)
    inner = slice(4, -4)  # tones that begin and end abruptly
    # without resampling it would be another sound altogether: errors near 1
    assert (found - expected)[:, inner].abs().mean() < 0.1 * (expected[:, inner] - expected.mean()).abs().mean()
    target = teacher.target(high[None].expand(2, -1), 24_000, torch.tensor([24_000, 12_000]))
    assert target.lengths.tolist() == [16_000, 8_000]
    assert teacher.mask(target).sum(1).tolist() == [50, 25]
    decoded = torch.stack([low, torch.cat([low[:8_000], torch.zeros(8_000)])])
    assert teacher.distance(decoded, RATE, target) < 0.1 * teacher.distance(0.1 * torch.randn(2, 16_000), RATE, target)


def test_clips_of_any_length_and_silence_are_defined(make_teacher):
    for family, samples in itertools.product(("whisper", "hubert-base"), (1, 100, 640)):
        teacher = make_teacher(family)
        waveform = torch.zeros(1, samples, requires_grad=True)
        features = teacher.features(waveform, RATE)
        assert features.shape[1] == max(1, samples // 320 if family == "whisper" else 1)
        features.sum().backward()
        assert features.isfinite().all() and waveform.grad.isfinite().all()
    with pytest.raises(AudioFormatError, match="not one sample at the teacher's rate of 16000 Hz"):
        make_teacher().features(torch.zeros(1, 1), 48_000)
    for padding in ("30s", "crop"):
        with pytest.raises(ConfigError, match=r"crop of 31 s is longer than the teacher .* hears at once, 30 s"):
            make_teacher(padding=padding).features(torch.zeros(1, 31 * RATE), RATE)


def test_frames_are_averaged_over_the_time_of_a_token():
    frames = torch.arange(8.0)[None, :, None] ** 2  # 0 1 4 9 16 25 36 49
    for ratio, expected in {
        2: [0.5, 6.5, 20.5, 42.5],
        4: [3.5, 31.5],
        8: [17.5],
        2.5: [(0 + 1 + 4 / 2) / 2.5, (4 / 2 + 9 + 16) / 2.5, (25 + 36 + 49 / 2) / 2.5],
        0.5: [0, 0, 1, 1, 4],
        3: [5 / 3, 50 / 3, (36 + 49) / 2],  # the last token has two frames only
    }.items():
        pooled, known = pool_frames(frames, None, ratio, len(expected))
        torch.testing.assert_close(pooled[0, :, 0], torch.tensor(expected, dtype=torch.float32))
        assert known.all()
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    pooled, known = pool_frames(frames.expand(2, -1, -1), mask, 2, 5)
    assert pooled[1, :, 0].tolist() == [0.5, 4, 0, 0, 0]
    assert known.tolist() == [[True] * 4 + [False], [True, True, False, False, False]]


def test_cosine_is_taken_along_time():
    made, target = torch.randn(2, 2, 6, 3)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    terms = []
    for row, size in enumerate((6, 4)):
        for d in range(3):
            a, b = made[row, :size, d], target[row, :size, d]
            cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
            terms.append(-math.log(1 / (1 + math.exp(-cosine))))
    assert float(cosine_distance(made, target, mask)) == pytest.approx(sum(terms) / 6, rel=1e-5)


@pytest.mark.parametrize("frame_rate", [25.0, 12.5, 6.25, 20.0])
def test_features_are_compared_at_the_token_rate(make_teacher, make_speechlike, frame_rate):
    teacher = make_teacher(padding="30s", distance="l1")
    recording = torch.stack([make_speechlike(RATE, seed=seed) for seed in range(2)])
    recording[1, 8_000:] = 0
    target = teacher.target(recording, RATE, torch.tensor([RATE, 8_000]))
    mode = make_distillation(DistillationConfig(mode="features"), teacher, dim=8, frame_rate=frame_rate)
    mode.requires_grad_(False)
    num_tokens = math.ceil(frame_rate)
    vectors = torch.randn(2, num_tokens, 8)
    heard, ratio = teacher.features(recording, RATE), 50 / frame_rate
    terms = []
    for row, frames in enumerate((50, 25)):
        for token in range(num_tokens):
            first, last = token * ratio, (token + 1) * ratio
            shares = [max(0.0, min(f + 1, last) - max(f, first)) for f in range(frames)]
            if sum(shares) > 0:
                mean = sum(share * heard[row, f] for f, share in enumerate(shares)) / sum(shares)
                terms.append(float((mode.projection(vectors[row, token]) - mean).abs().mean()))
    found = mode(teacher, target, vectors, nn.Identity(), None)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-4)


# mode -> what must have a gradient
GRADIENTS = {
    "none": (),
    "features": ("encoder", "projection"),
    "resynthesis-shared": ("encoder", "main"),
    "resynthesis-shared-stopped": ("encoder",),
    "resynthesis": ("encoder", "auxiliary"),
}


@pytest.mark.parametrize("family", ["whisper", "hubert-base"])
@pytest.mark.parametrize("mode", GRADIENTS)
def test_gradients_go_where_they_should_and_nowhere_else(make_teacher, make_speechlike, mode, family):
    teacher = make_teacher(family)
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    parts = {"encoder": nn.Linear(640, 8), "main": TinyDecoder(), "auxiliary": TinyDecoder()}
    distillation = make_distillation(DistillationConfig(mode=mode), teacher, dim=8, frame_rate=25.0)
    parts["projection"] = distillation
    recording = torch.stack([make_speechlike(4 * 640, seed=seed) for seed in range(2)])
    everything = nn.ModuleDict(parts).train()
    teacher.train()
    assert not any(part.training for part in teacher.modules())
    optimizer = torch.optim.SGD([*everything.parameters(), *teacher.parameters()], lr=0.1)
    vectors = parts["encoder"](recording.unflatten(1, (4, 640)))
    wants = {name: parameter.requires_grad for name, parameter in everything.named_parameters()}
    target = teacher.target(recording, RATE)
    loss = distillation(
        teacher, target, vectors, parts["main"], parts["auxiliary"] if distillation.uses_auxiliary else None
    )
    assert loss.shape == ()
    if mode == "none":
        assert loss == 0 and not loss.requires_grad
    else:
        loss.backward()
    for name, part in parts.items():
        gradients = [parameter.grad for parameter in part.parameters()]
        if name in GRADIENTS[mode]:
            assert gradients and all(gradient.abs().sum() > 0 for gradient in gradients), name
        else:
            assert all(gradient is None for gradient in gradients), name
    assert {name: parameter.requires_grad for name, parameter in everything.named_parameters()} == wants
    optimizer.step()
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_a_stopped_decoder_gives_the_same_loss_and_vectors_the_same_gradient(make_teacher, make_speechlike):
    teacher, decoder = make_teacher(), TinyDecoder()
    target = teacher.target(make_speechlike(4 * 640)[None], RATE)
    results = []
    for mode in ("resynthesis-shared", "resynthesis-shared-stopped"):
        vectors = torch.linspace(-1, 1, 32).reshape(1, 4, 8).requires_grad_()
        loss = make_distillation(DistillationConfig(mode=mode), teacher, dim=8, frame_rate=25.0)(
            teacher, target, vectors, decoder, None
        )
        results.append((loss.detach(), torch.autograd.grad(loss, vectors)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_decoders_of_two_rates_are_heard_alike(make_teacher, make_speechlike):
    """A decoder of 24 kHz and one of 16 kHz, 12.5 Hz each, against recordings of 24 kHz with a short last clip."""
    teacher = make_teacher()
    recording = torch.stack([make_speechlike(3 * 1_920, seed=seed, sample_rate=24_000) for seed in range(2)])
    target = teacher.target(recording, 24_000, torch.tensor([3 * 1_920, 1_920]))
    assert target.lengths.tolist() == [3 * 1_280, 1_280]
    for mode, decoder in (
        ("resynthesis-shared", TinyDecoder(sample_rate=24_000, hop_length=1_920)),
        ("resynthesis", TinyDecoder(sample_rate=16_000, hop_length=1_280)),
    ):
        distillation = make_distillation(DistillationConfig(mode=mode), teacher, dim=8, frame_rate=12.5)
        vectors = torch.randn(2, 3, 8)
        changed = vectors.clone()
        changed[1, 1:] = 7.0  # past the end of the second clip
        losses = [float(distillation(teacher, target, item, decoder, decoder).detach()) for item in (vectors, changed)]
        assert losses[0] > 0 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_kept_target_is_as_good_as_a_new_one(make_teacher, make_speechlike, tmp_path):
    recording = torch.stack([make_speechlike(6_400, seed=seed) for seed in range(2)])
    for padding in ("30s", "masked", "crop"):
        teacher = make_teacher(padding=padding)
        torch.save(teacher.target(recording, RATE).features, tmp_path / "features.pt")
        assert not teacher.target(recording, RATE).features.requires_grad
        kept = TeacherTarget(torch.load(tmp_path / "features.pt"))
        found = [teacher.distance(recording.flip(0), RATE, item) for item in (kept, teacher.target(recording, RATE))]
        assert found[0] == found[1] > 0
    keys = [str(make_teacher(padding=padding).description()) for padding in ("30s", "masked", "crop")]
    assert len(set(keys)) == 3
    assert str(make_teacher().description()) == keys[2]


def test_speech_is_pulled_towards_the_recording(make_teacher, make_speechlike):
    """Descending the loss by the waveform itself brings the teacher's features nearer, in autocast too."""
    teacher = make_teacher()
    target = teacher.target(make_speechlike(3_200)[None], RATE)
    waveform = (0.05 * torch.randn(1, 3_200)).requires_grad_()
    optimizer = torch.optim.Adam([waveform], lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = teacher.distance(waveform, RATE, target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_bad_settings_and_lengths_are_refused(make_teacher, folders, make_speechlike):
    hubert = EncoderConfig(name=str(folders["hubert-base"]), layer=2)
    with pytest.raises(
        ConfigError, match=r"teacher.padding is '30s', but only Whisper .* Set teacher.padding to 'crop'"
    ):
        load_teacher(TeacherConfig(encoder=hubert))
    with pytest.raises(ConfigError, match=r"encoder.layer is 9"):
        load_teacher(TeacherConfig(encoder=EncoderConfig(name=str(folders["whisper"]), layer=9)))
    with pytest.raises(ConfigError, match=r"teacher.encoder.padding is '30s'; leave it out"):
        TeacherConfig(encoder=EncoderConfig(padding="30s"))
    with pytest.raises(ConfigError, match=r"Unknown distillation.mode 'resynthesis-share'. Did you mean"):
        DistillationConfig(mode="resynthesis-share")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Unknown teacher.distance 'l2'"):
        TeacherConfig(distance="l2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"distillation.weight is -1"):
        DistillationConfig(weight=-1)
    teacher = make_teacher()
    target = teacher.target(make_speechlike(6_400)[None], RATE)
    with pytest.raises(ConfigError, match=r"hears \(1, 10, 32\) .* in 3200 samples .* but \(1, 20, 32\)"):
        teacher.distance(torch.zeros(1, 3_200), RATE, target)


def test_a_teacher_is_needed_where_anything_is_compared():
    assert not DistillationConfig(mode="none").needs_teacher
    assert DistillationConfig(mode="none", reconstruction_weight=1.0).needs_teacher
    assert all(DistillationConfig(mode=mode).needs_teacher for mode in GRADIENTS if mode != "none")  # type: ignore[arg-type]
