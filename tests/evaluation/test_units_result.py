"""Code usage as a result file: the same numbers as counted at once, and intervals."""

import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from evaluation.test_unit_metrics import unit_statistics
from vocable.errors import ConfigError
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.units import Units, UnitsConfig
from vocable.types import SpeechTokens, Utterance


@pytest.fixture
def stored(monkeypatch):
    """Put tokens where the shards would be."""

    def put(items: list[tuple[str, SpeechTokens]], size: int, books: int = 1, rate: float | None = 50.0):
        facts = {"codebook_size": size, "num_codebooks": books, "frame_rate": rate, "fingerprint": "f"}

        class Shards:
            fingerprint = "f"
            card: ClassVar[dict] = facts

            def __init__(self, folder):
                pass

            def stream(self, name):
                return self

            def __iter__(self):
                for id, tokens in items:
                    yield Utterance(id=id, audio=Path("x"), speaker=id[0]), tokens

        monkeypatch.setattr("vocable.tokens.shards.TokenShards", Shards)
        return Path("tokens")

    return put


def evaluate_units(tokens, **settings):
    return run_benchmark(Units(UnitsConfig(tokens=tokens, **settings)))


def random_tokens(seed: int, books: int, collapsed: bool) -> SpeechTokens:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 6, (books, 40 + seed), generator=generator)
    durations = torch.randint(1, 5, (40 + seed,), generator=generator) if collapsed else None
    return SpeechTokens(codes=codes, durations=durations)


@pytest.mark.parametrize(("books", "collapsed"), [(1, True), (1, False), (3, False), (2, True)])
def test_scores_are_the_statistics_of_the_whole(stored, tmp_path, books, collapsed):
    items = [(f"{'ab'[i % 2]}{i}", random_tokens(i, books, collapsed)) for i in range(8)]
    result = evaluate_units(stored(items, 8, books), num_resamples=100)
    expected = unit_statistics([tokens for _, tokens in items], (8,) * books, frame_rate=50.0)
    for name, score in result.scores.items():
        assert score.value == pytest.approx(getattr(expected, name)), name
        assert score.low <= score.value + 1e-9 and score.high >= score.value - 1e-9  # type: ignore[operator]
        assert score.num_speakers == 2
    assert result.measurements["nominal_bits_per_second"] == pytest.approx(50 * 3 * books)
    by_book = result.measurements["codebooks"]
    for book in range(books):
        alone = unit_statistics(
            [SpeechTokens(codes=tokens.codes[book : book + 1], durations=tokens.durations) for _, tokens in items], (8,)
        )
        assert by_book[book]["perplexity"] == pytest.approx(alone.perplexity)
        assert by_book[book]["frame_perplexity"] == pytest.approx(alone.frame_perplexity)
        assert by_book[book]["num_unused"] == round((1 - alone.used) * 8)
    assert load_result(save_result(result, tmp_path)).measurements["num_frames"] == expected.num_frames
    assert bool(result.notes) == (not collapsed)  # below and above 800 frames


def test_bits_by_hand(stored):
    # two ids, equally often, ten runs of five frames: 1 bit a run, 10 runs a second at 50 Hz
    tokens = SpeechTokens(codes=torch.tensor([[0, 1] * 5]), durations=torch.full((10,), 5))
    result = evaluate_units(stored([("a", tokens)], 2), num_resamples=10)
    assert result.scores["empirical_bits_per_second"].value == pytest.approx(10)
    assert result.scores["duration_bits_per_second"].value == 0
    assert result.scores["perplexity"].value == pytest.approx(2)
    assert result.scores["perplexity"].low is None  # one utterance has no spread
    assert result.measurements["codebooks"][0]["entropy_bits"] == pytest.approx(1)
    assert result.notes == [
        "50 frames are few for a codebook of 2: usage and perplexity come out too low. Count at least 200."
    ]


def test_tokens_without_a_rate_and_empty_ones(stored):
    empty = SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.long))
    tokens = SpeechTokens(codes=torch.tensor([[0, 1, 2]]))
    result = evaluate_units(stored([("a", tokens), ("b", empty), ("c", tokens)], 4, rate=None), num_resamples=10)
    assert result.excluded == {"no tokens: audio too short": 1}
    assert "empirical_bits_per_second" not in result.scores
    assert result.scores["frame_perplexity"].value == pytest.approx(math.exp(math.log(3)))
    with pytest.raises(ConfigError, match="every utterance was empty"):
        evaluate_units(stored([("b", empty)], 4))
