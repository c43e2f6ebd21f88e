"""Generation: equal to full recomputation, independent of batch mates, bounded in seconds, guarded."""

from typing import NamedTuple

import pytest
import torch

from vocable.errors import ConfigError, NumericsError
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.packed import enable_packing
from vocable.lm.spoken import Segment, open_lm
from vocable.lm.surgery import replace_vocabulary
from vocable.sequences import UnitVocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.types import SpeechTokens

VOCABULARY = UnitVocabulary(codebook_size=30)
NO_GUARDS = {"loop_repeats": None, "max_silence_seconds": None}


@pytest.fixture
def unit_model(make_model):
    def make(name="llama_tied", **settings):
        model = replace_vocabulary(make_model(name, **settings), VOCABULARY.size)
        return model

    return make


class Continuation(NamedTuple):
    units: torch.Tensor
    seconds: float
    stopped: str


def generate_units(model, starts, config, vocabulary, seconds, *, silence_units=(), seeds=None, bos=True):
    """Continue prompts of units, each of which is a frame."""
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary, collapsed=False, bos=bos).card(),
        tokenizer_fingerprint="tiny",
        unit_seconds=tuple(torch.as_tensor(seconds).expand(vocabulary.codebook_size).tolist()),
        silence_units=tuple(silence_units),
    )
    segments = [[Segment(tokens=SpeechTokens(codes=start[None]))] for start in starts]
    replies = open_lm(LoadedLM(model, card)).continue_(segments, config, seeds=seeds)
    for reply in replies:
        spoken = reply.tokens.units.repeat_interleave(reply.tokens.durations) if reply.segments else torch.empty(0)
        assert spoken.tolist() == vocabulary.units(reply.token_ids).tolist()
    return [Continuation(vocabulary.units(reply.token_ids), reply.seconds, reply.stopped) for reply in replies]


def prompts(*lengths):
    return [torch.randint(0, 30, (length,)) for length in lengths]


def always(model, token):
    """Make a model answer one token for ever."""
    head = model.get_output_embeddings()

    def forward(hidden):
        logits = torch.zeros(*hidden.shape[:-1], VOCABULARY.size)
        logits[..., token] = 50.0
        return logits

    head.forward = forward
    return model


@pytest.mark.parametrize("packing", [False, True])
def test_greedy_equals_full_recomputation(unit_model, architecture, packing):
    """The oracle reads the whole row anew for every token, without cache, padding or batch."""
    model = unit_model(architecture)
    if packing:
        enable_packing(model)
    starts = prompts(3, 8, 1, 8)
    config = GenerationConfig(temperature=0.0, max_seconds=1.0, min_seconds=1.0, batch_size=3, **NO_GUARDS)
    results = generate_units(model, starts, config, VOCABULARY, 0.1)
    for start, result in zip(starts, results):
        row = [1, *(start + 2).tolist()]
        for _ in range(10):
            logits = model(torch.tensor([row])).logits[0, -1]
            logits[[0, 1]] = -torch.inf
            row.append(int(logits.argmax()))
        assert (result.units + 2).tolist() == row[1 + len(start) :]
        assert (result.stopped, len(result.units)) == ("max_seconds", 10)
        assert abs(result.seconds - 1.0) < 1e-5


def test_same_seed_same_units_whatever_the_batch(unit_model):
    model = unit_model("opt")
    starts = prompts(5, 2, 9, 4)
    config = GenerationConfig(max_seconds=1.0, seed=11, batch_size=4)
    together = generate_units(model, starts, config, VOCABULARY, 0.1)
    again = generate_units(model, starts, config, VOCABULARY, 0.1)
    for index, start in enumerate(starts):
        alone = generate_units(model, [start], config, VOCABULARY, 0.1, seeds=[11 + index])[0]
        assert alone.units.tolist() == together[index].units.tolist() == again[index].units.tolist()
    other = generate_units(model, starts, GenerationConfig(max_seconds=1.0, seed=12), VOCABULARY, 0.1)
    assert [r.units.tolist() for r in other] != [r.units.tolist() for r in together]


def test_one_prompt_many_seeds(unit_model):
    start = prompts(4)[0]
    results = generate_units(unit_model(), [start] * 4, GenerationConfig(max_seconds=1.0), VOCABULARY, 0.1)
    assert len({tuple(result.units.tolist()) for result in results}) == 4


def test_end_symbol_is_held_back_until_the_minimum(unit_model):
    model = always(unit_model(), VOCABULARY.bos_eos_id)
    free = GenerationConfig(temperature=0.0, max_seconds=2.0)
    assert generate_units(model, prompts(3), free, VOCABULARY, 0.1)[0].stopped == "eos"
    held = GenerationConfig(temperature=0.0, min_seconds=0.55, max_seconds=2.0)
    result = generate_units(model, prompts(3), held, VOCABULARY, 0.1)[0]
    assert (result.stopped, len(result.units)) == ("eos", 6)


def test_durations_count_per_unit(unit_model):
    seconds = torch.full((30,), 0.04)
    seconds[5] = 0.5
    model = always(unit_model(), 5 + VOCABULARY.unit_offset)
    config = GenerationConfig(temperature=0.0, max_seconds=2.0, **NO_GUARDS)
    result = generate_units(model, prompts(3), config, VOCABULARY, seconds)[0]
    assert result.units.tolist() == [5] * 4
    assert result.seconds == 2.0


def test_loop_guard(unit_model):
    model = always(unit_model(), 9)
    stop = GenerationConfig(temperature=0.0, max_seconds=2.0, guard="stop", loop_repeats=3)
    result = generate_units(model, [torch.tensor([1, 2])], stop, VOCABULARY, 0.1)[0]
    assert (result.units.tolist(), result.stopped) == ([7, 7], "loop")
    resample = GenerationConfig(temperature=0.0, min_seconds=2.0, max_seconds=2.0, loop_repeats=3)
    units = generate_units(model, [torch.tensor([1, 2])], resample, VOCABULARY, 0.1)[0].units.tolist()
    assert len(units) == 20
    for period in range(1, 7):  # brute force: no pattern stands three times in a row anywhere
        for start in range(len(units) - 3 * period + 1):
            piece = units[start : start + 3 * period]
            assert len({tuple(piece[i * period : (i + 1) * period]) for i in range(3)}) > 1


def test_silence_guard(unit_model):
    model = always(unit_model(), 9)
    settings = {"temperature": 0.0, "max_seconds": 2.0, "max_silence_seconds": 0.3, "loop_repeats": None}
    stop = GenerationConfig(guard="stop", **settings)
    result = generate_units(model, prompts(3), stop, VOCABULARY, 0.1, silence_units={7})[0]
    assert (result.units.tolist(), result.stopped) == ([7, 7, 7], "silence")
    resample = GenerationConfig(min_seconds=2.0, **settings)
    units = generate_units(model, prompts(3), resample, VOCABULARY, 0.1, silence_units={7})[0].units.tolist()
    assert len(units) == 20
    assert [unit == 7 for unit in units] == [(i + 1) % 4 != 0 for i in range(20)]  # three, then something else


def test_a_full_context_ends_generation(unit_model):
    model = unit_model("opt")  # 64 positions
    config = GenerationConfig(temperature=0.0, min_seconds=50.0, max_seconds=50.0, **NO_GUARDS)
    result = generate_units(model, prompts(50), config, VOCABULARY, 0.1)[0]
    # 51 tokens with the start symbol leave 13 positions, and the last token need not be read
    assert (result.stopped, len(result.units)) == ("context", 14)
    with pytest.raises(ConfigError, match="A prompt has 65 tokens, the model 64 positions"):
        generate_units(model, prompts(64), config, VOCABULARY, 0.1)


@pytest.mark.parametrize("name", ["opt", "llama_tied"])  # learned positions, and rotated ones
def test_a_row_that_fills_the_context_stops_alone(unit_model, name):
    model = unit_model(name)  # 64 positions
    starts = prompts(60, 5, 30)
    config = GenerationConfig(temperature=0.0, max_seconds=3.0, min_seconds=3.0, batch_size=3, **NO_GUARDS)
    together = generate_units(model, starts, config, VOCABULARY, 0.1)
    alone = [generate_units(model, [start], config, VOCABULARY, 0.1)[0] for start in starts]
    assert [row.stopped for row in together] == ["context", "max_seconds", "max_seconds"]
    assert [len(row.units) for row in together] == [4, 30, 30]
    for row, single in zip(together, alone):
        assert row.units.tolist() == single.units.tolist()


def test_broken_weights_are_reported(unit_model):
    model = unit_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="NaN or infinite"):
        generate_units(model, prompts(3), GenerationConfig(), VOCABULARY, 0.1)


def test_empty_prompts_start_from_the_symbol(unit_model):
    empty = torch.empty(0, dtype=torch.long)
    config = GenerationConfig(max_seconds=0.5, min_seconds=0.5)
    assert len(generate_units(unit_model(), [empty], config, VOCABULARY, 0.1)[0].units) == 5
    with pytest.raises(ConfigError, match="A prompt is empty and no start symbol is used"):
        generate_units(unit_model(), [empty], config, VOCABULARY, 0.1, bos=False)


def test_wrong_calls_are_explained(unit_model):
    with pytest.raises(ConfigError, match="2 seeds for 1 prompts"):
        generate_units(unit_model(), prompts(3), GenerationConfig(), VOCABULARY, 0.1, seeds=[1, 2])
    with pytest.raises(ConfigError, match="every unit lasts some time"):
        generate_units(unit_model(), prompts(3), GenerationConfig(), VOCABULARY, 0.0)
    with pytest.raises(ConfigError, match="Unit 30 is outside"):
        generate_units(unit_model(), [torch.tensor([30])], GenerationConfig(), VOCABULARY, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, r"generation.temperature is -1.0; it must be 0 or more"),
        ({"top_p": 0.0}, r"generation.top_p is 0.0; it must be above 0 and at most 1"),
        ({"min_seconds": 20.0}, r"generation.min_seconds is 20.0; it must be between 0 and max_seconds"),
        ({"loop_repeats": 1}, r"generation.loop_repeats is 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**settings)
