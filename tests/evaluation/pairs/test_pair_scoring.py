"""Pair scores equal those of the plain way: one row, one forward pass, one half at a time."""

import copy
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from vocable.errors import ConfigError, ManifestError, NumericsError
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.evaluation.pairs.benchmark import PairsConfig, credit
from vocable.evaluation.pairs.models import CountingLM, PairModel, RandomLM
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.storycloze import StoryCloze
from vocable.evaluation.unusable import UnusableError
from vocable.lm import rows as rows_module
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.ngram import NgramCounts, NgramLM
from vocable.lm.packed import enable_packing
from vocable.lm.rows import Row, RowScore, share_rows
from vocable.lm.text_lm import TextLM
from vocable.lm.unit_lm import UnitLM
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.types import SpeechTokens, Utterance

VOCABULARY = UnitVocabulary(codebook_size=30)
CARD = LMCard(vocabulary=VOCABULARY, layout=UnitsLayout(vocabulary=VOCABULARY).card(), tokenizer_fingerprint="f")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "opt", vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        word_embed_proj_dim=32, max_position_embeddings=128, init_std=0.3,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def story_set(tmp_path, seed=0, count=12):
    """Stories with a context of 5 to 40 frames, endings of different lengths, and one pair that is a tie."""
    generator = torch.Generator().manual_seed(seed)
    tokens, items = {}, []
    for index in range(count):
        for role, low, high in (("context", 5, 40), ("right", 2, 9), ("wrong", 2, 9)):
            length = int(torch.randint(low, high, (), generator=generator))
            codes = torch.randint(0, 30, (1, length), generator=generator)
            tokens[f"{index}-{role}"] = SpeechTokens(codes=codes)
        halves = {
            name: (Segment(speech=f"{index}-context"), Segment(speech=f"{index}-{role}"))
            for name, role in (("positive", "right"), ("negative", "right" if index == 3 else "wrong"))
        }
        items.append(PairItem(id=str(index), group={"version": "topic", "story": str(index)}, **halves))
    utterances = {name: Utterance(id=name, audio=tmp_path / name) for name in tokens}
    return PairSet(benchmark="storycloze", items=items, utterances=utterances), tokens


def slow_nll(model, row, first_scored):
    """One pass per predicted token, without any batching."""
    total = 0.0
    with torch.no_grad():
        for end in range(first_scored, len(row)):
            total -= float(model(row[None, :end]).logits[0, -1].log_softmax(-1)[row[end]])
    return total


def evaluate_pairs(pair_set, model, **settings):
    config = PairsConfig(data=Path("data"), model="model", **settings)
    return run_benchmark(StoryCloze(config, {"pairs": pair_set, "model": model}))


def evaluate(pair_set, tokens, model, boundary="bos", **settings):
    reader = PairModel(lm=UnitLM(LoadedLM(model, CARD)), tokens=tokens)
    return evaluate_pairs(pair_set, reader, boundary=boundary, **settings)


@pytest.mark.parametrize("boundary", ["none", "bos", "bos_eos"])
@pytest.mark.parametrize("scored", ["whole", "ending"])
@pytest.mark.parametrize("share_prefixes", [True, False])
def test_scores_equal_the_slow_way(model, tmp_path, boundary, scored, share_prefixes):
    pair_set, tokens = story_set(tmp_path)
    result = evaluate(pair_set, tokens, model, boundary, scored=scored, share_prefixes=share_prefixes, max_tokens=64)
    symbol = torch.tensor([1])
    before, after = symbol[: boundary != "none"], symbol[: boundary == "bos_eos"]
    for item, found in zip(pair_set.items, result.items, strict=True):
        expected = {}
        for name, half in (("positive", item.positive), ("negative", item.negative)):
            context, ending = (tokens[part.speech].units for part in half)
            units = torch.unique_consecutive(torch.cat([context, ending])) + 2
            row = torch.cat([before, units, after])
            first = len(before) + len(torch.unique_consecutive(context)) if scored == "ending" else 1
            expected[name] = (slow_nll(model, row, first), len(row) - first)
            assert found[f"tokens_{name}"] == expected[name][1]
            # float32 products of other sizes: ten times the worst difference seen, 2e-5 a row
            assert found[f"nll_{name}"] == pytest.approx(expected[name][0], abs=2e-4)
        (right, n), (wrong, m) = expected["positive"], expected["negative"]
        if item.id == "3":
            assert found["correct_sum"] == found["correct_mean"] == 0.5
        else:
            assert found["correct_sum"] == float(right < wrong)
            assert found["correct_mean"] == float(right / n < wrong / m)
    assert result.measurements["ties"] == 1
    assert result.conventions["boundary"] == boundary and result.conventions["scored"] == scored
    mean = sum(item["correct_mean"] for item in result.items) / 12
    assert result.scores["topic"].value == pytest.approx(mean)
    assert result.scores["topic_sum"].value == pytest.approx(sum(i["correct_sum"] for i in result.items) / 12)


def two_versions(tmp_path):
    """Stories as 'vocable evaluate build stories' makes them: one context, one right ending, two wrong ones."""
    pair_set, tokens = story_set(tmp_path)
    generator = torch.Generator().manual_seed(5)
    items = []
    for item in pair_set.items:
        items.append(replace(item, id=f"spoken-{item.id}", group={**item.group, "version": "spoken"}))
        name = f"{item.id}-lent"
        tokens[name] = SpeechTokens(codes=torch.randint(0, 30, (1, 7), generator=generator))
        wrong = (item.negative[0], Segment(speech=name))
        items.append(replace(item, id=f"topic-{item.id}", negative=wrong))
    utterances = {name: Utterance(id=name, audio=tmp_path / name) for name in tokens}
    return replace(pair_set, items=items, utterances=utterances), tokens


@pytest.mark.parametrize("max_tokens", [40, 64, 4096])
def test_a_context_is_read_once_for_all_its_pairs(model, tmp_path, monkeypatch, max_tokens):
    pair_set, tokens = two_versions(tmp_path)
    enable_packing(model)  # tries a row of its own
    read: list[int] = []
    forward = type(model).forward

    def watched(self, input_ids, **more):
        read.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(model), "forward", watched)
    found = {}
    for shared in (False, True):
        read.clear()
        told: list[tuple[int, int]] = []
        lm = UnitLM(LoadedLM(model, CARD))
        reader = PairModel(lm=lm, tokens=tokens)
        halves = [half for item in pair_set.items for half in (item.positive, item.negative)]
        rows = [reader.row(half, "bos", False) for half in halves]
        watch = lambda *counts, told=told: told.append(counts)  # noqa: E731
        found[shared] = lm.score(rows, share_prefixes=shared, max_tokens=max_tokens, on_progress=watch)
        assert sum(count for count, _ in told) == told[0][1]
        distinct = {tuple(row.token_ids.tolist()) for row in rows}
        assert max(read) <= max(max_tokens, *map(len, distinct))
        if not shared:
            assert sum(read) == sum(map(len, distinct))
        elif max_tokens == 4096:
            assert sum(read) == tokens_to_read(distinct) < 0.8 * sum(map(len, distinct))
    for half, apart in zip(found[True], found[False], strict=True):
        assert half.num_tokens == apart.num_tokens
        # float32 products of other sizes, as against the slow way
        assert half.nll == pytest.approx(apart.nll, abs=2e-4)
    for spoken, topic in zip(found[True][::4], found[True][2::4]):
        assert spoken == topic  # the right half is one row


def tokens_to_read(rows):
    """Of each context that is long enough the tokens once; of all other rows everything."""
    contexts = {}
    for row in rows:
        contexts.setdefault(row[:4], []).append(row)  # four tokens tell these contexts apart
    total = 0
    for members in contexts.values():
        common = next(n for n in range(99) if len({row[: n + 1] for row in members}) > 1 or n == min(map(len, members)))
        total += sum(map(len, members)) - (common * (len(members) - 1) if common >= 16 else 0)
    return total


def cuts(rows):
    """All ways to cut a sequence into runs."""
    if not rows:
        yield []
    for stop in range(1, len(rows) + 1):
        yield from ([rows[:stop], *rest] for rest in cuts(rows[stop:]))


def num_tokens(run):
    """Of the rows of a run, with what they begin with once; None where that is too little to share."""
    common = sum(len({row[: n + 1] for row in run}) == 1 for n in range(min(map(len, run))))
    return None if len(run) > 1 and common < 2 else sum(map(len, run)) - (len(run) - 1) * common


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sets(st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple), min_size=1, max_size=6),
    max_tokens=st.integers(1, 20),
)
def test_rows_are_shared_in_the_best_way(rows, max_tokens):
    with mock.patch.object(rows_module, "MIN_SHARED_TOKENS", 2):
        runs = share_rows(list(rows), max_tokens)
    assert sorted(row for run in runs for row in run) == sorted(rows)
    ways = []
    for way in cuts(sorted(rows)):
        sizes = [num_tokens(run) for run in way]
        if None not in sizes and all(size <= max_tokens or len(run) == 1 for size, run in zip(sizes, way)):
            ways.append(sum(sizes))
    sizes = [num_tokens(run) for run in runs]
    assert all(size <= max_tokens or len(run) == 1 for size, run in zip(sizes, runs)) and sum(sizes) == min(ways)


class Planted(RandomLM):
    """Has these scores for its rows."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, rows, **_):
        return self.scores


def test_sum_and_mean_disagree_on_halves_of_unequal_length():
    """Two tokens at 1 nat each against six at 0.5: the sum prefers the short half, the mean the long one."""

    item = PairItem(id="p", positive=(Segment(text="a"),), negative=(Segment(text="b"),))
    pair_set = PairSet(benchmark="storycloze", items=[item], utterances={})

    for normalise, headline in (("sum", 1.0), ("mean", 0.0)):
        model = PairModel(lm=Planted([RowScore(2.0, 2), RowScore(3.0, 6)]))
        result = evaluate_pairs(pair_set, model, normalise=normalise)
        assert result.scores["all"].value == headline
        assert result.scores["all_sum" if normalise == "mean" else "all_mean"].value == 1 - headline
        assert result.scores["all"].low is None  # one item: its spread is unknown


@pytest.mark.parametrize(
    ("ties", "pairs", "notes"),
    [
        (40, 40, ["Every pair is a tie: this model cannot tell the halves apart, and 0.5 says no more than that."]),
        (8, 40, ["8 of 40 pairs are ties, which count half."]),
        (1, 40, []),
        (0, 1, ["Only 1 pairs: intervals are rough."]),
    ],
)
def test_ties_and_few_pairs_are_said(ties, pairs, notes):
    items = [PairItem(id=str(i), positive=(Segment(text="a"),), negative=(Segment(text="b"),)) for i in range(pairs)]
    scores = [RowScore(1.0 + (side and i >= ties), 1) for i in range(pairs) for side in (0, 1)]
    result = evaluate_pairs(
        PairSet(benchmark="storycloze", items=items, utterances={}),
        PairModel(lm=Planted(scores), notes=["of the model"]),
    )
    assert result.notes == ["of the model", *notes] and result.measurements["ties"] == ties
    assert result.scores["all"].value == pytest.approx((pairs - ties / 2) / pairs)


def test_a_model_that_is_not_finite_is_an_error(model, tmp_path):
    pair_set, tokens = story_set(tmp_path)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(NumericsError, match="storycloze: nll_positive of item '0' is nan"):
        evaluate(pair_set, tokens, broken)


def test_credit():
    assert [credit(1.0, 2.0), credit(2.0, 1.0), credit(1.5, 1.5)] == [1.0, 0.0, 0.5]


def test_equal_halves_tie_without_shared_prefixes_too(model, tmp_path):
    pair_set, tokens = story_set(tmp_path)
    result = evaluate(pair_set, tokens, model, share_prefixes=False, max_tokens=40)
    assert result.items[3]["nll_positive"] == result.items[3]["nll_negative"]


def test_unscorable_pairs_are_counted_and_left_out_whole(model, tmp_path):
    pair_set, tokens = story_set(tmp_path, count=5)
    del tokens["1-wrong"]
    tokens["2-right"] = SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.long))
    result = evaluate(pair_set, tokens, model)
    assert [item["id"] for item in result.items] == ["0", "3", "4"]
    assert result.excluded == {"an utterance has no tokens": 2}
    with pytest.raises(ManifestError, match=r"None of 5 pairs could be scored .an utterance has no tokens: 5"):
        evaluate(pair_set, {}, model)
    long = {name: SpeechTokens(codes=torch.arange(400)[None] % 30) for name in tokens}
    with pytest.raises(ConfigError, match="the model 128 positions"):
        evaluate(pair_set, long, model)


def test_a_single_segment_has_no_ending(model, tmp_path):
    item = PairItem(id="p", positive=(Segment(speech="a"),), negative=(Segment(speech="b"),))
    utterances = {name: Utterance(id=name, audio=tmp_path / name) for name in "ab"}
    pair_set = PairSet(benchmark="storycloze", items=[item], utterances=utterances)
    tokens = {name: SpeechTokens(codes=torch.arange(4)[None]) for name in "ab"}
    with pytest.raises(ManifestError, match="only the ending is scored, but there is no context"):
        evaluate(pair_set, tokens, model, scored="ending")
    text = PairSet(benchmark="storycloze", items=[PairItem(id="p", positive=(Segment(text="a"),),
                   negative=(Segment(text="b"),))], utterances={})  # fmt: skip
    with pytest.raises(ConfigError, match="reads units only"):
        evaluate(text, tokens, model)


def test_counts_by_hand():
    documents = [torch.tensor([1, 2, 3, 2, 3, 1]), torch.tensor([1, 3, 2, 1])]
    ngram = NgramLM(NgramCounts.of(documents, 5), order=2)
    row = Row(torch.tensor([1, 2, 3, 3]), torch.arange(4) >= 2)
    found, same = CountingLM(LoadedLM(ngram, CARD)).score([row, row])
    expected = -(ngram.bigram[2, 3].log() + ngram.bigram[3, 3].log())
    assert found.nll == pytest.approx(float(expected)) and found.num_tokens == 2 and found == same


def test_random_scores_are_seeded_and_fair():
    rows = [Row(torch.tensor([1, 2]), torch.arange(2) >= 1)] * 8000
    found = RandomLM(3).score(rows)
    assert found == RandomLM(3).score(rows) != RandomLM(4).score(rows)
    wins = sum(credit(a.nll, b.nll) for a, b in zip(found[::2], found[1::2])) / 4000
    assert abs(wins - 0.5) < 0.03  # four standard errors


class WordTokenizer:
    """A tokenizer of words, enough for rows of text."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [sum(map(ord, word)) for word in text.split(" ")]}


def test_text_rows_share_their_context():
    texts = {"c": " The dog ", "e": None, "quiet": " "}
    model = PairModel(lm=TextLM(None, WordTokenizer(), "words"), texts=texts)
    context = Segment(speech="c")
    one = model.row((context, Segment(text="ran.")), "bos_eos", True)
    other = model.row((context, Segment(text="sang.")), "bos_eos", True)
    assert one.token_ids[0] == 0 and one.token_ids[-1] == 0
    first = int(one.scored.nonzero()[0])
    assert torch.equal(one.token_ids[:first], other.token_ids[:first]) and first == 1 + 2
    shouted, said, capital = (
        model.row((Segment(text=text),), "bos_eos", False).token_ids for text in ("THE DOG", "the dog", "The dog")
    )
    assert torch.equal(shouted, said) and not torch.equal(said, capital)
    for name, reason in (("e", "no text"), ("quiet", "empty")):
        with pytest.raises(UnusableError, match=reason):
            model.row((context, Segment(speech=name)), "bos_eos", False)
