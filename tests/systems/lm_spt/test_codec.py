"""The codec and its training: lengths, reach, what learns and what does not, resuming, and what is refused."""

from dataclasses import replace

import pytest
import torch

from systems.lm_spt.tiny_codec import (
    HOP,
    MEL,
    RATE,
    VOCOS,
    VOICE,
    codec_config,
    tiny_config,
    weights_of,
    write_recordings,
)  # fmt: skip
from tiny import save_tiny_encoder
from vocable.audio.manifest import Rejections
from vocable.errors import ConfigError, NumericsError, OutputError
from vocable.features.speaker import SpeakerEncoder
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.systems.lm_spt import stages
from vocable.systems.lm_spt.data import CropData
from vocable.systems.lm_spt.decoders import Crops, SourceFilterCodecDecoder
from vocable.systems.lm_spt.mel import MelEncoder
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.stages import build_codec, train_codec
from vocable.systems.lm_spt.task import CodecBatch, CodecTask
from vocable.systems.lm_spt.tokenizer import LmSptTokenizer
from vocable.tokens import load_tokenizer
from vocable.training.logs import read_metrics
from vocable.training.vocoder_data import Content
from vocable.training.vocoder_losses import MultiScaleMelLoss


@pytest.fixture(autouse=True)
def tiny_speaker_encoder(monkeypatch):
    encoder = SpeakerEncoder(hidden_dim=4, embedding_dim=3).eval()
    monkeypatch.setattr(stages, "load_speaker_encoder", lambda name: encoder)


@pytest.fixture
def recordings(tmp_path, make_speechlike):
    return write_recordings(tmp_path, make_speechlike)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_tiny_encoder("whisper", tmp_path_factory.mktemp("teacher"))


def trained_codec(config) -> LmSptCodec:
    """A codec whose codebooks have their first values."""
    codec = build_codec(config)
    codec.train()
    for seed in range(4):
        codec.quantizer(
            *(torch.randn(4, 20, 6, generator=torch.Generator().manual_seed(seed + add)) for add in (0, 50))
        )
    assert codec.has_codebooks
    return codec.eval()


@pytest.mark.parametrize("num_samples", [1, HOP - 1, HOP, HOP + 1, 5 * HOP + 17])
def test_any_length_gives_whole_tokens_and_as_many_samples(num_samples):
    codec = trained_codec(tiny_config())
    semantic, acoustic = codec.encode(torch.randn(num_samples) * 0.1)
    tokens = -(-num_samples // HOP)
    assert codec.num_tokens(num_samples) == tokens
    assert semantic.shape == (1, tokens) and acoustic.shape == (2, tokens)
    for levels in (acoustic, acoustic[:1], None):
        waveform = codec.decode(semantic, levels)
        assert waveform.shape == (tokens * HOP,) and waveform.isfinite().all()


@pytest.mark.parametrize(
    ("network", "count", "width"),
    [
        (lambda: MelEncoder(MEL, RATE, HOP, 6), 40, None),
        (lambda: SourceFilterCodecDecoder(VOICE, 6, 12.5), 40, 6),
    ],
)
def test_reach_is_how_far_a_token_matters(network, count, width):
    net = network().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = torch.randn(1, count * HOP) if width is None else torch.randn(1, count, width)
    before, after = net.reach
    changed = given.clone()
    per_token = HOP if width is None else 1
    changed[:, 20 * per_token : 21 * per_token] += 0.3
    with torch.inference_mode():
        if width is None:
            difference = (net(given) - net(changed)).abs().amax(-1)[0]
        else:  # F0 adds up in the phase: everything else is compared
            found, other = net.frames(given), net.frames(changed)
            prosody = found.prosody._replace(f0=torch.full_like(found.prosody.f0, 100.0))
            apart = (net.spoken(found, prosody) - net.spoken(other, prosody)).abs()[0, : count * HOP]
            difference = apart.view(count, HOP).amax(-1)
    touched = difference.nonzero()[:, 0]
    assert 20 - after <= int(touched.min()) and int(touched.max()) <= 20 + before
    assert difference[20] > 1e-4


def test_a_shared_encoder_has_one_set_of_weights():
    shared = LmSptCodec(codec_config(shared="encoder"))
    assert shared.acoustic_encoder is None
    semantic, acoustic = shared.features(torch.randn(2, 3 * HOP + 5))
    assert semantic.shape == (2, 4, 6) and acoustic is semantic


def make_crops(codec, recordings) -> Crops:
    encoder = SpeakerEncoder(hidden_dim=4, embedding_dim=3).eval()
    data = CropData(recordings, codec.decoder, crop_samples=10 * HOP, batch_size=3, loudness_db=-27.0, encoder=encoder)
    return data[0]


def test_gradients_go_where_each_loss_may_change_something(recordings, teacher):
    """The distance reaches the semantic side and the auxiliary decoder; the auxiliary's own mel that decoder only."""
    config = tiny_config(teacher, auxiliary_weight=1.0)
    codec = trained_codec(config)
    task = CodecTask(codec, config, None, None, {}, lambda *_: None)  # type: ignore[arg-type]  # no data is drawn
    crops = make_crops(codec, recordings)
    task.trainee.train()

    def touched(value: torch.Tensor) -> set[str]:
        codec.zero_grad()
        value.backward(retain_graph=True)
        return {
            name.split(".")[0] for name, weights in codec.named_parameters()
            if weights.grad is not None and weights.grad.abs().sum() > 0
        }  # fmt: skip

    heard = task.trainee(crops, True, True, task._target(crops), True)
    assert touched(heard.distance) == {"semantic_encoder", "auxiliary"}
    assert touched(task._auxiliary_mel(heard.auxiliary, crops.waveforms)) == {"auxiliary"}
    everything = {"semantic_encoder", "acoustic_encoder", "decoder"}
    assert touched(task.mel(heard.output.taught.waveforms, crops.waveforms)) == everything
    frozen = {name: weights.clone() for name, weights in task.teacher.state_dict().items()}
    total = task._codec_sum(heard, CodecBatch(crops, heard)).total
    total.backward()
    task.learners["codec"].optimizer.step()
    assert all(torch.equal(weights, frozen[name]) for name, weights in task.teacher.state_dict().items())


def test_losses_add_up_as_in_dac(recordings, teacher):
    """15 mel + 2 features + adversarial + quantizer + 500 distance, each summed over its parts as DAC does."""
    weights = {"mel_weight": 15.0, "feature_weight": 2.0, "adversarial_weight": 1.0, "stft_weight": 0.0}
    config = tiny_config(teacher, codec_config(decoder=VOCOS), loss_scale="dac", adversarial_from=0.0, **weights)
    config = replace(config, distillation=replace(config.distillation, weight=500.0))
    codec = trained_codec(config)
    task = CodecTask(codec, config, None, None, {}, lambda *_: None)  # type: ignore[arg-type]  # no data is drawn
    crops = make_crops(codec, recordings)
    with torch.no_grad():
        heard = task.trainee(crops, True, True, task._target(crops), False)
        made, real = heard.output.taught.waveforms, crops.waveforms
        total = task._codec_sum(heard, CodecBatch(crops, heard, judged=(made, real))).total
        adversarial, features = 0.0, 0.0
        for fake, true in zip(task.discriminators(made), task.discriminators(real), strict=True):
            adversarial += float(((1 - fake.scores) ** 2).mean())
            features += sum(float((a - b).abs().mean()) for a, b in zip(fake.features, true.features, strict=True))
        mel = float(MultiScaleMelLoss.dac(RATE)(made, real))
        quantizer = float(heard.output.quantized.loss)
        expected = 15 * mel + 2 * features + adversarial + quantizer + 500 * float(heard.distance)
    assert min(mel, features, adversarial, quantizer, float(heard.distance)) > 1e-3
    assert float(total) == pytest.approx(3 * expected, rel=1e-5)  # of three crops


def test_training_learns_and_writes_a_tokenizer(recordings, teacher, tmp_path):
    config = tiny_config(
        teacher, max_steps=60, learning_rate=5e-3, log_every=10, validate_every=30, auxiliary_weight=0.5
    )
    result = train_codec(config, recordings, tmp_path / "run", recordings[:1], show=False)
    first, last = result.train_curve[0], result.train_curve[-1]
    for name in ("mel", "stft", "distillation", "pitch", "auxiliary"):
        assert last[name] < first[name], name
    assert result.valid_curve[-1]["mel"] == result.valid_curve[-1]["loss"]
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert isinstance(tokenizer, LmSptTokenizer)
    assert [str(stream) for stream in tokenizer.streams] == ["8 codes, 12.5 Hz", "8 x 8 codes, 12.5 Hz"]
    assert tokenizer.bits_per_second == pytest.approx(12.5 * 9)
    tokens = tokenizer.encode([torch.randn(3 * HOP) * 0.05])
    assert tokenizer.decode(tokens)[0].shape == (3 * HOP,)


@pytest.mark.parametrize("adversarial_from", [None, 0.4])
def test_a_stopped_run_goes_on_to_the_same_weights(recordings, teacher, tmp_path, adversarial_from):
    config = tiny_config(teacher, adversarial_from=adversarial_from)
    train_codec(config, recordings, tmp_path / "whole", recordings[:1], show=False)
    train_codec(config, recordings, tmp_path / "parts", recordings[:1], stop_at_step=3, show=False)
    assert not (tmp_path / "parts" / "tokenizer").exists()
    train_codec(config, recordings, tmp_path / "parts", recordings[:1], show=False)
    whole, parts = (weights_of(tmp_path / name / "tokenizer") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole) and len(whole) == len(parts)
    if adversarial_from is not None:
        lines = read_metrics(tmp_path / "whole" / "training")
        assert "discriminator" not in lines[0] and lines[-2]["discriminator"] > 0


def test_crops_are_drawn_at_their_places_and_levels(recordings):
    codec = LmSptCodec(codec_config())
    crops = make_crops(codec, recordings)
    assert crops.waveforms.shape == (3, 10 * HOP) and crops.f0.shape == (3, 64)
    short = CropData(recordings[1:2], codec.decoder, crop_samples=10 * HOP, loudness_db=None, gain_db=(6.0, 6.0))[0]
    assert short.lengths.tolist() == [round(0.3 * RATE)] and not short.waveforms[0, round(0.3 * RATE) :].any()
    plain = CropData(recordings[1:2], codec.decoder, crop_samples=10 * HOP, loudness_db=None)[0]
    torch.testing.assert_close(short.waveforms, plain.waveforms * 10 ** (6 / 20))
    without = LmSptCodec(codec_config(decoder=VOCOS))
    bare = CropData(recordings, without.decoder, crop_samples=10 * HOP, loudness_db=None)[5]
    assert bare.f0.shape == (1, 0) and bare.waveforms.abs().max() > 0


def test_content_is_taught_where_phonemes_are_known(recordings):
    codec = LmSptCodec(codec_config())
    vectors = torch.arange(8.0).view(2, 4)

    def targets(utterance, num_frames):
        places = torch.arange(num_frames) * 2 // num_frames  # two symbols, half of the recording each
        return Content(vectors, torch.tensor([5, 6]), places) if utterance.id != "clip-2" else None

    known = CropData(recordings[:1], codec.decoder, crop_samples=10 * HOP, targets=targets)
    crops, frames = known.whole(0, 12000, HOP), 120  # 1.5 s at 80 frames a second
    assert crops.has_content[0].tolist() == [True] * frames + [False] * (crops.f0.shape[1] - frames)
    assert torch.equal(crops.content[0, : frames // 2], vectors[:1].expand(frames // 2, -1))
    assert torch.equal(crops.content[0, frames // 2 : frames], vectors[1:].expand(frames // 2, -1))
    with torch.no_grad():
        codec.decoder.content_deviation.fill_(2.0)
        vectors_of_tokens = torch.randn(1, crops.waveforms.shape[1] // HOP, 6)
        found = codec.decoder.frames(vectors_of_tokens).content[0]
        loss = codec.decoder.taught(vectors_of_tokens, crops).losses["content"]
    count = min(frames, len(found))
    wanted = sum(((found[t] - crops.content[0, t]) / 2).square().mean() for t in range(count)) / count
    torch.testing.assert_close(loss, wanted)
    without = CropData(recordings[2:3], codec.decoder, crop_samples=10 * HOP, targets=targets)[0]
    assert (
        not without.has_content.any()
        and "content" not in codec.decoder.taught(vectors_of_tokens[:, :10], without).losses
    )


def test_sound_is_made_from_its_share_on(recordings, tmp_path):
    config = tiny_config(waveform_from=0.5, adversarial_from=0.0)
    result = train_codec(config, recordings, tmp_path / "run", recordings[:1], show=False)
    silent, sounding = result.train_curve[:3], result.train_curve[3:]
    assert all("mel" not in line and "discriminator" not in line and line["pitch"] > 0 for line in silent)
    assert all(line["mel"] > 0 and line["discriminator"] > 0 for line in sounding) and len(sounding) == 3


def test_training_goes_on_from_a_trained_codec(recordings, tmp_path):
    config = tiny_config()
    train_codec(config, recordings, tmp_path / "first", recordings[:1], show=False)
    tuned = replace(config, fine_tune=str(tmp_path / "first" / "tokenizer"))
    codec, wanted = build_codec(tuned), load_tokenizer(tmp_path / "first" / "tokenizer").codec
    for name, weights in wanted.named_parameters():
        assert torch.equal(dict(codec.named_parameters())[name], weights), name
    before = codec.quantizer.semantic.codebook.clone()
    codec.train()
    codec.quantizer(torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))  # one frame moves no entry far
    # an entry that got no frame stays, for its averages shrink together
    moved = (codec.quantizer.semantic.codebook - before).abs().amax(1)
    assert int((moved > 1e-4).sum()) <= 1
    other = replace(tuned, codec=codec_config(encoder=replace(MEL, dim=128)))
    with pytest.raises(ConfigError, match=r"shares \d+% of the weights"):
        build_codec(other)


def test_training_at_another_rate_goes_on_from_the_networks(recordings, tmp_path):
    torch.manual_seed(4)
    first = LmSptCodec(codec_config())
    with torch.no_grad():
        first.decoder.content_mean.normal_()
    LmSptTokenizer.of_codec(first.eval(), "first").save_pretrained(tmp_path / "first")
    faster = codec_config(
        frame_rate=2 * first.config.frame_rate,
        encoder=replace(MEL, stride=MEL.stride // 2),
        decoder=replace(VOICE, stride=VOICE.stride // 2),
    )
    codec = build_codec(replace(tiny_config(codec=faster), fine_tune=str(tmp_path / "first")))
    fresh = build_codec(tiny_config(codec=faster))
    before, own = dict(first.named_parameters()), dict(fresh.named_parameters())
    new = []
    for name, weights in codec.named_parameters():
        fits = name in before and before[name].shape == weights.shape
        assert torch.equal(weights, before[name] if fits else own[name]), name
        new += [] if fits else [name]
    assert any("up" in name for name in new) and not codec.has_codebooks
    assert torch.equal(codec.decoder.content_mean, first.decoder.content_mean)


def test_unreadable_recordings_are_noted_and_others_drawn(recordings, tmp_path):
    codec = LmSptCodec(codec_config())
    broken = replace(recordings[0], id="broken", audio=tmp_path / "broken.flac")
    broken.audio.write_bytes(b"not audio")
    rejections = Rejections(tmp_path / "out")
    data = CropData([broken, recordings[2]], codec.decoder, crop_samples=HOP, batch_size=8, rejections=rejections)
    assert data[0].waveforms.shape == (8, HOP) and rejections.count == 1


def test_frozen_weights_are_named_and_not_stored(tmp_path, recordings):
    torch.manual_seed(3)
    vocoder = UnitVocoder(VocoderConfig(codebook_size=4, decoder=VOICE.source))
    for parameter in vocoder.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vocoder.save_pretrained(tmp_path / "voices")
    config = tiny_config(codec=codec_config(decoder=replace(VOICE, weights=str(tmp_path / "voices"))))
    train_codec(config, recordings, tmp_path / "run", recordings[:1], show=False)
    assert not any(".source." in name for name in weights_of(tmp_path / "run" / "tokenizer"))
    codec = load_tokenizer(tmp_path / "run" / "tokenizer").codec
    wanted = vocoder.decoder.state_dict()
    assert all(torch.equal(weights, wanted[name]) for name, weights in codec.decoder.source.state_dict().items())
    borrower = replace(VOICE, weights=str(tmp_path / "run" / "tokenizer"))
    with pytest.raises(ConfigError, match="name where its is from"):
        LmSptCodec(codec_config(decoder=borrower))


def test_a_codec_lends_its_decoder(tmp_path):
    torch.manual_seed(5)
    lender = LmSptCodec(codec_config())
    with torch.no_grad():
        lender.decoder.content_mean.normal_()
    LmSptTokenizer.of_codec(lender.eval(), "lender").save_pretrained(tmp_path / "lender")
    codec = LmSptCodec(codec_config(decoder=replace(VOICE, weights=str(tmp_path / "lender"))))
    wanted = lender.decoder.source.state_dict()
    assert all(torch.equal(weights, wanted[name]) for name, weights in codec.decoder.source.state_dict().items())
    assert torch.equal(codec.decoder.content_mean, lender.decoder.content_mean) and codec.decoder.borrowed()
    with pytest.raises(ConfigError, match="other sizes"):
        LmSptCodec(
            codec_config(
                decoder=replace(VOICE, weights=str(tmp_path / "lender"), source=replace(VOICE.source, num_layers=3))
            )
        )


def test_what_does_not_fit_is_refused(recordings, tmp_path):
    with pytest.raises(ConfigError, match="shorter than a token"):
        tiny_config(crop_seconds=0.05)
    with pytest.raises(ConfigError, match=r"training.top_hz is 3000.0, but DAC's mel distance"):
        tiny_config(loss_scale="dac", top_hz=3000.0)
    with pytest.raises(ConfigError, match=r"codec.dim is 5"):
        codec_config(dim=5)
    with pytest.raises(ConfigError, match="whole number of samples"):
        codec_config(frame_rate=7.3)
    with pytest.raises(ConfigError, match="'transformer'"):
        codec_config(shared="transformer")
    with pytest.raises(ConfigError, match="cannot share evenly"):
        LmSptCodec(codec_config(encoder=replace(MEL, stride=7)))
    codec = trained_codec(tiny_config())
    semantic, acoustic = codec.encode(torch.randn(2 * HOP))
    with pytest.raises(ConfigError, match="codebook has"):
        codec.decode(semantic + 8, acoustic)
    with pytest.raises(ConfigError, match="3 levels"):
        codec.decode(semantic, torch.cat([acoustic, acoustic[:1]]))
    train_codec(tiny_config(), recordings, tmp_path / "run", recordings[:1], stop_at_step=3, show=False)
    with pytest.raises(OutputError):
        train_codec(tiny_config(codec=codec_config(decoder=VOCOS)), recordings, tmp_path / "run", show=False)


def test_a_loss_that_is_not_finite_stops_and_keeps_checkpoints(recordings, tmp_path):
    config = tiny_config(max_steps=9, learning_rate=1e-3)
    train_codec(config, recordings, tmp_path / "run", recordings[:1], stop_at_step=3, show=False)
    kept = sorted((tmp_path / "run" / "training").rglob("*.safetensors"))
    bad = tiny_config(max_steps=9, learning_rate=1e-3, prosody_weight=float("nan"))
    with pytest.raises((NumericsError, OutputError)):
        train_codec(bad, recordings, tmp_path / "run", recordings[:1], show=False)
    with pytest.raises(NumericsError, match="at step 1"):
        train_codec(bad, recordings, tmp_path / "other", recordings[:1], show=False)
    assert all(path.is_file() for path in kept)


def test_silence_passes(recordings, tmp_path):
    tokenizer = LmSptTokenizer.of_codec(trained_codec(tiny_config()), "tiny")
    (tokens,) = tokenizer.encode([torch.zeros(5 * HOP)])
    (waveform,) = tokenizer.decode([tokens])
    assert waveform.shape == (5 * HOP,) and waveform.isfinite().all()
