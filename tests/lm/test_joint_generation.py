"""Continuations of speech and text: equal to full recomputation, only what is allowed, lengths, prompts by hand."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sequences.joint_examples import random_example, text_tokenizer
from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig, continue_rows, start_rows
from vocable.lm.joint_lm import joint_rules, speech_seconds
from vocable.lm.spoken import Segment, open_lm
from vocable.sequences.joint_layouts import JOINT_LAYOUTS, make_layout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.types import SpeechTokens, Utterance

UNITS = 12
VOCABULARY = joint_vocabulary(text_tokenizer(), UNITS)
NO_GUARDS = {"loop_repeats": None, "max_silence_seconds": None}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY.size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.4,
        )
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def subwords():
    utterances = []
    for seed in range(6):
        example = random_example(seed, codebook_size=UNITS)
        utterances.append((Utterance(id=example.id, audio=Path("none.wav")), example.tokens))
    card = {"codebook_size": UNITS, "num_codebooks": 1, "fingerprint": "tiny"}
    return UnitSubwords.fit(utterances, card, SubwordConfig(vocabulary_size=40))


def card_of(layout, **settings):
    values = {"unit_seconds": tuple(0.02 * (unit + 1) for unit in range(UNITS)), "silence_units": (3,), **settings}
    return LMCard(vocabulary=layout.vocabulary, layout=layout.card(), tokenizer_fingerprint="tiny", **values)


def loaded(model, name="cst", **settings):
    layout = make_layout(name, VOCABULARY, **settings)
    return open_lm(LoadedLM(model, card_of(layout), text_tokenizer()))


def segment(example, modality):
    return Segment(text=example.text) if modality == "text" else Segment(tokens=example.tokens)


def continue_examples(lm, examples, config, *, prompt, **settings):
    return lm.continue_([[segment(example, prompt)] for example in examples], config, **settings)


def generate(model, starts, config, to, *, seconds=0.1, silence=(), max_text_tokens=128, seeds=None):
    """Continue rows of token ids, of which all text ids may be drawn."""
    layout = make_layout("cst", VOCABULARY)
    card = card_of(layout, unit_seconds=(seconds,) * UNITS, silence_units=silence)
    rows = start_rows([start.tolist() for start in starts], config, seeds)
    continue_rows(model, rows, config, joint_rules(layout, card, to, max_text_tokens))
    return rows


def prompts(*lengths):
    rows = [torch.randint(0, VOCABULARY.size, (length,)) for length in lengths]
    return [torch.cat([torch.tensor([VOCABULARY.unit_open_id]), row]) for row in rows]


def always(model, *tokens):
    """A model that prefers these tokens for ever, the first most."""
    vocabulary = model.config.vocab_size

    class Head(torch.nn.Module):
        def forward(self, hidden):
            logits = torch.zeros(*hidden.shape[:-1], vocabulary)
            for place, token in enumerate(tokens):
                logits[..., token] = 50.0 - place
            return logits

    other = LlamaForCausalLM(model.config).eval()
    other.lm_head = Head()
    return other


@pytest.mark.parametrize("to", ["speech", "text", "both"])
def test_greedy_equals_full_recomputation(model, to):
    """The oracle reads the whole row anew for every token, and knows by hand which ids each modality has."""
    starts, speech, text = prompts(3, 8, 1), to != "text", to != "speech"
    first_speech = VOCABULARY.text_size + 5
    allowed = [VOCABULARY.end_id]
    allowed += list(range(VOCABULARY.text_size)) if text else []
    allowed += list(range(first_speech, first_speech + UNITS)) if speech else []
    allowed += list(range(VOCABULARY.text_size, VOCABULARY.text_size + 4)) if speech and text else []
    config = GenerationConfig(temperature=0.0, max_seconds=2.0, batch_size=2, **NO_GUARDS)
    results = generate(model, starts, config, to, seconds=0.25, max_text_tokens=6)
    for start, result in zip(starts, results):
        row, seconds, written, stopped = start.tolist(), 0.0, 0, None
        while stopped is None:
            logits = model(torch.tensor([row])).logits[0, -1].tolist()
            token = max(allowed, key=logits.__getitem__)
            if token == VOCABULARY.end_id:
                stopped = "eos"
                break
            row.append(token)
            seconds += 0.25 * (token >= first_speech)
            written += token < first_speech
            stopped = "max_seconds" if seconds >= 2.0 else "max_text_tokens" if text and written >= 6 else None
        assert (result.tokens, result.seconds, result.stopped) == (row[len(start) :], seconds, stopped)


def test_rows_do_not_depend_on_their_batch(model):
    starts = prompts(5, 2, 120, 40)  # one of them fills the context of 128 at once
    config = GenerationConfig(max_seconds=4.0, seed=3, batch_size=4)
    together = generate(model, starts, config, "both", max_text_tokens=30)
    for index, start in enumerate(starts):
        (alone,) = generate(model, [start], config, "both", max_text_tokens=30, seeds=[3 + index])
        assert alone.tokens == together[index].tokens
        assert alone.stopped == together[index].stopped
    assert together[2].stopped == "context"
    assert "context" not in {together[0].stopped, together[1].stopped}


def test_text_is_limited_in_tokens_and_not_held_to_seconds(model):
    writing = always(model, 7)
    config = GenerationConfig(temperature=0.0, min_seconds=2.0, **NO_GUARDS)
    (result,) = generate(writing, prompts(3), config, "text", max_text_tokens=5)
    assert (result.tokens, result.seconds, result.stopped) == ([7] * 5, 0.0, "max_text_tokens")
    ending = always(model, VOCABULARY.end_id)
    (result,) = generate(ending, prompts(3), config, "text")
    assert (len(result.tokens), result.stopped) == (0, "eos")
    unit = VOCABULARY.speech_offset + 4  # speech alone: the end is held back until the minimum
    late = always(model, VOCABULARY.end_id, unit)
    (result,) = generate(late, prompts(3), config, "speech", seconds=0.5)
    assert (result.tokens, result.stopped) == ([unit] * 4, "eos")


def test_silence_and_loops_are_guarded_in_mixed_rows(model):
    quiet, text = VOCABULARY.speech_offset + 3, 7
    mixed = always(model, quiet, text)
    config = GenerationConfig(temperature=0.0, max_seconds=1.0, max_silence_seconds=0.3, loop_repeats=None)
    (result,) = generate(mixed, prompts(2), config, "both", silence=(3,), max_text_tokens=3)
    assert result.tokens == [quiet] * 3 + [text] + [quiet] * 3 + [text] + [quiet] * 3 + [text]
    stop = GenerationConfig(temperature=0.0, guard="stop", loop_repeats=3)
    (result,) = generate(mixed, prompts(2), stop, "both", max_text_tokens=3)
    assert (result.tokens, result.stopped) == ([quiet] * 2, "loop")


def test_wrong_calls_are_explained(model):
    prompt = [Segment(text="The cat")]
    with pytest.raises(ConfigError, match="max_text_tokens is 0"):
        loaded(model).continue_([prompt], GenerationConfig(), max_text_tokens=0)
    with pytest.raises(ConfigError, match="2 seeds for 1 prompts"):
        loaded(model).continue_([prompt], GenerationConfig(), seeds=[1, 2])
    with pytest.raises(ConfigError, match="every unit lasts some time"):
        generate(model, prompts(3), GenerationConfig(), "speech", seconds=0.0)


EXAMPLE = JointExample(id="a", tokens=SpeechTokens(codes=torch.tensor([[4, 4, 2, 2, 7]])), text=" The cat ")
U, T, U2T, T2U = range(VOCABULARY.text_size, VOCABULARY.text_size + 4)


@pytest.mark.parametrize(
    ("layout", "prompt", "to", "task", "before", "after"),
    [
        ("cst", "speech", "speech", "continue", [U], []),
        ("cst", "speech", "both", "continue", [U], []),
        ("cst", "speech", "text", "continue", [U], [U2T]),
        ("cst", "text", "speech", "continue", [T], [T2U]),
        ("cst", "text", "text", "continue", [T], []),
        ("cst", "speech", "text", "transcribe", [U], [U2T]),
        ("cst", "text", "speech", "speak", [T], [T2U]),
        ("sims", "speech", "text", "continue", [U], [T]),
        ("sims", "text", "speech", "continue", [T], [U]),
        ("sims", "text", "speech", "speak", [T], [T2U]),
    ],
)
def test_prompts_by_hand(layout, prompt, to, task, before, after):
    lm = loaded(None, layout)
    content = [VOCABULARY.speech_offset + unit for unit in (4, 2, 7)]
    if prompt == "text":
        content = text_tokenizer().encode("The cat", add_special_tokens=False)
    assert lm.prompt([segment(EXAMPLE, prompt)], to=to, task=task).tolist() == before + content + after


def test_a_layout_without_openers_opens_nothing():
    lm = loaded(None, "ast", opener=False)
    ids = lm.prompt([segment(EXAMPLE, "speech")], to="text")
    assert ids.tolist() == [VOCABULARY.speech_offset + unit for unit in (4, 2, 7)] + [U2T]
    assert lm.prompt([segment(EXAMPLE, "speech")], to="text", task="transcribe")[0] == U


def test_a_prompt_of_both_modalities_has_marks_between():
    lm, spoken = loaded(None), Segment(tokens=EXAMPLE.tokens)
    units = [VOCABULARY.speech_offset + unit for unit in (4, 2, 7)]
    before, after = (text_tokenizer().encode(text, add_special_tokens=False) for text in ("The cat", " sat"))
    ids = lm.prompt([Segment(text="The cat"), spoken, Segment(text=" sat ")], to="speech")
    assert ids.tolist() == [T, *before, T2U, *units, U2T, *after, T2U]


def test_prompts_that_make_no_sense_are_refused():
    lm = loaded(None)
    with pytest.raises(ConfigError, match="'transcribe' goes from speech to text, but the prompt is text"):
        lm.prompt([segment(EXAMPLE, "text")], to="text", task="transcribe")
    with pytest.raises(ConfigError, match="The prompt is empty: there is nothing to speak"):
        lm.prompt([Segment(text="  ")], to="speech", task="speak")
    for nothing in ({}, {"tokens": EXAMPLE.tokens, "text": "a"}):
        with pytest.raises(ConfigError, match="either speech tokens or text"):
            Segment(**nothing)


@pytest.mark.parametrize("name", sorted(JOINT_LAYOUTS))
def test_prompts_start_the_rows_that_models_are_trained_on(name):
    """A prompt of the whole of the first segment, with the switch, is the row's own beginning."""
    example = random_example(5, codebook_size=UNITS)
    bound = make_layout(name, VOCABULARY, text_tokenizer=text_tokenizer())
    row = bound.build_sequence(example)
    first = row.segments[0]
    other = {"speech": "text", "text": "speech"}[first.modality] if len(row.segments) > 1 else first.modality
    lm = open_lm(LoadedLM(None, card_of(bound), text_tokenizer()))
    ids = lm.prompt([Segment(tokens=first.tokens, text=first.text)], to=other)
    assert ids.tolist() == row.token_ids[: len(ids)].tolist()


def test_subwords_last_as_long_as_their_units(subwords):
    vocabulary = joint_vocabulary(text_tokenizer(), subwords)
    layout = make_layout("cst", vocabulary, text_tokenizer=text_tokenizer(), subwords=subwords)
    card = card_of(layout)
    seconds = speech_seconds(layout, card)
    assert len(seconds) == subwords.size
    for id in range(subwords.size):
        units = subwords.decode(torch.tensor([id])).tolist()
        assert float(seconds[id]) == pytest.approx(sum(card.unit_seconds[unit] for unit in units))


def test_rows_of_frames_last_as_long_as_frames():
    layout = make_layout("cst", VOCABULARY, collapsed=False, text_tokenizer=text_tokenizer())
    assert speech_seconds(layout, card_of(layout, tokenizer_card={"frame_rate": 50.0})).tolist() == pytest.approx(
        [0.02] * UNITS
    )
    with pytest.raises(ConfigError, match="no frame rate"):
        speech_seconds(layout, card_of(layout))
    spoken = loaded(None, collapsed=False).speakable(SpeechTokens(codes=torch.tensor([[5, 5, 5, 1]])))
    assert (spoken.units.tolist(), spoken.durations.tolist()) == ([5, 1], [3, 1])


def test_examples_are_continued_in_the_modality_that_is_asked_for(model):
    lm = loaded(model)
    examples = [random_example(seed, num_words=3, codebook_size=UNITS) for seed in range(3)]
    config = GenerationConfig(max_seconds=0.6, seed=1)
    unwritten = set(range(VOCABULARY.text_size)) - set(text_tokenizer().get_vocab().values())
    unwritten |= set(text_tokenizer().all_special_ids)
    for prompt in ("speech", "text"):
        for to in ("speech", "text", "both"):
            replies = continue_examples(lm, examples, config, prompt=prompt, to=to, max_text_tokens=12)
            for reply in replies:
                kinds = {segment.modality for segment in reply.segments}
                assert kinds <= ({"speech", "text"} if to == "both" else {to})
                assert not set(reply.token_ids.tolist()) & unwritten
                heard = sum(0.02 * (unit + 1) for unit in reply.tokens.units.tolist())
                assert reply.seconds == pytest.approx(heard, abs=1e-5)
                assert lm.revert(reply.prompt_ids).segments[0].modality == prompt
    seeded = [continue_examples(lm, examples[:1], config, prompt="text", to="text", seeds=[s])[0] for s in (1, 1, 2)]
    assert seeded[0].text == seeded[1].text != seeded[2].text


def test_silence_of_subwords_is_that_of_all_their_units(subwords):
    vocabulary = joint_vocabulary(text_tokenizer(), subwords)
    layout = make_layout("cst", vocabulary, text_tokenizer=text_tokenizer(), subwords=subwords)
    config = LlamaConfig(
        vocab_size=vocabulary.size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    single = next(i for i in range(subwords.size) if subwords.decode(torch.tensor([i])).tolist() == [3])
    quiet = always(LlamaForCausalLM(config), vocabulary.speech_offset + single)
    lm = open_lm(LoadedLM(quiet, card_of(layout), text_tokenizer(), subwords))
    settings = GenerationConfig(temperature=0.0, guard="stop", max_silence_seconds=0.1, loop_repeats=None)
    (reply,) = continue_examples(lm, [EXAMPLE], settings, prompt="speech", to="speech")
    # unit 3 lasts 0.08 s: the guard acts once 0.1 s of silence is there
    assert (reply.tokens.units.tolist(), reply.stopped) == ([3, 3], "silence")


def test_a_model_of_units_is_refused(make_model):
    from vocable.sequences import UnitVocabulary
    from vocable.sequences.layouts import UnitsLayout

    vocabulary = UnitVocabulary(codebook_size=30)
    card = LMCard(vocabulary=vocabulary, layout=UnitsLayout(vocabulary=vocabulary).card(), tokenizer_fingerprint="x")
    with pytest.raises(ConfigError, match="reads units only"):
        open_lm(LoadedLM(make_model("llama_tied"), card)).continue_([[Segment(text="a")]], GenerationConfig())


def test_a_model_that_learnt_pairs_transcribes_and_speaks_them():
    """From rows of training to prompts of use: six sentences, spoken with two units a word, learnt by heart."""
    words = ["cat", "sat", "mat", "hat", "hills", "rivers"]
    pairs = {" ".join((words[i], words[(i + 2) % 6], words[(i * i + 1) % 6])): None for i in range(6)}
    for sentence in pairs:
        units = [unit for word in sentence.split() for unit in (words.index(word), 6 + words.index(word))]
        pairs[sentence] = JointExample(id=sentence, tokens=SpeechTokens(codes=torch.tensor([units])), text=sentence)
    rows = []
    for direction in ("cst-u2t", "cst-t2u", "text-only", "unit-only"):
        layout = make_layout(direction, VOCABULARY, text_tokenizer=text_tokenizer())
        rows += [layout.build(example) for example in pairs.values()]
    config = LlamaConfig(
        vocab_size=VOCABULARY.size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(input_ids=batch.clamp(min=0), labels=batch).loss  # padding stands behind, and is no target
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lm = open_lm(LoadedLM(model.eval(), card_of(layout), text_tokenizer()))
    greedy = GenerationConfig(temperature=0.0)
    examples = list(pairs.values())
    written = continue_examples(lm, examples, greedy, prompt="speech", to="text", task="transcribe")
    assert [reply.text for reply in written] == list(pairs)
    spoken = continue_examples(lm, examples, greedy, prompt="text", to="speech", task="speak")
    for reply, example in zip(spoken, examples):
        assert reply.tokens.units.tolist() == example.tokens.units.tolist()
    assert {reply.stopped for reply in (*written, *spoken)} == {"eos"}
    starts = [JointExample(id="s", text=sentence.split()[0]) for sentence in pairs]
    continued = continue_examples(lm, starts, greedy, prompt="text", to="text")
    assert sum(start.text + reply.text in pairs for start, reply in zip(starts, continued)) >= 5


def test_in_rows_of_frames_a_unit_may_last_and_runs_may_not_loop(model):
    """Brute force over what was generated: no pattern of runs stands three times in a row, but units are held."""
    layout = make_layout("speech-text", VOCABULARY, collapsed=False, text_tokenizer=text_tokenizer())
    card = card_of(layout, tokenizer_card={"frame_rate": 10.0})
    first = VOCABULARY.speech_offset
    lm = open_lm(LoadedLM(always(model, first + 7, first + 5), card, text_tokenizer()))
    settings = {"temperature": 0.0, "max_seconds": 3.0, "min_seconds": 3.0, "loop_repeats": 3}
    (reply,) = lm.continue_(
        [[Segment(text="The cat")]], GenerationConfig(max_silence_seconds=0.5, **settings), to="speech", task="speak"
    )
    frames = [token - first for token in reply.token_ids.tolist()]
    assert len(frames) == 30 and frames[:6] == [7] * 5 + [5]  # held for half a second, then the next best
    runs = [unit for place, unit in enumerate(frames) if place == 0 or frames[place - 1] != unit]
    for period in range(1, 6):
        for start in range(len(runs) - 3 * period + 1):
            piece = runs[start : start + 3 * period]
            assert len({tuple(piece[i * period : (i + 1) * period]) for i in range(3)}) > 1
    assert reply.tokens.durations.tolist()[0] == 5 and int(reply.tokens.durations.sum()) == 30
    free = GenerationConfig(max_silence_seconds=None, **settings)
    (reply,) = lm.continue_([[Segment(text="The cat")]], free, to="speech", task="speak")
    assert set(reply.token_ids.tolist()) == {first + 7}


def test_answers_are_compared_by_their_mean(model):
    """Against the model's own log-probabilities, row by row; a longer answer is not behind for its length."""
    for name in ("speech-text", "cst"):
        lm = loaded(model, name)
        answers = [Segment(text="The"), Segment(text="The cat sat on the mat"), Segment(text="hills")]
        prompt = [Segment(tokens=EXAMPLE.tokens)]
        start = lm.prompt(prompt, to="text", task="transcribe").tolist()
        expected = []
        for answer in answers:
            answer = [*text_tokenizer().encode(answer.text, add_special_tokens=False), VOCABULARY.end_id]
            logs = model(torch.tensor([start + answer])).logits[0].detach().log_softmax(-1)
            scores = [float(logs[len(start) - 1 + place, token]) for place, token in enumerate(answer)]
            expected.append(sum(scores) / len(scores))
        assert lm.compare(prompt, answers) == pytest.approx(expected, abs=1e-5)  # float32 sums in another order
