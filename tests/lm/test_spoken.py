"""The spoken-LM object: what it scores and returns equals the plain model, position by position."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sequences.joint_examples import random_example, text_tokenizer
from vocable.errors import ConfigError, UnknownNameError
from vocable.lm.checkpoint import LMCard, LoadedLM, save_lm
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import SPOKEN_LMS, Segment, load_lm, open_lm
from vocable.sequences import UnitsLayout, UnitVocabulary
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary

UNITS = 12
KINDS = ("units", "joint")


def loaded(kind: str) -> LoadedLM:
    tokenizer = text_tokenizer() if kind == "joint" else None
    if tokenizer is None:
        layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=UNITS))
    else:
        layout = make_layout("cst", joint_vocabulary(tokenizer, UNITS))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=layout.vocabulary.size, initializer_range=0.4, **shape)).eval()
    card = LMCard(
        vocabulary=layout.vocabulary,
        layout=layout.card(),
        tokenizer_fingerprint="tiny",
        unit_seconds=(0.04,) * UNITS,
    )
    return LoadedLM(model, card, tokenizer)


def documents(lm, count: int = 4) -> list[list[Segment]]:
    examples = [random_example(seed, codebook_size=UNITS) for seed in range(count)]
    both = "text" in lm.modalities
    return [[Segment(tokens=e.tokens), *([Segment(text=e.text)] if both else [])] for e in examples]


def slow_score(model, row, classes, masked: bool) -> dict[int, tuple[float, int]]:
    """Sum -log p over scored positions, one at a time, by class of the token."""
    sums: dict[int, tuple[float, int]] = {}
    for place in range(1, len(row.token_ids)):
        if not row.scored[place]:
            continue
        with torch.no_grad():
            logits = model(row.token_ids[None, :place]).logits[0, -1].double()
        token = int(row.token_ids[place])
        if masked:
            logits = logits.masked_fill(classes != classes[token], float("-inf"))
        total, count = sums.get(int(classes[token]), (0.0, 0))
        sums[int(classes[token])] = total - float(logits.log_softmax(0)[token]), count + 1
    return sums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("logits", ["kept", "masked"])
def test_scores_equal_a_loop_over_positions(kind, logits):
    lm = open_lm(loaded(kind))
    rows = lm.rows(documents(lm))
    names = {0: "speech", 1: "text", 2: "symbol"}
    assert lm.classes is not None
    for row, score in zip(rows, lm.score(rows, logits=logits), strict=True):
        expected = slow_score(lm.model, row, lm.classes, logits == "masked")
        # float32 logits of prefixes and of whole rows differ in rounding: up to 2e-6 nats a position were seen
        assert score.nll == pytest.approx(sum(total for total, _ in expected.values()), rel=1e-4)
        assert score.num_tokens == row.num_scored == sum(count for _, count in expected.values())
        assert sorted(count for _, count in score.by_modality.values()) == sorted(c for _, c in expected.values())
        assert set(score.by_modality) <= set(names.values())


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_model_for_each_row_alone(kind):
    lm = open_lm(loaded(kind))
    rows = lm.rows(documents(lm))
    for row, states in zip(rows, lm.states(rows), strict=True):
        expected = lm.model(row.token_ids[None], output_hidden_states=True).hidden_states[-1][0]
        # rows packed together are summed in another order than rows alone: up to 4e-6 was seen
        torch.testing.assert_close(states, expected, atol=4e-5, rtol=1e-4)


def test_states_let_gradients_through():
    lm = open_lm(loaded("units"))
    lm.states(lm.rows(documents(lm, 1)))[0].square().sum().backward()
    assert lm.model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_can_be_a_prompt_again(kind):
    lm = open_lm(loaded(kind))
    config = GenerationConfig(max_seconds=0.4, min_seconds=0.2)
    prompts = [[document[0]] for document in documents(lm)]
    for prompt, reply in zip(prompts, lm.continue_(prompts, config), strict=True):
        (row,) = lm.rows([[*prompt, *reply.segments]])
        assert row.num_scored > 0
        assert reply.seconds <= 0.4 + 0.04


def test_a_run_folder_opens_as_what_its_card_says(tmp_path):
    for kind in KINDS:
        one = loaded(kind)
        save_lm(one.model, tmp_path / kind / "lm" / "best", one.card, text_tokenizer=one.text_tokenizer)
        lm = load_lm(tmp_path / kind)
        assert ("text" in lm.modalities) == (kind == "joint")
        rows = lm.rows(documents(lm))
        assert lm.score(rows) == open_lm(one).score(rows)
    with pytest.raises(ConfigError, match="no language model is here"):
        load_lm(tmp_path)


def test_a_modality_that_the_model_does_not_read_is_refused():
    with pytest.raises(ConfigError, match="reads units only"):
        open_lm(loaded("units")).rows([[Segment(text="a cat")]])


def test_a_kind_that_no_class_reads_is_refused(monkeypatch):
    monkeypatch.delitem(SPOKEN_LMS, "joint")
    with pytest.raises(UnknownNameError, match=r"Unknown kind of language model 'joint'.* Known: units, words\."):
        open_lm(loaded("joint"))
