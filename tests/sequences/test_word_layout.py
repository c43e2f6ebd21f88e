"""Rows of text tokens and word codes: the published toy example, any words against a loop, and what is refused."""

import copy

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from sequences.joint_examples import text_tokenizer
from vocable.errors import ConfigError, FingerprintError, ManifestError
from vocable.sequences.layouts import layout_from_card, vocabulary_from_card
from vocable.sequences.word_layout import (
    PackedWords,
    SpokenText,
    WordLayout,
    WordVocabulary,
    drawable,
    word_vocabulary,
    words_of,
)
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.types import SpeechTokens, Word

SIZES = (5, 7)
WORDS = ("the", "cats", "don't", "héllo", "12,5", "語", "a")


def make_layout(**settings):
    tokenizer = text_tokenizer()
    known = word_vocabulary(tokenizer, SIZES, len(tokenizer) + 4)
    return WordLayout(vocabulary=known, **settings).bind(tokenizer)


class Spelling(WordTextTokenizer):
    """Words are spelt by letters: the tokens of the toy example."""

    def __init__(self):
        """Nothing is loaded."""

    name = "spelling"
    starts_word = torch.tensor([False, True, True, False, True])

    def encode(self, words):
        ids = {"a": [1], "bc": [2, 3], "d": [4]}
        flat = [(i, n) for n, word in enumerate(words) for i in ids[word]]
        return torch.tensor([i for i, _ in flat]), torch.tensor([n for _, n in flat])


def toy(**settings):
    known = WordVocabulary(text_size=6, open_id=0, close_id=5, codebook_sizes=SIZES)
    layout = WordLayout(vocabulary=known, reader=Spelling(), **settings)
    return layout.build([SpokenText(("a", "bc", "d"), torch.tensor([[0, 1, 2], [3, 4, 5]]))])


A, B, C, D, BOS, EOS, PAD, NONE = 1, 2, 3, 4, 0, 5, 6, -100
NO, E0, E1, E2 = [-1, -1], [0, 3], [1, 4], [2, 5]


@pytest.mark.parametrize(
    ("settings", "read", "codes", "next_ids", "next_codes"),
    [
        (  # the table of the published layout: a delay of one word
            {},
            [BOS, A, B, C, D, PAD],
            [NO, NO, E0, E0, E1, E2],
            [A, B, C, D, EOS, NONE],
            [NO, E0, NO, E1, E2, NO],
        ),
        (
            {"delay": 0},
            [BOS, A, B, C, D],
            [NO, E0, E1, E1, E2],
            [A, B, C, D, EOS],
            [E0, E1, NO, E2, NO],
        ),
        (
            {"delay": 1, "delay_unit": "token"},
            [BOS, A, B, C, D, PAD],
            [NO, NO, E0, E1, E1, E2],
            [A, B, C, D, EOS, NONE],
            [NO, E0, E1, NO, E2, NO],
        ),
        (
            {"delay": 2},
            [BOS, A, B, C, D, PAD, PAD],
            [NO, NO, NO, NO, E0, E1, E2],
            [A, B, C, D, EOS, NONE, NONE],
            [NO, NO, NO, E0, E1, E2, NO],
        ),
        (
            {"delay": 2, "delay_unit": "token"},
            [BOS, A, B, C, D, PAD, PAD],
            [NO, NO, NO, E0, E1, E1, E2],
            [A, B, C, D, EOS, NONE, NONE],
            [NO, NO, E0, E1, NO, E2, NO],
        ),
    ],
)
def test_toy_example(settings, read, codes, next_ids, next_codes):
    row = toy(**settings)
    assert row.token_ids.tolist() == read and row.codes.tolist() == codes
    assert row.next_ids.tolist() == next_ids and row.next_codes.tolist() == next_codes
    assert row.bounds == ((1, 5),) and row.num_scored == 5 + 3


words_strategy = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


@given(words=words_strategy, delay=st.integers(0, 3), unit=st.sampled_from(["word", "token"]), data=st.data())
def test_every_word_is_predicted_once_and_read_from_the_next_position_on(words, delay, unit, data):
    layout = make_layout(delay=delay, delay_unit=unit)
    numbers = torch.arange(len(words))
    row = layout.build([SpokenText(tuple(words), torch.stack([numbers % 5, numbers % 7]))])
    ids, word_ids = layout.words.encode(words)
    firsts = [word_ids.tolist().index(word) for word in range(len(words))]
    after = [*firsts, *range(len(ids), len(ids) + delay + 1)]  # what follows the text counts as words of one token
    known = []  # by hand, position by position
    for position in range(len(row)):
        assert row.codes[position].tolist() == (row_codes(known[-1]) if known else [-1, -1])
        token = position  # place of the token that is predicted here
        if unit == "word":
            due = [w for w in range(len(words)) if after[w + delay] == token]
        else:
            due = [w for w in range(len(words)) if firsts[w] + delay == token]
        assert row.next_codes[position].tolist() == (row_codes(due[0]) if due else [-1, -1])
        known += due
    assert known == list(range(len(words)))
    expected = [layout.vocabulary.open_id, *ids.tolist()]
    assert row.token_ids[: len(expected)].tolist() == expected
    assert (row.token_ids[len(expected) :] == layout.vocabulary.pad_id).all()
    assert row.next_ids[: len(expected)].tolist() == [*ids.tolist(), layout.vocabulary.close_id]
    assert (row.next_ids[len(expected) :] == -100).all()


def row_codes(word):
    return [word % 5, word % 7]


def test_parts_without_codes_read_the_pad_vector_and_only_the_ending_is_scored():
    layout = make_layout()
    codes = torch.tensor([[1, 2], [3, 4]])
    spoken, written = SpokenText(("the", "a"), codes), SpokenText(("cats",), None)
    both = layout.build([spoken, written])
    (_, stop), (begin, end) = both.bounds
    assert (stop, both.token_ids[begin:end].tolist()) == (begin, layout.words.encode(["cats"]).ids.tolist())
    assert both.codes[begin].tolist() == [2, 4] and both.codes[end].tolist() == [-1, -1]
    assert both.next_codes[begin - 1].tolist() == [2, 4] and (both.next_codes[begin:] == -1).all()
    ending = layout.build([written, spoken], ending_only=True)
    begin, end = ending.bounds[1]
    assert (ending.next_ids[: begin - 1] == -100).all() and (ending.next_ids[begin - 1 : end] >= 0).all()
    assert ending.num_scored == end - begin + 1 + 2
    bare = layout.build([spoken, written], opens=False, closes=False)
    assert len(bare) == len(both) - 1 and bare.bounds[0][0] == 0
    assert bare.num_scored == both.num_scored - 2  # neither the first token nor the end
    alone = layout.build([written])
    assert (alone.codes == -1).all() and (alone.next_codes == -1).all()


def test_rows_are_packed_side_by_side():
    layout = make_layout()
    rows = [layout.build([SpokenText(words, None)]) for words in (("the", "cats"), ("a",))]
    batch = PackedWords.of(rows)
    assert batch.lengths == tuple(map(len, rows)) and batch.num_tokens == sum(len(row) - 1 for row in rows)
    assert torch.equal(batch.token_ids, torch.cat([row.token_ids for row in rows]))
    part = rows[0][1:3]
    assert len(part) == 2 and torch.equal(part.next_ids, rows[0].next_ids[1:3])


def test_card_and_vocabulary_come_back():
    layout = make_layout(delay=0)
    assert (
        layout_from_card(layout.card()) == layout
        and vocabulary_from_card(layout.card()["vocabulary"]) == layout.vocabulary
    )
    other = copy.deepcopy(text_tokenizer())
    other.add_tokens(["more"])
    with pytest.raises(FingerprintError, match="the text tokenizer"):
        layout.bind(other)


def test_what_does_not_fit_is_refused():
    layout = make_layout()
    with pytest.raises(ConfigError, match="the text is empty"):
        layout.build([SpokenText((), None)])
    with pytest.raises(ConfigError, match=r"'cats' has the code 7 at level 1, whose codebook has 7"):
        layout.build([SpokenText(("the", "cats"), torch.tensor([[0, 1], [2, 7]]))])
    with pytest.raises(ConfigError, match="a word has no blanks"):
        layout.build([SpokenText(("the cats",), None)])
    with pytest.raises(ConfigError, match="delay is -1"):
        make_layout(delay=-1)
    with pytest.raises(ConfigError, match="do not follow words"):
        SpokenText.of_tokens(SpeechTokens(codes=torch.zeros(2, 3, dtype=torch.long)), 2)
    words = tuple(Word(word=word, start=0.0, end=1.0) for word in ("the", "cats"))
    spans = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ConfigError, match="have 2 levels, the language model reads 3"):
        SpokenText.of_tokens(SpeechTokens(codes=torch.zeros(2, 2, dtype=torch.long), words=words, spans=spans), 3)
    with pytest.raises(ManifestError, match="2 words have 3 positions"):
        SpokenText.of_tokens(SpeechTokens(codes=torch.zeros(2, 3, dtype=torch.long), words=words, spans=spans), 2)


def test_a_word_that_the_tokenizer_does_not_keep_apart_is_refused():
    tokenizer = copy.deepcopy(text_tokenizer())
    tokenizer.add_tokens([tokenizers.AddedToken("mats", lstrip=True)])  # takes the blank before it away
    known = word_vocabulary(tokenizer, SIZES, len(tokenizer))
    layout = WordLayout(vocabulary=known).bind(tokenizer)
    layout.build([SpokenText(("the", "cats"), None)])
    with pytest.raises(ManifestError, match="does not keep the word 'mats' apart"):
        layout.build([SpokenText(("the", "mats"), None)])


def test_only_what_writes_words_may_be_drawn():
    tokenizer = copy.deepcopy(text_tokenizer())
    tokenizer.add_tokens(["two words", "line\n"])
    layout = WordLayout(vocabulary=word_vocabulary(tokenizer, SIZES, len(tokenizer) + 2)).bind(tokenizer)
    symbols = tokenizer.all_special_ids
    allowed = drawable(layout.words, layout.vocabulary.size, symbols)
    texts = [tokenizer.decode([number]) for number in allowed.nonzero()[:, 0]]
    assert texts and all(not any(letter.isspace() for letter in text.removeprefix(" ")) for text in texts)
    refused = ~allowed
    assert refused[-4:].all() and refused[symbols].all() and refused[tokenizer.convert_tokens_to_ids("Ċ")]
    ids = layout.words.encode(list(WORDS)).ids
    assert allowed[ids].all() and words_of(layout.words, ids) == list(WORDS)
    assert words_of(layout.words, torch.tensor([], dtype=torch.long)) == []
    nbsp = tokenizer(" c\u00a0at", add_special_tokens=False)["input_ids"]  # a blank put together from bytes
    assert words_of(layout.words, torch.tensor(nbsp)) == ["cat"]
