"""Planned pairs become pair sets, spoken by a tiny program that the test writes."""

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vocable.audio.io import audio_info, read_audio
from vocable.cli import main
from vocable.errors import ConfigError, OutputError
from vocable.evaluation.pairs import read_pair_set
from vocable.testsets import command_tts
from vocable.testsets.plan import PlannedPair, SpokenText, deal_voices, draw_evenly
from vocable.testsets.speak import SpeechConfig, segment_name, speak_pairs

# A beep of 0.1 s a word, louder for longer texts; says in a log what it spoke; fails at the word "unspeakable".
PROGRAM = """
import math, struct, sys, wave
text, voice, path = sys.argv[1:4]
if "unspeakable" in text:
    sys.exit("cannot say that")
with open(__file__ + ".log", "a") as log:
    log.write(voice + ":" + text + "\\n")
rate = 8000
loud = 0 if "silent" in text else min(30000, 300 * len(text))
count = rate // 10 * (len(text.split()) + 2)
samples = [int(loud * math.sin(2 * math.pi * (300 + 10 * len(voice)) * t / rate)) for t in range(count)]
with wave.open(path, "wb") as file:
    file.setparams((1, 2, rate, 0, "NONE", None))
    file.writeframes(struct.pack("<%dh" % count, *samples))
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "beep.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def command(program: Path, said: str = "{text}") -> str:
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(program))} {said} {{voice}} {{wav}}"


def spoken_texts(program: Path) -> list[str]:
    log = Path(f"{program}.log")
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def pair(name: str, context: str, right: str, wrong: str, turn: int = 0) -> PlannedPair:
    first = SpokenText(text=context)
    halves = ((first, SpokenText(text=right)), (first, SpokenText(text=wrong)))
    return PlannedPair(id=name, positive=halves[0], negative=halves[1], group={"story": name}, turn=turn)


PAIRS = [pair("a", "it was late", "we slept", "we bought"), pair("b", "it was late", "we bought", "they ran", 1)]


def build(program, out, pairs=PAIRS, voices=("x", "yy"), per_item=2, **more):
    dealt = deal_voices(pairs, voices, per_item)
    return speak_pairs(dealt, out, "storycloze", SpeechConfig(command=command(program)), {"seed": 0}, **more)


def test_equal_segments_are_spoken_once_a_voice(program, tmp_path):
    report = build(program, tmp_path / "out")
    texts = ["it was late", "they ran", "we bought", "we slept"]
    assert sorted(spoken_texts(program)) == sorted(f"{voice}:{text}" for voice in ("x", "yy") for text in texts)
    assert report.num_segments == report.num_spoken == 8
    pair_set = read_pair_set(tmp_path / "out")
    assert [item.id for item in pair_set.items] == ["a.x", "a.yy", "b.yy", "b.x"]
    assert pair_set.card["voices"] == ["x", "yy"] and pair_set.card["num_left_out"] == 0


def test_both_halves_have_the_voice_of_the_pair_and_share_their_context(program, tmp_path):
    build(program, tmp_path / "out")
    pair_set = read_pair_set(tmp_path / "out")
    for item in pair_set.items:
        speakers = {pair_set.utterances[s.speech].speaker for s in (*item.positive, *item.negative) if s.speech}
        assert speakers == {item.voice}
        assert item.positive[0] == item.negative[0] and item.positive[1] != item.negative[1]


def test_segments_are_equally_loud_and_as_long_as_the_manifest_says(program, tmp_path):
    build(program, tmp_path / "out")
    for utterance in read_pair_set(tmp_path / "out").utterances.values():
        waveform = read_audio(utterance.audio).waveform.numpy()
        level = 10 * np.log10(np.mean(np.square(waveform[800:-800])))
        assert level == pytest.approx(-23, abs=0.5)  # the beeps were 3 to 11 times 300 high
        assert audio_info(utterance.audio).duration == utterance.duration


def test_a_stopped_run_goes_on_and_speaks_nothing_twice(program, tmp_path):
    out = tmp_path / "out"
    build(program, out)
    names = ("manifest.jsonl", "pairs.jsonl", "card.json")
    whole = {name: (out / name).read_bytes() for name in names}
    for name in names:  # as if it had been killed in the middle
        (out / name).unlink()
    lost = sorted((out / "audio").glob("*.flac"))[:3]
    for path in lost:
        path.unlink()
    before = len(spoken_texts(program))
    report = build(program, out)
    assert report.num_spoken == len(spoken_texts(program)) - before == 3
    assert {name: (out / name).read_bytes() for name in names} == whole


def test_a_pair_that_cannot_be_spoken_is_left_out_whole(program, tmp_path):
    bad = [pair("c", "it was late", "we slept", "unspeakable"), pair("d", "silent night", "we slept", "we ran")]
    report = build(program, tmp_path / "out", [*PAIRS, *bad], per_item=1)
    assert {item.group["story"] for item in report.pair_set.items} == {"a", "b"}
    assert report.pair_set.card["num_left_out"] == 2
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["c.x", "d.x"]
    assert "cannot say that" in rows[0]["reason"] and "silence" in rows[1]["reason"]
    used = {s.speech for item in report.pair_set.items for s in (*item.positive, *item.negative)}
    assert used == set(read_pair_set(tmp_path / "out").utterances)


def test_several_processes_speak_the_same(program, tmp_path):
    build(program, tmp_path / "one")
    build(program, tmp_path / "two", num_processes=2)
    for name in ("manifest.jsonl", "pairs.jsonl", "card.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_spoken_and_foreign_folders_are_refused(program, tmp_path):
    with pytest.raises(ConfigError, match=r"no pair could be made.*cannot say that"):
        build(program, tmp_path / "none", [pair("c", "unspeakable", "a", "b")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        build(program, tmp_path / "full")
    build(program, tmp_path / "out")
    with pytest.raises(OutputError, match="already holds a finished pair set"):
        build(program, tmp_path / "out")


def test_phones_reach_a_program_that_reads_them(program, tmp_path):
    said = SpokenText(text="cat", phones=("K", "AE1", "T"))
    other = SpokenText(text="cack", phones=("K", "AE1", "K"))
    planned = deal_voices([PlannedPair(id="w", positive=(said,), negative=(other,))], ["x"])
    config = SpeechConfig(command=command(program, "{phones}"))
    report = speak_pairs(planned, tmp_path / "out", "swuggy", config, {})
    assert sorted(spoken_texts(program)) == ["x:K AE1 K", "x:K AE1 T"]
    assert {u.extra["pronunciation"] for u in report.pair_set.utterances.values()} == {"K AE1 K", "K AE1 T"}
    assert {u.text for u in report.pair_set.utterances.values()} == {"cat", "cack"}
    with pytest.raises(ConfigError, match="reads phones, but for 'it was late' there are none"):
        speak_pairs(deal_voices(PAIRS, ["x"]), tmp_path / "other", "storycloze", config, {})


def test_names_of_segments_depend_on_everything_that_is_heard():
    base = SpeechConfig(command="a {text} {wav}")
    said = SpokenText(text="cat", phones=("K",))
    names = {
        segment_name(said, "x", base),
        segment_name(said, "y", base),
        segment_name(SpokenText(text="cat"), "x", base),
        segment_name(said, "x", SpeechConfig(command="b {text} {wav}")),
        segment_name(said, "x", SpeechConfig(command="a {text} {wav}", sample_rate=24_000)),
    }
    assert len(names) == 5
    assert segment_name(SpokenText(text="Kat", phones=("K",)), "x", base) in names  # the spelling is not heard
    assert segment_name(said, "x", SpeechConfig(command="a {text} {wav}", timeout_seconds=5)) in names  # nor is this


def test_voices_are_dealt_in_turn():
    dealt = deal_voices(PAIRS, ["x", "yy"], 1)
    assert [(item.id, item.voice) for item in dealt] == [("a.x", "x"), ("b.yy", "yy")]
    with pytest.raises(ConfigError, match="voices_per_item is 3"):
        deal_voices(PAIRS, ["x", "yy"], 3)
    with pytest.raises(ConfigError, match="each once"):
        deal_voices(PAIRS, ["x", "x"])


def test_drawing_evenly_takes_turns():
    drawn = draw_evenly(["a1", "a2", "a3", "a4", "b1", "c1", "c2"], 6, key=lambda item: item[0], seed=0)
    assert [item[0] for item in drawn] == ["a", "b", "c", "a", "c", "a"]
    assert draw_evenly("abc", None, key=str, seed=0) == list("abc")


def test_a_segment_that_takes_too_long_leaves_its_pair_out(program, tmp_path, monkeypatch):
    run = command_tts._run

    def late(arguments, timeout_seconds):
        """Time is up for one text, however quick the machine is."""
        if "we slept" in arguments:
            raise subprocess.TimeoutExpired(arguments, timeout_seconds)
        return run(arguments, timeout_seconds)

    monkeypatch.setattr(command_tts, "_run", late)
    config = SpeechConfig(command=command(program), timeout_seconds=90)
    report = speak_pairs(deal_voices(PAIRS, ["x"]), tmp_path / "out", "storycloze", config, {})
    assert [item.id for item in report.pair_set.items] == ["b.x"]
    assert "longer than 90 s over 'we slept'" in (tmp_path / "out" / "rejected.jsonl").read_text()


@pytest.mark.parametrize(
    "bad",
    [
        {"format": "mp3"},
        {"format": "opus", "sample_rate": 22_050},
        {"sample_rate": 100},
        {"timeout_seconds": 0},
    ],
)
def test_impossible_files_are_refused(bad):
    with pytest.raises(ConfigError):
        SpeechConfig(**bad)


def test_commands_speak_all_three_kinds(program, tmp_path, capsys):
    lexicon = tmp_path / "lexicon.tsv"
    words = ["".join(parts) for parts in itertools.product("ptk", "ai", "ptk", "ai", "pt")]
    lexicon.write_text("".join(f"{word}\t{' '.join(word)}\n" for word in words[::3]), encoding="utf-8")
    with_voices = ["--voices", "x,yy", "--command", command(program)]
    assert main(["evaluate", "build", "words", str(tmp_path / "w"), "--lexicon", str(lexicon), "--num-pairs", "4",
                 *with_voices]) == 0  # fmt: skip
    assert main(["evaluate", "build", "sentences", str(tmp_path / "s"), "--num-pairs", "3", *with_voices]) == 0
    assert main(["evaluate", "build", "stories", str(tmp_path / "t"), "--num-stories", "4", "--versions", "spoken",
                 *with_voices]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    for folder, benchmark, count in (("w", "swuggy", 4), ("s", "sblimp", 3), ("t", "storycloze", 4)):
        pair_set = read_pair_set(tmp_path / folder)
        assert (pair_set.benchmark, len(pair_set.items)) == (benchmark, count)
        assert f"{count} pairs for the benchmark {benchmark}" in shown
    assert read_pair_set(tmp_path / "w").card["matching"]["mean_phones"] == 5
    assert read_pair_set(tmp_path / "s").card["licence"] == "Apache-2.0"


def test_the_card_says_which_stories_were_left_out(program, tmp_path, capsys):
    texts = tmp_path / "mine.jsonl"
    rows = [{"context": f"day {n}", "right": f"it ended {n}"} for n in "abcd"]
    rows[0]["wrong"] = "it did not"
    texts.write_text("\n".join([*map(json.dumps, rows), "no story"]), encoding="utf-8")
    assert main(["evaluate", "build", "stories", str(tmp_path / "t"), "--texts", str(texts), "--num-stories", "3",
                 "--voices", "x", "--command", command(program), "--timeout-seconds", "60"]) == 0  # fmt: skip
    card = read_pair_set(tmp_path / "t").card
    left_out = {
        "not JSON": 1,
        "more than were asked for": 1,
        "no wrong ending of its own, so no spoken pair": 2,
    }
    assert card["stories"] == {"found": 5, "left_out": left_out} and card["speech"]["timeout_seconds"] == 60
    assert "Stories left out: 2 (no wrong ending of its own, so no spoken pair)" in capsys.readouterr().out


def test_a_command_with_voices_wants_their_names(program, tmp_path, capsys):
    assert main(["evaluate", "build", "sentences", str(tmp_path / "s"), "--command", command(program)]) == 2
    assert "--voices" in capsys.readouterr().err
