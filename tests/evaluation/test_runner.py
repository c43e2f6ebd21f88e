"""The runner: what every benchmark gets from it, shown with the one that its docstring writes."""

import inspect
import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from vocable.errors import ConfigError, ManifestError, NumericsError, OutputError, UnknownNameError
from vocable.evaluation import runner
from vocable.evaluation.results import EvaluationResult, Score, column_mean, load_result
from vocable.evaluation.runner import BENCHMARKS, Benchmark, BenchmarkConfig, evaluate, find_benchmark, run_benchmark
from vocable.types import Utterance


def example() -> type[Benchmark]:
    """The class in the docstring of the module, as it stands there."""
    lines = (runner.__doc__ or "").splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("    @dataclass"))
    last = next(place for place, line in enumerate(lines) if line.startswith("Entered in"))
    names = {
        "Benchmark": Benchmark,
        "BenchmarkConfig": BenchmarkConfig,
        "Path": Path,
        "column_mean": column_mean,
        "dataclass": dataclass,
    }
    exec(textwrap.dedent("\n".join(lines[first:last])), names)
    return names["Length"]  # type: ignore[return-value]


Length = example()
DURATIONS = (1.0, 2.0, None)
UTTERANCES = [
    Utterance(id=f"u{i}", audio=Path("x.wav"), duration=d, speaker="ab"[i % 2]) for i, d in enumerate(DURATIONS)
]


def length(utterances=UTTERANCES, kind=Length, on_progress=None) -> Benchmark:
    return kind(kind.Config(manifest=Path("m.jsonl")), {"utterances": utterances}, on_progress)  # type: ignore[call-arg]


class Spoilt(Length):  # type: ignore[misc, valid-type]
    """The last value is this one."""

    value = 0.0

    def items(self):
        for item in super().items():
            yield {**item, "_kept": object(), "seconds": item["seconds"] if item["id"] == "u0" else self.value}

    def page(self, result, items):
        return f"<p>{len(items)} of {result.benchmark}, {'_kept' in items[0]}</p>"


def test_the_example_of_the_docstring_runs(tmp_path):
    steps = []
    result = run_benchmark(length(on_progress=lambda *report: steps.append(report)), tmp_path)
    assert result.scores["seconds"].value == 1.5 and result.scores["seconds"].num_speakers == 2
    assert result.excluded == {"no duration in the manifest": 1}
    assert load_result(tmp_path / "length.json").items == list(result.items)
    assert steps == [("Measuring", 0, 3), *[("Measuring", 1, 3)] * 3]
    assert not (tmp_path / "length.html").exists()


def test_hidden_columns_reach_the_page_and_not_the_disk(tmp_path):
    Spoilt.value = 3.0
    run_benchmark(length(kind=Spoilt), tmp_path)
    assert (tmp_path / "length.html").read_text() == "<p>2 of length, True</p>"
    assert set(load_result(tmp_path / "length.json").items[0]) == {"id", "speaker", "seconds"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_an_error(tmp_path, value):
    Spoilt.value = value
    with pytest.raises(NumericsError, match=rf"length: seconds of item 'u1' is {value}"):
        run_benchmark(length(kind=Spoilt), tmp_path)
    for ends in ({"value": value}, {"value": 1.0, "low": 0.0, "high": value}):
        settings = {"conventions": {}, "fingerprints": {}, "weights": {}, "seed": 0, "seconds": 0}
        with pytest.raises(NumericsError, match="The score 'wer' of mine is"):
            EvaluationResult(benchmark="mine", scores={"wer": Score(num_items=1, **ends)}, **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_kept_and_nothing_is_computed(tmp_path):
    run_benchmark(length(), tmp_path)
    before = (tmp_path / "length.json").read_bytes()
    with pytest.raises(OutputError, match="holds an earlier result"):
        run_benchmark(length([]), tmp_path)  # no items: it would fail later
    assert (tmp_path / "length.json").read_bytes() == before
    run_benchmark(length(UTTERANCES[:1]), tmp_path, overwrite=True)
    assert json.loads((tmp_path / "length.json").read_text())["num_items"] == 1


def test_without_items_the_reasons_are_said():
    with pytest.raises(ManifestError, match=r"Nothing could be scored \(no duration in the manifest: 1\)"):
        run_benchmark(length(UTTERANCES[2:]))


def test_broken_lines_of_the_manifest_are_noted_and_counted(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"id": "a", "audio": "a.wav", "duration": 1.0, "speaker": "s"}\n{"id": "b"}\n')
    result = run_benchmark(Length(Length.Config(manifest=manifest)), tmp_path / "out")
    assert result.excluded == {"a broken line of the manifest": 1}
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["id"], row["line"]) == ("b", 2) and "no 'audio'" in row["reason"]


def test_a_benchmark_by_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'phones'"):
        find_benchmark("phnoes")
    with pytest.raises(ConfigError, match="Did you mean 'codebook'"):
        evaluate("phones", manifest="m.jsonl", codebok=1)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself(name):
    kind = find_benchmark(name)
    assert kind.name == name and inspect.getdoc(kind)
    fields = kind.Config.__dataclass_fields__
    assert set(kind.positional) <= set(fields) and "seed" in fields
