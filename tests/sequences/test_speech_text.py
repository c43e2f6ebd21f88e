"""Rows that transcribe and speak: ids and masks by hand, the prompts that ask for them, and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequences.joint_examples import random_example, text_tokenizer
from vocable.errors import ConfigError, ManifestError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.spoken import Segment, open_lm
from vocable.sequences import layout_from_card
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.packing import MaskedDocument, concatenate
from vocable.sequences.speech_text import Instructions
from vocable.types import SpeechTokens

VOCABULARY = joint_vocabulary(text_tokenizer(), 12)
U, T, U2T, T2U, E = VOCABULARY.special_ids
NONE = Instructions()
ASKED = Instructions(transcribe="Write: ", speak="Say:")
EXAMPLE = JointExample(
    id="x", tokens=SpeechTokens(codes=torch.tensor([[1, 2, 3]]), durations=torch.tensor([2, 1, 3])), text=" The Cat \n"
)


def layout(*tasks, instructions=NONE, **more):
    chosen = {"tasks": tasks} if tasks else {}
    return make_layout(
        "speech-text", VOCABULARY, text_tokenizer=text_tokenizer(), instructions=instructions, **chosen, **more
    )


def text(written):
    return text_tokenizer().encode(written, add_special_tokens=False)


def units(*found):
    return [VOCABULARY.speech_offset + unit for unit in found]


def model_of(bound):
    card = LMCard(vocabulary=VOCABULARY, layout=bound.card(), tokenizer_fingerprint="tiny")
    return open_lm(LoadedLM(None, card, text_tokenizer()))


@pytest.mark.parametrize("instructions", [Instructions(), ASKED], ids=["symbols", "instructions"])
def test_rows_and_masks_by_hand(instructions):
    frames, cat = units(1, 1, 2, 3, 3, 3), text("The Cat")
    asked = [text(one) if one else [] for one in (instructions.transcribe, instructions.speak)]
    expected = {
        "transcribe": ([*asked[0], U, *frames, U2T], [*cat, E]),
        "speak": ([*asked[1], T, *cat, T2U], [*frames, E]),
    }
    for task, (prompt, answer) in expected.items():
        bound = layout(task, instructions=instructions, collapsed=False)
        document = bound.document(EXAMPLE)
        assert isinstance(document, MaskedDocument)
        assert document.token_ids.tolist() == bound.build(EXAMPLE).tolist() == prompt + answer
        assert document.mask.tolist() == [False] * len(prompt) + [True] * len(answer)
        labels = concatenate([document, document]).labels[0].tolist()
        assert labels == ([-100] * len(prompt) + answer) * 2  # what the loss reads
    runs = layout("transcribe").build(EXAMPLE).tolist()
    assert runs == [U, *units(1, 2, 3), U2T, *cat, E]


def test_small_letters_do_not_change_the_instruction():
    bound = layout("speak", instructions=ASKED, text_case="lower")
    assert bound.build(EXAMPLE).tolist() == [*text("Say:"), T, *text("the cat"), T2U, *units(1, 2, 3), E]
    lm = model_of(bound)
    assert lm.prompt([Segment(text="THE cat")], to="speech", task="speak").tolist() == [
        *text("Say:"), T, *text("the cat"), T2U,
    ]  # fmt: skip
    assert lm.text_spans("THE cat") == model_of(layout()).text_spans("the cat")


@given(
    seed=st.integers(0, 50),
    task=st.sampled_from(["transcribe", "speak"]),
    asked=st.sampled_from([Instructions(), ASKED]),
    collapsed=st.booleans(),
    both=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_prompt_is_the_row_up_to_its_answer(seed, task, asked, collapsed, both):
    example = random_example(seed, num_words=4)
    row = layout(task, instructions=asked, collapsed=collapsed).document(example)
    lm = model_of(layout(*(("transcribe", "speak") if both else (task,)), instructions=asked, collapsed=collapsed))
    spoken, written = Segment(tokens=example.tokens), Segment(text=example.text)
    prompt, answer = (spoken, written) if task == "transcribe" else (written, spoken)
    ids = lm.prompt([prompt], to=answer.modality, task=task)
    first_answer = int(row.mask.nonzero()[0])
    assert ids.tolist() == row.token_ids[:first_answer].tolist()
    assert [*ids.tolist(), *lm.content(answer).tolist(), E] == row.token_ids.tolist()
    # scoring an answer reads and counts what training does; so do the benchmarks of joint models, which say no task
    scored = lm.row([prompt, answer], ending_only=True)
    assert scored.token_ids.tolist() == row.token_ids.tolist() and scored.scored.tolist() == row.mask.tolist()
    assert lm.prompt([prompt], to=answer.modality).tolist() == ids.tolist()
    back = lm.revert(row.token_ids)
    assert [segment.modality for segment in back.segments] == [prompt.modality, answer.modality]
    assert back.text == example.text
    assert back.tokens.units.tolist() == VOCABULARY.speech(row.token_ids).tolist()


def test_of_both_tasks_one_is_drawn_for_each_utterance_and_epoch():
    both = layout()
    firsts = [
        [int(both.build(random_example(seed, num_words=2), epoch=epoch)[0]) for seed in range(30)]
        for epoch in (0, 0, 1)
    ]
    assert firsts[0] == firsts[1] != firsts[2]
    assert set(firsts[0]) == {U, T} and 5 < firsts[0].count(U) < 25


def test_the_card_says_what_was_trained():
    bound = layout("speak", instructions=ASKED, text_case="lower", collapsed=False)
    again = layout_from_card(bound.card())
    assert again == bound and again.card() == bound.card()
    lm = model_of(bound)
    with pytest.raises(ConfigError, match="this model was not trained to transcribe"):
        lm.prompt([Segment(tokens=EXAMPLE.tokens)], to="text", task="transcribe")
    # to go on, as benchmarks ask every model to, is not a task
    assert lm.prompt([Segment(tokens=EXAMPLE.tokens)], to="text")[-1] == U2T
    assert lm.prompt([Segment(text="The cat")]).tolist() == [T, *text("the cat")]


@pytest.mark.parametrize("tasks", [(), ("speak", "speak")])
def test_tasks_are_named_once(tasks):
    with pytest.raises(ConfigError, match="name transcribe, speak, or both once"):
        make_layout("speech-text", VOCABULARY, tasks=tasks)


def test_what_lacks_a_side_is_refused():
    bare = JointExample(id="a", tokens=EXAMPLE.tokens)
    for example, message in (
        (bare, "'a' has no text"),
        (JointExample(id="b", text="The cat"), "'b' has no speech tokens"),
        (JointExample(id="c", tokens=EXAMPLE.tokens, text=" \n"), "'c' is empty"),
        (JointExample(id="d", tokens=SpeechTokens(codes=torch.zeros(1, 0).long()), text="The cat"), "'d' is empty"),
    ):
        with pytest.raises(ManifestError, match=message):
            layout().document(example)
