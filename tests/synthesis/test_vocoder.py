"""The vocoder: shapes, durations, pitch, saving, refusals; its spectra against torch's own."""

import math

import pytest
import torch

from vocable.errors import AssetError, ConfigError, FingerprintError, UnknownNameError
from vocable.features.pitch import REFERENCE_HZ, Pitch, measure_pitch
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.excitation import harmonics
from vocable.synthesis.layers import DurationPredictor, frame_signal, overlap_add
from vocable.types import SpeechTokens

SMALL = {"codebook_size": 20, "dim": 16, "hidden_dim": 32, "num_layers": 2, "prosody_dim": 8, "pitch_layers": 1}


def make_vocoder(**settings) -> UnitVocoder:
    torch.manual_seed(0)
    vocoder = UnitVocoder(VocoderConfig(**SMALL | settings)).eval()
    for parameter in vocoder.parameters():  # zero biases would hide errors
        torch.nn.init.normal_(parameter, std=0.2)
    return vocoder


def make_units(num: int, seed: int = 0, codebooks: int = 1) -> torch.Tensor:
    return torch.randint(0, 20, (codebooks, num), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("excitation", ["none", "harmonic"])
@pytest.mark.parametrize(
    ("token_frame_rate", "hop_length", "n_fft"), [(50.0, 160, 640), (25.0, 320, 960), (50.0, 320, 1280)]
)
def test_waveform_lasts_as_long_as_its_frames(excitation, token_frame_rate, hop_length, n_fft):
    vocoder = make_vocoder(excitation=excitation, token_frame_rate=token_frame_rate, hop_length=hop_length, n_fft=n_fft)
    durations = torch.tensor([3, 1, 4])
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(3), durations=durations)])
    assert waveform.shape == (8 * 16_000 / token_frame_rate,)
    assert waveform.abs().max() <= 1


def test_runs_and_their_frames_sound_the_same():
    vocoder = make_vocoder(collapsed=False)
    durations = torch.tensor([3, 1, 4])
    units = make_units(3)
    runs, frames = vocoder.synthesize(
        [
            SpeechTokens(codes=units, durations=durations),
            SpeechTokens(codes=units.repeat_interleave(durations, 1)),
        ]
    )
    assert torch.equal(runs, frames)


def test_durations_are_predicted_and_at_least_one():
    vocoder = make_vocoder()
    torch.nn.init.constant_(vocoder.duration_predictor.proj.bias, -50.0)  # asks for less than no frames
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(7))])
    assert len(waveform) == 7 * 320
    torch.nn.init.zeros_(vocoder.duration_predictor.proj.weight)
    torch.nn.init.constant_(vocoder.duration_predictor.proj.bias, math.log(1 + 4))
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(7))])
    assert len(waveform) == 7 * 4 * 320


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_duration_predictor_keeps_length_for_any_kernel(kernel_size):
    predictor = DurationPredictor(8, 8, kernel_size).eval()
    assert predictor(torch.randn(2, 9, 8)).shape == (2, 9)


def test_padding_does_not_change_predicted_durations():
    predictor = DurationPredictor(8, 8).eval()
    runs = torch.randn(1, 6, 8)
    padded = torch.cat([runs, torch.full((1, 4, 8), 7.0)], 1)
    mask = torch.arange(10)[None] < 6
    torch.testing.assert_close(predictor(padded, mask)[:, :6], predictor(runs))


def test_result_does_not_depend_on_batch_mates():
    vocoder = make_vocoder(voices=("ann", "bob"))
    items = [SpeechTokens(codes=make_units(length, seed=length)) for length in (3, 11, 6)]
    together = vocoder.synthesize(items, voice="bob")
    for item, waveform in zip(items, together):
        assert torch.equal(vocoder.synthesize([item], voice="bob")[0], waveform)


def test_voices_differ_and_the_first_is_the_default():
    vocoder = make_vocoder(voices=("ann", "bob"))
    tokens = [SpeechTokens(codes=make_units(9), durations=torch.ones(9, dtype=torch.long))]
    ann, bob = vocoder.synthesize(tokens, "ann")[0], vocoder.synthesize(tokens, "bob")[0]
    assert vocoder.voices == ["ann", "bob"]
    assert torch.equal(vocoder.synthesize(tokens)[0], ann)
    assert not torch.allclose(ann, bob)
    with pytest.raises(UnknownNameError, match=r"Unknown voice 'bobb'\. Did you mean 'bob'"):
        vocoder.synthesize(tokens, "bobb")
    assert torch.equal(vocoder.with_voices(["bob"]).synthesize(tokens)[0], bob)


def test_codes_of_several_codebooks_are_summed():
    vocoder = make_vocoder(num_codebooks=3)
    codes = make_units(5, codebooks=3)
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=codes, durations=torch.ones(5, dtype=torch.long))])
    assert len(waveform) == 5 * 320
    expected = sum(vocoder.unit_embedding.weight[codes[k] + 20 * k] for k in range(3))
    found = vocoder.embed(codes[None], None, vocoder.unit_embedding, None)[0]
    torch.testing.assert_close(found, expected)


def test_negative_ids_are_dropped_with_their_durations():
    vocoder = make_vocoder()
    units, durations = make_units(4), torch.tensor([2, 1, 3, 1])
    holes = torch.tensor([[units[0, 0], -1, units[0, 1], units[0, 2], -1, units[0, 3]]])
    with_holes = SpeechTokens(codes=holes, durations=torch.tensor([2, 9, 1, 3, 9, 1]))
    plain, dropped = vocoder.synthesize([SpeechTokens(codes=units, durations=durations), with_holes])
    assert torch.equal(plain, dropped)
    assert len(vocoder.synthesize([SpeechTokens(codes=torch.full((1, 3), -1))])[0]) == 0


def test_tokens_of_another_codebook_are_refused():
    vocoder = make_vocoder(tokenizer_fingerprint="aaaa1111")
    with pytest.raises(FingerprintError, match=r"hold the id 25.* codebook of 20"):
        vocoder.synthesize([SpeechTokens(codes=torch.tensor([[3, 25]]))])
    with pytest.raises(FingerprintError, match="2 codebooks, but this vocoder reads 1"):
        vocoder.synthesize([SpeechTokens(codes=make_units(4, codebooks=2))])


def test_codebooks_may_differ_in_size():
    vocoder = make_vocoder(codebook_size=20, num_codebooks=3, codebook_sizes=(4, 20, 7), collapsed=False)
    assert vocoder.unit_embedding.weight.shape[0] == 31
    codes = torch.tensor([[3], [19], [6]])
    table = vocoder.unit_embedding.weight
    found = vocoder.embed(codes[None], None, vocoder.unit_embedding, None)[0, 0]
    torch.testing.assert_close(found, table[3] + table[4 + 19] + table[24 + 6])  # a block of rows per codebook
    with pytest.raises(FingerprintError, match=r"hold the id 4.* codebook of 4"):
        vocoder.synthesize([SpeechTokens(codes=torch.tensor([[4], [4], [4]]))])
    with pytest.raises(ConfigError, match="it must name 3 sizes"):
        make_vocoder(codebook_size=20, num_codebooks=3, codebook_sizes=(4, 20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop_length": 150, "n_fft": 600}, "a token lasts 320 samples"),
        ({"n_fft": 700}, "n_fft is 700"),
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"voices": ("a", "a")}, "names a voice twice"),
        ({"codebook_size": 0}, "codebook_size is 0"),
    ],
)
def test_impossible_configs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VocoderConfig(**SMALL | settings)


def test_saved_vocoder_sounds_the_same(tmp_path):
    vocoder = make_vocoder(voices=("ann",), tokenizer_fingerprint="aaaa1111")
    vocoder.save_pretrained(tmp_path / "vocoder")
    loaded = UnitVocoder.from_pretrained(tmp_path / "vocoder")
    tokens = [SpeechTokens(codes=make_units(12))]
    assert loaded.config == vocoder.config
    assert torch.equal(loaded.synthesize(tokens)[0], vocoder.synthesize(tokens)[0])
    assert "aaaa1111" in (tmp_path / "vocoder" / "README.md").read_text()
    (tmp_path / "vocoder" / "config.json").write_text('{"vocable_class": "Other"}')
    with pytest.raises(AssetError, match="vocable_class is 'Other'"):
        UnitVocoder.from_pretrained(tmp_path / "vocoder")
    with pytest.raises(AssetError, match=r"no config\.json"):
        UnitVocoder.from_pretrained(tmp_path)


def test_overlap_add_equals_torch_istft():
    window = torch.hann_window(64)
    spectra = torch.randn(2, 11, 33, dtype=torch.complex64)
    spectra[..., 0].imag.zero_()
    spectra[..., -1].imag.zero_()
    ours = overlap_add(spectra, window, 16)
    theirs = torch.istft(spectra.mT, 64, 16, window=window, center=True)
    assert ours.shape == (2, 11 * 16)
    # torch puts sample 0 in the middle of the first window, we half a hop before it
    torch.testing.assert_close(ours[:, 8 : 8 + theirs.shape[1]], theirs, atol=1e-5, rtol=1e-4)


def test_overlap_add_undoes_framing():
    window, signal = torch.hann_window(64), torch.randn(2, 160)
    spectra = frame_signal(signal, window, 16)
    assert spectra.shape == (2, 10, 33)
    torch.testing.assert_close(overlap_add(spectra, window, 16), signal, atol=1e-5, rtol=1e-4)


def test_harmonics_equal_a_sum_of_cosines():
    pitch = Pitch(torch.log(torch.full((1, 5), 220.0) / REFERENCE_HZ), torch.ones(1, 5, dtype=torch.bool))
    found = harmonics(pitch, 16_000, 320)[0]
    time = torch.arange(1600, dtype=torch.float64) / 16_000
    count = 8000 // 220
    expected = sum(torch.cos(2 * math.pi * 220 * k * time) for k in range(1, count + 1)) * math.sqrt(2 / count)
    # log and exp of the pitch round in float32: 1e-7 relative, times the phase of the highest harmonic (5e3 rad)
    torch.testing.assert_close(found.double(), expected, atol=5e-3, rtol=0)
    silent = harmonics(Pitch(pitch.log_f0, ~pitch.voiced), 16_000, 320)
    assert silent.abs().max() == 0


@pytest.mark.parametrize("hertz", [80.0, 131.0, 250.0])
def test_measured_pitch_is_the_one_played(hertz):
    pitch = Pitch(torch.log(torch.full((1, 40), hertz) / REFERENCE_HZ), torch.ones(1, 40, dtype=torch.bool))
    waveform = 0.1 * harmonics(pitch, 16_000, 320)
    waveform = torch.cat([waveform, 0.02 * torch.randn(1, 40 * 320)], 1)
    found = measure_pitch(waveform, 16_000, 320)
    assert found.voiced.shape == (1, 80)
    assert found.voiced[0, 2:36].all()
    assert found.voiced[0, 44:].float().mean() < 0.1
    f0 = REFERENCE_HZ * found.log_f0[0, 2:36].exp()
    torch.testing.assert_close(f0, torch.full((34,), hertz), atol=0.01 * hertz, rtol=0)
