"""Text tokens by word: round trips, both vocabularies in step, and the blank before every word."""

import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sequences.joint_examples import text_tokenizer
from tiny import make_tiny_recogniser
from vocable.errors import ConfigError, ManifestError
from vocable.sequences.text_tokenizers import load_text_tokenizer
from vocable.sequences.word_tokens import WordTextTokenizer, split_words

COARSE, FINE = WordTextTokenizer(text_tokenizer(300)), WordTextTokenizer(text_tokenizer(262))
PUBLISHED = ["whisper-base", "openai/whisper-tiny.en", "smollm2-135m"]
SENTENCES = [
    "Don't panic! It's 12,345.67 o'clock — isn't it?",
    'He said: "No." (Twice...)',
    "Straße, naïve, cafe\u0301, Ærø",
    "你好 世界 我们走吧",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "😀 👩‍👩‍👧 ok",
    "a <|endoftext|> b<|endoftext|> <|0.00|> <|en|>",
]
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(SENTENCES)


def check_round_trip(tokenizer, text):
    words = split_words(text)
    tokens = tokenizer.encode(words)
    assert tokenizer.decode(tokens.ids) == "".join(f" {word}" for word in words)
    for index, word in enumerate(words):
        alone = tokens.ids[tokens.word_ids == index]
        assert torch.equal(alone, tokenizer.encode([word]).ids)  # the same wherever it stands
        assert tokenizer.decode(alone) == f" {word}"
    assert torch.equal(tokens.word_ids.unique_consecutive(), torch.arange(len(words)))
    assert torch.equal(tokenizer.word_ids(tokens.ids), tokens.word_ids)  # told by the blanks alone
    return tokens


@given(text=TEXTS)
def test_words_come_back_and_both_vocabularies_count_the_same(text):
    assert split_words(text) == unicodedata.normalize("NFC", text).split()
    coarse, fine = check_round_trip(COARSE, text), check_round_trip(FINE, text)
    assert coarse.word_ids.unique().tolist() == fine.word_ids.unique().tolist()
    assert len(coarse.ids) <= len(fine.ids)


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.asset(name)) for name in PUBLISHED])
def test_words_come_back_from_published_tokenizers(name, text):
    tokenizer = WordTextTokenizer(load_text_tokenizer(name), name)
    tokens = check_round_trip(tokenizer, text)
    symbols = set(tokenizer.tokenizer.all_special_ids)
    assert not symbols & set(tokens.ids.tolist())  # text never becomes a symbol


def test_first_word_has_the_tokens_of_any_other():
    ids = COARSE.encode(["the", "cat", "the"])
    assert torch.equal(ids.ids[ids.word_ids == 0], ids.ids[ids.word_ids == 2])
    by_hand = text_tokenizer(300)(" the", add_special_tokens=False)["input_ids"]
    assert ids.ids[ids.word_ids == 0].tolist() == by_hand
    assert bool(COARSE.starts_word[ids.ids[0]])


def test_nothing_gives_nothing():
    tokens = COARSE.encode([])
    assert split_words(" \n\t\u3000") == [] and tokens.ids.tolist() == [] and tokens.word_ids.tolist() == []
    assert COARSE.decode(tokens.ids) == "" and COARSE.word_ids(tokens.ids).tolist() == []


@pytest.mark.parametrize("word", ["", "two words", " the", "cafe\u0301"])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(ConfigError, match=r"words\[1\] is .* split_words"):
        COARSE.encode(["a", word])


def test_broken_characters_are_refused():
    with pytest.raises(ManifestError, match="broken character at position 2"):
        split_words("ab\ud800")


def test_tokenizers_that_lose_letters_are_refused():
    _, _, by_word = make_tiny_recogniser()
    assert isinstance(by_word, PreTrainedTokenizerFast)
    with pytest.raises(ConfigError, match="byte-level"):
        WordTextTokenizer(by_word)
