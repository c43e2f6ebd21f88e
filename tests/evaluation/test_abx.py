"""ABX against an obvious reference: recursion for the path, loops for the triples, dictionaries for the averages."""

import functools
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError, MissingDependencyError, UnknownNameError
from vocable.evaluation.abx import Abx, AbxConfig, abx_score
from vocable.evaluation.abx_items import (
    AbxItem,
    cut_frames,
    items_from_manifest,
    plan_cells,
    read_item_file,
)
from vocable.evaluation.metrics.abx import (
    DISTANCES,
    AbxCell,
    TokenDistances,
    cell_errors,
    warped_distances,
)
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.token_sources import FrameSource
from vocable.types import Phone, Utterance

MANIFEST = Path("m.jsonl")


def evaluate_abx(items, files, frame_rate, config):
    frames = FrameSource(frame_rate=frame_rate, read=lambda: iter(files))
    return run_benchmark(Abx(config, {"items": items, "frames": frames}))


def slow_warp(table: list[list[float]]) -> float:
    """Cheapest path by recursion, as (cost, steps), of equals the diagonal, then along the row."""

    @functools.cache
    def best(i: int, j: int) -> tuple[float, int]:
        if i == 0 and j == 0:
            return table[0][0], 1
        ways = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        found = [best(*way) for way in ways if min(way) >= 0]
        cost, steps = min(found, key=lambda way: way[0])  # min takes the first of equals
        return cost + table[i][j], steps + 1

    cost, steps = best(len(table) - 1, len(table[0]) - 1)
    return cost / steps


def slow_frame_distance(x: torch.Tensor, y: torch.Tensor, distance: str) -> float:
    a, b = x.tolist(), y.tolist()
    if distance == "identical":
        return sum(p != q for p, q in zip(a, b)) / len(a)
    if distance == "euclidean":
        return math.dist(a, b)
    if distance == "angular":
        norms = math.hypot(*a) * math.hypot(*b)
        return math.acos(max(-1.0, min(1.0, sum(p * q for p, q in zip(a, b)) / norms))) / math.pi
    return sum((p - q) * (math.log(p + 1e-6) - math.log(q + 1e-6)) for p, q in zip(a, b)) / 2


def slow_distance(x: torch.Tensor, y: torch.Tensor, distance: str) -> float:
    return slow_warp([[slow_frame_distance(p, q, distance) for q in y] for p in x])


def slow_error(cell: AbxCell, frames: list[torch.Tensor], distance: str) -> float:
    triples = []
    for x in cell.x:
        for a in cell.a:
            for b in cell.b:
                if a != x:
                    to_a = slow_distance(frames[x], frames[a], distance)
                    to_b = slow_distance(frames[x], frames[b], distance)
                    triples.append(0.5 if math.isclose(to_a, to_b, abs_tol=1e-12) else float(to_a > to_b))
    assert len(triples) == cell.num_triples
    return sum(triples) / len(triples)


def make_tokens(distance: str, seed: int = 0, count: int = 12) -> list[torch.Tensor]:
    """Tokens of one to seven frames."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (count,), generator=generator).tolist()
    if distance == "identical":
        return [torch.randint(0, 3, (n, 1), generator=generator) for n in lengths]
    vectors = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in lengths]
    return [v.softmax(-1) for v in vectors] if distance == "kl_symmetric" else vectors


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_warping_as_by_recursion(n, m, seed):
    table = torch.randint(0, 3, (1, n, m), generator=torch.Generator().manual_seed(seed)).double()
    padded = torch.full((1, 7, 9), -5.0, dtype=torch.float64)  # what is outside is never read
    padded[:, :n, :m] = table
    found = warped_distances(padded, torch.tensor([n]), torch.tensor([m]))
    assert found.item() == pytest.approx(slow_warp(table[0].tolist()))


def test_warping_by_hand():
    table = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    # 0 at the start, diagonal to 0, down to 0: nothing over three steps; without the last frame, over two
    assert warped_distances(table, torch.tensor([3]), torch.tensor([2])).item() == 0
    assert warped_distances(table, torch.tensor([3]), torch.tensor([1])).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_distances_and_errors_as_by_loops(distance, monkeypatch):
    monkeypatch.setattr("vocable.evaluation.metrics.abx.BATCH_CELLS", 100)  # several batches, several chunks
    monkeypatch.setattr("vocable.evaluation.metrics.abx.CHUNK_PAIRS", 20)
    frames = make_tokens(distance)
    distances = TokenDistances(frames, distance)
    first, second = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    found = distances.between(first.ravel(), second.ravel())
    expected = [slow_distance(frames[i], frames[j], distance) for i in range(12) for j in range(12)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    cells = [
        AbxCell("p", "q", ("", ""), "s", "s", (0, 1, 2, 3), (4, 5, 6), (0, 1, 2, 3)),
        AbxCell("q", "p", ("", ""), "s", "s", (4, 5, 6), (0, 1, 2, 3), (4, 5, 6)),
        AbxCell("p", "q", ("", ""), "s", "t", (0, 1, 2, 3), (4, 5, 6), (7, 8)),
        AbxCell("r", "p", ("", ""), "t", "t", (9, 10), (11,), (9, 10)),
    ]
    errors = cell_errors(cells, distances, len(frames))
    np.testing.assert_allclose(errors, [slow_error(cell, frames, distance) for cell in cells], atol=1e-12)


def test_several_codebooks_count_the_codes_that_differ():
    frames = [torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 2], [1, 1]])]
    assert TokenDistances(frames, "identical").between(np.array([0]), np.array([1])) == pytest.approx(1 / 4)


def test_equal_sequences_of_units_tie_whatever_their_lengths():
    frames = [torch.tensor([[7]] * n) for n in (3, 1, 5)]
    cell = AbxCell("p", "q", ("", ""), "s", "t", (0,), (1,), (2,))
    assert cell_errors([cell], TokenDistances(frames, "identical"), 3).tolist() == [0.5]


@pytest.mark.parametrize(
    ("frames", "distance", "message"),
    [
        (torch.zeros(2, 3), "identical", "'identical' does not compare vectors. Use 'angular'"),
        (torch.zeros(2, 3, dtype=torch.long), "angular", "'angular' does not compare codes. Use 'identical'"),
        (torch.ones(2, 3), "kl_symmetric", "compares probabilities"),
        (torch.zeros(0, 3), "angular", "cannot be compared"),
    ],
)
def test_unfit_frames_are_refused(frames, distance, message):
    with pytest.raises(ConfigError, match=message):
        TokenDistances([frames], distance)


def make_items(num_files: int = 9, num_speakers: int = 3, seed: int = 0) -> list[AbxItem]:
    """Random phones of half a second each, ten a file, all speakers saying everything."""
    generator = np.random.default_rng(seed)
    items = []
    for file in range(num_files):
        for place in range(10):
            before, phone, after = generator.choice(["a", "b", "c"], 3)
            items.append(
                AbxItem(f"f{file}", place / 2, place / 2 + 0.44, phone, before, after, f"s{file % num_speakers}")
            )
    return items


def make_files(num_files: int = 9) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(f"f{file}", torch.randint(0, 4, (50, 1), generator=generator)) for file in range(num_files)]


def slow_plan(items: list[AbxItem], across: bool) -> dict[tuple, tuple[list[int], list[int], list[int]]]:
    """All cells, by looking at every item for each combination of names."""
    names = sorted({item.speaker for item in items})
    phones = sorted({item.phone for item in items})
    places = sorted({(item.previous, item.following) for item in items})

    def those(phone, place, speaker):
        return [
            i
            for i, item in enumerate(items)
            if (item.phone, (item.previous, item.following), item.speaker) == (phone, place, speaker)
        ]

    cells = {}
    for place in places:
        for p in phones:
            for q in phones:
                for s in names:
                    for t in names:
                        a, b, x = those(p, place, s), those(q, place, s), those(p, place, t)
                        enough = x and len(set(a) | set(x)) > 1
                        if p != q and a and b and enough and (s != t) == across:
                            cells[p, q, place, s, t] = (a, b, x)
    return cells


@pytest.mark.parametrize("speakers", ["within", "across"])
def test_cells_and_average_as_by_loops(speakers):
    items, files = make_items(), make_files()
    expected = slow_plan(items, speakers == "across")
    cells = plan_cells(items, speakers, max_group=None, max_x_speakers=None)
    found = {cell[:5]: (list(cell.a), list(cell.b), list(cell.x)) for cell in cells}
    assert found == expected
    limits: dict[str, Any] = {"max_group": None, "max_x_speakers": None, "num_resamples": 20}
    config = AbxConfig(manifest=MANIFEST, speakers=speakers, kernel="torch", **limits)
    result = evaluate_abx(items, files, 10.0, config)
    frames = [dict(files)[item.file][round(item.onset * 10) : round(item.onset * 10) + 4] for item in items]
    by_speaker, by_pair = defaultdict(list), defaultdict(list)
    for (p, q, _, s, t), (a, b, x) in expected.items():
        cell = AbxCell(p, q, ("", ""), s, t, tuple(a), tuple(b), tuple(x))
        by_speaker[p, q, s].append(slow_error(cell, frames, "identical"))
    for (p, q, _), errors in by_speaker.items():
        by_pair[p, q].append(np.mean(errors))
    score = result.scores[speakers]
    assert score.value == pytest.approx(np.mean([np.mean(errors) for errors in by_pair.values()]))
    assert score.low <= score.value <= score.high and score.num_speakers == 3  # type: ignore[operator]
    assert result.measurements[f"num_triples_{speakers}"] == sum(row["num_triples"] for row in result.items)


def test_averages_by_hand_count_no_frequent_context_twice():
    def cell(p: str, q: str, context: str, speaker: str) -> AbxCell:
        return AbxCell(p, q, (context, context), speaker, speaker, (0, 1), (2,), (0, 1))

    cells = [cell("p", "q", "u", "s"), cell("p", "q", "v", "s"), cell("p", "q", "u", "t"), cell("q", "p", "u", "s")]
    score = abx_score(cells, np.array([0.0, 1.0, 0.2, 0.6]), "within", num_resamples=100)
    # p against q: speaker s (0 + 1) / 2, speaker t 0.2, mean 0.35; q against p: 0.6
    assert score.value == pytest.approx((0.35 + 0.6) / 2)
    assert score.num_items == 4 and score.num_speakers == 2
    single = abx_score(cells[:1], np.array([0.3]), "within")
    assert single.value == 0.3 and single.low is None and single.speaker_low is None


def test_groups_are_limited_by_a_seeded_draw():
    items = [AbxItem("f", 0.0, 1.0, phone, "x", "y", f"s{i % 4}") for i in range(80) for phone in "pq"]
    cells = plan_cells(items, "across", max_group=5, max_x_speakers=2, seed=1)
    assert all(len(group) == 5 for cell in cells for group in (cell.a, cell.b, cell.x))
    assert len(cells) == 2 * 4 * 2  # ordered pairs, speakers, speakers of X
    assert cells == plan_cells(items, "across", max_group=5, max_x_speakers=2, seed=1)
    assert cells != plan_cells(items, "across", max_group=5, max_x_speakers=2, seed=2)


def test_any_context_puts_all_tokens_of_a_phone_together():
    items = [AbxItem("f", 0.0, 1.0, "p", "u", "v", "s"), AbxItem("f", 0.0, 1.0, "p", "w", "v", "s")]
    items.append(AbxItem("f", 0.0, 1.0, "q", "u", "x", "s"))
    assert plan_cells(items, "within") == []
    (cell,) = plan_cells(items, "within", context="any")
    assert (cell.a, cell.b) == ((0, 1), (2,))


def test_perfect_and_random_units():
    items = [AbxItem("f", i / 10, i / 10 + 0.1, "pq"[i % 2], "x", "y", "s") for i in range(40)]
    config = AbxConfig(manifest=MANIFEST, speakers="within", kernel="torch")
    perfect = evaluate_abx(items, [("f", torch.tensor([[0], [1]] * 20))], 10.0, config)
    assert perfect.scores["within"].value == 0
    constant = evaluate_abx(items, [("f", torch.zeros(40, 1, dtype=torch.long))], 10.0, config)
    assert constant.scores["within"].value == 0.5


def test_frames_of_an_item_have_their_centres_inside():
    frames = torch.arange(10)[:, None]

    def cut(onset: float, offset: float) -> list[int] | None:
        found = cut_frames(frames, AbxItem("f", onset, offset, "p", "", "", "s"), 10.0)
        return None if found is None else found[:, 0].tolist()

    assert cut(0.0, 0.3) == [0, 1, 2]
    assert cut(0.06, 0.24) == [1]
    assert cut(0.15, 0.25) == [1, 2]  # centres on the edges count
    assert cut(0.16, 0.24) is None
    assert cut(0.9, 5.0) == [9]
    assert cut(2.0, 3.0) is None


HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


def write_item_file(items, path):
    path.write_text(
        HEADER + "".join(f"{item.file} {item.onset:.4f} {item.offset:.4f} {' '.join(item[3:])}\n" for item in items)
    )


def test_items_are_read(tmp_path):
    items = make_items()
    write_item_file(items, tmp_path / "a.item")
    assert read_item_file(tmp_path / "a.item") == items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#file onset offset #phone speaker\n", "the first line is '#file onset offset #phone speaker'; expected"),
        (HEADER, "holds no item"),
        (HEADER + "f 0 1 p a b\n", "line 2: 6 columns; the header has 7"),
        (HEADER + "f 0 x p a b s\n", "onset and offset are seconds"),
        (HEADER + "f 2 1 p a b s\n", "is no stretch of time"),
    ],
)
def test_broken_item_files_are_named(tmp_path, text, message):
    (tmp_path / "a.item").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_item_file(tmp_path / "a.item")


def test_items_from_phones_skip_silence_gaps_and_edges():
    rows = [("a", 0, 1), ("b", 1, 2), ("c", 2, 3), ("sil", 3, 4), ("d", 4, 5), ("e", 5, 6), ("f", 6.5, 7)]
    phones = [Phone(phone=name, start=float(start), end=float(end)) for name, start, end in rows]
    spoken = Utterance(id="u", audio=Path("x"), speaker="s", extra={"phones": [asdict(phone) for phone in phones]})
    nobody = Utterance(id="v", audio=Path("x"), extra=spoken.extra)
    assert items_from_manifest([spoken, nobody]) == [AbxItem("u", 0.0, 3.0, "b", "a", "c", "s")]
    assert items_from_manifest([spoken], span="phone") == [AbxItem("u", 1.0, 2.0, "b", "a", "c", "s")]


def test_what_is_missing_is_counted_and_saved(tmp_path):
    items = [*make_items(), AbxItem("gone", 0, 1, "a", "b", "c", "s0"), AbxItem("f0", 0.16, 0.2, "a", "b", "c", "s0")]
    result = evaluate_abx(items, make_files(), 10.0, AbxConfig(manifest=MANIFEST, num_resamples=5, kernel="torch"))
    assert result.excluded == {
        "item of a file without frames": 1,
        "item shorter than a frame, or beyond the end of its file": 1,
    }
    assert result.notes and "phones are shorter" in result.notes[0]
    loaded = load_result(save_result(result, tmp_path))
    assert {"within", "across"} == loaded.scores.keys() == {row["speakers"] for row in loaded.items}
    assert len({row["id"] for row in loaded.items}) == len(loaded.items)


def test_two_tokenizers_are_compared_cell_by_cell():
    from vocable.evaluation.comparison.compare import compare_results

    generator = torch.Generator().manual_seed(9)
    other = [(name, torch.randint(0, 4, (50, 1), generator=generator)) for name, _ in make_files()]
    config = AbxConfig(manifest=MANIFEST, num_resamples=5, kernel="torch")
    results = {"a": evaluate_abx(make_items(), make_files(), 10.0, config)}
    results["b"] = evaluate_abx(make_items(), other, 10.0, config)
    comparison = compare_results(results)
    assert comparison.content == "context"
    for difference in comparison.differences:
        expected = [results[name].scores[difference.measure].value for name in "ab"]
        assert difference.values == pytest.approx(expected)
    assert {difference.measure for difference in comparison.differences} == {"within", "across"}


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ConfigError, match="1 of 1 items have frames, and no speaker says two phones"):
        config = AbxConfig(manifest=MANIFEST, kernel="torch")
        evaluate_abx([AbxItem("f0", 0, 1, "a", "b", "c", "s")], make_files(), 10.0, config)
    with pytest.raises(ConfigError, match="does not compare codes"):
        evaluate_abx(make_items(), make_files(), 10.0, AbxConfig(manifest=MANIFEST, distance="angular"))


def test_misspelt_settings_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'angular'"):
        AbxConfig(manifest=MANIFEST, distance="angluar")
    with pytest.raises(ConfigError, match="within, across, or both"):
        AbxConfig(manifest=MANIFEST, speakers="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_group is 1"):
        AbxConfig(manifest=MANIFEST, max_group=1)


def test_fastabx_must_be_there_when_asked_for(monkeypatch):
    monkeypatch.setattr("vocable.evaluation.abx.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs the package 'fastabx'.*vocable\[eval\]"):
        evaluate_abx(make_items(), make_files(), 10.0, AbxConfig(manifest=MANIFEST, kernel="fastabx"))


@pytest.mark.parametrize("distance", ["identical", "angular", "kl_symmetric"])
def test_fastabx_finds_the_same(distance, tmp_path):
    fastabx = pytest.importorskip("fastabx", reason="fastabx needs Python 3.12")
    items, files = make_items(12), make_files(12)
    if distance != "identical":
        generator = torch.Generator().manual_seed(5)
        files = [(name, torch.randn(50, 4, generator=generator).softmax(-1)) for name, _ in files]
    write_item_file(items, tmp_path / "a.item")
    for name, frames in files:
        torch.save(frames, tmp_path / f"{name}.pt")
    for speakers in ("within", "across"):
        found = {}
        for kernel in ("torch", "fastabx"):
            config = AbxConfig(
                manifest=MANIFEST,
                speakers=speakers,
                distance=distance,
                kernel=kernel,
                max_group=None,
                max_x_speakers=None,
            )
            result = evaluate_abx(items, files, 10.0, config)
            assert result.conventions["kernel"] == kernel
            found[kernel] = [row["error"] for row in result.items]
            value = result.scores[speakers].value
        # float32 against float64: a triple at a near tie may go the other way
        np.testing.assert_allclose(found["torch"], found["fastabx"], atol=1e-6)
        whole = fastabx.zerospeech_abx(
            tmp_path / "a.item", tmp_path, max_size_group=None, max_x_across=None, speaker=speakers,
            distance=distance, frequency=10, progress=False,
        )  # fmt: skip
        assert value == pytest.approx(whole, abs=1e-6)
