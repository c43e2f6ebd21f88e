"""What the benchmarks share: options, ratios, what a result says of its machine. No test looks at a time."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def timing():
    spec = importlib.util.spec_from_file_location("benchmark_timing", FOLDER / "timing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_has_the_same_options(timing, tmp_path):
    before = torch.get_num_threads()
    parser = timing.benchmark_parser("About.", rounds=3)
    parser.add_argument("model")
    try:
        options = timing.read_options(parser, ["tiny", "--threads", "2", "--cpu-seconds", "--out", str(tmp_path / "a")])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (options.model, options.rounds, options.cpu_seconds) == ("tiny", 3, True)
    results = {"benchmark": "x", **timing.conditions(options)}
    timing.write_results(results, options.out)
    timing.write_results(results, None)
    assert json.loads(options.out.read_text()) == results and results["clock"] == "processor seconds"
    assert results["machine"]["torch"] == torch.__version__


def test_variants_take_turns_and_ratios_are_formed_round_by_round(timing):
    calls = []
    seconds = timing.run_in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" and [len(times) for times in seconds.values()] == [3, 3]
    found = timing.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])  # 2, 2, 3
    assert found.median == 2 and found.low == 2 and found.high == pytest.approx(2.8)
    assert str(timing.ratio([3.0], [2.0])) == "1.50x (1.50-1.50)"


def test_the_peak_of_a_child_is_its_own(timing, tmp_path):
    before = timing.peak_megabytes()
    held = bytearray(b"x") * 200_000_000
    assert timing.peak_megabytes() >= max(before, len(held) / 1e6)
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import timing\n"
        "before = timing.peak_megabytes(); held = bytearray(b'x') * 50_000_000\n"
        "print('not this'); print(timing.json.dumps([before, timing.peak_megabytes()]))"
    )
    small, large = timing.run_child(script, [])
    assert small < 100 and 50 <= large < 150  # this process holds more than 200


SCRIPTS = ["codec", "extraction", "generation", "kmeans", "last_training", "lm_training", "vector_quantizer", "vocoder"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmarks_import_and_offer_the_shared_options(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    spec = importlib.util.spec_from_file_location(f"benchmark_{script}", FOLDER / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit):
        module.main()
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--rounds", "--threads", "--cpu-seconds", "--out"))
