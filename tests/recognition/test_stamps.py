"""Word times in files of other programs."""

import json

import pytest

from vocable.errors import AlignmentError, ConfigError, ManifestError
from vocable.recognition.aligner import Stamp
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.stamps import (
    ctm_stamps,
    read_ctm,
    read_json_stamps,
    read_textgrid,
    stamps_of_transformers,
    within,
)

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.75
            text = "she ""said"""
        intervals [3]:
            xmin = 0.75
            xmax = 1
            text = "sil"
        intervals [4]:
            xmin = 1
            xmax = 1.5
            text = "Zoë"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "AH"
'''
SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"ann - words"
0
1.5
3
0
0.25
""
0.25
0.75
"she ""said"""
0.75
1.5
"Zoë"
'''


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(("text", "start"), [(LONG, 1.0), (SHORT, 0.75)])
def test_textgrids_of_both_forms_and_encodings(tmp_path, encoding, text, start):
    path = tmp_path / "a.TextGrid"
    path.write_text(text, encoding=encoding)
    first, last = read_textgrid(path)
    assert first == Stamp('she "said"', 0.25, 0.75)
    assert last == Stamp("Zoë", start, 1.5)


def test_the_tier_must_be_clear(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG, encoding="utf-8")
    assert read_textgrid(path, "phones") == [Stamp("AH", 0.0, 1.5)]
    with pytest.raises(AlignmentError, match=r"the tier 'Words' is not to be found; its interval tiers are \['words'"):
        read_textgrid(path, "Words")
    path.write_text(LONG.replace('"words"', '"orthography"'), encoding="utf-8")
    with pytest.raises(AlignmentError, match="one tier of words is not to be found"):
        read_textgrid(path)
    path.write_text("no grid", encoding="utf-8")
    with pytest.raises(AlignmentError, match=r"a\.TextGrid: not a readable TextGrid"):
        read_textgrid(path)


@pytest.mark.parametrize(("xmin", "start"), [("-0.1", 0.0), ("4.440892098500626e-16", 4.440892098500626e-16)])
def test_times_before_zero_and_in_scientific_notation(tmp_path, xmin, start):
    path = tmp_path / "a.TextGrid"
    for text, old in ((LONG, "xmin = 0.25"), (SHORT, "0.25\n0.75")):
        path.write_text(text.replace(old, old.replace("0.25", xmin)), encoding="utf-8")
        assert read_textgrid(path)[0] == Stamp('she "said"', start, 0.75)


def test_textgrids_with_comments_points_and_no_end(tmp_path):
    path = tmp_path / "a.TextGrid"
    points = 'class = "TextTier"\nname = "clicks"\nxmin = 0\nxmax = 1.5\npoints: size = 1\n'
    points += 'points [1]:\nnumber = 1\nmark = "x"\n'
    with_points = LONG.replace("size = 2\n", "size = 3 ! two of words and phones, one of points\n", 1) + points
    path.write_text(with_points, encoding="utf-8")
    assert [stamp.word for stamp in read_textgrid(path)] == ['she "said"', "Zoë"]
    path.write_text(LONG[:-120], encoding="utf-8")
    with pytest.raises(AlignmentError, match="not a readable TextGrid: it ends too early"):
        read_textgrid(path)


def test_a_ctm_with_two_channels_gives_one_or_none(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text("call A 0.1 0.3 yeah\ncall A 0.9 0.1 i\ncall B 0.6 0.25 yeah\nother 1 0 1 yes\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"call has entries of the channels A, B, whose words would mix.*--channel A"):
        ctm_stamps(path)
    assert ctm_stamps(path, "A") == {"call": [Stamp("yeah", 0.1, 0.4), Stamp("i", 0.9, 1.0)]}
    assert ctm_stamps(path, "B") == {"call": [Stamp("yeah", 0.6, 0.85)]}
    with pytest.raises(ConfigError, match="no word or phone of channel 'C'; its channels are 1, A, B"):
        ctm_stamps(path, "C")
    path.write_text("call A 0.1 0.3 yeah\nother B 0 1 yes\n", encoding="utf-8")
    assert set(ctm_stamps(path)) == {"call", "other"}


def test_ctm(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text(";; by hand\nu1 1 0.50 0.25 two 0.9\nu1 1 0.10 0.30 one NA\n\nu2 A 0 1 <eps>\n", encoding="utf-8")
    assert read_ctm(path) == {"u1": [Stamp("one", 0.1, 0.4), Stamp("two", 0.5, 0.75, 0.9)], "u2": []}
    path.write_text("u1 1 0.5 two\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.ctm, line 1: 'u1 1 0.5 two'; expected: name channel start duration"):
        read_ctm(path)
    path.write_text("u1 1 0.5 nan two\n", encoding="utf-8")
    with pytest.raises(AlignmentError, match=r"u1: 'two' lasts from 0.5 s to nan s"):
        read_ctm(path)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_ctm(tmp_path / "none.ctm")


WORDS = [Stamp("one", 0.1, 0.4, 0.9), Stamp("two", 0.5, 0.75, 0.8)]
WHISPERX = {
    "segments": [
        {
            "start": 0,
            "end": 1,
            "text": "one 2 two",
            "words": [
                {"word": "one", "start": 0.1, "end": 0.4, "score": 0.9},
                {"word": "2"},  # WhisperX cannot align numerals
                {"word": "two", "start": 0.5, "end": 0.75, "score": 0.8},
            ],
        }
    ]
}
OPENAI = {
    "segments": [
        {"words": [{"word": " one", "start": 0.1, "end": 0.4, "probability": 0.9}]},
        {"words": [{"word": " two", "start": 0.5, "end": 0.75, "probability": 0.8}]},
    ]
}
TRANSFORMERS = {"chunks": [{"text": " one", "timestamp": [0.1, 0.4]}, {"text": " two", "timestamp": [0.5, 0.75]}]}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (WHISPERX, WORDS),
        ({"segments": [], "word_segments": WHISPERX["segments"][0]["words"]}, WORDS),
        (OPENAI, WORDS),
        (TRANSFORMERS, [word._replace(confidence=None) for word in WORDS]),
        ({"segments": []}, []),
    ],
)
def test_json_of_whisper_and_its_kin(tmp_path, result, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    assert read_json_stamps(path) == words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "holds a list; expected an object with segments or chunks"),
        ('{"segments": [{"text": "one"}]}', "has no word times. Run Whisper with word timestamps"),
        ('{"segments": [{"words": [{"start": 0, "end": 1}]}]}', "its words are not {word, start, end}: KeyError"),
        ('{"chunks": [{"text": "a b", "timestamp": [0, 1]}]}', "'a b' is more than a word"),
        ('{"chunks": [{"text": "a", "timestamp": 0}]}', "its chunks are not"),
        ('{"segments": [{"words": [{"word": "a", "start": 2, "end": 1}]}]}', "'a' lasts from 2.0 s to 1.0 s"),
    ],
)
def test_broken_json_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(AlignmentError, match="a\\.json: " + message):
        read_json_stamps(path)


def test_a_last_word_without_an_end():
    result = {"chunks": [{"text": "a", "timestamp": (0.5, None)}]}
    assert stamps_of_transformers(result, "x") == []
    assert stamps_of_transformers(result, "x", duration=2.0) == [Stamp("a", 0.5, 2.0)]


def test_a_stretch_of_a_file():
    stamps = [Stamp("before", 0.0, 1.1), Stamp("first", 0.9, 1.5), Stamp("last", 1.8, 2.1), Stamp("after", 1.9, 2.5)]
    inside = within(stamps, 1.0, 1.0)
    assert [stamp.word for stamp in inside] == ["first", "last"]
    assert inside[0][1:3] == pytest.approx((-0.1, 0.5))


def test_files_are_found_by_path_or_unique_name(tmp_path):
    for name in ("x/a.1.json", "x/b.json", "y/b.JSON", "x/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = files_by_name(tmp_path, [".json"])
    assert find_file(files, "a.1") == tmp_path / "x" / "a.1.json" == find_file(files, "x/a.1")
    assert find_file(files, "y/b") == tmp_path / "y" / "b.JSON"
    with pytest.raises(AlignmentError, match=r"There are 2 files .* called 'b'"):
        find_file(files, "b")
    with pytest.raises(AlignmentError, match="There is no file called 'c'"):
        find_file(files, "c")
    with pytest.raises(ConfigError, match=r"holds no file in \.ctm or \.stm"):
        files_by_name(tmp_path, [".ctm", ".stm"])
    with pytest.raises(ConfigError, match="no such folder"):
        files_by_name(tmp_path / "none", [".json"])
