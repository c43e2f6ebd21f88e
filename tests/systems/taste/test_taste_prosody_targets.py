"""What the prosody decoder learns: symbols of the manifest while they hold, else aligned; pitch and energy of sound."""

import math
from pathlib import Path

import pytest
import torch

from systems.taste.prosody_examples import SYMBOLS, tiny_decoder, tiny_model
from tiny import make_tiny_tokenizer
from vocable.errors import AlignmentError
from vocable.features.pitch import measure_prosody
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.phonemes import read_given
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.systems.taste import prosody_targets
from vocable.systems.taste.prosody_targets import ProsodyTargets
from vocable.training.symbol_aligner import SymbolAligner
from vocable.types import Utterance

WORDS = ["tˈadi", "bˈena,", "sˈo"]
STORED = "tˈadi, bˈena, sˈo."
RATE = 16_000


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def targets(model):
    tokenizer = make_tiny_tokenizer()
    config = VocoderConfig(
        codebook_size=8,
        token_frame_rate=tokenizer.frame_rate or 50.0,
        frontend=FrontendConfig(dim=8, hidden_dim=16, token_layers=1, frame_layers=1, num_symbols=20),
        decoder=SourceFilterConfig(content_dim=8, dim=8, hidden_dim=16, num_layers=1),
        collapsed=False,
    )
    torch.manual_seed(1)
    aligner = SymbolAligner(UnitVocoder(config).eval(), tokenizer, model, read_given)
    return ProsodyTargets(model, read_given, aligner)


@pytest.fixture(autouse=True)
def no_least_score(monkeypatch):
    """An untrained aligner is sure of nothing."""
    monkeypatch.setattr(prosody_targets, "LEAST_SCORE", -100.0)


def stored_frames(total: int) -> list[int]:
    frames = [2] * (len(STORED) + 2)
    frames[0] += total - sum(frames)
    return frames


def utterance(text: str = STORED, frames: list[int] | None = None) -> Utterance:
    symbols = {"text": text, "frames": frames or stored_frames(80)}
    return Utterance(id="one", audio=Path("nowhere.wav"), text=" ".join(WORDS), extra={"symbols": symbols})


def sweep(seconds: float = 2.0) -> torch.Tensor:
    """A voice of ten harmonics that rises from 110 to 160 Hz; the second half is 12 dB quieter."""
    time = torch.arange(round(seconds * RATE)) / RATE
    phase = 2 * math.pi * (110 * time + 25 / seconds * time**2)
    wave = sum(torch.sin(k * phase) / k for k in range(1, 11))
    return 0.1 * wave * torch.where(time < seconds / 2, 1.0, 0.25)


def test_symbols_of_the_manifest_are_taken_with_their_words(targets):
    found = targets.measure(utterance(), sweep(), WORDS)
    assert found["ids"].tolist() == [0, *(SYMBOLS[symbol] for symbol in STORED), 0]
    assert found["frames"].tolist() == stored_frames(80)
    # start, "tˈadi, ", "bˈena, ", "sˈo." and the end mark
    assert found["owners"].tolist() == [0] * 8 + [1] * 7 + [2] * 5
    assert found["spans"].tolist() == [[1, 6], [8, 13], [15, 18]]
    assert found["pauses"].tolist() == [1, -1, -1]  # not written and heard, written, the end
    assert all(len(found[key]) == 160 for key in ("semitones", "known", "voiced", "energy"))


def test_pitch_is_against_the_median_and_energy_as_the_vocoder_wants_it(targets):
    found = targets.measure(utterance(), sweep(), WORDS)
    expected = measure_prosody(sweep(), RATE, 200)
    torch.testing.assert_close(found["energy"], expected.energy)
    assert torch.equal(found["voiced"], expected.f0 > 0)
    assert found["known"].float().mean() > 0.9
    place = (torch.arange(160) + 0.5) / 160
    line = 12 * torch.log2((110 + 50 * place) / 135)
    off = (found["semitones"] - line)[found["known"]]
    assert float((off - off.median()).abs().quantile(0.9)) < 0.3 and abs(float(off.median())) < 0.3
    drop = float(found["energy"][20:60].mean() - found["energy"][100:140].mean())
    assert drop == pytest.approx(2.0 * math.log(4), abs=0.1)  # 2 a neper


@pytest.mark.parametrize(
    "stale",
    [
        utterance("ˌtˌiˈadi, bˈena, sˈo.", [2] * 23),  # other phonemes, as of a word that was spelled
        utterance(frames=[*stored_frames(80)[:-1]]),  # lengths for other symbols
        utterance(frames=stored_frames(160)),  # another recording
    ],
)
def test_symbols_that_no_longer_hold_are_aligned_anew(targets, stale):
    found = targets.measure(stale, sweep(), WORDS)
    text = "".join(next(one for one, id in SYMBOLS.items() if id == symbol) for symbol in found["ids"].tolist()[1:-1])
    assert text.replace(",", "") == "tˈadi bˈena sˈo." and int(found["frames"].sum()) == 80
    fresh = targets._aligner.align(Utterance(id="one", audio=Path("nowhere.wav"), text=" ".join(WORDS)), sweep())[0]
    assert fresh.extra["symbols"] == {"text": text, "frames": found["frames"].tolist()}


def test_what_was_never_aligned_is_aligned(targets):
    plain = Utterance(id="one", audio=Path("nowhere.wav"), text=" ".join(WORDS))
    found = targets.measure(plain, sweep(), WORDS)
    assert len(found["ids"]) == len(found["frames"]) == len(found["owners"]) and int(found["frames"].sum()) == 80


def test_a_text_that_does_not_fit_is_refused(targets, monkeypatch):
    plain = Utterance(id="one", audio=Path("nowhere.wav"), text="...")
    with pytest.raises(AlignmentError, match="holds no word to speak"):
        targets.measure(plain, sweep(), ["..."])
    with pytest.raises(AlignmentError, match="that this voice does not know: 'x'"):
        targets.measure(plain, sweep(), ["xa"])
    with pytest.raises(AlignmentError, match="too short for the"):
        targets.measure(plain, sweep(0.2), WORDS)
    monkeypatch.setattr(prosody_targets, "LEAST_SCORE", 0.0)
    with pytest.raises(AlignmentError, match="the text 'tˈadi bˈena, sˈo' does not fit the recording"):
        targets.measure(plain, sweep(), WORDS)


def test_the_decoder_measures_for_its_own_symbols():
    found = tiny_decoder().targets(utterance(), sweep(), WORDS)
    assert found["ids"].tolist() == [0, *(SYMBOLS[symbol] for symbol in STORED), 0]
