"""Units against phones, on tables small enough to count by hand."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.phone_labels import frame_labels, read_phones, utterance_phones
from vocable.evaluation.phones import Phones, PhonesConfig, phone_unit_statistics
from vocable.evaluation.recount import Described, bootstrap_counts, count_scores, gather_counts
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.token_sources import TokenSource
from vocable.tokens.runs import frames_of
from vocable.types import Phone, SpeechTokens, Utterance


def test_a_table_counted_by_hand():
    # eight frames: phone a has unit 0 three times and unit 1 once, phone b has units 1 and 2 twice each
    found = phone_unit_statistics(np.array([[3, 1, 0], [0, 2, 2]]))
    assert found.phone_purity == pytest.approx((3 + 2 + 2) / 8)  # best phone of each unit
    assert found.cluster_purity == pytest.approx((3 + 2) / 8)  # best unit of each phone
    assert found.phone_entropy_bits == pytest.approx(1)
    assert found.unit_entropy_bits == pytest.approx(2 * 3 / 8 * math.log2(8 / 3) + 1 / 4 * 2)
    # only unit 1 (3 of 8 frames) leaves doubt: one third a, two thirds b
    doubt = 3 / 8 * (1 / 3 * math.log2(3) + 2 / 3 * math.log2(1.5))
    assert found.mutual_information_bits == pytest.approx(1 - doubt)
    assert found.pnmi == pytest.approx(1 - doubt)


def test_extremes():
    same = phone_unit_statistics(np.eye(4))
    assert (same.phone_purity, same.cluster_purity, same.pnmi) == pytest.approx((1, 1, 1))
    unrelated = phone_unit_statistics(np.ones((4, 5)))
    assert (unrelated.phone_purity, unrelated.cluster_purity) == pytest.approx((1 / 4, 1 / 5))
    assert unrelated.pnmi == pytest.approx(0, abs=1e-12)
    finer = phone_unit_statistics(np.array([[1, 1, 0, 0], [0, 0, 1, 1]]))  # units split phones, and nothing is lost
    assert (finer.phone_purity, finer.cluster_purity, finer.pnmi) == pytest.approx((1, 0.5, 1))
    assert math.isnan(phone_unit_statistics(np.array([[2, 3]])).pnmi)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60))
def test_mutual_information_as_a_sum_over_frames(frames):
    joint = np.zeros((4, 5))
    for phone, unit in frames:
        joint[phone, unit] += 1
    found = phone_unit_statistics(joint)
    slow = 0.0
    for phone, unit in frames:
        both = sum(frame == (phone, unit) for frame in frames)
        of_phone, of_unit = sum(p == phone for p, _ in frames), sum(u == unit for _, u in frames)
        slow += math.log2(both * len(frames) / (of_phone * of_unit)) / len(frames)
    assert found.mutual_information_bits == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("table", [np.zeros((2, 2)), np.array([[1, -1]]), np.array([1, 2]), np.array([[math.nan]])])
def test_no_table_no_score(table):
    with pytest.raises(ConfigError, match="table"):
        phone_unit_statistics(table)


def phones(*rows: tuple[str, float, float]) -> list[Phone]:
    return [Phone(phone=name, start=start, end=end) for name, start, end in rows]


def test_labels_are_sampled_at_frame_centres():
    labels = phones(("a", 0.0, 0.03), ("b", 0.03, 0.05), ("c", 0.07, 0.09))
    # centres at 10, 30, 50, 70, 90 ms: a boundary belongs to the later phone, gaps and the end to nobody
    assert frame_labels(labels, 5, 50.0) == ["a", "b", None, "c", None]
    assert frame_labels([], 2, 50.0) == [None, None]


def test_phones_survive_the_manifest(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, torch.zeros(1600) + 0.1, 16_000)
    there = phones(("p", 0.0, 0.05), ("ə", 0.05, 0.1))
    extra = {"phones": [asdict(phone) for phone in there]}
    write_manifest([Utterance(id="a", audio=path, extra=extra)], tmp_path / "m.jsonl")
    assert utterance_phones(read_manifest(tmp_path / "m.jsonl")[0]) == tuple(there)
    assert utterance_phones(Utterance(id="a", audio=path)) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("p", "phones is a str"),
        ([{"phone": "p", "start": 0}], r"phones\[0\] is .*start and end are numbers"),
        ([["p", 0, 1]], r"phones\[0\] is .*expected \{phone, start, end\}"),
        ([{"phone": "p", "start": 1, "end": 0}], "ends at 0 s, before its start"),
        ([{"phone": "p", "start": 1, "end": 2}, {"phone": "q", "start": 0, "end": 1}], "sort the phones"),
    ],
)
def test_broken_phones_are_named(rows, message):
    with pytest.raises(ManifestError, match=message):
        utterance_phones(Utterance(id="a", audio=Path("a.wav"), extra={"phones": rows}))


def test_phones_from_files(tmp_path):
    (tmp_path / "a.ctm").write_text(";; made by hand\nu1 1 0.10 0.05 b\nu1 1 0.00 0.10 a 0.9\nu2 A 0 1 c\n")
    (tmp_path / "a.tsv").write_text("id\tstart\tend\tphone\nu1\t0\t0.1\ta\nu1\t0.1\t0.15\tb\nu2\t0\t1\tc\n")
    ctm, tsv = read_phones(tmp_path / "a.ctm"), read_phones(tmp_path / "a.tsv")
    assert [p.phone for p in ctm["u1"]] == ["a", "b"]
    assert ctm["u1"][1].end == pytest.approx(0.15)
    assert ctm.keys() == tsv.keys() and ctm["u2"] == tsv["u2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.ctm", "u1 1 0.1 b\n", "line 1: .*expected: name channel start duration label"),
        ("a.ctm", "u1 1 x 0.1 b\n", "line 1: 'u1 1 x 0.1 b'; expected"),
        ("a.ctm", "", "holds no word or phone"),
        ("a.tsv", "id\tstart\tend\tphone\nu1\tx\t1\ta\n", "'x' is not a number of seconds"),
        ("a.tsv", "u1\t0\t1\ta\n", "expected id start end phone, with tabs"),
        ("a.tsv", "id\tstart\tend\tphone\nu1\t0\t1\n", "line 2: 3 columns"),
        ("a.txt", "", r"read from \.ctm and \.tsv"),
    ],
)
def test_broken_phone_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_phones(tmp_path / name)


class Stored(TokenSource):
    """Tokens given outright."""

    def __init__(self, items: list[tuple[Utterance, SpeechTokens]], codebook_size: int, frame_rate: float | None = 10):
        super().__init__([utterance for utterance, _ in items], tokenizer=_Card(codebook_size, frame_rate))  # type: ignore
        self._stored = {utterance.id: tokens for utterance, tokens in items}


class _Card:
    def __init__(self, codebook_size: int, frame_rate: float | None):
        self.codebook_size, self.frame_rate = codebook_size, frame_rate

    def stream(self, name: str | None) -> "_Card":
        return self

    def card(self) -> dict:
        return {"name": "t", "fingerprint": "f", "codebook_size": self.codebook_size, "frame_rate": self.frame_rate}


def spoken(id: str, text: str, ids: list[int], durations: list[int] | None, speaker: str | None = None):
    """One utterance at 10 frames a second; each letter of `text` is the phone of one frame, a dot is no phone."""
    rows = [(letter, i / 10, (i + 1) / 10) for i, letter in enumerate(text) if letter != "."]
    extra = {"phones": [asdict(phone) for phone in phones(*rows)]}
    tokens = SpeechTokens(codes=torch.tensor([ids]), durations=None if durations is None else torch.tensor(durations))
    return Utterance(id=id, audio=Path("x.wav"), speaker=speaker, extra=extra), tokens


def evaluate_phone_units(source, labels=None, **settings):
    opened = {"tokens": source} | ({} if labels is None else {"labels": labels})
    return run_benchmark(Phones(PhonesConfig(manifest=Path("m.jsonl"), **settings), opened))


def test_utterances_to_scores(tmp_path):
    source = Stored(
        [
            spoken("u1", "aaab", [0, 1], [3, 1], "s1"),  # runs: 0 0 0 1
            spoken("u2", "abbb._", [1, 1, 2, 2, 0, 0], None, "s2"),
        ],
        codebook_size=3,
    )
    result = evaluate_phone_units(source, ignore=("_",), num_resamples=50)
    # a: 0 0 0 1; b: 1 1 2 2, the table above
    assert result.scores["phone_purity"].value == pytest.approx(7 / 8)
    assert result.scores["cluster_purity"].value == pytest.approx(5 / 8)
    assert result.measurements["num_frames"] == 8
    assert (result.measurements["num_unlabelled_frames"], result.measurements["num_ignored_frames"]) == (1, 1)
    assert result.scores["pnmi"].num_speakers == 2
    assert any("too high" in note for note in result.notes)
    loaded = load_result(save_result(result, tmp_path))
    assert loaded.items[0]["phones"] == [0, 0, 0, 1] and loaded.items[1]["units"] == [1, 1, 2, 2]


def test_missing_phones_and_tokens_are_counted():
    bare, tokens = spoken("u1", "aab", [0, 1, 1], None)
    empty = Utterance(id="u2", audio=Path("x.wav"))
    with_phones = spoken("u3", "aab", [0, 1, 1], None)
    source = Stored([(bare, tokens), (empty, tokens), with_phones], codebook_size=2)
    source.utterances.append(Utterance(id="u4", audio=Path("x.wav")))
    result = evaluate_phone_units(source)
    assert result.excluded == {"utterance without phones": 1, "no tokens in the shards": 1}
    with pytest.raises(ManifestError, match=r"No frame of 1 utterances has a phone \(utterance without phones: 1"):
        evaluate_phone_units(Stored([(empty, tokens)], codebook_size=2))
    with pytest.raises(ConfigError, match="codebook is 1, but these tokens have 1"):
        evaluate_phone_units(source, codebook=1)
    with pytest.raises(ConfigError, match="follow words"):
        evaluate_phone_units(Stored([with_phones], codebook_size=2, frame_rate=None))


def test_labels_from_a_file_come_before_the_manifest():
    source = Stored([spoken("u1", "aa", [0, 1], None)], codebook_size=2)
    result = evaluate_phone_units(source, labels={"u1": phones(("x", 0.0, 0.1), ("y", 0.1, 0.2))})
    assert result.measurements["phone_names"] == ["x", "y"]
    assert result.scores["pnmi"].value == pytest.approx(1)


def test_timit_labels_are_folded_and_silence_is_pointed_out():
    labels = ["h#", "sh", "zh", "q", "tcl", "t", "ax-h", "ah", "h#", "pau"]
    rows = [(label, i / 10, (i + 1) / 10) for i, label in enumerate(labels)]
    source = Stored([spoken("u1", "." * 10, [0, 1, 1, 2, 0, 2, 3, 3, 0, 0], None)], codebook_size=4)
    plain = evaluate_phone_units(source, labels={"u1": phones(*rows)})
    assert plain.measurements["num_phones"] == 9
    assert any("30% of the frames are 'h#' or 'pau'" in n and n.endswith("--ignore h#,pau") for n in plain.notes)
    folded = evaluate_phone_units(source, labels={"u1": phones(*rows)}, fold="timit-39")
    # sil sh sh (q is left out) sil t ah ah sil sil
    assert folded.items[0]["phones"] == [0, 1, 1, 0, 2, 3, 3, 0, 0]
    assert folded.measurements["phone_names"] == ["sil", "sh", "t", "ah"]
    assert folded.measurements["num_ignored_frames"] == 1
    assert folded.scores["pnmi"].value == pytest.approx(1)  # each class has units of its own
    assert any("44% of the frames are 'sil'" in note for note in folded.notes)
    bare = evaluate_phone_units(source, labels={"u1": phones(*rows)}, fold="timit-39", ignore=("sil",))
    assert bare.measurements["phone_names"] == ["sh", "t", "ah"]
    assert not any("Silence" in note for note in bare.notes)
    assert bare.conventions["fold"] == "timit-39"
    with pytest.raises(ConfigError, match="u1: the phone 'AA1' is not among those that timit-39 folds"):
        evaluate_phone_units(source, labels={"u1": phones(("AA1", 0.0, 1.0))}, fold="timit-39")


def test_runs_become_frames():
    tokens = SpeechTokens(codes=torch.tensor([[4, 5], [6, 7]]), durations=torch.tensor([2, 1]))
    assert frames_of(tokens).tolist() == [[4, 4, 5], [6, 6, 7]]


def test_resampled_counts_against_a_slow_bootstrap():
    tables = [[0, 0, 1], [1, 2], [2, 2, 2, 0], []]
    counts = gather_counts([np.array(table) for table in tables], 3)
    assert counts.total().tolist() == [3, 2, 4]

    def share_of_two(table):
        return {"two": table[2] / table.sum()}

    found = bootstrap_counts(counts, share_of_two, num_resamples=200, seed=5)["two"]
    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(200):
        times = generator.multinomial(4, [1 / 4] * 4)
        cells = [cell for table, n in zip(tables, times) for cell in table * n]
        if cells:
            drawn.append(cells.count(2) / len(cells))
    bias = np.mean(drawn) - 4 / 9
    assert found.bias == pytest.approx(bias)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(np.array(drawn) - bias, [0.025, 0.975])))
    assert bootstrap_counts(gather_counts([np.array([0])], 1), share_of_two) == {}
    with pytest.raises(ConfigError, match="outside a table of 2"):
        gather_counts([np.array([2])], 2)


def test_intervals_over_speakers_draw_whole_speakers():
    tables = [np.array([0] * 9 + [1])] * 4 + [np.array([1] * 9 + [0])] * 4
    counts = gather_counts(tables, 2)
    speakers = ["a"] * 4 + ["b"] * 4
    scores, _ = count_scores(
        counts, lambda table: {"ones": table[1] / table.sum()}, {"ones": Described(None, "")}, speakers
    )
    score = scores["ones"]
    assert score.value == 0.5 and score.num_speakers == 2
    assert None not in (score.low, score.high, score.speaker_low, score.speaker_high)
    assert (score.speaker_low, score.speaker_high) == pytest.approx((0.1, 0.9), abs=0.03)  # one speaker drawn twice
    assert score.low > score.speaker_low and score.high < score.speaker_high  # type: ignore[operator]


def test_an_undefined_score_is_none():
    counts = gather_counts([np.array([0]), np.array([1])], 2)
    scores, _ = count_scores(counts, lambda table: {"x": math.nan}, {"x": Described(None, "")})
    assert scores["x"].value is None and scores["x"].low is None
