"""Text keeps its ids; one block holds symbols and speech; every id has one class; cards come back equal."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sequences.joint_examples import text_tokenizer
from vocable.audio.manifest import absolute
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import ConfigError
from vocable.sequences.joint_vocabulary import (
    SPECIAL,
    SPEECH,
    TEXT,
    JointVocabulary,
    SpecialNames,
    joint_vocabulary,
    text_tokenizer_fingerprint,
)
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.types import SpeechTokens, Utterance

CARD = {"codebook_size": 12, "num_codebooks": 1, "fingerprint": "f" * 16}


@pytest.fixture(scope="module")
def subwords():
    tokens = SpeechTokens(codes=torch.tensor([[1, 2, 3, 4, 5, 6] * 20]))
    return UnitSubwords.fit(
        [(Utterance(id="a", audio=absolute("a.wav")), tokens)], CARD, SubwordConfig(vocabulary_size=15)
    )


def test_block_by_hand():
    vocabulary = JointVocabulary(text_size=100, codebook_size=12)
    assert vocabulary.special_ids == (100, 101, 102, 103, 104)
    assert (vocabulary.unit_open_id, vocabulary.text_open_id, vocabulary.end_id, vocabulary.pad_id) == (
        100,
        101,
        104,
        104,
    )
    assert (vocabulary.unit_to_text_id, vocabulary.text_to_unit_id) == (102, 103)
    assert (vocabulary.speech_offset, vocabulary.num_speech, vocabulary.size) == (105, 12, 117)
    assert vocabulary.classes.tolist() == [TEXT] * 100 + [SPECIAL] * 5 + [SPEECH] * 12
    assert vocabulary.speech_ids(torch.tensor([0, 11])).tolist() == [105, 116]
    assert vocabulary.speech(torch.tensor([3, 105, 104, 116])).tolist() == [0, 11]
    assert [vocabulary.name(i) for i in (99, 100, 101, 102, 103, 104, 105)] == [
        None,
        "<U>",
        "<T>",
        "<U2T>",
        "<T2U>",
        "<E>",
        None,
    ]


@given(
    text_size=st.integers(1, 60),
    codebook_size=st.integers(2, 30),
    extra=st.none() | st.integers(0, 30),
)
@settings(deadline=None)
def test_every_id_has_one_class(text_size, codebook_size, extra):
    vocabulary = JointVocabulary(
        text_size=text_size,
        codebook_size=codebook_size,
        num_subwords=None if extra is None else codebook_size + extra,
        names=SpecialNames(end="stop"),
    )
    ids = torch.arange(vocabulary.size)
    kinds = torch.stack([vocabulary.is_text(ids), vocabulary.is_speech(ids), vocabulary.is_special(ids)])
    assert (kinds.sum(0) == 1).all()
    assert torch.equal(vocabulary.classes == SPEECH, kinds[1])
    assert int(kinds[1].sum()) == vocabulary.num_speech
    card = json.loads(json.dumps(config_to_dict(vocabulary)))
    assert config_from_dict(JointVocabulary, card, source="a card") == vocabulary


def test_for_a_tokenizer_and_padded_rows(subwords):
    tokenizer = text_tokenizer()
    before = len(tokenizer)
    plain = joint_vocabulary(tokenizer, 12)
    assert (plain.text_size, plain.num_subwords, plain.subwords_fingerprint) == (before, None, None)
    padded = joint_vocabulary(tokenizer, subwords, text_rows=320)
    assert (padded.text_size, padded.num_speech, padded.codebook_size) == (320, 15, 12)
    assert padded.subwords_fingerprint == subwords.fingerprint
    assert len(tokenizer) == before  # no token was added
    with pytest.raises(ConfigError, match=f"has 5 rows, its tokenizer {before} ids"):
        joint_vocabulary(tokenizer, 12, text_rows=5)


def test_text_fingerprint_tells_tokenizers_apart(tmp_path):
    text_tokenizer().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again.pad_token = again.eos_token
    again(["a cat", "the mats were far away"], padding=True, truncation=True, max_length=3)
    assert text_tokenizer_fingerprint(again) == text_tokenizer_fingerprint(text_tokenizer())
    assert text_tokenizer_fingerprint(text_tokenizer()) == text_tokenizer_fingerprint(text_tokenizer())
    assert text_tokenizer_fingerprint(text_tokenizer()) != text_tokenizer_fingerprint(text_tokenizer(260))


def test_switches_by_hand():
    vocabulary = JointVocabulary(text_size=100, codebook_size=12)
    row = torch.tensor([100, 105, 106, 102, 7, 8, 103, 107, 104])  # <U> u u <U2T> t t <T2U> u <E>
    assert vocabulary.is_switch(row).nonzero()[:, 0].tolist() == [0, 3, 6]


def test_bans():
    vocabulary = JointVocabulary(text_size=10, codebook_size=3)
    allowed = [
        (~vocabulary.bans(speech=s, text=t)).nonzero()[:, 0].tolist()
        for s, t in [(True, False), (False, True), (True, True)]
    ]
    assert allowed == [[14, 15, 16, 17], [*range(10), 14], list(range(18))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JointVocabulary(text_size=0, codebook_size=5), "text_size is 0"),
        (lambda: JointVocabulary(text_size=9, codebook_size=5, num_subwords=4), "num_subwords is 4; the 5 units"),
        (lambda: SpecialNames(end="<U>"), "each needs its own name"),
        (lambda: JointVocabulary(text_size=9, codebook_size=5).speech_ids(torch.tensor([5])), "Unit 5 is outside"),
        (
            lambda: JointVocabulary(text_size=9, codebook_size=5, num_subwords=7).speech_ids(torch.tensor([-1])),
            "Subword -1 is outside the vocabulary's 7",
        ),
        (lambda: JointVocabulary(text_size=9, codebook_size=5).text_ids(torch.tensor([3, 9])), "gave the id 9"),
    ],
)
def test_errors_name_the_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
