"""Rows of speech and text: by hand, and back; every word once, with exactly its units."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequences.joint_examples import FRAME_RATE, frames_of, random_example, text_tokenizer
from vocable.audio.manifest import absolute
from vocable.errors import ConfigError, FingerprintError, ManifestError, UnknownNameError
from vocable.sequences import LAYOUTS, Layout, layout_from_card
from vocable.sequences.joint_layouts import PRESETS, AlternatingLayout, make_layout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.spans import BernoulliSpans, PoissonSpans, RangeSpans
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.sequences.word_slices import word_borders, word_texts
from vocable.tokens.runs import collapse_runs
from vocable.types import SpeechTokens, Utterance, Word

CARD = {"codebook_size": 12, "num_codebooks": 1, "fingerprint": "f" * 16}


def fit_subwords(over):
    data = [(Utterance(id=str(i), audio=absolute("a.wav")), random_example(i, num_words=20).tokens) for i in range(5)]
    return UnitSubwords.fit(data, CARD, SubwordConfig(vocabulary_size=60, over=over))


SUBWORDS = {"runs": fit_subwords("runs"), "frames": fit_subwords("frames")}


def layout(name, *, over="runs", subwords=False, **settings):
    chosen = SUBWORDS[over] if subwords else None
    vocabulary = joint_vocabulary(text_tokenizer(), chosen or 12)
    bound = {"text_tokenizer": text_tokenizer(), "subwords": chosen}
    return make_layout(name, vocabulary, collapsed=over == "runs", **bound, **settings)


def by_hand():
    """Three words over ten frames: 'the' has 0 to 3, 'cat' 4 to 6, 'sat' 7 to 9."""
    words = tuple(
        Word(word=word, start=start, end=end)
        for word, start, end in [("the", 0.0, 0.08), ("cat", 0.08, 0.14), ("sat", 0.14, 0.2)]
    )
    frames = torch.tensor([[1, 1, 2, 2, 2, 3, 3, 3, 4, 4]])
    return JointExample(id="x", tokens=SpeechTokens(codes=frames), frame_rate=50.0, text="The cat sat.", words=words)


def text(written):
    return text_tokenizer().encode(written)


def test_rows_by_hand():
    v = joint_vocabulary(text_tokenizer(), 12)
    U, T, U2T, T2U, E = v.special_ids
    units = [v.speech_offset + unit for unit in (1, 2, 3, 4)]
    assert layout("unit-only").build(by_hand()).tolist() == [U, *units, E]
    assert layout("unit-only", end=False).build(by_hand()).tolist() == [U, *units]
    assert layout("text-only").build(by_hand()).tolist() == [T, *text("The cat sat."), E]
    assert layout("text-only", text_form="words").build(by_hand()).tolist() == [T, *text("the cat sat"), E]
    assert layout("cst-u2t").build(by_hand()).tolist() == [U, *units, U2T, *text("The cat sat."), E]
    assert layout("cst-t2u").build(by_hand()).tolist() == [T, *text("The cat sat."), T2U, *units, E]
    one_each = BernoulliSpans(switch=1.0, first="speech")
    the, sat = units[:2], [v.speech_offset + unit for unit in (3, 4)]
    assert layout("ast", spans=one_each).build(by_hand()).tolist() == [U, *the, U2T, *text(" cat"), T2U, *sat, E]
    expected = [*the, U2T, *text(" cat"), T2U, *sat, E]
    assert layout("ast", spans=one_each, opener=False).build(by_hand()).tolist() == expected
    marked = [U, *the, T, *text(" cat"), U, *sat, E]
    assert layout("ast", spans=one_each, marks="modality").build(by_hand()).tolist() == marked
    other = BernoulliSpans(switch=1.0, first="text")
    expected = [T, *text("The"), T2U, *[v.speech_offset + u for u in (2, 3)], U2T, *text(" sat."), E]
    assert layout("ast", spans=other).build(by_hand()).tolist() == expected


policies = st.sampled_from(
    [
        RangeSpans(),
        RangeSpans(speech_words=(1, 2), text_words=(1, 3)),
        PoissonSpans(mean_words=2.0, speech_share=0.5),
        BernoulliSpans(switch=0.5),
    ]
)


@given(
    seed=st.integers(0, 200),
    epoch=st.integers(0, 3),
    spans=policies,
    over=st.sampled_from(["runs", "frames"]),
    subwords=st.booleans(),
    marks=st.sampled_from(["switch", "modality"]),
    text_form=st.sampled_from(["text", "words"]),
    collapsed_input=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_alternating_rows_hold_every_word_once_with_its_units(
    seed, epoch, spans, over, subwords, marks, text_form, collapsed_input
):
    example = random_example(seed, collapsed=collapsed_input)
    chosen = layout("ast", over=over, subwords=subwords, spans=spans, marks=marks, text_form=text_form)
    built = chosen.build_sequence(example, epoch=epoch)
    # the spans put together are the words
    assert [word for segment in built.segments for word in segment.words] == list(example.words)
    # spoken spans hold exactly the frames of their words, written ones exactly their text
    all_frames = frames_of(example.tokens)
    borders = word_borders(example.words, len(all_frames), FRAME_RATE).tolist()
    texts = word_texts(example.text if text_form == "text" else None, example.words)
    place = 0
    for segment in built.segments:
        stop = place + len(segment.words)
        if segment.modality == "speech":
            assert segment.frames == (borders[place], borders[stop])
            assert frames_of(segment.tokens) == all_frames[borders[place] : borders[stop]]
        else:
            assert segment.text == "".join(texts[place:stop])
        place = stop
    # and the row says the same to someone who sees ids only
    reverted = chosen.revert(built.token_ids)
    assert len(reverted.segments) == len(built.segments)
    for ours, theirs in zip(reverted.segments, built.segments):
        assert (ours.modality, ours.start, ours.stop, ours.text) == (
            theirs.modality,
            theirs.start,
            theirs.stop,
            theirs.text,
        )
        if theirs.tokens is not None:
            frames = torch.tensor(frames_of(theirs.tokens))
            expected = collapse_runs(frames).units if over == "runs" else frames
            assert ours.tokens.units.tolist() == expected.tolist()
    # symbols: one before each span but perhaps the first, one at the end, each announcing what follows
    vocabulary = chosen.vocabulary
    specials = vocabulary.is_special(built.token_ids).nonzero()[:, 0].tolist()
    assert specials == [*(segment.start - 1 for segment in built.segments), len(built.token_ids) - 1]
    announce = {"speech": {vocabulary.unit_open_id}, "text": {vocabulary.text_open_id}}
    later = (
        announce
        if marks == "modality"
        else {"speech": {vocabulary.text_to_unit_id}, "text": {vocabulary.unit_to_text_id}}
    )
    for index, segment in enumerate(built.segments):
        assert int(built.token_ids[segment.start - 1]) in (announce if index == 0 else later)[segment.modality]


@given(seed=st.integers(0, 100), subwords=st.booleans(), over=st.sampled_from(["runs", "frames"]))
@settings(deadline=None, max_examples=25)
def test_concatenated_rows_come_back(seed, subwords, over):
    example = random_example(seed)
    chosen = layout("cst", over=over, subwords=subwords)
    reverted = chosen.revert(chosen.build(example))
    assert sorted(segment.modality for segment in reverted.segments) == ["speech", "text"]
    assert reverted.text == example.text
    frames = torch.tensor(frames_of(example.tokens))
    assert reverted.tokens.units.tolist() == (collapse_runs(frames).units if over == "runs" else frames).tolist()


def test_epochs_draw_anew_and_repeat_exactly():
    example = random_example(3, num_words=24)
    chosen = layout("ast", spans=RangeSpans(speech_words=(1, 4), text_words=(1, 4)))
    rows = [chosen.build(example, epoch=epoch).tolist() for epoch in (0, 1, 0)]
    assert rows[0] == rows[2]
    assert rows[0] != rows[1]
    assert layout("ast", spans=chosen.spans, seed=1).build(example).tolist() != rows[0]
    both = layout("cst")
    firsts = {int(both.build(example, epoch=epoch)[0]) for epoch in range(12)}
    assert firsts == {both.vocabulary.unit_open_id, both.vocabulary.text_open_id}


def test_presets_are_those_of_the_papers():
    sims, spirit = layout("sims"), layout("spirit-lm")
    assert (sims.spans, sims.marks) == (PoissonSpans(mean_words=10.0, speech_share=0.3), "modality")
    assert (spirit.spans.speech_words, spirit.spans.text_words) == ((5, 15), (10, 30))
    assert layout("sims", marks="switch").marks == "switch"
    with pytest.raises(UnknownNameError, match="Did you mean 'sims'"):
        layout("simms")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_cards_make_an_equal_layout(name):
    made = layout(name, subwords=True)
    again = layout_from_card(json.loads(json.dumps(made.card())))
    assert again == made
    assert isinstance(again, Layout)
    assert made.card()["name"] in LAYOUTS
    bound = again.bind(text_tokenizer(), SUBWORDS["runs"])
    example = random_example(5)
    assert torch.equal(bound.build(example), made.build(example))
    assert made.vocabulary_size == made.vocabulary.size > int(made.build(example).max())


def test_a_card_with_a_misspelt_setting_is_refused():
    card = layout("sims").card()
    card["spans"]["mean_word"] = card["spans"].pop("mean_words")
    with pytest.raises(ConfigError, match=r"unknown setting 'spans\.mean_word'\. Did you mean 'spans\.mean_words'"):
        layout_from_card(card)


def test_parts_that_do_not_belong_are_refused():
    units, words = layout("ast"), layout("ast", subwords=True)
    with pytest.raises(FingerprintError, match=r"the vocabulary was made for .* but the text tokenizer has"):
        units.bind(text_tokenizer(260))
    with pytest.raises(ConfigError, match="There are 60 subwords, but the vocabulary has 12 units"):
        units.bind(subwords=SUBWORDS["runs"])
    with pytest.raises(FingerprintError, match="the set of unit subwords has"):
        words.bind(subwords=SUBWORDS["frames"])
    with pytest.raises(ConfigError, match="over frames, but collapsed is True"):
        made_for = joint_vocabulary(text_tokenizer(), SUBWORDS["frames"])
        AlternatingLayout(vocabulary=made_for).bind(subwords=SUBWORDS["frames"])


def test_what_an_example_lacks_is_said():
    bare = JointExample(id="x7")
    with pytest.raises(ManifestError, match="'x7' has no speech tokens; the layout 'unit-only'"):
        layout("unit-only").build(bare)
    with pytest.raises(ManifestError, match="'x7' has no text; the layout 'text-only'"):
        layout("text-only").build(bare)
    with pytest.raises(ManifestError, match="'x7' lacks speech tokens, word times or a frame rate"):
        layout("ast").build(bare)
    late = JointExample(id="x8", tokens=by_hand().tokens, frame_rate=50.0, words=(Word(word="a", start=9.0, end=9.1),))
    with pytest.raises(ManifestError, match="Utterance 'x8': The last word, 'a', starts at 9 s"):
        layout("ast").build(late)
    unbound = AlternatingLayout(vocabulary=joint_vocabulary(text_tokenizer(), SUBWORDS["runs"]))
    with pytest.raises(ConfigError, match=r"has no text tokenizer yet: layout\.bind"):
        unbound.revert(torch.tensor([3]))
    with pytest.raises(ConfigError, match="made of unit subwords, which it does not have yet"):
        unbound.revert(torch.tensor([unbound.vocabulary.speech_offset]))
    with pytest.raises(ConfigError, match="Ids run from 0 to 9999"):
        unbound.revert(torch.tensor([0, 9999]))


def test_rows_without_symbols_can_be_read():
    chosen = layout("ast")
    v = chosen.vocabulary
    row = torch.tensor([*text(" cat"), v.speech_offset + 3, v.speech_offset + 5, *text("sat"), v.end_id, v.end_id])
    read = chosen.revert(row)
    assert [(s.modality, s.text) for s in read.segments] == [("text", " cat"), ("speech", None), ("text", "sat")]
    assert read.segments[1].tokens.units.tolist() == [3, 5]
    assert chosen.revert(torch.tensor([], dtype=torch.long)).segments == ()
    assert chosen.revert(row[:0]).tokens.codes.shape == (1, 0)
