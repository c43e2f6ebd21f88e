"""Results survive the disk, and never half."""

import json
import math

import pytest

from vocable.errors import ConfigError, OutputError
from vocable.evaluation.results import EvaluationResult, load_result, mean_score, save_result


def make_result(**changes) -> EvaluationResult:
    values = {
        "benchmark": "trial",
        "scores": {"mean": mean_score([1.0, 2.0, 4.0], ["a", "b", "b"], better="higher", meaning="a mean")},
        "conventions": {"ties": 0.5, "broken": math.nan},
        "fingerprints": {"tokenizer": "abc"},
        "weights": {"transcriber": {"name": "x", "sha256": "y"}},
        "seed": 3,
        "seconds": 1.5,
        "excluded": {"too short": 2},
        "notes": ("read me",),
        "items": [{"id": "é", "errors": 1, "text": None}, {"id": "b", "errors": 2, "extra": 0.5}],
    }
    return EvaluationResult(**(values | changes))


def test_a_result_survives_the_disk(tmp_path):
    result = make_result()
    loaded = load_result(save_result(result, tmp_path / "new" / "folder"))
    assert loaded.scores == result.scores and loaded.scores["mean"].value == pytest.approx(7 / 3)
    assert loaded.conventions == {"ties": 0.5, "broken": None}
    assert list(loaded.items) == [
        {"id": "é", "errors": 1, "text": None, "extra": None},
        {"id": "b", "errors": 2, "text": None, "extra": 0.5},
    ]
    for name in ("fingerprints", "weights", "seed", "seconds", "excluded", "notes", "versions"):
        assert getattr(loaded, name) == getattr(result, name)
    assert {"python", "torch", "jiwer"} <= set(loaded.versions)


def test_an_earlier_result_is_kept(tmp_path):
    path = save_result(make_result(), tmp_path)
    with pytest.raises(OutputError, match=r"holds an earlier result.*--overwrite"):
        save_result(make_result(seed=4), tmp_path)
    assert load_result(path).seed == 3
    save_result(make_result(seed=4), tmp_path, overwrite=True)
    assert load_result(path).seed == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trial.items.parquet", "trial.json"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(OutputError, match="out"):
        save_result(make_result(), tmp_path / "out")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a readable result"):
        load_result(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(ConfigError, match="not a result of 'vocable evaluate'"):
        load_result(tmp_path / "other.json")
    path = save_result(make_result(), tmp_path)
    (tmp_path / "trial.items.parquet").unlink()
    with pytest.raises(ConfigError, match=r"items of trial\.json are missing"):
        load_result(path)


def test_a_score_reads_well():
    assert str(make_result().scores["mean"]) == "2.333 [1, 4] (n=3)"
    assert str(mean_score([], better=None, meaning="")) == "not scored"
