"""Results of made-up models, for tests of the comparison: rows as the benchmarks write them."""

from vocable.evaluation.results import EvaluationResult, mean_score, ratio_score


def pair_row(index: int, correct: float, **changes) -> dict:
    """A row of a pair benchmark: 4 phenomena, 3 voices; the log-likelihoods agree with `correct`."""
    nll = {1: (10.0 + index, 12.0 + 2 * index), 0: (12.0 + 2 * index, 10.0 + index), 0.5: (11.0, 11.0)}[correct]
    return {
        "id": f"pair{index}",
        "voice": f"v{index % 3}",
        "phenomenon": f"p{index % 4}",
        "nll_positive": nll[0],
        "tokens_positive": 5,
        "nll_negative": nll[1],
        "tokens_negative": 5,
        "correct_sum": correct,
        "correct_mean": correct,
        "correct": correct,
    } | changes


def pair_result(corrects, rows=None, **changes) -> EvaluationResult:
    """A result of sBLIMP-like pairs with these outcomes."""
    rows = [pair_row(index, correct) for index, correct in enumerate(corrects)] if rows is None else rows
    values = {
        "benchmark": "sblimp",
        "scores": {
            "all": mean_score([row["correct"] for row in rows], better="higher", meaning="pairs"),
            "macro": mean_score([0.25, 0.5], better="higher", meaning="mean over phenomena"),
        },
        "conventions": {"boundary": "bos", "ties": 0.5, "tokenizer": "any"},
        "fingerprints": {"lm": "abc"},
        "weights": {},
        "seed": 0,
        "seconds": 1.0,
        "items": rows,
    }
    return EvaluationResult(**(values | changes))


def resynthesis_result(errors, words, speakers, similarity, **changes) -> EvaluationResult:
    """A result of `evaluate resynthesis`: word errors as substitutions, and a voice judge."""
    rows = [
        {
            "id": f"u{index}",
            "speaker": speaker,
            "reference": "so many words",
            "reference_source": "manifest",
            "transcript_resynthesis": f"heard {wrong} wrong",
            "resynthesis_word_substitutions": wrong,
            "resynthesis_word_deletions": 0,
            "resynthesis_word_insertions": 0,
            "resynthesis_word_reference_length": length,
            "speaker_similarity": alike,
        }
        for index, (wrong, length, speaker, alike) in enumerate(zip(errors, words, speakers, similarity))
    ]
    values = {
        "benchmark": "resynthesis",
        "scores": {
            "wer_topline": ratio_score([0.0] * len(words), words, better="lower", meaning="topline"),
            "wer_resynthesis": ratio_score(errors, words, better="lower", meaning="words not heard"),
            "speaker_similarity": mean_score([s for s in similarity if s is not None], better="higher", meaning="cos"),
        },
        "conventions": {"normaliser": "english"},
        "fingerprints": {"tokenizer": "t"},
        "weights": {"transcriber": {"name": "x", "sha256": "y"}},
        "seed": 0,
        "seconds": 1.0,
        "items": rows,
    }
    return EvaluationResult(**(values | changes))
