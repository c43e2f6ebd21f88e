"""What commands show: bars for the steps of long work, and tables of scores."""

import rich.progress

from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.runner import print_result
from vocable.progress import progress, progress_bars, progress_steps


def watch_bars(monkeypatch):
    """The bars that are shown from here on: description, done and total."""
    shown: list[rich.progress.Progress] = []

    class Watched(rich.progress.Progress):
        def __init__(self, *columns, **settings):
            super().__init__(*columns, **settings)
            shown.append(self)

    monkeypatch.setattr(rich.progress, "Progress", Watched)
    return lambda: [(task.description, task.completed, task.total) for task in shown[-1].tasks]


def test_a_bar_stands_from_the_first_report_of_its_step(monkeypatch):
    bars = watch_bars(monkeypatch)
    with progress_bars("Encoding", "Scoring") as (encoding, scoring):
        assert bars() == []
        scoring(2, 5)
        encoding(1)
        scoring(1)
        assert bars() == [("Scoring", 3, 5), ("Encoding", 1, None)]
    with progress_steps() as advance:
        advance("Listening", 0, 9)
        advance("Listening", 4, 9)
        assert bars() == [("Listening", 4, 9)]
    with progress("Judging", 3) as advance:
        assert bars() == [("Judging", 0, 3)]


def test_scores_are_printed_with_what_their_intervals_are_over(capsys):
    score = Score(value=0.5, num_items=8, low=0.25, high=0.75, num_speakers=4, speaker_low=0.375, speaker_high=0.625)
    result = EvaluationResult(
        benchmark="swuggy",
        scores={"all": score, "none": Score(value=None, num_items=0)},
        conventions={},
        fingerprints={},
        weights={},
        seed=0,
        seconds=1.0,
        excluded={"one half is missing": 2},
    )
    print_result(result, counted="pairs", grouped="voices")
    shown = capsys.readouterr().out
    for text in ("over pairs", "over voices", "0.25 to 0.75", "0.375 to 0.625", "Left out: 2 (one half is missing)"):
        assert text in shown
