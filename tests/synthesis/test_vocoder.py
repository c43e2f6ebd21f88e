"""The unit vocoder: lengths, durations, voices, prosody, saving, refusals; pitch and energy of recordings."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch

from synthesis.small_vocoders import as_frames, make_config, make_units, make_vocoder
from vocable.audio.io import Audio
from vocable.audio.waveforms import resample
from vocable.audio.writing import write_audio
from vocable.errors import AssetError, AudioFormatError, ConfigError, FingerprintError, UnknownNameError
from vocable.features.pitch import (
    ENERGY_PER_NEPER,
    LEAST_ENERGY,
    LOUD_ENERGY,
    REFERENCE_HZ,
    Pitch,
    Prosody,
    bridge_voicing,
    measure_energy,
    measure_pitch,
    measure_prosody,
)
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import LEAST_SPREAD, Speaker, find_speaker, pitch_of
from vocable.synthesis import UnitVocoder
from vocable.synthesis.layers import DurationPredictor, overlap_add
from vocable.types import SpeechTokens

MANY = {"speaker_dim": 12}


def make_buzz(seconds: float, hertz: float, sample_rate: int = 16_000, swing: float = 0.0) -> torch.Tensor:
    """Harmonics of a pitch that swings by `swing` (log) once a second."""
    time = torch.arange(int(seconds * sample_rate), dtype=torch.float64) / sample_rate
    f0 = hertz * torch.exp(swing * torch.sin(2 * math.pi * time))
    phase = 2 * math.pi * (f0 / sample_rate).cumsum(0)
    loud = 1 + 0.5 * torch.sin(2 * math.pi * 3 * time)
    return (0.05 * loud * sum(torch.sin(k * phase) / k for k in range(1, 12))).float()


def give_encoder(vocoder: UnitVocoder) -> SpeakerEncoder:
    """Give a vocoder a speaker encoder of random weights."""
    torch.manual_seed(5)
    vocoder._encoder[:] = [SpeakerEncoder(hidden_dim=16, embedding_dim=vocoder.config.decoder.speaker_dim or 1).eval()]
    return vocoder._encoder[0]


@torch.no_grad()
def predicted_pitch(vocoder: UnitVocoder, vector: torch.Tensor) -> torch.Tensor:
    """Mean and spread that a vocoder expects of a voice it knows the vector of."""
    mean, spread = vocoder.pitch_of_vector(vector).tolist()
    return torch.tensor([mean, max(spread, LEAST_SPREAD)])


@pytest.mark.parametrize("num", [1, 2, 3, 7, 31, 40])
@pytest.mark.parametrize("rate", [50.0, 12.5, 75.0, 80.0, 21.53, 86.1328125])
def test_waveform_lasts_as_long_as_its_tokens(rate, num):
    vocoder = make_vocoder(token_frame_rate=rate, collapsed=False)
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(num))])
    assert len(waveform) == round(num * 8000 / rate)
    assert waveform.abs().max() <= 1 and waveform.isfinite().all() and waveform.abs().sum() > 0


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
    assert len(waveform) == 7 * 160
    torch.nn.init.zeros_(vocoder.duration_predictor.proj.weight)
    torch.nn.init.constant_(vocoder.duration_predictor.proj.bias, math.log(1 + 4))
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(7))])
    assert len(waveform) == 7 * 4 * 160
    slow = make_vocoder(duration_scale=1.5)
    slow.load_state_dict(vocoder.state_dict())
    assert len(slow.synthesize([SpeechTokens(codes=make_units(7))])[0]) == 7 * 6 * 160


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
    vocoder = make_vocoder(voices=("ann", "bob"), decoder=MANY)
    items = [SpeechTokens(codes=make_units(length, seed=length)) for length in (3, 11, 6)]
    together = vocoder.synthesize(items, voice="bob")
    for item, waveform in zip(items, together, strict=True):
        assert torch.equal(vocoder.synthesize([item], voice="bob")[0], waveform)


def test_voices_differ_and_the_first_is_the_default():
    vocoder = make_vocoder(voices=("ann", "bob"), decoder=MANY)
    tokens = [as_frames(9)]
    ann, bob = vocoder.synthesize(tokens, "ann")[0], vocoder.synthesize(tokens, "bob")[0]
    assert vocoder.voices == ["ann", "bob"]
    assert torch.equal(vocoder.synthesize(tokens)[0], ann)
    assert not torch.allclose(ann, bob)
    with pytest.raises(UnknownNameError, match=r"Unknown voice 'bobb'\. Did you mean 'bob'"):
        vocoder.synthesize(tokens, "bobb")
    kept = vocoder.with_voices({"bob": vocoder.speaker("bob")})
    assert kept.voices == ["bob"]
    assert torch.equal(kept.synthesize(tokens)[0], bob)


def test_a_decoder_with_one_voice_has_it_without_a_name():
    vocoder = make_vocoder()
    assert vocoder.voices == []
    changed = vocoder.with_voices({"": Speaker(torch.zeros(1), torch.tensor([5.5, 0.1]))})
    assert changed.voices == []
    assert changed.speaker().pitch is not None
    torch.testing.assert_close(changed.speaker().pitch, torch.tensor([5.5, 0.1]))
    with pytest.raises(UnknownNameError):
        vocoder.synthesize([as_frames(4)], "ann")


def test_a_voice_may_be_a_vector_whose_pitch_is_predicted():
    vocoder = make_vocoder(voices=("ann",), decoder=MANY)
    vector = torch.nn.functional.normalize(torch.randn(12), dim=0)
    speaker = vocoder.speaker(vector)
    assert torch.equal(speaker.vector, vector) and speaker.pitch is not None
    torch.testing.assert_close(speaker.pitch, predicted_pitch(vocoder, vector))
    tokens = [as_frames(9)]
    (heard,) = vocoder.synthesize(tokens, vector)
    assert not torch.allclose(heard, vocoder.synthesize(tokens)[0])
    assert torch.equal(heard, vocoder.with_voices({"me": speaker}).synthesize(tokens, "me")[0])
    assert torch.equal(heard, vocoder.synthesize(tokens, speaker)[0])
    assert not torch.allclose(heard, vocoder.synthesize(tokens, speaker._replace(pitch=speaker.pitch + 0.3))[0])
    fresh = UnitVocoder(make_config(decoder=MANY))  # knows nothing of any voice yet
    torch.testing.assert_close(fresh.speaker(vector).pitch, torch.tensor([math.log(160), 0.25]))


def test_the_spread_of_a_predicted_pitch_is_never_below_that_of_speakers():
    vocoder = make_vocoder(decoder=MANY)
    vocoder.pitch_of_vector.bias.data = torch.tensor([5.0, -3.0])
    pitch = vocoder.speaker(torch.randn(12)).pitch
    assert pitch is not None and float(pitch[1]) >= LEAST_SPREAD - 1e-6


def test_a_voice_may_be_a_recording(tmp_path: Path):
    vocoder = make_vocoder(voices=("ann",), decoder=MANY)
    encoder = give_encoder(vocoder)
    recording = make_buzz(3.0, 180.0, swing=0.2)
    speaker = vocoder.speaker(Audio(recording, 16_000))
    torch.testing.assert_close(speaker.vector, encoder.embed(recording))
    assert speaker.pitch is not None
    assert float(speaker.pitch[0].exp()) == pytest.approx(180, rel=0.02)
    assert float(speaker.pitch[1]) == pytest.approx(0.2 / math.sqrt(2), rel=0.1)  # deviation of a sine
    tokens = [as_frames(12)]
    heard = vocoder.synthesize(tokens, Audio(recording, 16_000))[0]
    assert torch.equal(heard, vocoder.with_voices({"me": speaker}).synthesize(tokens)[0])
    write_audio(tmp_path / "me.wav", recording, 16_000)
    from_file = vocoder.synthesize(tokens, tmp_path / "me.wav")[0]
    assert from_file.shape == heard.shape
    long = torch.cat([make_buzz(30.0, 120.0), make_buzz(20.0, 300.0)])  # what comes after 30 s is not heard
    pitch = vocoder.speaker(Audio(long, 16_000)).pitch
    assert pitch is not None and float(pitch[0].exp()) == pytest.approx(120, rel=0.01)


def test_whispered_voices_get_a_pitch_from_their_vector():
    vocoder = make_vocoder(decoder=MANY)
    give_encoder(vocoder)
    noise = 0.05 * torch.randn(32_000)
    speaker = vocoder.speaker(Audio(noise, 16_000))
    assert find_speaker(Audio(noise, 16_000), vocoder.speaker_encoder()).pitch is None
    assert speaker.pitch is not None
    torch.testing.assert_close(speaker.pitch, predicted_pitch(vocoder, speaker.vector))


def test_voices_that_cannot_be_are_refused(tmp_path: Path):
    vocoder = make_vocoder(voices=("ann",), decoder=MANY)
    give_encoder(vocoder)
    tokens = [as_frames(5)]
    with pytest.raises(AudioFormatError, match="silence has no speaker"):
        vocoder.synthesize(tokens, Audio(torch.zeros(32_000), 16_000))
    with pytest.raises(AudioFormatError, match=r"lasts 0\.10 s; a voice needs at least 1 s"):
        vocoder.synthesize(tokens, Audio(make_buzz(0.1, 120.0), 16_000))
    with pytest.raises(AudioFormatError, match=r"lasts 0\.10 s"):
        vocoder.synthesize(tokens, Audio(make_buzz(0.1, 120.0, 44_100), 44_100))
    with pytest.raises(AudioFormatError):
        vocoder.synthesize(tokens, tmp_path / "missing.wav")
    with pytest.raises(ConfigError, match=r"has shape \(11,\).* vectors of 12 numbers, of the speaker encoder 'resem"):
        vocoder.synthesize(tokens, torch.randn(11))
    for voice, kind in ((Audio(make_buzz(2.0, 120.0), 16_000), "a recording"), (torch.randn(12), "a speaker vector")):
        with pytest.raises(ConfigError, match=f"{kind}, but this synthesizer has one voice, without a name"):
            make_vocoder().synthesize(tokens, voice)


@pytest.mark.asset("resemblyzer")
def test_two_speakers_in_one_recording_are_warned_of(caplog):
    vocoder = make_vocoder(decoder={"speaker_dim": 256})
    one = make_buzz(3.0, 110.0, swing=0.1)
    hiss = 0.05 * torch.randn(48_000)
    with caplog.at_level(logging.WARNING):
        vocoder.speaker(Audio(torch.cat([one, one]), 16_000))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        vocoder.speaker(Audio(torch.cat([one, hiss]), 16_000))
    (record,) = caplog.records
    assert "hardly sound like one speaker" in record.getMessage() and "Cut out one" in record.getMessage()


def test_pitch_of_a_recording_is_a_median_and_a_spread():
    log_f0 = torch.tensor([[0.1, 0.2, 0.3, 0.9, 5.0]])
    voiced = torch.tensor([[True, True, True, True, False]])
    found = pitch_of(Pitch(log_f0, voiced))
    assert found is not None
    known = [value + math.log(REFERENCE_HZ) for value in (0.1, 0.2, 0.3, 0.9)]
    mean = sum(known) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / 3)
    assert found.tolist() == pytest.approx([known[1], deviation], rel=1e-5)
    assert pitch_of(Pitch(log_f0, voiced & (log_f0 < 0.15))) is None
    level = pitch_of(Pitch(torch.zeros(1, 9), torch.ones(1, 9, dtype=torch.bool)))
    assert level is not None and float(level[1]) == pytest.approx(LEAST_SPREAD)


def test_neutral_speech_takes_the_pitch_of_a_voice():
    vocoder = make_vocoder(decoder=MANY, voices=("ann", "bob"))
    speech = vocoder.neutral(make_units(30), 0, 48)
    for name in ("ann", "bob"):
        speaker = vocoder.speaker(name)
        assert speaker.pitch is not None
        mean, spread = speaker.pitch.tolist()
        f0, energy = vocoder.with_voice(speech, speaker)
        for frame in range(48):
            height = min(3.5, max(-3.5, float(speech.pitch[0, frame])))
            expected = math.exp(mean + spread * height) if speech.voiced[0, frame] > 0 else 0.0
            assert float(f0[0, frame]) == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(energy, 2.5 + 5.8 * speech.energy)


def test_prosody_may_be_given_frame_by_frame():
    vocoder = make_vocoder(decoder=MANY, voices=("ann",), collapsed=False)
    codes = make_units(25)
    tokens, frames = SpeechTokens(codes=codes), 40
    given = Prosody(torch.linspace(100, 200, frames) * (torch.arange(frames) % 7 > 1), torch.randn(frames))
    plain, heard, again = vocoder.synthesize([tokens] * 3, prosody=[None, given, given])
    assert torch.equal(plain, vocoder.synthesize([tokens])[0]) and torch.equal(heard, again)
    assert not torch.allclose(plain, heard)
    speech = vocoder.neutral(codes, 0, frames)
    speaker = vocoder.speaker()
    f0, energy = (item[None] for item in given)
    expected = vocoder.waveform(speech.content, Prosody(f0, energy), speaker.vector[None])[0, : 25 * 160]
    assert torch.equal(heard, expected.clamp(-1, 1).detach())
    own = vocoder.with_voice(speech, speaker)  # what the units say themselves
    said = Prosody(own.f0[0].detach(), own.energy[0].detach())
    assert torch.equal(vocoder.synthesize([tokens], prosody=[said])[0], plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f0, energy: (f0[:-1], energy[:-1]), r"\(39,\) values of F0 and \(39,\) of energy; .* 40 frames, 80 a"),
        (lambda f0, energy: (f0, energy[:-2]), r"\(40,\) values of F0 and \(38,\) of energy"),
        (lambda f0, energy: (f0 * math.nan, energy), "holds NaN, infinity, or an F0 below 0 Hz"),
        (lambda f0, energy: (f0, energy / 0), "holds NaN, infinity"),
        (lambda f0, energy: (f0 - 150, energy), "an F0 below 0 Hz; unvoiced frames have an F0 of 0"),
    ],
)
def test_impossible_prosody_is_refused(change, message):
    vocoder = make_vocoder(collapsed=False)
    prosody = Prosody(*change(torch.full((40,), 120.0), torch.ones(40)))
    with pytest.raises(ConfigError, match=message):
        vocoder.synthesize([SpeechTokens(codes=make_units(25))], prosody=[prosody])


def test_as_many_prosodies_as_utterances():
    with pytest.raises(ValueError, match="zip"):
        make_vocoder().synthesize([as_frames(4)] * 2, prosody=[None])


def test_prosody_of_a_recording_keeps_its_melody_and_moves_to_the_voice(tmp_path: Path):
    vocoder = make_vocoder(decoder=MANY, voices=("low", "high"), collapsed=False)
    recording = torch.cat([make_buzz(1.5, 210.0, swing=0.25), torch.zeros(1600), make_buzz(0.4, 210.0)])
    frames, speech = 160, vocoder.neutral(make_units(100), 0, 160)
    measured = measure_pitch(resample(recording, 16_000, 8000)[None], 8000, 100).voiced[0]
    assert (speech.voiced > 0).any() and (speech.voiced <= 0).any()
    everywhere = speech._replace(voiced=torch.ones_like(speech.voiced))
    true = 0.25 * torch.sin(2 * math.pi * (torch.arange(frames) + 0.5) / 80)
    inside = measured & (torch.arange(frames) < 120 - 4)
    assert inside[3 : 120 - 4].all() and not measured[124:126].any()
    for name in ("low", "high"):
        speaker = vocoder.speaker(name)
        assert speaker.pitch is not None
        f0, energy = vocoder._given(Audio(recording, 16_000), everywhere, speaker)
        assert f0.shape == energy.shape == (1, frames) and (f0 > 0).all()
        assert float(f0[0][measured].log().median()) == pytest.approx(float(speaker.pitch[0]), abs=1e-3)
        assert float(f0[0][measured].log().std()) == pytest.approx(float(speaker.pitch[1]), rel=0.02)
        assert torch.corrcoef(torch.stack([f0[0].log()[inside], true[inside]]))[0, 1] > 0.99
        torch.testing.assert_close(energy[0], measure_energy(resample(recording, 16_000, 8000), 8000, 100))
        spoken = vocoder._given(Audio(recording, 16_000), speech, speaker)  # the units say what is voiced
        assert torch.equal(spoken.f0, f0 * (speech.voiced > 0)) and torch.equal(spoken.energy, energy)
    write_audio(tmp_path / "spoken.wav", recording, 16_000)
    tokens = [SpeechTokens(codes=make_units(100))]
    memory, file = (
        vocoder.synthesize(tokens, prosody=[item])[0] for item in (Audio(recording, 16_000), tmp_path / "spoken.wav")
    )
    assert len(memory) == len(file) == 16_000
    assert not torch.allclose(memory, vocoder.synthesize(tokens)[0])
    given = vocoder._given(Audio(recording, 16_000), speech, vocoder.speaker())
    said = Prosody(given.f0[0].detach(), given.energy[0].detach())
    assert torch.equal(vocoder.synthesize(tokens, prosody=[said])[0], memory)


def test_a_recording_of_other_words_gives_no_prosody():
    vocoder = make_vocoder(collapsed=False)
    tokens = [SpeechTokens(codes=make_units(100))]
    with pytest.raises(ConfigError, match=r"lasts 1\.00 s, but the tokens 2\.00 s\. Give the recording that"):
        vocoder.synthesize(tokens, prosody=[Audio(make_buzz(1.0, 120.0), 16_000)])
    near = vocoder.synthesize(tokens, prosody=[Audio(make_buzz(2.03, 120.0), 16_000)])[0]
    assert len(near) == 16_000


def test_a_silent_recording_gives_unvoiced_quiet_prosody():
    vocoder = make_vocoder(collapsed=False)
    silence = Audio(torch.zeros(32_000), 16_000)
    f0, energy = vocoder._given(silence, vocoder.neutral(make_units(100), 0, 160), vocoder.speaker())
    assert f0.abs().max() == 0
    torch.testing.assert_close(energy, torch.full((1, 160), LEAST_ENERGY))
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=make_units(100))], prosody=[silence])
    assert waveform.isfinite().all()


def test_codes_of_several_codebooks_are_summed():
    vocoder = make_vocoder(num_codebooks=3)
    codes = make_units(5, codebooks=3)
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=codes, durations=torch.ones(5, dtype=torch.long))])
    assert len(waveform) == 5 * 160
    table = vocoder.unit_embedding
    assert isinstance(table, torch.nn.Embedding)
    expected = sum(table.weight[codes[k] + 20 * k] for k in range(3))
    torch.testing.assert_close(vocoder.embed(codes[None], table)[0], expected)


def test_negative_ids_are_dropped_with_their_durations():
    vocoder = make_vocoder()
    units, durations = make_units(4), torch.tensor([2, 1, 3, 1])
    holes = torch.tensor([[units[0, 0], -1, units[0, 1], units[0, 2], -1, units[0, 3]]])
    with_holes = SpeechTokens(codes=holes, durations=torch.tensor([2, 9, 1, 3, 9, 1]))
    plain, dropped = vocoder.synthesize([SpeechTokens(codes=units, durations=durations), with_holes])
    assert torch.equal(plain, dropped)
    nothing = SpeechTokens(codes=torch.full((1, 3), -1))
    assert len(vocoder.synthesize([nothing])[0]) == 0
    assert len(vocoder.synthesize([nothing], prosody=[Prosody(torch.zeros(0), torch.zeros(0))])[0]) == 0


def test_tokens_of_another_codebook_are_refused():
    vocoder = make_vocoder(tokenizer_fingerprint="aaaa1111")
    with pytest.raises(FingerprintError, match=r"hold the id 25.* codebook of 20"):
        vocoder.synthesize([SpeechTokens(codes=torch.tensor([[3, 25]]))])
    with pytest.raises(FingerprintError, match="2 codebooks, but this vocoder reads 1"):
        vocoder.synthesize([SpeechTokens(codes=make_units(4, codebooks=2))])


def test_codebooks_may_differ_in_size():
    vocoder = make_vocoder(codebook_size=20, num_codebooks=3, codebook_sizes=(4, 20, 7), collapsed=False)
    table = vocoder.unit_embedding.weight
    assert table.shape[0] == 31
    codes = torch.tensor([[3], [19], [6]])
    found = vocoder.embed(codes[None], vocoder.unit_embedding)[0, 0]
    torch.testing.assert_close(found, table[3] + table[4 + 19] + table[24 + 6])  # a block of rows per codebook
    with pytest.raises(FingerprintError, match=r"hold the id 4.* codebook of 4"):
        vocoder.synthesize([SpeechTokens(codes=torch.tensor([[4], [4], [4]]))])
    with pytest.raises(ConfigError, match="it must name 3 sizes"):
        make_config(codebook_size=20, num_codebooks=3, codebook_sizes=(4, 20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_frame_rate": 0.0}, r"token_frame_rate is 0\.0"),
        ({"voices": ("a", "a")}, "names a voice twice"),
        ({"voices": ("a", "b")}, r"names 2 voices, but vocoder\.decoder\.speaker_dim is null"),
        ({"codebook_size": 0}, "codebook_size is 0"),
    ],
)
def test_impossible_configs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**settings)


@pytest.mark.parametrize("decoder", [{}, MANY])
def test_saved_vocoder_sounds_the_same(tmp_path, decoder):
    vocoder = make_vocoder(voices=("ann",), tokenizer_fingerprint="aaaa1111", decoder=decoder)
    vocoder.save_pretrained(tmp_path / "vocoder")
    loaded = UnitVocoder.from_pretrained(tmp_path / "vocoder")
    tokens = [SpeechTokens(codes=make_units(12))]
    assert loaded.config == vocoder.config
    assert torch.equal(loaded.synthesize(tokens, "ann")[0], vocoder.synthesize(tokens)[0])
    assert "aaaa1111" in (tmp_path / "vocoder" / "README.md").read_text()
    vocoder.save_pretrained(tmp_path / "half", torch.float16)
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.7 * (
        tmp_path / "vocoder" / "model.safetensors"
    ).stat().st_size
    assert len(UnitVocoder.from_pretrained(tmp_path / "half").synthesize(tokens)[0]) > 0
    (tmp_path / "vocoder" / "config.json").write_text('{"vocable_class": "Other"}')
    with pytest.raises(AssetError, match="vocable_class is 'Other'"):
        UnitVocoder.from_pretrained(tmp_path / "vocoder")
    with pytest.raises(AssetError, match=r"no config\.json"):
        UnitVocoder.from_pretrained(tmp_path)


def test_a_folder_of_an_older_version_says_so(tmp_path):
    make_vocoder().save_pretrained(tmp_path)
    old = {"codebook_size": 100, "dim": 512, "hop_length": 320, "n_fft": 1280, "excitation": "harmonic"}
    (tmp_path / "config.json").write_text(json.dumps({"vocable_class": "UnitVocoder", "config": old}))
    with pytest.raises(AssetError, match=r"trained by an older version of Vocable.* Train it again: vocable vocoder"):
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
    torch.testing.assert_close(
        overlap_add(spectra, window, 16, overhang=32)[:, : theirs.shape[1]], theirs, atol=1e-5, rtol=1e-4
    )


def test_overlap_add_undoes_framing():
    window, signal = torch.hann_window(64), torch.randn(2, 160)
    padded = torch.nn.functional.pad(signal, (24, 24 + 16))
    spectra = torch.fft.rfft(padded.unfold(-1, 64, 16)[:, :10] * window)
    torch.testing.assert_close(overlap_add(spectra, window, 16), signal, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hertz", [80.0, 131.0, 250.0])
def test_measured_pitch_is_the_one_played(hertz):
    waveform = torch.cat([make_buzz(0.8, hertz), 0.02 * torch.randn(40 * 320)])[None]
    found = measure_pitch(waveform, 16_000, 320)
    assert found.voiced.shape == (1, 80)
    assert found.voiced[0, 2:36].all()
    assert found.voiced[0, 44:].float().mean() < 0.1
    f0 = REFERENCE_HZ * found.log_f0[0, 2:36].exp()
    torch.testing.assert_close(f0, torch.full((34,), hertz), atol=0.01 * hertz, rtol=0)
    prosody = measure_prosody(waveform[0], 16_000, 320)
    energy = measure_energy(waveform[0], 16_000, 320)
    voiced = bridge_voicing(found.voiced[0], energy, 50.0)
    assert torch.equal(prosody.energy, energy) and torch.equal(prosody.f0 > 0, voiced)
    torch.testing.assert_close(prosody.f0[voiced], REFERENCE_HZ * found.log_f0[0].exp()[voiced])


def test_energy_is_that_of_the_window_around_each_hop():
    waveform = torch.randn(8000) * torch.linspace(0.001, 0.5, 8000)
    found = measure_energy(waveform, 8000, 100)
    logs = []
    for frame in range(80):
        middle, power = frame * 100 + 50, 0.0
        for sample in range(max(0, middle - 200), min(8000, middle + 200)):  # 50 ms
            power += float(waveform[sample]) ** 2 / 400
        logs.append(0.5 * math.log(power + 1e-9))
    ordered = sorted(logs)
    place = 0.95 * 79
    loudest = ordered[int(place)] + (place % 1) * (ordered[int(place) + 1] - ordered[int(place)])
    expected = [max(LEAST_ENERGY, LOUD_ENERGY + ENERGY_PER_NEPER * (value - loudest)) for value in logs]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    torch.testing.assert_close(measure_energy(0.1 * waveform, 8000, 100)[20:], found[20:], atol=1e-2, rtol=0)
    assert len(measure_energy(torch.zeros(50), 8000, 100)) == 0


def test_silence_has_the_least_energy():
    torch.testing.assert_close(measure_energy(torch.zeros(4000), 8000, 100), torch.full((40,), LEAST_ENERGY))


@pytest.mark.parametrize("seed", range(8))
def test_gaps_between_voiced_frames_are_closed_in_loud_speech(seed):
    """Against a loop: a gap of no more than 0.3 s, in which the frame itself lies within 30 dB of the loudest."""
    generator, rate = torch.Generator().manual_seed(seed), 80.0
    # stretches of one to forty frames, so that gaps lie on both sides of the longest that is closed (24 frames)
    lengths = torch.randint(1, 41, (20,), generator=generator)
    voiced = (torch.arange(20) % 2 == seed % 2).repeat_interleave(lengths)
    energy = LEAST_ENERGY + (LOUD_ENERGY - LEAST_ENERGY) * torch.rand(len(voiced), generator=generator)
    floor = LOUD_ENERGY - ENERGY_PER_NEPER * 30 / (20 / math.log(10))  # 20 / log(10) dB are a neper
    expected = voiced.tolist()
    for frame in range(len(voiced)):
        if voiced[frame] or float(energy[frame]) <= floor:
            continue
        before, after = frame, frame
        while before >= 0 and not voiced[before]:
            before -= 1
        while after < len(voiced) and not voiced[after]:
            after += 1
        expected[frame] = before >= 0 and after < len(voiced) and after - before - 1 <= 0.3 * rate
    found = bridge_voicing(voiced, energy, rate)
    assert found.tolist() == expected
    assert (found & ~voiced).any() and (~found).any()


def test_nothing_is_bridged_where_nothing_is_voiced():
    energy = torch.full((30,), LOUD_ENERGY)
    assert not bridge_voicing(torch.zeros(30, dtype=torch.bool), energy, 80.0).any()
    one = torch.arange(30) == 7
    assert torch.equal(bridge_voicing(one, energy, 80.0), one)
