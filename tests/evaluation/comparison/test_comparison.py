"""Two results are paired by item, under equal conventions, and every number agrees with a direct computation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from evaluation.comparison_results import pair_result, pair_row, resynthesis_result
from vocable.cli import main
from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import Interval, bootstrap_ratio
from vocable.evaluation.comparison.compare import CompareConfig, compare_results
from vocable.evaluation.comparison.measures import find_measures, unpaired_scores
from vocable.evaluation.comparison.page import no_sounds, render_comparison_page
from vocable.evaluation.comparison.pairing import load_results, model_names
from vocable.evaluation.comparison.tables import reported_rows
from vocable.evaluation.results import EvaluationResult, mean_score, ratio_score, save_result, score_between
from vocable.evaluation.sblimp import sblimp_scores
from vocable.evaluation.storycloze import storycloze_scores
from vocable.evaluation.swuggy import swuggy_scores

WARM = [1, 1, 0, 1, 0.5, 1, 1, 0, 1, 1, 1, 0]
COLD = [0, 1, 0, 1, 0.0, 0, 1, 1, 0, 0, 0.5, 0]


def bootstrap_mean(values, clusters=None, **settings):
    return bootstrap_ratio(values, [1.0] * len(values), clusters, **settings)


def test_accuracies_are_compared_pair_by_pair():
    comparison = compare_results({"warm": pair_result(WARM), "cold": pair_result(COLD)})
    (found,) = comparison.differences  # correct_sum and correct_mean are equal here: one test, not three
    assert (found.measure, found.first, found.second) == ("accuracy", "warm", "cold")
    assert found.values == pytest.approx((8.5 / 12, 4.5 / 12)) and found.difference == pytest.approx(4 / 12)
    differences = [a - b for a, b in zip(WARM, COLD)]
    assert (found.low, found.high) == pytest.approx(bootstrap_mean(differences))
    assert (found.num_speakers, found.speaker_low, found.speaker_high) == (3, None, None)  # too few voices
    assert comparison.scores["accuracy"]["warm"].speaker_low is None
    # warm is better on 6 pairs (two of them by half a point), cold on 1
    assert (found.first_better, found.second_better, found.half, found.num_differing) == (6, 1, 2, 7)
    assert found.p_mcnemar == pytest.approx(stats.binomtest(1, 7).pvalue)
    # Of the 2 ** 7 signs of 1 1 1 1 1/2 1/2 -1, a sum of 4 or more leaves at most 1 of 6 to be turned: nothing,
    # one of five 1s, one of two halves, or both halves. Twice, for the other side.
    assert found.exact and found.p_permutation == pytest.approx(2 * (1 + 5 + 2 + 1) / 128)
    assert found.p_holm == found.p_permutation and found.favours is None
    assert comparison.scores["accuracy"]["warm"].value == pytest.approx(8.5 / 12)
    assert set(comparison.reported) == {"macro"}


def test_an_interval_over_voices_needs_four_of_them():
    voices = [f"v{index % 4}" for index in range(12)]
    rows = [
        [pair_row(index, correct, voice=voice) for index, (correct, voice) in enumerate(zip(corrects, voices))]
        for corrects in (WARM, COLD)
    ]
    comparison = compare_results({"warm": pair_result(WARM, rows[0]), "cold": pair_result(COLD, rows[1])})
    (found,) = comparison.differences
    differences = [a - b for a, b in zip(WARM, COLD)]
    assert found.num_speakers == 4
    assert (found.speaker_low, found.speaker_high) == pytest.approx(bootstrap_mean(differences, voices))
    score = comparison.scores["accuracy"]["warm"]
    assert (score.speaker_low, score.speaker_high) == pytest.approx(bootstrap_mean(WARM, voices))


def test_groups_are_tables_of_their_own():
    comparison = compare_results({"warm": pair_result(WARM), "cold": pair_result(COLD)})
    assert {group.group[0] for group in comparison.groups} == {"phenomenon", "voice"}
    (p0,) = [group for group in comparison.groups if group.group == ("phenomenon", "p0")]
    assert p0.num_items == 3 and p0.values == pytest.approx((2.5 / 3, 0.0))
    assert sum(group.num_items for group in comparison.groups if group.group[0] == "voice") == 12
    phenomena = [group for group in comparison.groups if group.group[0] == "phenomenon"]
    smallest = min(phenomena, key=lambda group: group.p_permutation)
    assert smallest.p_holm == pytest.approx(min(1, 4 * smallest.p_permutation))
    only = compare_results({"a": pair_result(WARM), "b": pair_result(COLD)}, CompareConfig(groups=("voice",)))
    assert {group.group[0] for group in only.groups} == {"voice"}
    with pytest.raises(ConfigError, match="groups names 'colour', but items have no such column"):
        compare_results({"a": pair_result(WARM), "b": pair_result(COLD)}, CompareConfig(groups=("colour",)))


def test_a_clear_difference_is_called_one_and_the_sign_is_that_of_better():
    comparison = compare_results({"a": pair_result([1] * 20), "b": pair_result([0] * 20)})
    assert comparison.differences[0].favours == "a" and comparison.differences[0].p_holm < 0.001
    speakers, words = [f"s{i % 4}" for i in range(20)], [5] * 20
    many, few = (resynthesis_result([n] * 20, words, speakers, [0.5] * 20) for n in (4, 1))
    comparison = compare_results({"many": many, "few": few})
    assert [d.measure for d in comparison.differences] == ["wer_resynthesis", "speaker_similarity"]
    assert comparison.differences[0].difference == pytest.approx(0.6)
    assert comparison.differences[0].favours == "few" and comparison.differences[1].favours is None


def test_error_rates_are_ratios_of_sums_and_holm_covers_all_scores():
    speakers = ["a", "a", "b", "b", "c", "c"]
    one = resynthesis_result([1, 0, 2, 0, 1, 3], [5, 4, 9, 3, 7, 6], speakers, [0.9, 0.8, 0.7, None, 0.6, 0.9])
    two = resynthesis_result([2, 1, 2, 1, 3, 3], [5, 4, 9, 3, 7, 6], speakers, [0.8, 0.8, 0.5, 0.3, 0.5, 0.8])
    comparison = compare_results({"one": one, "two": two})
    wer, similarity = comparison.differences
    assert wer.values == pytest.approx((7 / 34, 12 / 34)) and wer.num_items == 6 and wer.num_speakers == 3
    assert similarity.num_items == 5 and similarity.difference == pytest.approx((3.9 - 3.4) / 5)
    assert comparison.excluded == {"speaker_similarity: not scored in every result": 1}
    # 4 utterances differ in errors, 4 in similarity: always in one direction, so p is 2 / 2 ** 4, and Holm doubles both
    assert [wer.p_permutation, similarity.p_permutation] == pytest.approx([2 / 16, 2 / 16])
    assert [wer.p_holm, similarity.p_holm] == pytest.approx([4 / 16, 4 / 16])
    assert wer.p_mcnemar is None
    chosen = compare_results({"one": one, "two": two}, CompareConfig(scores=("speaker_similarity",)))
    assert [d.measure for d in chosen.differences] == ["speaker_similarity"] and chosen.differences[0].p_holm == 2 / 16
    with pytest.raises(ConfigError, match=r"'speaker_similarty'\. Did you mean 'speaker_similarity'"):
        compare_results({"one": one, "two": two}, CompareConfig(scores=("speaker_similarty",)))


def test_one_sentence_in_several_voices_is_one_piece_of_evidence():
    names = [{"sentence": f"s{i // 4}", "phenomenon": f"p{i // 4}"} for i in range(12)]
    rows = [[pair_row(i, correct, **names[i]) for i in range(12)] for correct in (1, 0)]
    comparison = compare_results({"a": pair_result(None, rows[0]), "b": pair_result(None, rows[1])})
    (found,) = comparison.differences
    assert comparison.content == "sentence" and found.num_differing == 3 and found.num_items == 12
    assert found.p_permutation == pytest.approx(2 / 2**3) and found.p_mcnemar is None
    assert any("same sentence count as one" in note for note in comparison.notes)


def test_sentences_are_numbered_within_their_type():
    rows = [
        [pair_row(i, correct, sentence=str(i // 4), phenomenon=f"p{i % 4}", type="t") for i in range(12)]
        for correct in (1, 0)
    ]
    comparison = compare_results({"a": pair_result(None, rows[0]), "b": pair_result(None, rows[1])})
    (found,) = comparison.differences
    assert comparison.content is None and found.num_differing == 12 and found.p_mcnemar is not None


@pytest.mark.parametrize(
    ("benchmark", "table", "name", "said"),
    [
        ("swuggy", swuggy_scores, "all", "word"),
        ("sblimp", sblimp_scores, "pairs", "sentence"),
        ("storycloze", storycloze_scores, "topic", "story"),
    ],
)
def test_scores_of_pair_benchmarks_are_those_of_the_result(benchmark, table, name, said):
    """As many pairs of a word, sentence or story as it has voices or endings: here one, two, three, ..."""
    things = [thing for thing in range(8) for _ in range(1 + thing % 4)]
    fixed = {"version": "topic"} if benchmark == "storycloze" else {}
    results = {}
    for model, outcome in {"a": lambda i: i * 7 % 5 < 3, "b": lambda i: i * 11 % 7 < 3}.items():
        rows = [
            pair_row(i, float(outcome(i)), **fixed, **{said: f"x{thing}"}, phenomenon=f"p{thing % 2}")
            for i, thing in enumerate(things)
        ]
        results[model] = pair_result(None, rows, benchmark=benchmark, scores=table(rows, "correct"))
    comparison = compare_results(results)
    (found,) = comparison.differences
    reported = [result.scores[name] for result in results.values()]
    assert found.measure == "accuracy" and comparison.content == said
    assert found.values == pytest.approx([score.value for score in reported])
    mean_of_pairs = [sum(item["correct"] for item in result.items) / len(things) for result in results.values()]
    assert (found.values == pytest.approx(mean_of_pairs)) == (benchmark == "storycloze")
    for model, score in zip(results, reported):  # the same draws: of whole words, sentences or stories
        mine = comparison.scores["accuracy"][model]
        assert (mine.low, mine.high) == pytest.approx((score.low, score.high))
    assert name not in comparison.reported
    # by voice: in each, a thing is there once or twice; the mean is again over things
    voices = [group for group in comparison.groups if group.group[0] == "voice"]
    for group in voices:
        items = [item for item in results["a"].items if item["voice"] == group.group[1]]
        assert group.values[0] == pytest.approx(table(items, "correct")[name].value)


def test_three_models_are_compared_two_by_two():
    results = {"a": pair_result(WARM), "b": pair_result(COLD), "c": pair_result([0] * 12)}
    comparison = compare_results(results)
    assert [(d.first, d.second) for d in comparison.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    smallest = min(d.p_permutation for d in comparison.differences)
    assert min(d.p_holm for d in comparison.differences) == pytest.approx(3 * smallest)


def test_what_is_only_in_one_result_is_counted():
    fewer = pair_result(None, [pair_row(i, 1) for i in range(2, 12)] + [pair_row(50, 1)])
    moved = pair_result(None, [pair_row(i, c, **({"voice": "else"} if i == 5 else {})) for i, c in enumerate(WARM)])
    comparison = compare_results({"all": moved, "fewer": fewer})
    assert comparison.num_common == 9 and comparison.items["all"][0]["id"] == "pair2"
    assert comparison.excluded == {
        "in all, but not in all results": 2,
        "in fewer, but not in all results": 1,
        "same id, but another voice, group or reference text": 1,
    }


def test_no_common_items_and_repeated_ids_are_errors():
    other = pair_result(None, [pair_row(i + 100, 1) for i in range(3)])
    with pytest.raises(
        ConfigError, match=r"no item in common\. Items: a: 12, b: 3; first ids: a: 'pair0', b: 'pair100'"
    ):
        compare_results({"a": pair_result(WARM), "b": other})
    twice = pair_result(None, [pair_row(1, 1), pair_row(1, 0)])
    with pytest.raises(ConfigError, match="b: 1 ids stand more than once, 'pair1' first"):
        compare_results({"a": pair_result(WARM), "b": twice})
    with pytest.raises(ConfigError, match="the results share none"):
        compare_results({name: replace(pair_result([1]), scores={}, items=[{"id": "x", "text": "y"}]) for name in "ab"})


def test_one_item_and_all_ties_are_said_to_show_nothing():
    comparison = compare_results({"a": pair_result([1]), "b": pair_result([0])})
    (found,) = comparison.differences
    assert (found.difference, found.low, found.p_permutation, found.p_mcnemar) == (1, None, 1, 1)
    assert any(
        note == "Only 1 items: intervals are rough, and a difference is hard to show." for note in comparison.notes
    )
    ties = compare_results({"a": pair_result([0.5] * 40), "b": pair_result([0.5] * 40)})
    assert ties.differences[0].p_permutation == 1 and ties.differences[0].favours is None
    assert "accuracy: a and b do not differ on a single item." in ties.notes


def test_other_conventions_are_refused_or_named():
    summed = pair_result(COLD, conventions={"boundary": "none", "ties": 0.5, "tokenizer": "another"})
    results = {"warm": pair_result(WARM), "cold": summed}
    message = r"not measured alike: boundary is 'bos' in warm, 'none' in cold\. .*--conventions allow"
    with pytest.raises(ConfigError, match=message):
        compare_results(results)
    comparison = compare_results(results, CompareConfig(conventions="allow"))
    assert comparison.differing == {"boundary": {"warm": "bos", "cold": "none"}}
    assert comparison.notes[0].startswith("Not measured alike: boundary.")
    judges = [{"transcriber": {"name": name, "sha256": name}} for name in "xz"]
    one, two = (resynthesis_result([1], [2], ["a"], [0.5], weights=weights) for weights in judges)
    with pytest.raises(ConfigError, match="weights of transcriber is"):
        compare_results({"one": one, "two": two})


def test_the_same_weights_under_two_names_are_alike():
    asked = ({"name": "openai/whisper-base", "sha256": "f"}, {"name": "/models/w", "sha256": "f", "asset": "w"})
    one, two = (resynthesis_result([1], [2], ["a"], [0.5], weights={"transcriber": record}) for record in asked)
    assert compare_results({"one": one, "two": two}).differing == {}


def test_a_content_column_with_one_value_makes_no_clusters():
    results = {}
    for name, corrects in (("warm", WARM), ("cold", COLD)):
        rows = [{**pair_row(index, correct), "context": "_"} for index, correct in enumerate(corrects)]
        results[name] = pair_result(corrects, rows=rows)
    plain = compare_results({"warm": pair_result(WARM), "cold": pair_result(COLD)}).differences[0]
    found = compare_results(results).differences[0]
    assert (found.low, found.high, found.p_permutation) == (plain.low, plain.high, plain.p_permutation)


def test_pairs_that_say_other_things_are_not_paired_by_their_ids():
    results = {name: pair_result(WARM, fingerprints={"pairs": name}) for name in ("one", "two")}
    with pytest.raises(ConfigError, match=r"pairs \(what they say\) is 'one' in one, 'two' in two"):
        compare_results(results)


def test_conventions_within_conventions_are_compared_one_by_one():
    nested = [{"continuations": {"lm": lm, "sampling": {"top_k": 50}}} for lm in ("warm", "cold")]
    results = {lm["continuations"]["lm"]: pair_result(WARM, conventions=lm) for lm in nested}
    assert compare_results(results).differing == {}  # the model itself may differ
    nested[1]["continuations"]["sampling"] = {"top_k": 5}
    with pytest.raises(ConfigError, match=r"continuations\.sampling\.top_k is 50 in warm, 5 in cold"):
        compare_results(results)


def test_models_of_retention_may_differ_but_not_what_they_were_before():
    def result(after, before):
        return pair_result(
            WARM,
            conventions={"after_text_lm": after, "before_text_lm": before, "after_text_lm_opening": "bos"},
            weights={"after": {"name": after}, "before": {"name": before}},
        )

    assert compare_results({"a": result("a", "text"), "b": result("b", "text")}).differing == {}
    with pytest.raises(ConfigError, match="before_text_lm is 'text' in a, 'other' in b"):
        compare_results({"a": result("a", "text"), "b": result("b", "other")})


def test_a_score_belongs_to_the_columns_that_give_it():
    rows = [{"id": str(i), "nll_alone": 2.0 * i, "tokens_alone": i + 1, "mos": i / 2, "other": -i} for i in range(4)]
    per_token = ratio_score([0, 2, 4, 6], [1, 2, 3, 4], better="lower", meaning="nats per token")
    scores = {
        "nats": per_token,
        "quality": mean_score([0, 0.5, 1, 1.5], better="higher", meaning="found by its value"),
        "other": mean_score([1.0, 2.0], better="lower", meaning="not what the column of this name holds"),
    }
    results = [pair_result([1], scores=scores, items=rows) for _ in range(2)]
    measures = find_measures(results)
    assert [(m.name, m.numerators, m.denominators) for m in measures] == [
        ("nats", ("nll_alone",), ("tokens_alone",)),
        ("quality", ("mos",), ()),
    ]
    assert unpaired_scores(results, measures) == ["other"]


def test_results_are_named_by_what_tells_them_apart(tmp_path):
    paths = [save_result(pair_result(WARM), tmp_path / model / "eval") for model in ("warm", "cold")]
    assert list(load_results(paths)) == ["warm", "cold"]
    assert list(load_results(paths, ["W", "C"])) == ["W", "C"]
    other = save_result(resynthesis_result([1], [2], ["a"], [0.5]), tmp_path / "warm" / "eval")
    with pytest.raises(
        ConfigError, match=r"different benchmarks \(eval/sblimp: sblimp, eval/resynthesis: resynthesis\)"
    ):
        load_results([paths[0], other])
    with pytest.raises(ConfigError, match="is given twice"):
        load_results([paths[0], paths[0]])
    with pytest.raises(ConfigError, match="1 result given"):
        load_results(paths[:1])
    with pytest.raises(ConfigError, match="names are W, W: give 2"):
        load_results(paths, ["W", "W"])


def corpus_result(pnmi: float, **changes) -> EvaluationResult:
    """A result like that of `evaluate phones`, whose scores come from all frames together."""
    scores = {
        "pnmi": score_between(pnmi, 3, Interval(pnmi - 0.02, pnmi + 0.02), better="higher", meaning="shared"),
        "unit_entropy_bits": score_between(7.25, 3, None, better=None, meaning="of units"),
    }
    rows = [{"id": f"u{i}", "speaker": "s", "num_frames": 4, "units": [1, 2, i, 3]} for i in range(3)]
    values = {"benchmark": "phones", "scores": scores, "items": rows, "conventions": {"fold": None}}
    return replace(pair_result([1]), **(values | changes))


def test_scores_of_all_items_together_are_put_side_by_side():
    results = {"small": corpus_result(0.41), "large": corpus_result(0.53, conventions={"codebook_size": 500})}
    comparison = compare_results(results)
    assert comparison.untested is not None
    assert comparison.untested.startswith("No paired test: no score of phones (pnmi, unit_entropy_bits) is a mean")
    assert (comparison.num_common, comparison.differences, comparison.measures) == (3, (), ())
    assert [score.value for score in comparison.reported["pnmi"].values()] == [0.41, 0.53]
    columns, rows = reported_rows(comparison)
    assert columns == ("score", "small", "large")
    assert rows == [
        ("pnmi", "0.41 [0.39, 0.43]", "0.53 [0.51, 0.55]"), ("unit_entropy_bits", "7.25", "7.25")
    ]  # fmt: skip
    assert json.loads(json.dumps(comparison.record()))["untested"] == comparison.untested
    page = render_comparison_page(comparison, no_sounds, 3)
    assert "No paired test" in page and "0.41" in page and "Differences" not in page
    with pytest.raises(ConfigError, match="No paired test"):
        compare_results(results, CompareConfig(scores=("pnmi",)))
    with pytest.raises(ConfigError, match="fold is None in small, 'timit-39' in large"):
        compare_results(results | {"large": corpus_result(0.5, conventions={"fold": "timit-39"})})
    fewer = corpus_result(0.5, items=[{"id": "u1"}])
    assert compare_results(results | {"large": fewer}).excluded == {"items of small that are not in all results": 2}


def test_the_command_says_first_why_there_is_no_test_and_fits_80_columns(tmp_path, capsys):
    places = [save_result(corpus_result(value), tmp_path / name / "eval") for name, value in (("a", 0.4), ("b", 0.5))]
    assert main(["compare", *map(str, places), "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("No paired test: no score of phones")
    assert any(line.split() == ["pnmi", "0.4", "[0.38,", "0.42]", "0.5", "[0.48,", "0.52]"] for line in said)
    names = ["a-rather-long-name-of-a-run", "another-long-name-of-a-run-of-ours"]
    tested = [save_result(pair_result(c), tmp_path / n) for c, n in ((WARM, "x"), (COLD, "y"))]
    for number, more in enumerate(([], [save_result(pair_result(COLD[::-1]), tmp_path / "z")])):
        chosen = [*names, "c"][: 2 + len(more)]
        command = ["compare", *map(str, [*tested, *more]), "--out", str(tmp_path / f"out{number}")]
        assert main([*command, "--names", ",".join(chosen), "--num-permutations", "200"]) == 0
        said = capsys.readouterr().out.splitlines()
        table = said[: next(i for i, line in enumerate(said) if line.startswith(("Note", "Results")))]
        assert max(map(len, table)) <= 80
        record = json.loads((tmp_path / f"out{number}" / "comparison.json").read_text())
        assert record["models"] == chosen
    assert any("+0.333" in line for line in said)


def test_names_are_those_of_runs():
    def named(*paths: str) -> list[str]:
        return model_names([Path(path) for path in paths])

    assert named("/r/warm/eval/x.json", "/r/cold/eval/x.json") == ["warm", "cold"]
    assert named("/r/warm/a/b/x.json", "/r/cold/a/b/x.json") == ["warm", "cold"]
    assert named("/r/warm/x.json", "/r/cold/eval/x.json") == ["warm", "eval"]
    assert named("/r/1/warm/eval/x.json", "/r/1/cold/eval/x.json", "/r/2/cold/eval/x.json") == [
        *("1/warm", "1/cold", "2/cold")
    ]
    assert named("/r/eval/x.json", "/r/eval/y.json") == ["eval/x", "eval/y"]


def test_the_record_is_json(tmp_path):
    comparison = compare_results({"warm": pair_result(WARM), "cold": pair_result(COLD)})
    record = json.loads(json.dumps(comparison.record()))
    assert record["differences"][0]["difference"] == pytest.approx(1 / 3) and "items" not in record
    assert record["scores"]["accuracy"]["cold"]["value"] == pytest.approx(4.5 / 12)
    assert record["differences"][0]["favours"] is None and record["benchmark"] == "sblimp"
    assert replace(comparison).record() == comparison.record()
