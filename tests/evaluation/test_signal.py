"""Pairs of recordings to a result, and what is left out."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, ManifestError, UnknownNameError
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.signal import Pair, Signal, SignalConfig, pair_utterances
from vocable.types import Utterance, Word

OWN = ("mel", "prosody", "durations")
"""Metrics that need no other package."""


def config(*metrics: str) -> SignalConfig:
    return SignalConfig(manifest=Path("m.jsonl"), copies=Path("copies"), metrics=metrics)


def evaluate_signal(pairs, metrics=OWN, mos=None, excluded=None):
    return run_benchmark(Signal(config(*metrics), {"pairs": (pairs, excluded or Counter()), "mos": mos}))


@pytest.fixture
def write(tmp_path):
    def make(name: str, waveform: torch.Tensor, **keys) -> Utterance:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_audio(path, waveform, 16_000)
        return Utterance(id=path.stem, audio=path, **keys)

    return make


def test_equal_recordings_and_noisy_ones(write, make_speechlike, tmp_path):
    words = (Word(word="a", start=0.0, end=0.5), Word(word="b", start=0.5, end=1.0))
    longer = (Word(word="a", start=0.0, end=0.5), Word(word="b", start=0.5, end=1.1))
    pairs = []
    for i in range(4):
        speech = make_speechlike(24_000, seed=i)
        noise = 0.02 * torch.randn(24_000, generator=torch.Generator().manual_seed(i))
        copy = speech if i < 2 else torch.cat([torch.zeros(160), speech + noise])
        pairs.append(
            Pair(
                write(f"o/u{i}.wav", speech, speaker=f"s{i % 2}", words=words),
                write(f"c/u{i}.wav", copy, words=words if i < 2 else longer),
            )
        )
    result = evaluate_signal(pairs)
    rows = {row["id"]: row for row in result.items}
    assert rows["u0"]["mel_distance"] == 0 and rows["u0"]["f0_correlation"] == pytest.approx(1)
    assert rows["u0"]["voicing_agreement"] == 1 and rows["u0"]["energy_correlation"] == pytest.approx(1)
    assert rows["u2"]["mel_distance"] > 0.05 and rows["u2"]["shift_seconds"] == pytest.approx(0.01)
    assert result.scores["mel_distance"].num_items == 4 and result.scores["mel_distance"].num_speakers == 2
    assert result.scores["duration_consistency"].value == pytest.approx((2 + 2 + 1 + 1) / 8)
    assert result.measurements["mean_duration_difference_seconds"] == pytest.approx(0.1 / 4)
    assert load_result(save_result(result, tmp_path / "out")).scores.keys() == result.scores.keys()


def test_what_cannot_be_scored_is_counted_and_not_scored(write, make_speechlike):
    speech = make_speechlike(16_000)
    good = write("o/good.wav", speech)
    broken = Path(good.audio.parent) / "broken.wav"
    broken.write_bytes(b"no audio")
    pairs = [
        Pair(good, good),
        Pair(write("o/quiet.wav", speech * 1e-4), good),
        Pair(good, write("o/silent.wav", torch.zeros(16_000))),
        Pair(good, Utterance(id="broken", audio=broken)),
        Pair(write("o/short.wav", speech[:1000]), write("o/short2.wav", speech[:1000])),
    ]
    result = evaluate_signal(pairs, excluded=Counter({"no copy": 2}))
    assert result.excluded == {
        "no copy": 2,
        "original is silent": 1,
        "copy is silent": 1,
        "unreadable audio": 1,
        "durations: no word times in the original": 2,
        "prosody: too short for pitch and energy: less than 10 frames of 10 ms": 1,
    }
    assert [row["id"] for row in result.items] == ["good", "short"]
    assert result.scores["mel_distance"].num_items == 2
    assert result.scores["f0_correlation"].num_items == 1
    assert result.scores["duration_consistency"].value is None
    with pytest.raises(ManifestError, match=r"None of 1 pairs could be scored \(copy is silent: 1\)"):
        evaluate_signal(pairs[2:3])


def test_too_short_is_no_default_score(write, make_speechlike):
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    short = write("o/short.wav", make_speechlike(3000))
    long = write("o/long.wav", make_speechlike(32_000))
    result = evaluate_signal([Pair(short, short), Pair(long, long)], ("stoi", "pesq"))
    assert result.scores["stoi"].value == pytest.approx(1, abs=1e-3) and result.scores["stoi"].num_items == 1
    assert result.scores["pesq"].value == pytest.approx(4.64, abs=0.01) and result.scores["pesq"].num_items == 1
    assert sum(count for reason, count in result.excluded.items() if "stoi: too short" in reason) == 2  # and estoi
    assert any(reason.startswith("pesq: PESQ refuses") for reason in result.excluded)


def test_opinion_scores_of_both(write, make_speechlike):
    class Peak:
        name, sample_rate, weights = "peak", 16_000, {"name": "peak"}

        def predict(self, waveforms):
            return [float(waveform.abs().max()) for waveform in waveforms]

    original = write("o/a.wav", make_speechlike(16_000))
    louder = write("c/a.wav", 2 * make_speechlike(16_000))
    result = evaluate_signal([Pair(original, louder)], ("mel",), mos=Peak())
    row = result.items[0]
    assert row["mos_copy"] == pytest.approx(2 * row["mos_original"], rel=1e-3)
    assert result.weights == {"mos": {"name": "peak"}} and result.conventions["mos"] == "peak"


def test_copies_are_found_by_id_in_folders_and_manifests(write, make_speechlike, tmp_path):
    originals = [write(f"o/{name}.wav", make_speechlike(8000)) for name in ("a.b", "c", "d")]
    for name in ("a.b.wav", "c.flac"):
        write(f"copies/{name}", make_speechlike(8000))
    pairs, excluded = pair_utterances(originals, tmp_path / "copies")
    assert [(pair.original.id, pair.copy.audio.name) for pair in pairs] == [("a.b", "a.b.wav"), ("c", "c.flac")]
    assert excluded == {"no copy": 1}
    write_manifest([Utterance(id="d", audio=tmp_path / "o" / "c.wav")], tmp_path / "m.jsonl")
    pairs, excluded = pair_utterances(originals, tmp_path / "m.jsonl")
    assert [pair.copy.audio.name for pair in pairs] == ["c.wav"] and excluded == {"no copy": 2}
    with pytest.raises(ManifestError, match=r"holds a copy of none of 1 utterances, such as 'zz'"):
        pair_utterances([Utterance(id="zz", audio=Path("z.wav"))], tmp_path / "copies")


def test_copies_of_one_name_in_several_folders(write, make_speechlike, tmp_path):
    for name in ("one", "anna/one", "zoe/one", "zoe/two"):
        (tmp_path / "copies" / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "copies" / f"{name}.wav", make_speechlike(8000), 16_000)
    originals = [Utterance(id=name, audio=Path("x.wav")) for name in ("one", "anna/one", "zoe/one", "two", "three")]
    pairs, excluded = pair_utterances(originals, tmp_path / "copies")
    found = [(pair.original.id, pair.copy.audio.relative_to(tmp_path / "copies").as_posix()) for pair in pairs]
    assert found == [*((name, f"{name}.wav") for name in ("one", "anna/one", "zoe/one")), ("two", "zoe/two.wav")]
    assert excluded == {"no copy": 1}
    (tmp_path / "copies" / "one.wav").unlink()  # which of the two others it should be, nobody knows
    pairs, excluded = pair_utterances(originals, tmp_path / "copies")
    assert [pair.original.id for pair in pairs] == ["anna/one", "zoe/one", "two"] and excluded == {"no copy": 2}


def test_misspelt_metrics():
    with pytest.raises(UnknownNameError, match="Did you mean 'stoi'"):
        config("stio")
    with pytest.raises(ConfigError, match="at least one metric"):
        config()
