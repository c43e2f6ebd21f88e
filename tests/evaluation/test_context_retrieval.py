"""CRA: both argmax directions on a hand table, rows against one plain pass each, and models whose answer is known."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.joint_halves import TOPICS, random_joint_model, spoken, topic_model, topical
from sequences.joint_examples import FRAME_RATE, frames_of, random_example, text_tokenizer
from vocable.errors import ConfigError, ManifestError, NumericsError
from vocable.evaluation.comparison.measures import find_measures
from vocable.evaluation.context_retrieval import (
    WAYS,
    PairScores,
    Retrieval,
    RetrievalConfig,
    retrieve,
    retrieved_in,
    score_pool,
)
from vocable.evaluation.halves import CELLS, CutConfig, Half, HalfModel, SpeechForm, continues_run, cut_utterance
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import run_benchmark
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.unit_lm import UnitLM
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.types import Utterance

UNITS = 12
TABLE = torch.tensor(  # log p(y_i | x_j): rows are prompts, columns continuations
    [
        [-4.0, -9.0, -1.0],
        [-5.0, -7.0, -2.0],
        [-6.0, -8.0, -3.0],
    ],
    dtype=torch.float64,
)


def config_of(**settings):
    return RetrievalConfig(manifest=Path("none"), model="none", **settings)


def evaluate_retrieval(model, cut, left_out, config, out=None):
    benchmark = Retrieval(config, {"model": model, "cut": cut})
    benchmark.run.excluded.update(left_out)
    return run_benchmark(benchmark, out)


def test_directions_on_a_hand_table():
    scores = PairScores(TABLE, torch.tensor([-5.0, -12.0, -1.0], dtype=torch.float64), torch.tensor([2, 7, 1]))
    found = retrieved_in(scores)
    # columns: -4 is best of its own; -7 is; -3 is the worst of its own
    assert found["prompts"].credit.tolist() == [1, 1, 0]
    assert found["prompts"].rank.tolist() == [1, 1, 3]
    # rows: y_3 is likeliest behind every prompt, since it is the shortest
    assert found["continuations_sum"].credit.tolist() == [0, 0, 1]
    assert found["continuations_sum"].rank.tolist() == [2, 3, 1]
    # per token: -2 -9/7 -1 | -2.5 -1 -2 | -3 -8/7 -3
    assert found["continuations_mean"].credit.tolist() == [0, 1, 0]
    assert found["continuations_mean"].rank.tolist() == [3, 1, 2.5]
    # less log p(y): 1 3 0 | 0 5 -1 | -1 4 -2
    assert found["continuations_pmi"].credit.tolist() == [0, 1, 0]


@given(st.integers(2, 6), st.integers(0, 1000))
def test_what_the_prompts_direction_cannot_see(size, seed):
    """A constant for each continuation (its length, its frequency) moves no prompt; the correction takes it back."""
    generator = torch.Generator().manual_seed(seed)
    given_, alone = (torch.randint(-9, 0, s, generator=generator).double() for s in ((size, size), (size,)))
    shift = torch.randint(-9, 9, (size,), generator=generator).double()
    lengths = torch.ones(size, dtype=torch.long)
    before, after = (retrieved_in(PairScores(given_ + s, alone + s, lengths)) for s in (torch.zeros(size), shift))
    for way in ("prompts", "continuations_pmi"):
        assert before[way].rank.tolist() == after[way].rank.tolist()
        assert before[way].credit.tolist() == after[way].credit.tolist()
    pointwise = given_ - alone
    assert retrieve(pointwise).credit.tolist() == before["prompts"].credit.tolist()


def test_ties_share_the_credit():
    same = retrieve(torch.zeros(4, 4, dtype=torch.float64))
    assert same.credit.tolist() == [0.25] * 4 and same.rank.tolist() == [2.5] * 4
    behind = retrieve(torch.tensor([[1.0, 0.0], [1.0, -1.0]]))
    assert behind.credit.tolist() == [0.5, 0] and behind.rank.tolist() == [1.5, 2]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("logits", ["kept", "masked"])
def test_planted_knowledge_is_found(shared, logits):
    pool = [topical(topic) for topic in range(TOPICS)]
    result = evaluate_retrieval(topic_model(shared), pool, {}, config_of(pool_size=TOPICS, logits=logits))
    for cell in CELLS:
        expected = 1.0 if shared or cell[0] == cell[2] else 1 / TOPICS
        for way in ("cra", "continuations_pmi"):
            assert result.scores[f"{way}_{cell}"].value == pytest.approx(expected)
    note = [note for note in result.notes if "Not told apart" in note]
    assert note == ([] if shared else ["Not told apart from chance: CRA of u2t, t2u."])
    assert result.measurements["ties"]["cra_u2t"] == (0 if shared else TOPICS)
    assert result.conventions["logits"] == logits


def layouts():
    """Units and subwords, runs and frames, switch symbols and openers."""
    fitted = [(Utterance(id=str(s), audio=Path("x")), random_example(s, 8, UNITS).tokens) for s in range(6)]
    card = {"codebook_size": UNITS, "num_codebooks": 1, "fingerprint": "tiny"}
    subwords = UnitSubwords.fit(fitted, card, SubwordConfig(vocabulary_size=40))
    tokenizer = text_tokenizer()
    units, pieces = joint_vocabulary(tokenizer, UNITS), joint_vocabulary(tokenizer, subwords)
    return {
        "runs": make_layout("cst", units, text_tokenizer=tokenizer),
        "frames": make_layout("sims", units, text_tokenizer=tokenizer, collapsed=False),
        "subwords": make_layout("ast", pieces, text_tokenizer=tokenizer, subwords=subwords),
    }


def row_by_hand(layout, prompt, continuation, cell, seam):
    """Token ids of a pair, and where the scored ones begin, by the rules of the documentation."""
    known = layout.vocabulary

    def content(half, modality, frames=None):
        if modality == "t":
            return layout.text_tokenizer.encode(half.text, add_special_tokens=False)
        units = torch.tensor(frames_of(half.tokens) if frames is None else frames)
        units = torch.unique_consecutive(units) if layout.collapsed else units
        if layout.subwords is not None:
            units = layout.subwords.encode(spoken(*units.tolist())).ids
        return (units + known.speech_offset).tolist()

    frames = frames_of(prompt.tokens)
    if cell == "u2u" and layout.collapsed and seam == "merge":
        first = frames_of(continuation.tokens)[0]
        while frames[-1] == first and len(set(frames)) > 1:
            frames.pop()
    ids = [known.unit_open_id if cell[0] == "u" else known.text_open_id]
    ids += content(prompt, cell[0], frames)
    if cell[0] != cell[2]:
        if layout.name == "ast" and layout.marks == "modality":
            ids.append(known.text_open_id if cell[2] == "t" else known.unit_open_id)
        else:
            ids.append(known.unit_to_text_id if cell[2] == "t" else known.text_to_unit_id)
    return ids + content(continuation, cell[2]), len(ids)


@pytest.mark.parametrize("kind", ["runs", "frames", "subwords"])
@pytest.mark.parametrize(("logits", "seam", "max_tokens"), [("kept", "merge", 4096), ("masked", "keep", 60)])
def test_scores_are_those_of_one_row_at_a_time(kind, logits, seam, max_tokens):
    layout = layouts()[kind]
    model = random_joint_model(layout)
    pool = []
    for seed in range(4):
        example = random_example(seed, 6, UNITS)
        utterance = Utterance(id=str(seed), audio=Path("x"), text=example.text, words=example.words)
        form = SpeechForm(FRAME_RATE, layout.collapsed)
        pool.append(cut_utterance(utterance, CutConfig(), example.tokens, form))
    head = Half(" so", 1, spoken(int(pool[0].prompt.tokens.units[-1]), 11, 3))  # goes on with a run of prompt 0
    pool[1] = pool[1]._replace(continuation=head)
    assert continues_run(pool[0].prompt, head)
    config = config_of(pool_size=4, logits=logits, seam=seam, max_tokens=max_tokens)
    known = layout.vocabulary
    seen = []
    for cell in CELLS:
        scores = score_pool(model, pool, cell, config, seen.append)
        for j, i in [(j, i) for j in (None, 0, 1, 3) for i in range(4)]:
            if j is None:
                opener = known.unit_open_id if cell[2] == "u" else known.text_open_id
                ids, first = row_by_hand(layout, pool[0].prompt, pool[i].continuation, cell, seam)
                ids, first = [opener, *ids[first:]], 1
            else:
                ids, first = row_by_hand(layout, pool[j].prompt, pool[i].continuation, cell, seam)
            with torch.no_grad():
                table = model.lm.model(torch.tensor([ids])).logits[0].double()
            total = 0.0
            for place in range(first, len(ids)):
                row = table[place - 1]
                if logits == "masked":
                    row = row.masked_fill(known.classes != known.classes[ids[place]], -torch.inf)
                total += float(row.log_softmax(-1)[ids[place]])
            found = scores.alone[i] if j is None else scores.given[j, i]
            # float32 products of other sizes: ten times the worst difference seen, 2e-5
            assert float(found) == pytest.approx(total, abs=2e-4)
            assert int(scores.num_tokens[i]) == len(ids) - first
    assert sum(seen) == len(CELLS) * 16


def test_equal_prompts_are_exact_ties():
    layout = layouts()["runs"]
    one = cut_utterance(
        Utterance(id="a", audio=Path("x"), text=None, words=random_example(5, 6).words),
        CutConfig(), random_example(5, 6, UNITS).tokens, SpeechForm(FRAME_RATE, True),
    )  # fmt: skip
    result = evaluate_retrieval(
        random_joint_model(layout), [one._replace(id=str(k)) for k in range(5)], {}, config_of(pool_size=5)
    )
    assert all(score.value == pytest.approx(0.2) for score in result.scores.values())


def test_a_model_of_units_has_one_cell():
    vocabulary = UnitVocabulary(codebook_size=2 * TOPICS)
    card = LMCard(vocabulary=vocabulary, layout=UnitsLayout(vocabulary=vocabulary).card(), tokenizer_fingerprint="t")
    random = random_joint_model(layouts()["runs"]).lm.model
    model = HalfModel(UnitLM(LoadedLM(random, card)), {}, {})
    one = topical(1)
    assert model.prompt(one.prompt, "u2u").tolist() == [1, 4, 5]  # <s> and units from id 2 on
    assert model.continuation(one.continuation, "u2u").tolist() == [4, 5]
    pool = [topical(topic) for topic in range(TOPICS)]
    result = evaluate_retrieval(model, pool, {}, config_of(pool_size=TOPICS))
    assert set(result.scores) == {"cra_u2u", *(f"{way}_u2u" for way in WAYS if way != "prompts")}


def test_pools_are_disjoint_and_reported(tmp_path):
    pool = [topical(k % TOPICS)._replace(id=f"u{k}") for k in range(11)]
    model = HalfModel(None, {}, {"model": {"control": "random"}})
    result = evaluate_retrieval(model, pool, {"no word times": 2}, config_of(pool_size=5), tmp_path)
    assert sorted(item["pool"] for item in result.items) == [0] * 5 + [1] * 5
    assert len({item["id"] for item in result.items}) == 10
    assert result.excluded == {"no word times": 2, "not drawn into a pool": 1}
    assert result.measurements["chance"] == result.conventions["chance"] == 0.2
    assert set(result.scores) == {f"{'cra' if way == 'prompts' else way}_{cell}" for way in WAYS for cell in CELLS}
    again = evaluate_retrieval(model, pool, {}, config_of(pool_size=5, num_pools=1))
    assert [i["id"] for i in again.items] == [i["id"] for i in result.items[:5]]
    loaded = load_result(tmp_path / "cra.json")
    assert loaded.scores["cra_u2t"] == result.scores["cra_u2t"]
    assert {measure.name for measure in find_measures([loaded, loaded])} >= {f"cra_{cell}" for cell in CELLS}
    picture = (tmp_path / "cra.svg").read_text()
    assert picture.startswith("<svg") and "chance 0.2" in picture


def test_chance_is_what_random_scores_get():
    pool = [topical(k % TOPICS)._replace(id=f"u{k}", speaker=None) for k in range(2000)]
    model = HalfModel(None, {}, {})
    result = evaluate_retrieval(model, pool, {}, config_of(pool_size=10, num_resamples=10))
    for score in result.scores.values():
        assert score.value == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 2000) ** 0.5)


def test_what_cannot_be_done_is_said():
    pool = [topical(topic) for topic in range(TOPICS)]
    with pytest.raises(ConfigError, match="pool_size is 1"):
        config_of(pool_size=1)
    with pytest.raises(ConfigError, match="num_pools is 0"):
        config_of(num_pools=0)
    with pytest.raises(ManifestError, match=r"6 utterances can be used \(no word times: 3 left out\), 7 are needed"):
        evaluate_retrieval(topic_model(True), pool, {"no word times": 3}, config_of(pool_size=7))
    with pytest.raises(ManifestError, match="12 are needed"):
        evaluate_retrieval(topic_model(True), pool, {}, config_of(pool_size=6, num_pools=2))
    broken = topic_model(True)
    broken.lm.model.same.fill_(torch.nan)
    broken.lm.model.forward = lambda input_ids, use_cache: type("Out", (), {"logits": broken.lm.model.same[input_ids]})
    with pytest.raises(NumericsError, match="NaN"):
        evaluate_retrieval(broken, pool, {}, config_of(pool_size=6))


def test_halves_that_do_not_fit_are_left_out():
    layout = layouts()["runs"]
    model = random_joint_model(layout, positions=40)
    long = topical(0)._replace(id="long", continuation=Half(" b" * 50, 50, spoken(1, 2)))
    pool = [topical(topic) for topic in range(TOPICS)]
    result = evaluate_retrieval(model, [*pool, long], {}, config_of(pool_size=6))
    assert result.excluded == {"a half is longer than half of the model's 40 positions": 1}
