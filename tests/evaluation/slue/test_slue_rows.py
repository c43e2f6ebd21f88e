"""Tags of words, and which word each position of a row belongs to, worked out by hand and by slow loops."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.slue import toy
from vocable.errors import ConfigError
from vocable.evaluation.slue.labelled_set import Entity
from vocable.evaluation.slue.metrics import (
    WORD_TAGS,
    Found,
    gold_entities,
    spoken_spans,
    tag_words,
    tagged_entities,
    written_spans,
)
from vocable.evaluation.slue.rows import NO_WORD, RowMaker, words_of_frames
from vocable.evaluation.unusable import UnusableError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.spoken import open_lm
from vocable.sequences.joint_layouts import TextOnlyLayout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.sequences.word_slices import word_borders
from vocable.types import SpeechTokens, Utterance, Word

TEXT = "In New York, Tom's two friends met (Ann)."
ENTITIES = (Entity("PLACE", 3, 8), Entity("PERSON", 13, 3), Entity("QUANT", 19, 3), Entity("PERSON", 36, 3))
TAGS = ["O", "B-PLACE", "I-PLACE", "B-PERSON", "B-QUANT", "O", "O", "B-PERSON"]


def reading(layout):
    """The language model of a layout, without a network."""
    card = LMCard(vocabulary=layout.vocabulary, layout=layout.card(), tokenizer_fingerprint="f" * 16)
    return open_lm(LoadedLM(None, card, getattr(layout, "text_tokenizer", None), getattr(layout, "subwords", None)))


def test_words_are_tagged_by_hand():
    spans = written_spans(TEXT)
    assert [TEXT[slice(*span)] for span in spans][:4] == ["In", "New", "York,", "Tom's"]
    assert tag_words(TEXT, spans, ENTITIES) == TAGS
    assert len(WORD_TAGS) == 15


def test_tags_give_the_entities_back():
    expected = [Found("PLACE", "new york"), Found("PERSON", "tom"), Found("QUANT", "2"), Found("PERSON", "ann")]
    assert tagged_entities(TEXT, written_spans(TEXT), TAGS) == expected == gold_entities(TEXT, ENTITIES)


def test_neighbouring_entities_of_one_tag_stay_two():
    text, entities = "Ann Tom ran", (Entity("PERSON", 0, 3), Entity("PERSON", 4, 3))
    tags = tag_words(text, written_spans(text), entities)
    assert tags == ["B-PERSON", "B-PERSON", "O"]
    assert tagged_entities(text, written_spans(text), tags) == gold_entities(text, entities)


def test_an_inside_tag_that_continues_nothing_begins_an_entity():
    spans = written_spans("a b c d")
    tags = ["I-ORG", "I-ORG", "I-LAW", "O"]
    assert tagged_entities("a b c d", spans, tags) == [Found("ORG", "a b"), Found("LAW", "c")]


def test_spoken_words_are_found_in_the_text():
    words = [Word(word=w, start=0.0, end=0.0) for w in ("in", "New", "York", "Tom's", "two", "friends", "met", "Ann")]
    spans = spoken_spans(TEXT, words)
    assert spans is not None and tag_words(TEXT, spans, ENTITIES) == TAGS
    assert tagged_entities(TEXT, spans, TAGS) == gold_entities(TEXT, ENTITIES)
    assert spoken_spans(TEXT, words[:-1]) is None and spoken_spans(TEXT, ()) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_positions_belong_to_the_word_that_has_most_of_them(data):
    num_words = data.draw(st.integers(1, 5))
    durations = data.draw(st.lists(st.integers(1, 6), min_size=num_words, max_size=20))
    ends = sorted(data.draw(st.lists(st.floats(0, sum(durations) / 50), min_size=num_words, max_size=num_words)))
    words = [Word(word="w", start=start, end=end) for start, end in zip([0.0, *ends], ends)]
    num_frames = sum(durations)
    sizes, left = [], len(durations)
    while left:
        sizes.append(data.draw(st.integers(1, left)))
        left -= sizes[-1]
    found = words_of_frames(words, torch.tensor(durations), torch.tensor(sizes), num_frames, 50.0)
    borders = word_borders(words, num_frames, 50.0).tolist()
    of_frame = [next(w for w in range(num_words) if borders[w] <= f < borders[w + 1]) for f in range(num_frames)]
    units, frame = [], 0
    for duration in durations:
        part = of_frame[frame : frame + duration]
        units.append(max(sorted(set(part)), key=part.count))
        frame += duration
    expected, unit = [], 0
    for size in sizes:
        part = units[unit : unit + size]
        expected.append(max(sorted(set(part)), key=part.count))
        unit += size
    assert found.tolist() == expected


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return toy.joint_lm(toy.byte_tokenizer(tmp_path_factory.mktemp("lm")))


def utterance(text, words):
    return Utterance(id="a", audio=Path("a.wav"), text=text, words=words)


def test_a_spoken_row_by_hand(lm):
    maker, known = RowMaker(lm), lm.card.vocabulary
    words, tokens = toy.speak("we saw Rome.")
    row = maker.spoken(utterance("we saw Rome.", words), "we saw Rome.", tokens, toy.FRAME_RATE)
    ids = [known.unit_open_id, *(known.speech_offset + tokens.units).tolist(), known.end_id]
    assert row.token_ids.tolist() == ids
    assert row.words.tolist() == [NO_WORD, 0, 0, 1, 1, 2, 2, NO_WORD]
    assert [row.text[slice(*span)] for span in row.spans] == ["we", "saw", "Rome."]


def test_a_written_row_is_what_the_layout_writes(lm):
    maker, known = RowMaker(lm), lm.card.vocabulary
    row = maker.written("on the way to Rome.")
    layout = TextOnlyLayout(vocabulary=known).bind(lm.text_tokenizer)
    ids = lm.text_tokenizer.encode("on the way to Rome.", add_special_tokens=False)
    assert row.token_ids.tolist() == [known.text_open_id, *ids, known.end_id]
    assert layout.revert(row.token_ids).text == "on the way to Rome."
    pieces = {}
    for token, word in zip(row.token_ids.tolist()[1:-1], row.words.tolist()[1:-1]):
        pieces[word] = pieces.get(word, "") + lm.text_tokenizer.decode([token])
    pieces.pop(NO_WORD, None)  # a blank that is a token of its own
    assert [pieces[word].strip() for word in sorted(pieces)] == ["on", "the", "way", "to", "Rome."]


def test_lower_case_keeps_places(lm):
    row = RowMaker(lm, "lower").written("Tom saw İzmir")
    assert row.text == "tom saw İzmir" and len(row.spans) == 3  # its small letter would be two characters
    with pytest.raises(UnusableError, match="empty"):
        RowMaker(lm).written(" ")


def test_rows_without_usable_words_have_none(lm):
    words, tokens = toy.speak("we saw Rome.")
    for given_words, text, rate in (
        (None, "we saw Rome.", 50.0),
        (words, "we saw Oslo.", 50.0),
        (words, "we saw Rome.", None),
    ):
        row = RowMaker(lm).spoken(utterance(text, given_words), text, tokens, rate)
        assert row.spans == () and set(row.words.tolist()) == {NO_WORD} and len(row.token_ids) == 8
    nothing = SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(UnusableError, match="too short"):
        RowMaker(lm).spoken(utterance("we", words[:1]), "we", nothing, 50.0)
    late = tuple(Word(word=w.word, start=w.start + 60, end=w.end + 60) for w in words)
    with pytest.raises(UnusableError, match="do not fit"):
        RowMaker(lm).spoken(utterance("we saw Rome.", late), "we saw Rome.", tokens, 50.0)


def test_subwords_belong_to_the_word_of_most_of_their_units(lm):
    """Fitted on sentences that all begin alike, so that a subword holds several units."""
    sentences = [toy.speak(f"we saw {name}.") for name in ("Rome", "Oslo", "Tom")] * 4
    made = [(utterance(f"u{i}", None), tokens) for i, (_, tokens) in enumerate(sentences)]
    made = [(dataclasses.replace(u, id=f"u{i}"), t) for i, (u, t) in enumerate(made)]
    card = {"codebook_size": toy.CODEBOOK_SIZE, "fingerprint": "f" * 16}
    subwords = UnitSubwords.fit(made, card, SubwordConfig(vocabulary_size=toy.CODEBOOK_SIZE + 4))
    vocabulary = joint_vocabulary(lm.text_tokenizer, subwords)
    layout = TextOnlyLayout(vocabulary=vocabulary).bind(lm.text_tokenizer, subwords)
    words, tokens = toy.speak("we saw Rome.")
    row = RowMaker(reading(layout)).spoken(utterance("we saw Rome.", words), "we saw Rome.", tokens, 50.0)
    sizes = subwords.encode(tokens).num_units.tolist()
    assert max(sizes) > 1, "no subword was learned"
    expected, unit = [], 0
    for size in sizes:
        part = [place // 2 for place in range(unit, unit + size)]
        expected.append(max(sorted(set(part)), key=part.count))
        unit += size
    assert row.words.tolist() == [NO_WORD, *expected, NO_WORD]


def test_a_model_of_units_reads_speech_only(lm):
    vocabulary = UnitVocabulary(codebook_size=toy.CODEBOOK_SIZE)
    layout = UnitsLayout(vocabulary=vocabulary)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint="f" * 16)
    maker = RowMaker(open_lm(LoadedLM(lm.model, card)))
    assert maker.modalities == ("speech",)
    words, tokens = toy.speak("we saw Rome.")
    row = maker.spoken(utterance("we saw Rome.", words), "we saw Rome.", tokens, 50.0)
    assert torch.equal(row.token_ids, layout.build(tokens))
    assert row.words.tolist() == [NO_WORD, 0, 0, 1, 1, 2, 2, NO_WORD]
    bare = RowMaker(reading(UnitsLayout(vocabulary=vocabulary, bos=False, eos=False)))
    assert bare.spoken(utterance("we saw Rome.", words), "we saw Rome.", tokens, 50.0).words.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    with pytest.raises(ConfigError, match="reads units only"):
        maker.written("we")
