"""Controls of codes, the topline of units, and where the aggregator's heads look."""

from dataclasses import replace

import pytest
import torch

from tiny import make_tiny_tokenizer, make_tiny_vocoder, save_tiny_whisper
from vocable.errors import ConfigError
from vocable.features import EncoderConfig
from vocable.features.voice import Speaker
from vocable.systems.taste.attention import SpokenClip, align_heads, attention_centres
from vocable.systems.taste.config import AggregatorConfig, GridConfig, TasteConfig
from vocable.systems.taste.controls import borrowed_codes, exchange_codes, random_codes, speak_topline
from vocable.systems.taste.delivered import DeliveredSpeech
from vocable.systems.taste.editing import DeliveredWord
from vocable.systems.taste.speech_decoder import WordChange
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.systems.taste.unit_source import UnitSource
from vocable.types import Utterance, Word

SIZES = (4, 6)


def speech_of(codes, fingerprint="f", words=None):
    named = words or [f"w{place}" for place in range(len(codes))]
    delivered = [DeliveredWord(word=word, codes=own) for word, own in zip(named, codes, strict=True)]
    return DeliveredSpeech(
        words=tuple(delivered), speaker=Speaker(torch.ones(4), None), tokenizer_fingerprint=fingerprint
    )


def codes_of(speech):
    return [word.codes for word in speech.words]


def test_random_codes_are_even_and_follow_the_seed():
    speech = speech_of([(0, 0)] * 6000)
    drawn = random_codes(speech, SIZES, seed=1)
    table = torch.tensor(codes_of(drawn))
    for level, size in enumerate(SIZES):
        counts = torch.bincount(table[:, level], minlength=size)
        assert len(counts) == size and (counts - 6000 / size).abs().max() < 5 * (6000 / size) ** 0.5
    assert codes_of(random_codes(speech, SIZES, seed=1)) == codes_of(drawn) != codes_of(random_codes(speech, SIZES))
    assert drawn.text == speech.text


def test_borrowed_codes_are_those_of_other_words():
    speech = speech_of([(0, 0)] * 50)
    others = [speech_of([(1, 1), (2, 2), None]), speech_of([(3, 5)])]
    borrowed = borrowed_codes(speech, others)
    assert set(codes_of(borrowed)) == {(1, 1), (2, 2), (3, 5)} and borrowed.text == speech.text
    with pytest.raises(ConfigError, match="no word with codes"):
        borrowed_codes(speech, [speech_of([None])])
    with pytest.raises(ConfigError, match="same tokenizer"):
        borrowed_codes(speech, [speech_of([(1, 1)], "g")])


def test_exchanging_codes_with_oneself_changes_nothing_and_twice_undoes_it():
    first, second = speech_of([(0, 1), (1, 2), (2, 3)]), speech_of([(3, 5), (2, 4), (1, 3)], words=["a", "b", "c"])
    louder = replace(first.words[1], change=WordChange(decibels=3.0))
    first = replace(first, words=(first.words[0], louder, first.words[2]))
    one, other = exchange_codes(first, second, (1,))
    assert codes_of(one) == [(0, 1), (2, 4), (2, 3)] and codes_of(other) == [(3, 5), (1, 2), (1, 3)]
    assert one.text == first.text and other.text == second.text
    assert other.words[1].change == louder.change  # how it is spoken goes along
    assert [own.words for own in exchange_codes(one, other, [1])] == [first.words, second.words]
    assert exchange_codes(first, first, range(3))[0].words == first.words
    with pytest.raises(ConfigError, match="3 and 1 words"):
        exchange_codes(first, speech_of([(0, 0)]), [0])
    with pytest.raises(ConfigError, match="no word 3"):
        exchange_codes(first, second, [3])


def test_topline_is_the_resynthesis_of_units(tmp_path, make_speechlike):
    units = make_tiny_tokenizer()
    units.save_pretrained(tmp_path / "units")
    make_tiny_vocoder(units).save_pretrained(tmp_path / "vocoder")
    waveform = torch.as_tensor(make_speechlike(8_000, seed=1))
    source = UnitSource(str(tmp_path / "units"), synthesizer=str(tmp_path / "vocoder"))
    (expected,) = source.synthesizer.synthesize(units.encode([waveform]))
    assert torch.equal(speak_topline(source, Utterance(id="a", audio=tmp_path / "a.wav"), waveform), expected)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = save_tiny_whisper(tmp_path_factory.mktemp("whisper"))
    config = TasteConfig(
        encoder=EncoderConfig(name=str(folder), layer=3), shallow_layer=1,
        aggregator=AggregatorConfig(value_start="whisper"), quantizer=GridConfig(levels=(4,), num_groups=2),
    )  # fmt: skip
    return TasteTokenizer.of_checkpoint(config)


def test_centres_are_those_of_the_weights_written_out(tokenizer):
    aggregator = tokenizer.words.aggregator
    torch.manual_seed(0)
    ids, last, shallow = torch.randint(100, (1, 4)), torch.randn(1, 9, 32), torch.randn(1, 9, 32)
    found = attention_centres(aggregator, ids, last, shallow)
    prompted = torch.cat([aggregator.prompt, ids[0]])
    with torch.no_grad():
        hidden = aggregator.embed_tokens(prompted) + aggregator.embed_positions.weight[: len(prompted)]
        for number, layer in enumerate(aggregator.layers):
            normed = layer.self_attn_layer_norm(hidden)[None]
            inner = hidden + layer.self_attn(normed, normed, normed, causal=True)[0]
            queries = layer.encoder_attn.q_proj(layer.encoder_attn_layer_norm(inner))
            keys = layer.encoder_attn.k_proj(last[0])
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                for place in range(4):
                    scores = keys[:, part] @ queries[len(aggregator.prompt) + place, part] / 8**0.5
                    centre = sum(frame * float(weight) for frame, weight in enumerate(scores.softmax(0)))
                    assert float(found[number, head, place]) == pytest.approx(centre, abs=1e-4)
            hidden = layer(hidden[None], last, shallow, None)[0]
    assert found.std() > 0.05 and not any(layer.encoder_attn._forward_pre_hooks for layer in aggregator.layers)


def test_heads_that_look_everywhere_are_as_far_off_as_the_middle(tokenizer, make_speechlike):
    """By hand: 1 s, words in the middle of 0.2, 0.45 and 0.9 s; without queries every centre is 0.5 s."""
    words = [Word(word=w, start=m - 0.1, end=m + 0.1) for w, m in (("the", 0.2), ("cat", 0.45), ("sat", 0.9))]
    clip = SpokenClip(torch.as_tensor(make_speechlike(16_000, seed=0)), words)
    weights = [layer.encoder_attn.q_proj for layer in tokenizer.words.aggregator.layers]
    kept = [(one.weight.clone(), one.bias.clone()) for one in weights]
    usual = align_heads(tokenizer, [clip])
    assert len(usual) == 8 and [one.error_seconds for one in usual] == sorted(one.error_seconds for one in usual)
    assert align_heads(tokenizer, [clip, clip])[0].error_seconds == pytest.approx(usual[0].error_seconds)
    assert {one.error_seconds for one in align_heads(tokenizer, [clip], shuffle_seed=1)} != {
        one.error_seconds for one in usual
    }
    with torch.no_grad():
        for one in weights:
            one.weight.zero_()
            one.bias.zero_()
        table = align_heads(tokenizer, [clip])
        for one, (weight, bias) in zip(weights, kept, strict=True):
            one.weight.copy_(weight)
            one.bias.copy_(bias)
    for one in table:
        assert one.error_seconds == pytest.approx((0.3 + 0.05 + 0.4) / 3, abs=1e-4) and one.near == pytest.approx(1 / 3)
    with pytest.raises(ConfigError, match="no word"):
        align_heads(tokenizer, [SpokenClip(clip.waveform, [])])
