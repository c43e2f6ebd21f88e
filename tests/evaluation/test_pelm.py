"""PELM: sums recomputed from the texts, anchors that are what they say, empty ones, and units written down two ways."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.joint_halves import random_joint_model, spoken
from evaluation.tiny_text_lm import save_tiny_text_lm
from sequences.joint_examples import FRAME_RATE, random_example, text_tokenizer
from vocable.errors import ConfigError, ManifestError, UnknownNameError
from vocable.evaluation.comparison.measures import find_measures
from vocable.evaluation.halves import (
    CELLS,
    CutConfig,
    HalfModel,
    SpeechForm,
    continue_halves,
    cut_utterance,
    random_words,
)
from vocable.evaluation.pelm import Pelm, PelmConfig, directions_of, measure
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.units_to_text import JointUnitsToText, SpokenUnitsToText, load_joint_units_to_text
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.joint_lm import JointLM
from vocable.lm.spoken import open_lm
from vocable.lm.text_lm import load_text_lm
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.types import SpeechTokens, Utterance

UNITS = 12


def config_of(**settings):
    return PelmConfig(manifest=Path("none"), model="none", **settings)


def evaluate_pelm(model, cut, left_out, text_lm, units_to_text, out, config=None, on_progress=None):
    opened = {"model": model, "cut": cut, "text_lm": text_lm, "units_to_text": units_to_text}
    benchmark = Pelm(config or config_of(), opened, on_progress)
    benchmark.run.excluded.update(left_out)
    return run_benchmark(benchmark, out, overwrite=True)


SHORT = GenerationConfig(max_seconds=0.8, temperature=1.0, batch_size=2)


@pytest.fixture(scope="module")
def text_lm(tmp_path_factory):
    return load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("lm") / "text")))


@pytest.fixture(scope="module")
def model():
    tokenizer = text_tokenizer()
    return random_joint_model(make_layout("cst", joint_vocabulary(tokenizer, UNITS), text_tokenizer=tokenizer))


@pytest.fixture(scope="module")
def chosen():
    found = []
    for seed in range(5):
        example = random_example(seed, 6, UNITS)
        utterance = Utterance(
            id=f"u{seed}", audio=Path("x"), text=example.text, words=example.words, speaker=f"s{seed % 2}"
        )
        found.append(cut_utterance(utterance, CutConfig(), example.tokens, SpeechForm(FRAME_RATE, True)))
    return found


@pytest.fixture(scope="module")
def own(model):
    return load_joint_units_to_text("own", model, max_text_tokens=12)


@pytest.fixture(scope="module")
def result(model, chosen, text_lm, own, tmp_path_factory):
    seen = {}

    def watch(step, count, total):
        seen[step] = seen.get(step, 0) + count
        assert seen[step] <= total

    config = config_of(num_prompts=None, generation=SHORT, max_text_tokens=10, num_resamples=50)
    found = evaluate_pelm(
        model, chosen, {"no word times": 1}, text_lm, own, tmp_path_factory.mktemp("pelm"), config, watch
    )
    assert {"Continuing u2t", "Scoring t2u"} <= set(seen)
    return found


def nll_by_hand(lm, text, after=""):
    """Sum and number of tokens that end behind `after`, from one plain pass."""
    found = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [lm.bos_id, *found["input_ids"]]
    with torch.no_grad():
        table = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    losses = [-float(table[k, ids[k + 1]]) for k in range(len(ids) - 1)]
    kept = [loss for loss, (_, end) in zip(losses, found["offset_mapping"]) if end > len(after)]
    return sum(kept), len(kept)


@pytest.mark.parametrize("direction", CELLS)
@pytest.mark.parametrize("system", ["model", "true", "copy", "shuffled", "random"])
def test_sums_are_those_of_the_texts(result, text_lm, direction, system):
    stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
    end = "" if system == "model" else f"/{system}"
    sums = {"pelm": [0.0, 0], "pelm_continuation": [0.0, 0]}
    for item in result.items:
        prompt = item["prompt_text"] if system == "true" else item[f"{direction}_prompt_transcript"]
        text = item[f"{stem}transcript"]
        if item[f"{stem}nll_with_prompt"] is None:
            assert not any(map(str.isalnum, text)) or not any(map(str.isalnum, prompt))
            continue
        prompt = prompt.strip()
        for name, after in (("pelm", ""), ("pelm_continuation", prompt)):
            nll, count = nll_by_hand(text_lm, f"{prompt} {text}", after)
            sums[name][0] += nll
            sums[name][1] += count
    for name, (nll, count) in sums.items():
        score = result.scores[f"{name}_{direction}{end}"]
        assert count > 0
        assert score.value == pytest.approx(math.exp(nll / count), rel=1e-4)  # float32 likelihoods
        assert result.scores[f"log_{name}_{direction}{end}"].value == pytest.approx(nll / count, rel=1e-4)


def test_anchors_are_what_they_say(result, chosen, own):
    ids = [one.id for one in chosen]
    assert [item["id"] for item in result.items] == ids
    heard = own([one.continuation.tokens for one in chosen])
    asked = own([one.prompt.tokens for one in chosen])
    for place, (item, one) in enumerate(zip(result.items, chosen)):
        assert item["t2t_prompt_transcript"] == item["t2u_prompt_transcript"] == one.prompt.text
        assert item["u2u_prompt_transcript"] == item["u2t_prompt_transcript"] == asked[place]
        for direction in CELLS:
            assert item[f"{direction}_true_transcript"] == one.continuation.text.strip()
            assert item[f"{direction}_copy_transcript"] == item[f"{direction}_prompt_transcript"]
            words = {word for other in chosen for word in other.continuation.text.split()}
            drawn = item[f"{direction}_random_transcript"].split()
            assert set(drawn) <= words and len(drawn) == one.continuation.num_words
        assert item["u2u_transcribed_transcript"] == item["t2u_transcribed_transcript"] == heard[place]
        assert item["u2t_transcribed_transcript"] == one.continuation.text.strip()
        assert "t2t_transcribed_transcript" not in item
        assert item["t2t_copy_copy_rate"] == 1
    for direction, texts in (("t2t", [one.continuation.text.strip() for one in chosen]), ("u2u", heard)):
        shuffled = [item[f"{direction}_shuffled_transcript"] for item in result.items]
        assert sorted(shuffled) == sorted(texts)
    assert result.scores["copy_rate_t2t/copy"].value == 1


def test_what_is_recorded(result, own, tmp_path):
    assert result.conventions["units_to_text"] == own.name == "own: the evaluated model"
    assert result.conventions["text_lm"] and result.conventions["sampling"]["temperature"] == 1.0
    assert result.conventions["empty_continuations"] == "excluded"
    assert result.excluded["no word times"] == 1
    assert any("Units became text by: own" in note for note in result.notes)
    loaded = load_result(save_result(result, tmp_path))
    measures = {measure.name: measure for measure in find_measures([loaded, loaded])}
    assert "copy_rate_u2t" in measures and measures["log_pelm_t2t"].denominators == ("t2t_tokens_with_prompt",)
    assert not any("/" in name for name in measures)


def continue_all(*args, **settings):
    made = {place: one for batch in continue_halves(*args, **settings) for place, one in batch.items()}
    return [made[place] for place in range(len(made))]


def test_continuations_do_not_depend_on_the_rest_of_the_run(model, chosen):
    settings = {"max_text_tokens": 10, "seed": 3}
    for cell in CELLS:
        whole = continue_all(model, chosen, cell, SHORT, **settings)
        for one, expected in zip(chosen[2:], whole[2:]):
            (alone,) = continue_all(model, [one], cell, SHORT, **settings)
            assert (alone.text, alone.num_tokens) == (expected.text, expected.num_tokens)
            assert alone.tokens == expected.tokens
            assert (alone.text is None) == (cell[2] == "u")
    other = continue_all(model, chosen, "t2t", SHORT, max_text_tokens=10, seed=4)
    again = continue_all(model, chosen, "t2t", SHORT, **settings)
    assert [one.text for one in other] != [one.text for one in again]
    assert random_words(chosen, 1) == random_words(chosen, 1) != random_words(chosen, 2)


def test_own_transcription_is_greedy_behind_the_switch(model, own):
    tokens = spoken(3, 3, 5, 1)
    known = model.lm.layout.vocabulary
    ids = [known.unit_open_id, *(unit + known.speech_offset for unit in (3, 5, 1)), known.unit_to_text_id]
    banned = known.bans(speech=False)
    banned[0] = True  # the tokenizer's own end of text
    new = []
    with torch.no_grad():
        while len(new) < 6:
            row = model.lm.model(torch.tensor([[*ids, *new]])).logits[0, -1].masked_fill(banned, -torch.inf)
            new.append(int(row.argmax()))
    expected = text_tokenizer().decode([token for token in new if token != known.end_id])
    few = JointUnitsToText(model.lm, "x", {}, max_text_tokens=6, batch_size=4)
    empty = SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.long))
    if known.end_id in new:
        expected = text_tokenizer().decode(new[: new.index(known.end_id)])
    assert few([empty, tokens]) == ["", expected.strip()]


def test_empty_continuations(text_lm):
    prompts, texts = ["the cat", "sat on", "..."], ["on mats", "", "a hill"]
    left_out = measure(prompts, texts, text_lm, "excluded")
    kept = measure(prompts, texts, text_lm, "prompt_alone")
    assert [row["empty"] for row in left_out] == [0, 1, 0] and [row["prompt_empty"] for row in left_out] == [0, 0, 1]
    assert [row["nll_with_prompt"] is None for row in left_out] == [False, True, True]
    assert kept[0] == left_out[0] and kept[2] == left_out[2]
    nll, count = nll_by_hand(text_lm, "sat on")
    assert kept[1]["nll_with_prompt"] == pytest.approx(nll, rel=1e-5) and kept[1]["tokens_with_prompt"] == count
    assert kept[1]["nll_given_prompt"] is None and kept[1]["copy_rate"] is None


def test_texts_longer_than_the_text_lm_reads_are_counted(text_lm):
    fits, longer = measure(["the cat", "the cat"], ["sat", "sat " * 300], text_lm, "prompt_alone")
    assert (fits["too_long"], longer["too_long"]) == (0, 1)
    assert fits["nll_given_prompt"] is not None
    assert longer["nll_given_prompt"] is None and longer["nll_with_prompt"] is None and longer["num_words"] == 300


def test_units_alone_are_heard(chosen, text_lm, tiny_tokenizer, tiny_vocoder, tiny_transcriber, model, tmp_path):
    """A model of units goes from units to units; a vocoder and a recogniser say what."""
    vocabulary = UnitVocabulary(codebook_size=8)
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary).card(),
        tokenizer_fingerprint="t",
        unit_seconds=(0.1,) * 8,
    )
    loaded = open_lm(LoadedLM(model.lm.model, card))
    units = HalfModel(loaded, {}, {"model": {}})
    few = [
        one._replace(
            prompt=one.prompt._replace(tokens=spoken(*range(1, 6))),
            continuation=one.continuation._replace(tokens=spoken(2, 2, 0)),
        )
        for one in chosen[:2]
    ]
    with pytest.raises(ConfigError, match="writes no text"):
        load_joint_units_to_text("own", units)
    with pytest.raises(ConfigError, match="must be own, asr, or the folder"):
        load_joint_units_to_text("whisper", units)
    tiny_tokenizer.synthesizer = tiny_vocoder
    heard = SpokenUnitsToText(tiny_tokenizer, tiny_transcriber, collapsed=True, same_judge="allow")
    config = config_of(num_prompts=None, generation=SHORT, num_resamples=10)
    assert directions_of(units, config) == ("u2u",)
    result = evaluate_pelm(units, few, {}, text_lm, heard, tmp_path, config)
    assert result.conventions["units_to_text"] == "vocoder and test/tiny-whisper"
    assert result.conventions["durations"] == "predicted by the vocoder"
    assert {name.split("_")[-1].split("/")[0] for name in result.scores} == {"u2u"}
    with pytest.raises(ConfigError, match="need a way from units to text"):
        evaluate_pelm(units, few, {}, text_lm, None, tmp_path, config)
    with pytest.raises(ConfigError, match="cannot go 't2u'; it knows u2u"):
        directions_of(units, config_of(directions=("t2u",)))


def test_controls_that_write(chosen, text_lm, tmp_path):
    random = HalfModel(None, {}, {"model": {"control": "random"}})
    config = config_of(num_prompts=3, max_text_tokens=8, num_resamples=10)
    drawn = evaluate_pelm(random, chosen, {}, text_lm, None, tmp_path, config)
    assert drawn.excluded["not drawn"] == 2 and len(drawn.items) == 3
    assert {item["t2t_stopped"] for item in drawn.items} == {"random"}
    written = HalfModel(text_lm, {}, {"model": {"control": "text"}})
    result = evaluate_pelm(written, chosen, {}, text_lm, None, tmp_path, config)
    assert [item["id"] for item in result.items] == [item["id"] for item in drawn.items]
    assert all(0 < item["t2t_num_tokens"] <= 8 for item in result.items)
    assert "<s>" not in "".join(item["t2t_transcript"] for item in result.items)


def test_settings_are_checked(model, text_lm, own, tmp_path):
    with pytest.raises(UnknownNameError, match="anchor"):
        config_of(anchors=("tru",))
    with pytest.raises(ConfigError, match="num_prompts is 0"):
        config_of(num_prompts=0)
    with pytest.raises(ConfigError, match="max_text_tokens is 0"):
        config_of(max_text_tokens=0)
    with pytest.raises(ManifestError, match="No utterance is left"):
        evaluate_pelm(model, [], {"no word times": 2}, text_lm, own, tmp_path)


class Counts:
    """A way from units to text that counts what it is given."""

    def __init__(self, inner) -> None:
        self.inner, self.name, self.weights = inner, inner.name, inner.weights
        self.conventions, self.blocks = dict(inner.conventions), []

    def __call__(self, tokens):
        self.blocks.append(len(tokens))
        return self.inner(tokens)


FEW = config_of(num_prompts=None, generation=SHORT, max_text_tokens=10, num_resamples=10, directions=("u2u", "t2t"))


def made(result):
    return result.measurements["made_in_this_run"]


def test_nothing_is_made_twice(model, chosen, text_lm, own, tmp_path, tmp_path_factory, monkeypatch):
    first = evaluate_pelm(model, chosen, {}, text_lm, own, tmp_path, FEW)
    assert made(first)["continuations generated"] == 2 * len(chosen)
    assert made(first)["units transcribed"] == 3 * len(chosen)  # true prompts and continuations, and those of u2u
    texts = {
        (item["prompt_text"] if name == "true" else item[f"{cell}_prompt_transcript"], item[f"{stem}_transcript"])
        for item in first.items
        for cell in FEW.directions
        for name in ("", "true", "transcribed", "shuffled", "copy", "random")
        if f"{(stem := f'{cell}_{name}' if name else cell)}_transcript" in item
    }
    assert made(first)["texts measured"] == len(texts)  # those that two anchors share once

    monkeypatch.setattr(JointLM, "continue_", lambda *_, **__: pytest.fail("generated again"))
    counting, seen = Counts(own), {}
    again = evaluate_pelm(
        model, chosen, {}, text_lm, counting, tmp_path, FEW,
        lambda step, count, total: seen.update({step: (seen.get(step, (0, 0))[0] + count, total)}),
    )  # fmt: skip
    assert again.items == first.items and again.scores == first.scores
    assert set(made(again).values()) == {0} and counting.blocks == []
    assert seen and all(count == total for count, total in seen.values())  # bars are full

    # another external model: only likelihoods are new
    other = load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("lm") / "other", seed=5)))
    judged = evaluate_pelm(model, chosen, {}, other, counting, tmp_path, FEW)
    assert made(judged) == {**made(again), "texts measured": len(texts)} and counting.blocks == []
    assert [i["t2t_transcript"] for i in judged.items] == [i["t2t_transcript"] for i in first.items]
    assert judged.scores["pelm_t2t"].value != first.scores["pelm_t2t"].value


def test_a_run_that_was_stopped_goes_on(model, chosen, text_lm, own, tmp_path, monkeypatch):
    whole = evaluate_pelm(model, chosen, {}, text_lm, own, tmp_path / "whole", FEW)
    sizes = []
    generate = JointLM.continue_

    def stops(lm, prompts, config, **settings):
        if "task" in settings:  # a transcription
            return generate(lm, prompts, config, **settings)
        if len(sizes) == 4:  # u2u in batches of 2, 2, 1; then one of t2t
            raise KeyboardInterrupt
        sizes.append(len(prompts))
        return generate(lm, prompts, config, **settings)

    monkeypatch.setattr(JointLM, "continue_", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_pelm(model, chosen, {}, text_lm, own, tmp_path / "stopped", FEW)
    assert sizes == [2, 2, 1, 2]
    kept = tmp_path / "stopped" / "kept" / "continuations.jsonl"
    kept.write_bytes(kept.read_bytes()[:-20])  # the last line was half written
    monkeypatch.setattr(JointLM, "continue_", generate)
    later = evaluate_pelm(model, chosen, {}, text_lm, own, tmp_path / "stopped", FEW)
    assert made(later)["continuations generated"] == 2 * len(chosen) - 6
    assert made(later)["units transcribed"] == 0
    words = [name for name in whole.items[0] if "nll" not in name]
    assert [[item[name] for name in words] for item in later.items] == [
        [item[name] for name in words] for item in whole.items
    ]


def test_what_is_kept_belongs_to_what_it_was_made_from(model, chosen, text_lm, own, tmp_path):
    """Another model, sampling, length, seed or prompt: made anew. Batches are not part of it."""

    chosen = chosen[:2]

    def generated(model=model, chosen=chosen, how=own, **changes):
        config = replace(FEW, directions=("u2u",), anchors=(), prompt_text="true", **changes)
        return made(evaluate_pelm(model, chosen, {}, text_lm, how, tmp_path, config))

    def transcribed(how):
        return generated(how=how)["units transcribed"]

    count = len(chosen)
    assert generated()["continuations generated"] == count
    assert generated(generation=replace(SHORT, batch_size=3, seed=7))["continuations generated"] == 0
    assert generated(chosen=chosen[1:])["continuations generated"] == 0
    for changes in (
        {"generation": replace(SHORT, temperature=0.5)},
        {"generation": replace(SHORT, max_seconds=0.5)},
        {"max_text_tokens": 11},
        {"seed": 1},
        {"model": model._replace(fingerprints={"tokenizer": "another"})},
    ):
        assert generated(**changes)["continuations generated"] == count, changes
    prompt = chosen[0].prompt._replace(tokens=spoken(1, 2, 1))
    assert generated(chosen=[chosen[0]._replace(prompt=prompt), *chosen[1:]])["continuations generated"] == 1
    weight = next(model.lm.model.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        assert generated()["continuations generated"] == count
    finally:
        weight.detach().copy_(before)
    assert generated()["continuations generated"] == 0

    other = Counts(own)
    assert transcribed(other) == 0 and other.blocks == []
    other.conventions["max_text_tokens"] = 13
    assert transcribed(other) == sum(other.blocks) == 2 * count  # the true continuations too
