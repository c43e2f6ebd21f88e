"""The tokenizer by word: the contract, against the steps by hand, and what does not fit together."""

import math
from dataclasses import replace

import pytest
import torch

from features.tiny_encoders import save_tiny
from sequences.joint_examples import text_tokenizer
from tiny import save_tiny_whisper
from vocable.errors import AlignmentError, AudioFormatError, ConfigError, FingerprintError, UnknownNameError
from vocable.features import EncoderConfig
from vocable.systems.taste.config import AggregatorConfig, GridConfig, TasteConfig, published_quantizer
from vocable.systems.taste.model import load_reader, load_word_encoder, pad_words
from vocable.systems.taste.quantizer import build_quantizer
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.tokens import load_tokenizer
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from vocable.types import Clip, Word

QUANTIZER = ResidualQuantizerConfig(
    level=VectorQuantizerConfig(dim=8, codebook_size=16, init="random"), num_levels=4, dropout=1.0
)
TEXT = "The cat sat on the mat, didn't it?"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


def make(folder, **settings):
    encoder = settings.pop("encoder", None) or EncoderConfig(name=str(folder), layer=3)
    config = TasteConfig(**{"encoder": encoder, "shallow_layer": 1, "quantizer": QUANTIZER, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TasteTokenizer.of_checkpoint(config)


@pytest.fixture(scope="module")
def tokenizer(whisper):
    return make(whisper)


@pytest.fixture(scope="module")
def sounds(make_speechlike):
    return [torch.as_tensor(make_speechlike(size, seed=seed)) for seed, size in enumerate((32_000, 51_234, 40_000))]


def test_stream_follows_words(tokenizer):
    (stream,) = tokenizer.streams
    assert (stream.name, stream.codebook_sizes, stream.rate) == ("words", (16,) * 4, None)
    assert tokenizer.bits_per_second is None and tokenizer.needs_text and not tokenizer.needs_words
    published = TasteConfig()
    assert sum(math.log2(level.codebook_size) for level in published.quantizer.levels()) == 36
    assert math.prod(GridConfig().codebook_sizes) == 2**36


def test_codes_are_those_of_the_steps_by_hand(tokenizer, whisper, sounds):
    """transformers' encoder and decoder layers, words averaged in a loop, nearest entries level by level."""
    from transformers import WhisperModel

    (tokens,) = tokenizer.encode([Clip(sounds[0], TEXT)])
    encoder = tokenizer.encoder
    hidden = encoder.front(encoder.condition(sounds[0])[None])
    model = WhisperModel.from_pretrained(whisper).eval()
    states = [hidden]
    for layer in model.encoder.layers:
        hidden = layer(hidden, None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        states.append(hidden)
    last, shallow = model.encoder.layer_norm(states[3]), states[1]
    words, text = TEXT.split(), load_reader(str(whisper))
    pieces = [text.encode([word]).ids for word in words]
    symbols = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    prompt = text.tokenizer.convert_tokens_to_ids(symbols)
    assert tokenizer.words.aggregator.prompt.tolist() == prompt
    vectors = tokenizer.words.aggregator(torch.cat(pieces)[None], last, shallow)[0]
    quantizer = tokenizer.words.quantizer
    place = 0
    for index, piece in enumerate(pieces):
        mean = vectors[place : place + len(piece)].mean(0)
        place += len(piece)
        rest = quantizer.project_in(mean)
        for level, entries in enumerate(one.codebook for one in quantizer.residual.levels):
            code = int((rest - entries).square().sum(-1).argmin())
            assert code == int(tokens.codes[level, index])
            rest = rest - entries[code]
    assert [word.word for word in tokens.words] == words
    assert tokens.spans.tolist() == [[index, index + 1] for index in range(len(words))]
    assert {(word.start, word.end) for word in tokens.words} == {(0.0, 2.0)}  # nothing closer is known


def test_batch_is_alone(tokenizer, sounds):
    texts = [TEXT, "And then the hills were far away!", "Words"]
    clips = [Clip(sound, text) for sound, text in zip(sounds, texts)]
    together = tokenizer.encode(clips)
    assert together == [tokenizer.encode([clip])[0] for clip in clips]
    assert together[::-1] == tokenizer.encode(clips[::-1])
    assert tokenizer.encode_stream(sounds[0].split(7_000), TEXT) == together[0]


def test_training_batch_has_the_words_of_each_alone(tokenizer, sounds):
    """Padded texts and frames in one batch, as training runs them; and the vectors copied to all tokens of a word."""
    texts = [TEXT.split(), ["Words", "and", "mats"]]
    tokens = [tokenizer.reader.encode(words) for words in texts]
    states = [tokenizer.encoder.encode_layers(sound, (3, 1)) for sound in sounds[:2]]
    pad = torch.nn.utils.rnn.pad_sequence
    last, shallow = (pad([one[k] for one in states], batch_first=True, padding_value=9.0) for k in (0, 1))
    lengths = torch.tensor([len(one[0]) for one in states])
    mask = torch.arange(last.shape[1]) < lengths[:, None]
    ids, word_ids = pad_words([one.ids for one in tokens]), pad_words([one.word_ids for one in tokens])
    with torch.no_grad():
        batch = tokenizer.words(ids, word_ids, last, shallow, mask)
        continuous = tokenizer.words(ids, word_ids, last, shallow, mask, quantize=False)
        for row in range(2):
            alone = tokenizer.words(*(one[None] for one in tokens[row]), *(one[None] for one in states[row]))
            count = len(texts[row])
            torch.testing.assert_close(batch.words[row, :count], alone.words[0], atol=2e-5, rtol=1e-5)  # other shapes
            assert torch.equal(batch.quantized.codes[row, :, :count], alone.quantized.codes[0])
            decoded = tokenizer.words.quantizer.decode(alone.quantized.codes)[0]
            size = len(tokens[row].ids)
            spread = decoded[tokens[row].word_ids]
            torch.testing.assert_close(batch.tokens[row, :size], spread, atol=1e-6, rtol=1e-6)  # other shapes
            assert not batch.tokens[row, size:].any()
    assert batch.mask.tolist() == [[True] * 8, [True] * 3 + [False] * 5]
    assert (batch.quantized.codes[1, :, 3:] == -1).all() and not batch.quantized.quantized[1, 3:].any()
    assert continuous.quantized is None and torch.equal(continuous.words, batch.words)


@pytest.mark.parametrize("trained", ["last_layer", "all"])
def test_saved_and_loaded(whisper, sounds, tmp_path, trained):
    tokenizer = make(whisper, aggregator=AggregatorConfig(trained=trained))
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    loaded = load_tokenizer(folder)
    clip = Clip(sounds[0], TEXT)
    assert loaded.encode([clip]) == tokenizer.encode([clip]) and loaded.fingerprint == tokenizer.fingerprint
    assert loaded.card() == tokenizer.card() and loaded.card()["streams"][0]["rate"] is None
    assert ("aggregator.embed_tokens.weight" in tokenizer.saved_tensors()) == (trained == "all")


def test_trained_weights_come_back(whisper, sounds, tmp_path):
    tokenizer = make(whisper)
    before = tokenizer.fingerprint
    with torch.no_grad():
        tokenizer.words.aggregator.layers[-1].encoder_attn.v_proj.weight.add_(1)
        tokenizer.words.quantizer.residual.levels[2].codebook.add_(1)
    tokenizer = TasteTokenizer(tokenizer.encoder, tokenizer.reader, tokenizer.words, tokenizer.config)
    assert tokenizer.fingerprint != before
    loaded = load_tokenizer(tokenizer.save_pretrained(tmp_path / "saved"))
    assert loaded.encode([Clip(sounds[0], TEXT)]) == tokenizer.encode([Clip(sounds[0], TEXT)])


def test_other_whisper_is_refused(tmp_path, sounds):
    from transformers import WhisperForConditionalGeneration as Whisper

    folder = save_tiny_whisper(tmp_path / "whisper")
    saved = make(folder).save_pretrained(tmp_path / "saved")
    model = Whisper.from_pretrained(folder)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[3] += 1  # the encoder is the same
    model.save_pretrained(folder)
    with pytest.raises(FingerprintError, match=r"the decoder found under .* is not the one"):
        load_tokenizer(saved)


def test_what_decides_codes_is_in_the_fingerprint(whisper, tokenizer):
    names = {tokenizer.fingerprint}
    for settings in (
        {"shallow_layer": 2},
        {"language": "de"},
        {"aggregator": AggregatorConfig(layers=(1,))},
        {"aggregator": AggregatorConfig(value_start="whisper")},
        {"quantizer": GridConfig()},
        {"quantizer": GridConfig(levels=(64, 8), num_groups=4)},
        {"encoder": EncoderConfig(name=str(whisper), layer=3, padding="30s")},
    ):
        names.add(make(whisper, **settings).fingerprint)
    assert len(names) == 8
    assert make(whisper, name="other").fingerprint == tokenizer.fingerprint


def test_padding_to_30_s_is_heard_only_where_asked(whisper, sounds):
    encoder = EncoderConfig(name=str(whisper), layer=3, padding="30s")
    found = [make(whisper, encoder=encoder, aggregator=AggregatorConfig(attend_padding=one)) for one in (False, True)]
    states = found[0].encoder.encode_layers(sounds[0], (3, 1))
    with torch.no_grad():
        ids, word_ids = (one[None] for one in found[0].reader.encode(TEXT.split()))
        expected = found[0].words.encode(ids, word_ids, *(one[None] for one in states))[0]
    assert len(states[0]) == 100 and torch.equal(found[0].encode([Clip(sounds[0], TEXT)])[0].codes, expected)
    full = found[1].encoder.encode_layers(sounds[0], (3, 1), keep_padding=True)
    assert len(full[0]) == 1500
    assert found[1].encode([Clip(sounds[0], TEXT)])[0] != found[0].encode([Clip(sounds[0], TEXT)])[0]


def test_grid_has_as_many_bits(whisper, sounds):
    tokenizer = make(whisper, quantizer=GridConfig())
    (tokens,) = tokenizer.encode([Clip(sounds[0], TEXT)])
    assert tokenizer.streams[0].bits_per_position == 36 and tokens.codes.shape == (4, 8)
    assert 0 <= int(tokens.codes.min()) <= int(tokens.codes.max()) < 512
    output = tokenizer.words.quantizer(torch.randn(1, 6, 32), torch.tensor([[True] * 4 + [False] * 2]))
    assert torch.equal(tokenizer.words.quantizer.decode(output.codes), output.quantized)


def test_grid_is_open_to_long_vectors():
    """Vectors as those of whisper-base, a common part of norm 200 and 50 that differ: no coordinate saturates."""
    torch.manual_seed(0)
    grid = build_quantizer(GridConfig(), 512)
    differing = torch.randn(1, 300, 512)
    words = (200 * torch.randn(512) + 50 * differing) / 512**0.5
    output = grid(words)
    (output.quantized - differing).square().sum().backward()
    sizes = torch.cat([group.project_in.weight.grad.norm(dim=1) for group in grid.groups])
    assert sizes.min() > sizes.max() / 20  # without the norm, one in a million of the largest
    assert all(len(codes.unique()) > 8 for codes in output.codes[0])  # without it, 3 in one group


def test_long_recordings_are_cut_at_pauses(tokenizer, make_speechlike):
    """31 s and more: the codes of the pieces, one after another."""
    sound = torch.as_tensor(make_speechlike(16_000 * 62, seed=5))
    texts = ["the", "cat", "sat", "on", "mats"] * 12
    times = tuple(Word(word=word, start=float(i), end=i + 0.8) for i, word in enumerate(texts))
    (tokens,) = tokenizer.encode([Clip(sound, " ".join(texts), times)])
    assert tokens.codes.shape == (4, 60) and tokens.words == times and int(tokens.codes.min()) >= 0
    # the first piece: pauses are alike, so the first of its last 5 s, from 25.9 s on, is taken
    first = Clip(sound[: int(25.9 * 16_000)], " ".join(texts[:26]))
    assert torch.equal(tokenizer.encode([first])[0].codes, tokens.codes[:, :26])
    (untimed,) = tokenizer.encode([Clip(sound, " ".join(texts))])
    assert untimed.codes.shape == (4, 60) and len({word.start for word in untimed.words}) == 3
    assert [word.word for word in untimed.words] == texts


def test_nothing_spoken_gives_no_positions(tokenizer, sounds):
    for text in ("", "  \n"):
        (tokens,) = tokenizer.encode([Clip(torch.cat([sounds[0]] * 20), text)])
        assert tokens.codes.shape == (4, 0) and tokens.words == () and tokens.spans.shape == (0, 2)


@pytest.mark.parametrize("text", [TEXT, "Wörter, die niemand kennt", "你好 世界", "..."])
def test_silence_and_any_language_have_codes(tokenizer, text):
    (tokens,) = tokenizer.encode([Clip(torch.zeros(32_000), text)])
    assert tokens.codes.shape == (4, len(text.split())) and int(tokens.codes.min()) >= 0
    assert tokens == tokenizer.encode([Clip(torch.zeros(32_000), text)])[0]


def test_what_does_not_fit_is_named(tokenizer, sounds):
    with pytest.raises(AudioFormatError, match="without text"):
        tokenizer.encode([sounds[0]])
    with pytest.raises(AlignmentError, match=r"but the recording lasts 2.00 s"):
        tokenizer.encode([Clip(sounds[0], "word " * 60)])
    with pytest.raises(AlignmentError, match="the words with times are 'a dog'"):
        tokenizer.encode([Clip(sounds[0], "a cat", (Word(word="a dog", start=0.0, end=1.0),))])
    with pytest.raises(AlignmentError, match=r"tokens in 29.0 s of sound, but .* has positions for 116"):
        tokenizer.encode([Clip(torch.zeros(29 * 16_000), "zebra " * 100)])


def test_text_from_a_recogniser(whisper, sounds):
    class Hears:
        name, sample_rate, conventions, weights = "hears", 16_000, {}, {}

        def transcribe(self, waveforms):
            return [TEXT for _ in waveforms]

    tokenizer = make(whisper)
    tokenizer.transcribe_with(Hears())
    assert tokenizer.encode([sounds[0]]) == tokenizer.encode([Clip(sounds[0], TEXT)])
    tokenizer.transcribe_with(None)
    with pytest.raises(AudioFormatError, match="without text"):
        tokenizer.encode([sounds[0]])
    Hears.sample_rate = 8_000
    with pytest.raises(ConfigError, match="reads 8000 Hz"):
        tokenizer.transcribe_with(Hears())


def test_settings_that_do_not_fit_the_checkpoint(whisper, tmp_path):
    with pytest.raises(ConfigError, match=r"encoder.layer is 2, but keys are states of the last layer"):
        make(whisper, encoder=EncoderConfig(name=str(whisper), layer=2))
    with pytest.raises(UnknownNameError, match=r"'fr'.*de, en"):
        make(whisper, language="fr")
    with pytest.raises(ConfigError, match="shallow_layer is 4"):
        make(whisper, shallow_layer=4)
    with pytest.raises(ConfigError, match=r"encoder.positions"):
        make(whisper, encoder=EncoderConfig(name=str(whisper), layer=3, positions="remove"))
    english = save_tiny_whisper(tmp_path / "english", multilingual=False)
    prompt = make(english).words.aggregator.prompt
    symbols = load_reader(str(english)).tokenizer.convert_ids_to_tokens(prompt.tolist())
    assert symbols == ["<|startoftranscript|>", "<|notimestamps|>"]
    with pytest.raises(ConfigError, match="knows English only"):
        make(english, language="de")
    hubert = save_tiny("hubert-base", tmp_path / "hubert")
    text_tokenizer().save_pretrained(hubert)
    with pytest.raises(ConfigError, match="no decoder to read it with"):
        make(hubert, encoder=EncoderConfig(name=str(hubert), layer=3))


def test_first_codebooks_come_from_training(whisper, sounds):
    tokenizer = make(whisper, quantizer=replace(published_quantizer(), num_levels=2))
    with pytest.raises(ConfigError, match="codebook is random as yet"):
        tokenizer.encode([Clip(sounds[0], TEXT)])


@pytest.mark.asset("whisper-base")
def test_published_whisper_reads_a_clip(make_speechlike):
    config = TasteConfig(quantizer=GridConfig(), aggregator=AggregatorConfig(layers=(0, 5)))
    tokenizer = TasteTokenizer.of_checkpoint(config)
    (tokens,) = tokenizer.encode([Clip(torch.as_tensor(make_speechlike(24_000, seed=0)), TEXT)])
    assert tokens.codes.shape == (4, 8) and tokenizer.words.aggregator.prompt.tolist() == [50258, 50259, 50359, 50363]


def test_reader_and_encoder_share_the_checkpoint(whisper):
    config = TasteConfig(encoder=EncoderConfig(name=str(whisper), layer=3), shallow_layer=1, quantizer=QUANTIZER)
    words = load_word_encoder(config, load_reader(str(whisper)))
    assert words.aggregator.most_tokens == 116 and len(words.aggregator.layers) == 2
