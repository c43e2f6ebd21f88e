"""TIMIT's layout becomes a manifest with words and phones, from SPHERE and from RIFF files; 61 phones fold into 39."""

import numpy as np
import pytest
import soundfile

from vocable.audio.io import audio_info, read_utterance
from vocable.audio.manifest import Rejections, read_manifest
from vocable.cli import main
from vocable.corpora.timit import CORE_TEST, TIMIT_39, prepare_timit
from vocable.errors import ManifestError
from vocable.evaluation.phone_labels import utterance_phones
from vocable.types import Phone, Word

RATE = 16_000


def write_sentence(folder, sentence: str, samples: np.ndarray, form: str = "NIST", suffix: str = ".WAV") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{sentence}{suffix}", samples, RATE, format=form, subtype="PCM_16")
    name = folder / sentence
    name.with_suffix(".TXT").write_text(f"0 {len(samples)} She had 2 dark suits.\n")
    name.with_suffix(".WRD").write_text("1600 4000 she\n4000 8000 had\n")
    name.with_suffix(".PHN").write_text("0 1600 h#\n1600 3000 sh\n3000 4000 ix\n4000 8000 hv\n8000 16000 h#\n")


@pytest.fixture
def timit(tmp_path):
    root = tmp_path / "TIMIT"
    samples = (np.sin(np.arange(RATE) / 9) * 0.5).astype("float32")
    write_sentence(root / "TRAIN" / "DR1" / "FCJF0", "SA1", samples)
    write_sentence(root / "TEST" / "DR4" / "MLLL0", "SX283", samples, "WAV")
    write_sentence(root / "TEST" / "DR4" / "MTEB0", "SI503", samples)
    (root / "TRAIN" / "DR1" / "FCJF0" / "SA1.WAV.wav").write_bytes(
        (root / "TEST" / "DR4" / "MLLL0" / "SX283.WAV").read_bytes()
    )
    (root / "README.DOC").write_text("not speech")
    return root


def test_text_words_and_phones(timit, tmp_path, capsys):
    out = tmp_path / "timit.jsonl"
    assert main(["corpus", "prepare", "timit", str(tmp_path), str(out)]) == 0, capsys.readouterr().err
    assert "3 utterances" in capsys.readouterr().out
    found = {utterance.id: utterance for utterance in read_manifest(out, strict=True, check_audio=True)}
    assert found.keys() == {"fcjf0-sa1", "mlll0-sx283", "mteb0-si503"}
    first = found["fcjf0-sa1"]
    assert first.audio.name == "SA1.WAV.wav"  # the copy as RIFF, where there are both
    assert (first.text, first.speaker, first.duration) == ("She had 2 dark suits.", "timit-fcjf0", 1.0)
    assert first.words == (Word(word="she", start=0.1, end=0.25), Word(word="had", start=0.25, end=0.5))
    assert utterance_phones(first) == tuple(
        Phone(phone=name, start=start, end=end)
        for name, start, end in [
            ("h#", 0.0, 0.1), ("sh", 0.1, 0.1875), ("ix", 0.1875, 0.25), ("hv", 0.25, 0.5), ("h#", 0.5, 1.0)
        ]
    )  # fmt: skip
    rest = {id: {k: v for k, v in u.extra.items() if k != "phones"} for id, u in found.items()}
    assert rest == {
        "fcjf0-sa1": {"part": "train", "dialect": "DR1", "sex": "F", "kind": "SA"},
        "mlll0-sx283": {"part": "core-test", "dialect": "DR4", "sex": "M", "kind": "SX"},
        "mteb0-si503": {"part": "test", "dialect": "DR4", "sex": "M", "kind": "SI"},
    }
    assert found["mteb0-si503"].audio.read_bytes()[:7] == b"NIST_1A"  # SPHERE, read as it is
    assert audio_info(found["mteb0-si503"].audio).num_samples == RATE
    one, other = (read_utterance(found[id], RATE) for id in ("mteb0-si503", "mlll0-sx283"))
    assert (one - other).abs().max() < 1e-4


def test_a_copy_in_small_letters_without_times_and_a_broken_file(timit, tmp_path):
    folder = tmp_path / "copy" / "test" / "dr2" / "fpas0"
    write_sentence(folder, "sx44", np.zeros(RATE, dtype="float32"), "WAV", ".wav")
    for path in folder.glob("*.[WTP]*"):
        path.unlink()
    write_sentence(folder, "sx134", np.zeros(RATE, dtype="float32"), "WAV", ".wav")
    (folder / "sx134.PHN").write_text("0 20 h#\n20 sh\n")
    soundfile.write(folder / "sx200.wav", np.zeros(800), 8000)
    rejections = Rejections(tmp_path)
    (found,) = prepare_timit(tmp_path / "copy", rejections=rejections)
    assert (found.id, found.text, found.words, found.extra["part"]) == ("fpas0-sx44", None, None, "core-test")
    reasons = rejections.path.read_text()
    assert rejections.count == 2
    assert "sx134.PHN, line 2: '20 sh'; expected two sample numbers and a label" in reasons
    assert "the rate is 8000 Hz" in reasons
    with pytest.raises(ManifestError, match="no sentence of TIMIT"):
        list(prepare_timit(tmp_path / "lists"))


def test_61_phones_in_39_classes():
    assert len(CORE_TEST.split()) == len(set(CORE_TEST.split())) == 24
    assert sum(speaker.startswith("f") for speaker in CORE_TEST.split()) == 8  # two men and a woman of eight regions
    labels = TIMIT_39.keys() - {"sil"}
    assert len(labels) == 61
    classes = set(TIMIT_39.values()) - {None}
    assert len(classes) == 39
    assert all(TIMIT_39[name] == name for name in classes)
    assert {label for label in labels if TIMIT_39[label] == "sil"} == {
        *("bcl", "dcl", "gcl", "pcl", "tcl", "kcl"), *("h#", "pau", "epi")
    }  # fmt: skip
    assert [TIMIT_39[name] for name in ("ao", "ax-h", "axr", "zh", "nx", "el", "hv", "q")] == [
        *("aa", "ah", "er", "sh", "n", "l", "hh", None)
    ]
