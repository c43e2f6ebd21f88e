"""Other layouts become manifests, and what a manifest cannot express is left out with the reason."""

import gzip
import json
from pathlib import Path

import pytest
import soundfile
import torch

from vocable.audio.io import read_utterance
from vocable.audio.manifest import Rejections, read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.corpora.fairseq_tsv import import_fairseq_tsv
from vocable.corpora.folder import import_folder
from vocable.corpora.hf_dataset import import_hf_dataset
from vocable.corpora.kaldi import import_kaldi
from vocable.corpora.lhotse_cuts import import_lhotse_cuts
from vocable.errors import ConfigError, ManifestError
from vocable.types import Word

RATE = 8000


@pytest.fixture
def speech(make_speechlike) -> torch.Tensor:
    return make_speechlike(4 * RATE, sample_rate=RATE)


@pytest.fixture
def recording(tmp_path, speech) -> Path:
    """Four seconds of speech in tmp_path/data/rec.wav."""
    write_audio(tmp_path / "data" / "rec.wav", speech, RATE)
    return tmp_path / "data" / "rec.wav"


def rejected(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


# --- folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_texts_and_speakers(tmp_path, speech):
    root = tmp_path / "speech"
    for name in ("anna/один.flac", "anna/deep/two.wav", "top.WAV", ".hidden/x.wav", "anna/._two.wav", "ben/a.wav"):
        write_audio(root / name, speech, RATE)
    write_audio(root / "ben" / "a.flac", speech, RATE)
    (root / "anna" / "один.txt").write_bytes(b"\xef\xbb\xbf" + " привет,\n мир ".encode())
    (root / "notes.txt").write_text("no audio")
    found = list(import_folder(root, speaker_from_folder=True, language="ru", licence="CC0"))
    assert [(item.id, item.speaker, item.text) for item in found] == [
        ("anna/deep/two", "anna", None),
        ("anna/один", "anna", "привет, мир"),
        ("ben/a.flac", "ben", None),
        ("ben/a.wav", "ben", None),
        ("top", None, None),
    ]
    assert {(item.duration, item.language, item.licence) for item in found} == {(4.0, "ru", "CC0")}
    write_manifest(found, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl", strict=True, check_audio=True) == found


def test_speakers_and_texts_from_names_and_texts_from_elsewhere(tmp_path, speech):
    root = tmp_path / "wavs"
    for name in ("seven_jackson_32.wav", "deep/one_theo_1.flac", "noise.wav"):
        write_audio(root / name, speech, RATE)
    (tmp_path / "labels" / "deep").mkdir(parents=True)
    (tmp_path / "labels" / "deep" / "one_theo_1.lab").write_text("uno\n")
    (root / "noise.txt").write_text("not asked for")
    names = {"speaker_pattern": "_([^_]+)_", "text_pattern": r"([a-z]+)_[a-z]+_\d"}
    found = {item.id: item for item in import_folder(root, **names)}
    assert {id: item.speaker for id, item in found.items()} == {
        "deep/one_theo_1": "theo",
        "noise": None,
        "seven_jackson_32": "jackson",
    }
    assert [item.text for item in found.values()] == ["one", "not asked for", "seven"]
    texts = [item.text for item in import_folder(root, text_files="../labels/{id}.lab")]
    assert texts == ["uno", None, None]
    assert [item.speaker for item in import_folder(root, speaker_pattern="^[a-z]{4}")] == ["deep", "nois", "seve"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speaker_pattern": "("}, "is no regular expression"),
        ({"speaker_pattern": "^x(.)"}, "which no name matches. The first name: 'rec'"),
        ({"text_pattern": "[0-9]"}, "text_pattern is '.*', which no name matches"),
        ({"text_files": "texts.txt"}, "it needs {id}"),
        ({"speaker_pattern": "r", "speaker_from_folder": True}, "not from both"),
    ],
)
def test_patterns_that_cannot_be_meant(recording, settings, message):
    with pytest.raises(ConfigError, match=message):
        list(import_folder(recording.parent, **settings))


def test_what_in_a_folder_cannot_be_read_is_left_out_with_the_reason(tmp_path, recording):
    root = recording.parent
    (root / "bad.mp3").write_text("no audio")
    (root / "film.m4a").write_bytes(b"0000ftyp")
    write_audio(root / "latin.wav", torch.zeros(RATE), RATE)
    (root / "latin.txt").write_bytes(b"fine\nna\xefve")
    assert [item.id for item in import_folder(root, rejections=Rejections(tmp_path))] == ["rec"]
    reasons = {row["id"]: row["reason"] for row in rejected(tmp_path)}
    assert reasons.keys() == {"bad", "film", "latin"}
    assert "not audio that can be read" in reasons["bad"]
    assert "film.m4a: FFmpeg cannot read it" in reasons["film"] or "vocable[media]" in reasons["film"]
    assert "latin.txt, line 2: not UTF-8 text" in reasons["latin"]
    with pytest.raises(ManifestError, match=r"bad\.mp3: not audio"):
        list(import_folder(root, strict=True))


def test_texts_are_found_however_their_names_are_written(tmp_path, speech, caplog):
    root = tmp_path / "speech"
    for name in ("cafe\u0301.wav", "SA1.WAV", "b.wav", "B.wav", "c.wav", "none.wav"):
        write_audio(root / name, speech, RATE)
    texts = {"caf\u00e9.txt": "bonjour", "SA1.TXT": "she had", "b.txt": "small", "B.TXT": "large", "C.txt": "see"}
    for name, text in {**texts, "notes.txt": "nothing"}.items():
        (root / name).write_text(text)
    found = {item.audio.name: item.text for item in import_folder(root)}
    assert found == {
        "cafe\u0301.wav": "bonjour",
        "SA1.WAV": "she had",
        "b.wav": "small",
        "B.wav": "large",
        "c.wav": "see",
        "none.wav": None,
    }
    assert caplog.messages == [f"{root}: 1 .txt files have the name of no recording, such as {root / 'notes.txt'}."]
    (root / "NONE.txt").write_text("one")
    (root / "None.txt").write_text("two")
    assert "none" not in {item.id for item in import_folder(root, rejections=Rejections(tmp_path))}
    assert "none.txt: there is no such text, but NONE.txt and None.txt" in rejected(tmp_path)[0]["reason"]


def test_linked_folders_are_followed_once_and_links_to_nowhere_are_noted(tmp_path, speech):
    for name in ("speech/y.wav", "speech/real/z.wav", "elsewhere/x.wav"):
        write_audio(tmp_path / name, speech, RATE)
    root = tmp_path / "speech"
    (root / "more").symlink_to("../elsewhere")
    (root / "a loop").symlink_to(".")
    (root / "another way").symlink_to("real")
    (root / "x.wav").symlink_to(tmp_path / "elsewhere" / "x.wav")
    (root / "gone.wav").symlink_to(tmp_path / "unplugged.wav")
    found = [item.id for item in import_folder(root, rejections=Rejections(tmp_path))]
    assert found == ["more/x", "real/z", "x", "y"]
    reasons = [row["reason"] for row in rejected(tmp_path)]
    assert [reason for reason in reasons if "read already" in reason] == [
        f"{root / 'a loop'}: is a link to {root}, which is read already.",
        f"{root / 'another way'}: is a link to {root / 'real'}, which is read already.",
    ]
    assert f"gone.wav: is a link to {tmp_path / 'unplugged.wav'}, which is not there" in reasons[-1]


def test_every_suffix_of_a_recording_is_looked_at(tmp_path, recording):
    names = ("a.wave", "b.mp2", "c.mpga", "d.SPH", "e.m4b", "f.aac", "g.webm", "h.ac3", "i.wv")
    for name in names:
        (tmp_path / "more" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "more" / name).write_bytes(recording.read_bytes() if name < "e" else b"nothing")
    assert [item.id for item in import_folder(tmp_path / "more", rejections=Rejections(tmp_path))] == [
        "a",
        "b",
        "c",
        "d",
    ]
    assert [row["id"] for row in rejected(tmp_path)] == ["e", "f", "g", "h", "i"]


def test_a_missing_folder_and_one_without_audio(tmp_path):
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        list(import_folder(tmp_path / "nowhere"))
    with pytest.raises(ManifestError, match=r"no audio in it\. Looked for: .*\.flac"):
        list(import_folder(tmp_path))


# --- Kaldi ----------------------------------------------------------------------------------------------------------


def kaldi_folder(tmp_path: Path, **tables: str) -> Path:
    folder = tmp_path / "kaldi"
    folder.mkdir(exist_ok=True)
    for name, content in tables.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)
    return folder


def test_kaldi_segments(tmp_path, recording, speech):
    folder = kaldi_folder(
        tmp_path,
        wav_scp=f"rec {recording}\n",
        segments="u1 rec 0.5 1.5\nu2\trec 2.0 -1\n",
        text="u1 HELLO  WORLD\nu2\tBYE\n",
        utt2spk="u1 anna\nu2 ben\n",
        utt2lang="u1 en\n",
    )
    first, second = import_kaldi(folder)
    assert (first.id, first.start, first.duration, first.text) == ("u1", 0.5, 1.0, "HELLO  WORLD")
    assert (first.speaker, first.language, second.speaker, second.language) == ("anna", "en", "ben", None)
    assert (second.start, second.duration, second.text) == (2.0, 2.0, "BYE")
    torch.testing.assert_close(read_utterance(first, RATE), speech[4000:12_000], atol=1e-4, rtol=0)


def test_kaldi_without_segments_and_with_relative_paths(tmp_path, recording):
    folder = kaldi_folder(tmp_path, wav_scp="rec ../data/rec.wav\n")
    (utterance,) = import_kaldi(folder)
    assert (utterance.id, utterance.audio, utterance.duration) == ("rec", recording, 4.0)
    (folder / "wav.scp").write_text("rec data/rec.wav\n")
    assert next(import_kaldi(folder, audio_root=tmp_path)).audio == recording


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"wav_scp": "a a.wav\nb sph2pipe -f wav b.sph |\n"},
            r"wav\.scp, line 2: .* is a command, and Vocable does not",
        ),
        ({"wav_scp": "a wav.ark:123\n"}, r"line 1: 'wav\.ark:123' is a place in an archive"),
        ({"wav_scp": "a a.wav\n\na b.wav\n"}, r"line 3: 'a' is there already, in line 1"),
        ({"wav_scp": "a\n"}, "line 1: there is no path"),
        (
            {"wav_scp": "a a.wav\n", "segments": "u a 1.0\n"},
            r"segments, line 1: 'a 1\.0'; expected: utterance recording",
        ),
        ({"text": "a A\n"}, r"there is no wav\.scp in it"),
    ],
)
def test_broken_kaldi_tables(tmp_path, tables, message):
    with pytest.raises(ManifestError, match=message):
        list(import_kaldi(kaldi_folder(tmp_path, **tables)))


def test_a_kaldi_segment_that_is_no_stretch_is_left_out(tmp_path, recording):
    segments = "u1 rec 0.5 1.5\nu2 rec 2.0 1.0\nu3 rec nan 1.0\nu4 rec -0.5 1.0\nu5 rec 2 3\n"
    folder = kaldi_folder(tmp_path, wav_scp=f"rec {recording}\n", segments=segments)
    assert [item.id for item in import_kaldi(folder, rejections=Rejections(tmp_path))] == ["u1", "u5"]
    assert [(row["id"], row["line"]) for row in rejected(tmp_path)] == [("u2", 2), ("u3", 3), ("u4", 4)]
    assert "the end, 1 s, is not after the start, 2 s" in rejected(tmp_path)[0]["reason"]
    with pytest.raises(ManifestError, match="is not after the start"):
        list(import_kaldi(folder, strict=True))


def test_kaldi_utterances_without_audio_are_left_out(tmp_path, recording):
    folder = kaldi_folder(
        tmp_path,
        wav_scp=f"rec {recording}\ngone gone.wav\n",
        segments="ok rec 0 1\nlate rec 3 9\nlost other 0 1\ngone gone 0 1\n",
        text="ok A\nghost B\n",
    )
    assert [item.id for item in import_kaldi(folder, rejections=Rejections(tmp_path))] == ["ok"]
    reasons = {row["id"]: row for row in rejected(tmp_path)}
    assert {id: row["line"] for id, row in reasons.items()} == {"late": 2, "lost": 3, "gone": 4, "ghost": 2}
    assert "spans 3 s to 9 s, but the file is 4 s long" in reasons["late"]["reason"]
    assert "'other' is not in wav.scp" in reasons["lost"]["reason"]
    assert "no such file" in reasons["gone"]["reason"]
    assert "has a text, but is in neither" in reasons["ghost"]["reason"]
    with pytest.raises(ManifestError, match=r"line 2: .* spans 3 s"):
        list(import_kaldi(folder, strict=True))


# --- fairseq --------------------------------------------------------------------------------------------------------


def test_fairseq_with_words_or_letters(tmp_path, recording):
    tsv = tmp_path / "train.tsv"
    tsv.write_text(f"{recording.parent}\nrec.wav\t{4 * RATE}\n\n")
    (utterance,) = import_fairseq_tsv(tsv)
    assert (utterance.id, utterance.audio, utterance.duration, utterance.text) == ("rec", recording, 4.0, None)
    (tmp_path / "train.ltr").write_text("H E L L O | Y O U |\n")
    assert next(import_fairseq_tsv(tsv)).text == "HELLO YOU"
    (tmp_path / "train.wrd").write_text("HELLO WORDS\n")
    assert next(import_fairseq_tsv(tsv)).text == "HELLO WORDS"
    (tmp_path / "train.wrd").write_text("ONE\nTWO\n")
    with pytest.raises(ManifestError, match=r"train\.wrd: 2 lines of text for 1 utterances in train\.tsv"):
        list(import_fairseq_tsv(tsv))


def test_fairseq_with_moved_audio_and_wrong_lines(tmp_path, recording):
    tsv = tmp_path / "train.tsv"
    tsv.write_text(f"/long/gone\nrec.wav\t{4 * RATE}\nrec.wav\t5\nmissing.wav\t7\n")
    with pytest.raises(ManifestError, match="line 1: '/long/gone' is no folder"):
        list(import_fairseq_tsv(tsv))
    found = list(import_fairseq_tsv(tsv, audio_root=recording.parent, rejections=Rejections(tmp_path)))
    assert [item.id for item in found] == ["rec"]
    assert [row["line"] for row in rejected(tmp_path)] == [3, 4]
    assert "has 32000 samples, but the line says '5'" in rejected(tmp_path)[0]["reason"]
    tsv.write_text("rec.wav\t5\n")
    with pytest.raises(ManifestError, match="is no folder"):
        list(import_fairseq_tsv(tsv))


# --- lhotse ---------------------------------------------------------------------------------------------------------


def test_cuts_that_lhotse_wrote(tmp_path, recording, speech):
    lhotse = pytest.importorskip("lhotse")
    from lhotse.supervision import AlignmentItem

    source = lhotse.Recording.from_file(recording, recording_id="rec")
    alignment = {
        "word": [AlignmentItem("hello", 1.2, 0.5), AlignmentItem("", 1.7, 0.1), AlignmentItem("you", 2, 0.5, 0.9)]
    }
    supervision = lhotse.SupervisionSegment(
        "s", "rec", 1.0, 2.0, text="hello you", speaker="anna", language="en", alignment=alignment
    )
    whole = lhotse.MonoCut("whole", 0, 4.0, 0, supervisions=[supervision], recording=source)
    part = whole.truncate(offset=1.0, duration=2.0).with_id("part")
    part.snr = 3.5
    plain = lhotse.MonoCut("plain", 0.5, 1.0, 0, recording=source)
    strange = [
        whole.pad(5).with_id("padded"),
        whole.perturb_speed(1.1).with_id("fast"),
        whole.resample(16_000).with_id("resampled"),
    ]
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        lhotse.CutSet.from_cuts([whole, part, plain, *strange]).to_file(tmp_path / name)
        out = tmp_path / f"out {name}"
        first, second, third = import_lhotse_cuts(tmp_path / name, rejections=Rejections(out))
        assert (first.id, first.start, first.duration, first.audio) == ("whole", 0.0, 4.0, recording)
        assert (second.text, second.speaker, second.language) == ("hello you", "anna", "en")
        assert second.extra == {"custom": {"snr": 3.5}}
        assert first.words == (Word(word="hello", start=1.2, end=1.7), Word(word="you", start=2.0, end=2.5))
        assert second.words == (Word(word="hello", start=0.2, end=0.7), Word(word="you", start=1.0, end=1.5))
        assert (third.text, third.speaker, third.words) == (None, None, None)
        torch.testing.assert_close(read_utterance(second, RATE), torch.from_numpy(part.load_audio()[0]))
        reasons = [row["reason"] for row in rejected(out)]
        assert [row["id"] for row in rejected(out)] == ["padded", "fast", "resampled"]
        for reason, part_of_it in zip(reasons, ["MixedCut", "Speed", "Resample"], strict=True):
            assert part_of_it in reason


def cut(audio: Path, **changes: object) -> dict:
    source = {"type": "file", "channels": [0], "source": str(audio)}
    return {
        "id": "c",
        "start": 0,
        "duration": 1.0,
        "channel": 0,
        "type": "MonoCut",
        "recording": {"id": "rec", "sources": [source], "sampling_rate": RATE, "num_samples": 32_000, "duration": 4.0},
    } | changes


def test_texts_of_supervisions_are_in_the_order_of_their_times(tmp_path, recording):
    said = [
        {"start": 1.5, "text": "three", "speaker": "a"},
        {"start": 0.0, "text": "one"},
        {"start": 0.7, "text": "two"},
    ]
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut(recording, supervisions=said)))
    assert [item.text for item in import_lhotse_cuts(tmp_path / "cuts.jsonl")] == ["one two three"]


def test_cuts_without_lhotse(tmp_path, recording):
    stereo = cut(recording)["recording"] | {"sources": [{"type": "file", "channels": [0, 1], "source": "x.wav"}]}
    rows = [
        cut(recording),
        cut(recording, type="MultiCut", channel=[0, 1], id="multi"),
        cut(recording, recording=stereo),
        {"id": "x", "type": "MonoCut"},
        [1],
        cut(recording, start=3.0, duration=3.0),
        cut(recording, recording=None),
        cut(recording, recording={"sources": [{"type": "command", "channels": [0], "source": "sox x |"}]}),
    ]
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    found = list(import_lhotse_cuts(tmp_path / "cuts.jsonl", rejections=Rejections(tmp_path)))
    assert [item.id for item in found] == ["c", "multi"]
    expected = {
        3: "channel 0 of a file of 2",
        4: "KeyError: 'start'",
        5: "holds a list",
        6: "is 4 s long",
        7: "no recording",
        8: "of type 'command', not a file",
        9: "Not JSON",
    }
    for row in rejected(tmp_path):
        assert expected.pop(row["line"]) in row["reason"]
    assert not expected


def test_relative_recordings_missing_and_damaged_files(tmp_path, recording):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut(Path("data/rec.wav"))))
    assert next(import_lhotse_cuts(tmp_path / "cuts.jsonl")).audio == recording
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut(Path("rec.wav"))))
    assert next(import_lhotse_cuts(tmp_path / "cuts.jsonl", audio_root=recording.parent)).audio == recording
    with pytest.raises(ManifestError, match=r"no\.jsonl: no such file"):
        list(import_lhotse_cuts(tmp_path / "no.jsonl"))
    zipped = gzip.compress(json.dumps([cut(recording, id=str(n)) for n in range(99)]).encode())
    (tmp_path / "short.jsonl.gz").write_bytes(zipped[: len(zipped) // 2])
    with pytest.raises(ManifestError, match="gzip file is damaged or cut short"):
        list(import_lhotse_cuts(tmp_path / "short.jsonl.gz"))


# --- Hugging Face datasets --------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(recording, tmp_path, speech):
    datasets = pytest.importorskip("datasets")
    contents = []
    for suffix in ("flac", "opus", "mp3"):
        write_audio(tmp_path / f"x.{suffix}", speech, RATE)
        contents.append((tmp_path / f"x.{suffix}").read_bytes())
    rows = [
        *({"bytes": content, "path": None} for content in contents),
        {"bytes": None, "path": str(recording)},
        {"bytes": b"no audio", "path": "odd.wav"},
        None,
    ]
    columns = {
        "audio": rows,
        "sentence": ["a", "b", None, "d", "e", "f"],
        "speaker_id": [7, 7, 8, 8, 9, 9],
        "lang": [1, 0, 1, 1, 1, 1],
    }
    plain = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "sentence": datasets.Value("string"),
            "speaker_id": datasets.Value("int64"),
            "lang": datasets.ClassLabel(names=["de", "en"]),
        }
    )
    return datasets.Dataset.from_dict(columns, features=plain).cast_column("audio", datasets.Audio())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_dataset_with_bytes_and_paths(tmp_path, recording, dataset, streamed):
    out = tmp_path / "out"
    source = dataset.to_iterable_dataset() if streamed else dataset
    found = list(import_hf_dataset(source, out, licence="CC0", rejections=Rejections(out)))
    assert [item.audio.relative_to(tmp_path).as_posix() for item in found] == [
        "out/audio/00000000.flac",
        "out/audio/00000001.opus",
        "out/audio/00000002.mp3",
        "data/rec.wav",
    ]
    assert [(item.id, item.text, item.speaker, item.language) for item in found] == [
        ("00000000", "a", "7", "en"),
        ("00000001", "b", "7", "de"),
        ("00000002", None, "8", "en"),
        ("00000003", "d", "8", "en"),
    ]
    assert {(item.duration, item.licence) for item in found} == {(4.0, "CC0")}
    assert soundfile.info(out / "audio" / "00000001.opus").subtype == "OPUS"
    assert [row["id"] for row in rejected(out)] == ["00000004", "00000005"]
    assert "not audio" in rejected(out)[0]["reason"]
    assert "neither audio bytes nor a path" in rejected(out)[1]["reason"]


def test_a_resumed_import_does_not_write_again(tmp_path, dataset):
    list(import_hf_dataset(dataset, tmp_path / "out"))
    first = tmp_path / "out" / "audio" / "00000000.flac"
    half = tmp_path / "out" / "audio" / "00000001.opus"
    stamp, content = first.stat().st_mtime_ns, half.read_bytes()
    half.write_bytes(content[:100])
    list(import_hf_dataset(dataset, tmp_path / "out"))
    assert first.stat().st_mtime_ns == stamp
    assert half.read_bytes() == content


def test_columns_are_named_or_found(tmp_path, dataset):
    named = {"id": "sentence", "text": "lang"}
    found = list(import_hf_dataset(dataset, tmp_path / "out", columns=named))
    assert [(item.id, item.text) for item in found[:2]] == [("a", "en"), ("b", "de")]
    with pytest.raises(ManifestError, match=r"no column 'sentense'\. Did you mean 'sentence'\? It has: audio, "):
        list(import_hf_dataset(dataset, tmp_path / "out", columns={"text": "sentense"}))
    rejections = Rejections(tmp_path)
    found = list(import_hf_dataset(dataset, tmp_path / "out", columns={"id": "speaker_id"}, rejections=rejections))
    assert [item.id for item in found] == ["7", "8"]
    assert "The id '7' came before" in rejected(tmp_path)[0]["reason"]
    with pytest.raises(ManifestError, match=r"row 4: .*not audio"):
        list(import_hf_dataset(dataset, tmp_path / "out", strict=True))
