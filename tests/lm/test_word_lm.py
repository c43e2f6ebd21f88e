"""The text-aligned model as a spoken LM: scores and states against a loop, continuations against a slow twin."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sequences.joint_examples import text_tokenizer
from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Segment, load_lm, open_lm
from vocable.lm.word_checkpoint import WordModelCard, save_words
from vocable.lm.word_model import CodeHeadConfig, LatentHeadConfig, WordModel, WordModelConfig
from vocable.sequences.word_layout import PackedWords, WordLayout, word_vocabulary
from vocable.types import SpeechTokens, Word

SIZES, DIM, WORDS = (5, 7), 6, ("the", "cats", "don't", "héllo", "12,5", "語", "mats.", "away!")


def make_lm(head=None, positions=256, **layout):
    tokenizer = text_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = len(tokenizer) + 3
    config = LlamaConfig(vocab_size=size, initializer_range=0.4, max_position_embeddings=positions, **shape)
    base = LlamaForCausalLM(config).eval()
    tables = [torch.randn(size, DIM) for size in SIZES]
    settings = WordModelConfig(fusion_start=(0.0, 0.0), head=head or CodeHeadConfig())
    model = WordModel(base, tables, settings).eval()
    with torch.no_grad():
        for vector in (model.pad_audio, model.pad_text):
            vector.add_(0.5 * torch.randn_like(vector))
        for parameter in model.head.parameters():
            parameter.mul_(4)
    known = word_vocabulary(tokenizer, SIZES, len(base.get_input_embeddings().weight))
    card = LMCard(
        vocabulary=known,
        layout=WordLayout(vocabulary=known, **layout).card(),
        tokenizer_fingerprint="tiny",
        token_seconds=0.25,
    )
    return open_lm(LoadedLM(model, card, tokenizer))


def spoken(*words, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (len(words),), generator=generator) for size in SIZES])
    timed = tuple(Word(word=word, start=0.0, end=1.0) for word in words)
    spans = torch.arange(len(words))[:, None] + torch.tensor([0, 1])
    return Segment(tokens=SpeechTokens(codes=codes, words=timed, spans=spans))


def with_short_words(lm):
    """Make tokens that start a word likelier, so that a random model says words."""
    head, starts = lm.model.lm.get_output_embeddings(), lm.layout.words.starts_word
    original, favour = head.forward, torch.nn.functional.pad(starts.float(), (0, 3)) * 3
    head.forward = lambda states: original(states) + favour
    return lm


DOCUMENTS = [
    [spoken("the", "cats", "don't", "héllo")],
    [Segment(text="The cat sat"), spoken("mats.", "12,5", seed=1)],
    [spoken("語", seed=2), Segment(text=" by the river")],
    [Segment(text="only text")],
]


def slow_score(lm, row):
    """Sum -log p position by position, from the row's beginning each time."""
    text = speech = 0.0
    for place in range(len(row)):
        part = row[0 : place + 1]
        states = lm.states([part])[0][-1]
        if row.next_ids[place] >= 0:
            logits = lm.model.lm.get_output_embeddings()(states).double()
            text -= float(logits.log_softmax(-1)[row.next_ids[place]])
        if row.next_codes[place, 0] >= 0:
            speech += float(lm.model.head.nll(lm.model.head(states[None]), row.next_codes[place][None]))
    return text, speech


@pytest.mark.parametrize("head", [CodeHeadConfig(), LatentHeadConfig()])
@pytest.mark.parametrize("layout", [{}, {"delay": 0}, {"delay_unit": "token"}])
def test_scores_equal_a_loop_over_positions(head, layout):
    lm = make_lm(head, **layout)
    rows = lm.rows(DOCUMENTS)
    with torch.no_grad():
        for row, score in zip(rows, lm.score(rows, max_tokens=40), strict=True):
            text, speech = slow_score(lm, row)
            assert score.nll == pytest.approx(text + speech, rel=1e-4)
            assert score.num_tokens == row.num_scored == sum(count for _, count in score.by_modality.values())
            assert score.by_modality["text"][0] == pytest.approx(text, rel=1e-4)
            if "speech" in score.by_modality:
                assert score.by_modality["speech"][0] == pytest.approx(speech, rel=1e-4)
    assert "speech" not in lm.score(rows)[3].by_modality
    answers = lm.compare([Segment(text="The")], [Segment(text=" cat"), spoken("mats.")])
    assert len(answers) == 2 and answers[0] != answers[1]


def twin(lm, prompt, steps):
    """Continue greedily by building rows anew at each step: no cache, and the layout instead of the state machine.

    Returns the new words with their codes.
    """
    words, codes = [], []
    for segment in prompt:
        if segment.tokens is None:
            words += segment.text.split()
            codes += [None] * len(segment.text.split())
        else:
            words += [word.word for word in segment.tokens.words]
            codes += segment.tokens.codes.T.tolist()
    layout, model, reader = lm.layout, lm.model, lm.layout.words
    banned = lm.token_rules("speech", 8).banned
    tokens = reader.encode(words).ids.tolist() if words else []
    word_starts = [0, *(i for i in range(1, len(tokens)) if reader.starts_word[tokens[i]])] if tokens else []
    num_prompt, ended = len(tokens), False
    pads = 0

    def state(place):
        """Hidden state that predicts the token at a place, counted without the opener."""
        ids, read = [layout.vocabulary.open_id], [[-1, -1]]
        starts, latest = [], [-1, -1]
        for at in range(place):
            begins = at >= len(tokens) or at in word_starts
            due = layout.due(at, starts, begins)
            if due is not None and due < len(codes) and codes[due] is not None:
                latest = codes[due]
            if begins:
                starts.append(at)
            ids.append(tokens[at] if at < len(tokens) else layout.vocabulary.pad_id)
            read.append(latest)
        batch = PackedWords(
            token_ids=torch.tensor(ids), codes=torch.tensor(read), next_ids=torch.tensor(ids),
            next_codes=torch.tensor(read), lengths=(len(ids),),
        )  # fmt: skip
        return model.states(batch)[-1]

    def settle(place, begins):
        due = layout.due(place, [at for at in [*word_starts, *range(len(tokens), place)] if at < place], begins)
        while due is not None and len(codes) <= due:
            codes.append(None)
        if due is not None and codes[due] is None:
            outputs = model.head(state(place)[None])
            codes[due] = model.head.read(outputs, 0.0, [torch.Generator()])[0].tolist()

    for at in range(len(tokens)):
        settle(at, at in word_starts)
    for step in range(steps):
        logits = model.lm.get_output_embeddings()(state(len(tokens))).masked_fill(banned, float("-inf"))
        if step == 0:
            starts = reader.starts_word.clone()
            starts[layout.vocabulary.close_id] = True
            logits[: len(starts)][~starts] = float("-inf")
        elif reader.decode(torch.tensor(tokens[-1:])) == " ":
            logits[: len(reader.starts_word)][reader.starts_word] = float("-inf")
            logits[layout.vocabulary.close_id] = float("-inf")
        token = int(logits.argmax())
        if token == layout.vocabulary.close_id:
            ended = True
            break
        begins = bool(reader.starts_word[token]) or not word_starts
        settle(len(tokens), begins)
        if begins:
            word_starts.append(len(tokens))
        tokens.append(token)
    if ended:
        while pads < layout.delay:
            settle(len(tokens) + pads, True)
            pads += 1
    new = [at for at in word_starts if at >= num_prompt]
    stops = [*new[1:], len(tokens)]
    texts = [reader.decode(torch.tensor(tokens[a:b])).strip() for a, b in zip(new, stops)]
    known = codes[len(word_starts) - len(new) :]
    whole = len(new) if ended else len(new) - 1
    return [(text, code) for text, code in list(zip(texts, known))[:whole] if code is not None]


PROMPTS = [
    [spoken("the", "cats", "don't", "héllo")],
    [Segment(text="The cats sat")],
    [],
    [Segment(text="The cats"), spoken("mats.", "12,5", seed=1)],
]


@pytest.mark.parametrize("head", [CodeHeadConfig(), LatentHeadConfig()])
@pytest.mark.parametrize("layout", [{}, {"delay": 0}, {"delay_unit": "token"}, {"delay": 2}])
def test_continuations_equal_rows_built_anew(head, layout):
    lm = make_lm(head, **layout)
    config = GenerationConfig(temperature=0.0, max_seconds=3.0, loop_repeats=None, max_silence_seconds=None)
    for prompt, reply in zip(PROMPTS, lm.continue_(PROMPTS, config, to="speech"), strict=True):
        with torch.no_grad():
            expected = twin(lm, prompt, 12)
        words = reply.tokens.words or () if reply.segments else ()
        codes = reply.tokens.codes.T.tolist() if reply.segments else []
        assert [(word.word, code) for word, code in zip(words, codes)] == expected
        assert reply.stopped in ("eos", "max_seconds") and len(reply.token_ids) <= 12


def test_the_end_symbol_ends_it_and_the_last_word_gets_its_codes():
    lm = make_lm()
    end = lm.vocabulary.close_id
    head = lm.model.lm.get_output_embeddings()
    original, calls = head.forward, []

    def ends(states):
        calls.append(1)
        logits = original(states)
        logits[..., end] = 1e3 if len(calls) > 6 else -1e3
        return logits

    head.forward = ends
    (reply,) = lm.continue_([[spoken("the", "cats")]], GenerationConfig(temperature=0.0, loop_repeats=None))
    assert reply.stopped == "eos" and len(reply.token_ids) == 6
    assert "".join(word.word for word in reply.tokens.words) == lm.layout.words.decode(reply.token_ids).replace(" ", "")
    assert reply.seconds > 0 and (reply.tokens.codes >= 0).all()


def test_a_text_is_spoken():
    lm = make_lm()
    (reply,) = lm.continue_([[Segment(text="The cat sat, away!")]], GenerationConfig(), to="speech", task="speak")
    assert [word.word for word in reply.tokens.words] == ["The", "cat", "sat,", "away!"]
    assert reply.stopped == "eos" and not len(reply.token_ids)
    (again,) = lm.rows([[Segment(tokens=reply.tokens)]])
    with torch.no_grad():  # each word's codes are the likeliest after what was read before them
        for place, state in enumerate(lm.states([again])[0]):
            if again.next_codes[place, 0] >= 0:
                best = lm.model.head.read(lm.model.head(state[None]), 0.0, [torch.Generator()])[0]
                assert torch.equal(best, again.next_codes[place])


def test_what_streams_is_what_comes_at_once():
    lm = with_short_words(make_lm())
    config = GenerationConfig(temperature=1.0, max_seconds=20.0, seed=3, loop_repeats=None)
    prompt = [spoken("the", "cats")]
    (reply,) = lm.continue_([prompt], config)
    pieces = list(lm.stream(prompt, config))
    assert "".join(piece.text for piece in pieces) == lm.layout.words.decode(reply.token_ids)
    sentences = [piece.tokens for piece in pieces if piece.tokens is not None]
    joined = [(w.word, c) for one in sentences for w, c in zip(one.words, one.codes.T.tolist())]
    assert joined == [(w.word, c) for w, c in zip(reply.tokens.words, reply.tokens.codes.T.tolist())]
    assert all(len(one.words) <= 40 for one in sentences)
    (text,) = lm.continue_([prompt], config, to="text", max_text_tokens=len(reply.token_ids))
    assert text.text.split() == [word.word for word in reply.tokens.words] and text.seconds == 0
    assert [piece.tokens for piece in lm.stream(prompt, config, to="text")] == [None] * len(
        list(lm.stream(prompt, config, to="text"))
    )


def test_drawn_codes_follow_the_seed_and_the_temperature():
    lm = with_short_words(make_lm())
    prompt = [spoken("the", "cats")]
    drawn = [
        lm.continue_([prompt], GenerationConfig(temperature=0.0, word_temperature=heat, max_seconds=5.0, seed=seed))[0]
        for heat, seed in ((0.0, 1), (0.0, 2), (3.0, 1), (3.0, 1), (3.0, 2))
    ]
    codes = [one.tokens.codes.tolist() for one in drawn]
    assert codes[0] == codes[1] and codes[2] == codes[3] and codes[2] not in (codes[0], codes[4])
    assert GenerationConfig().sampling().keys() & {"word_temperature"} == set()
    assert GenerationConfig(word_temperature=0.5).sampling()["word_temperature"] == 0.5


def test_a_continuation_can_be_a_prompt_again_and_joins_it():
    lm = with_short_words(make_lm())
    prompt = spoken("the", "cats")
    (reply,) = lm.continue_([[prompt]], GenerationConfig(max_seconds=3.0, temperature=1.0))
    whole = lm.join(prompt.tokens, reply.tokens)
    assert whole.num_positions == 2 + reply.tokens.num_positions
    (row,), (apart,) = lm.rows([[Segment(tokens=whole)]]), lm.rows([[prompt, *reply.segments]])
    assert torch.equal(row.codes, apart.codes) and torch.equal(row.token_ids, apart.token_ids)


def test_places_of_tokens_in_a_text():
    lm = make_lm()
    text = "The  cat, sat\non héllo."
    spans = lm.text_spans(text)
    assert len(spans) == len(lm.content(Segment(text=text)))
    pieces = [text[a:b] for a, b in spans]
    assert "".join("".join(pieces).split()) == "".join(text.split()) or "é" in text


def test_a_run_folder_opens_as_a_spoken_lm(tmp_path):
    pytest.importorskip("peft")
    lm = make_lm()
    folder = tmp_path / "run" / "lm" / "best"
    folder.mkdir(parents=True)
    card = WordModelCard(model=lm.model.settings, codebook_sizes=SIZES, text_model="none", text_sha256="none")
    save_words(lm.model, folder, lm.card, card, lm.text_tokenizer)
    found = load_lm(tmp_path / "run")
    assert found.modalities == ("speech", "text") and found.fingerprints["tokenizer"] == "tiny"
    assert found.score(found.rows(DOCUMENTS)) == lm.score(lm.rows(DOCUMENTS))
    assert json.loads((folder / "vocable.json").read_text())["vocabulary"]["kind"] == "words"
    assert found.record()["dtype"] == "float32" and len(found.fingerprint) == 64
    assert load_lm(tmp_path / "run", dtype="bfloat16").model.dtype == torch.bfloat16


def test_what_it_cannot_do_is_refused():
    lm, config = make_lm(positions=24), GenerationConfig()
    with pytest.raises(ConfigError, match="nothing to transcribe"):
        lm.continue_([[spoken("the")]], config, to="text", task="transcribe")
    with pytest.raises(ConfigError, match="goes from text to speech"):
        lm.continue_([[spoken("the")]], config, task="speak")
    with pytest.raises(ConfigError, match="there is nothing to speak"):
        lm.continue_([[Segment(text=" ")]], config, to="speech", task="speak")
    with pytest.raises(ConfigError, match="the text is empty"):
        lm.rows([[Segment(text="")]])
    with pytest.raises(ConfigError, match="do not follow words"):
        lm.rows([[Segment(tokens=SpeechTokens(codes=torch.zeros(1, 3, dtype=torch.long)))]])
    with pytest.raises(ConfigError, match="A prompt has 31 tokens, the model 24 positions"):
        lm.continue_([[Segment(text=" a" * 30)]], config)
    with pytest.raises(ConfigError, match="Row 0 has"):
        lm.score(lm.rows([[Segment(text=" a" * 30)]]))
    with pytest.raises(ConfigError, match="units with frames"):
        lm.unit_durations(spoken("the").tokens)
    (reply,) = lm.continue_([[spoken("the")]], GenerationConfig(max_seconds=60.0, loop_repeats=None, seed=2))
    assert reply.stopped in ("context", "eos")
