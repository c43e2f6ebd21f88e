"""Perplexity against the plain way: one text at a time, transformers' own loss."""

import math

import pytest
import torch

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.errors import AssetError, ConfigError
from vocable.evaluation.metrics.perplexity import TextNLL, continuation_nll, perplexity_scores, text_nll
from vocable.lm.checkpoint import LMCard, write_card
from vocable.lm.text_lm import TextLM, load_text_lm
from vocable.sequences import UnitsLayout, UnitVocabulary

TEXTS = ["on the mat", "", "a", "  then he went out, and on, and on\n", "don't"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("lm"))))


def plain_loss(lm, text: str, bos: bool = True) -> tuple[float, int]:
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[0] * bos + ids])
    with torch.no_grad():
        loss = lm.model(input_ids=row, labels=row).loss
    return float(loss) * (row.shape[1] - 1), row.shape[1] - 1


def test_each_text_as_transformers_scores_it_alone(lm):
    scores = text_nll(lm, TEXTS)
    assert scores[1] is None
    for text, score in zip(TEXTS, scores):
        if text:
            nll, count = plain_loss(lm, text.strip())
            assert score.num_tokens == count
            assert score.nll == pytest.approx(nll, rel=1e-5)


def test_batching_changes_no_score(lm):
    alone = [text_nll(lm, [text])[0] for text in TEXTS]
    for together in (text_nll(lm, TEXTS), text_nll(lm, TEXTS, max_tokens=8)):
        for one, other in zip(alone, together):
            assert (one is None) == (other is None)
            if one is not None:
                assert other.nll == pytest.approx(one.nll, rel=1e-5)


def test_without_start_symbol_the_first_token_is_not_scored(lm):
    opened = TextLM(lm.model, lm.tokenizer, lm.name, "none")
    scores = text_nll(opened, ["on the mat", "a"])
    nll, count = plain_loss(lm, "on the mat", bos=False)
    assert scores[0].nll == pytest.approx(nll, rel=1e-5) and scores[0].num_tokens == count
    assert scores[1] is None  # one token, and nothing before it


def test_behind_a_prompt(lm):
    """p(text | prompt) = p(prompt text) / p(prompt): the sums of the plain losses must differ by just that."""
    prompts, texts = ["the cat sat", "he", "", "x"], ["on the mat", "then", "alone", " "]
    first, second, *rest = continuation_nll(lm, prompts, texts)
    assert rest == [None, None]
    for score, prompt, text in zip((first, second), prompts, texts):
        whole, count = plain_loss(lm, f"{prompt} {text}")
        before, count_before = plain_loss(lm, prompt)
        assert score.with_prompt.nll == pytest.approx(whole, rel=1e-5) and score.with_prompt.num_tokens == count
        assert score.given_prompt.nll == pytest.approx(whole - before, rel=1e-4)
        assert score.given_prompt.num_tokens == count - count_before


def test_three_ways_to_sum_up_by_hand():
    texts = [TextNLL(2 * math.log(2), 2), TextNLL(math.log(32), 1)]  # perplexities 2 and 32
    scores = perplexity_scores(texts, meaning="test")
    assert scores["arithmetic"].value == pytest.approx(17)
    assert scores["geometric"].value == pytest.approx(8)  # sqrt(2 * 32)
    assert scores["token_weighted"].value == pytest.approx(2 ** (7 / 3))  # 7 bits over 3 tokens
    assert scores["geometric"].low == pytest.approx(2) and scores["geometric"].high == pytest.approx(32)
    assert scores["geometric"].better == "lower"


def test_nothing_to_sum_up():
    assert all(score.value is None for score in perplexity_scores([], meaning="test").values())


def test_a_unit_language_model_is_refused(tmp_path):
    folder = save_tiny_text_lm(tmp_path / "units")
    vocabulary = UnitVocabulary(codebook_size=8)
    layout = UnitsLayout(vocabulary=vocabulary).card()
    write_card(folder, LMCard(vocabulary=vocabulary, layout=layout, tokenizer_fingerprint="f"))
    with pytest.raises(ConfigError, match="a language model of speech units; its text vocabulary was replaced"):
        load_text_lm(str(folder))


def test_a_model_without_tokenizer_is_refused(tmp_path):
    folder = save_tiny_text_lm(tmp_path / "bare")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises((AssetError, ConfigError), match=r"bare: "):
        load_text_lm(str(folder))


def test_texts_without_their_prompt_are_refused(lm):
    with pytest.raises(ConfigError, match="2 prompts for 1 texts"):
        continuation_nll(lm, ["a", "b"], ["c"])
