"""Tokenizers with several streams, or with words instead of frames, go the way of all others."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from cli.test_vocoder import SMALL
from tiny import TINY_DECODER, TINY_FRONTEND, make_tiny_recogniser, save_tiny_lm, write_speech
from tokens.example_tokenizers import DECODE_RATE, LEVELS, STEPS, SineCodec, WordTokenizer, codes_level, level_codes
from vocable.audio.io import Audio, read_clip
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import AudioFormatError, ConfigError, FingerprintError, UnknownNameError
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.units import Units, UnitsConfig
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import voice_vector
from vocable.lm.spoken import load_lm
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.opening import attach_synthesizer, load_synthesizer
from vocable.tokens import SpeechTokenizer, TokenShards, load_tokenizer
from vocable.tokens.agreement import compare_tokens, measure_batchings
from vocable.tokens.streams import card_of_stream, fingerprints_of_card, streams_of_card
from vocable.types import Clip, SpeechTokens, Stream, Utterance, Word

TEXTS = ["the cat sat", "on the mats by rivers", "far away"]
KINDS = {"sines": SineCodec.make, "word-notes": WordTokenizer}
READ = {"sines": "semantic", "word-notes": "words"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_speechlike) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"), make_speechlike, texts=TEXTS)


@pytest.fixture(scope="module", params=list(KINDS))
def stored(request, corpus: Path, tmp_path_factory) -> tuple[SpeechTokenizer, Path]:
    """A tokenizer, and a folder with itself and its shards of the corpus, made by the command."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = KINDS[request.param]()
    tokenizer.save_pretrained(folder / "tokenizer")
    command = ["tokenize", str(corpus), str(folder / "tokens"), "--tokenizer", str(folder / "tokenizer")]
    assert main([*command, "--device", "cpu"]) == 0
    return tokenizer, folder


def test_saved_and_loaded_it_is_the_same(stored, capsys):
    tokenizer, folder = stored
    loaded = load_tokenizer(folder / "tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.streams == tokenizer.streams
    assert main(["tokenizer", "card", str(folder / "tokenizer")]) == 0
    printed = capsys.readouterr().out
    assert all(str(stream) in printed for stream in tokenizer.streams)
    card = json.loads((folder / "tokenizer" / "config.json").read_text())["card"]
    assert streams_of_card(card) == tokenizer.streams == streams_of_card(tokenizer.card())


def test_shards_hold_every_stream_and_read_one(stored, corpus: Path):
    tokenizer, folder = stored
    shards, utterances = TokenShards(folder / "tokens"), read_manifest(corpus)
    expected = tokenizer.encode([read_clip(utterance, tokenizer.sample_rate) for utterance in utterances])
    assert [tokens for _, tokens in shards] == expected
    for stream in tokenizer.streams:
        one, view = shards.stream(stream.name), tokenizer.stream(stream.name)
        assert [tokens for _, tokens in one] == [tokens.stream(stream.name) for tokens in expected]
        assert one.streams == view.streams == (stream,)
        assert one.fingerprint == view.fingerprint and one.card == view.card()
        assert {one.fingerprint, shards.fingerprint} <= fingerprints_of_card(shards.card)
        assert view.encode([read_clip(utterances[0], 16_000)]) == [expected[0].stream(stream.name)]
        assert tokenizer.matching(one.fingerprint).fingerprint == one.fingerprint
    with pytest.raises(ConfigError, match=r"has no stream 'prosody'; it has "):
        shards.stream("prosody")


def test_verify(stored, corpus: Path, capsys):
    tokenizer, folder = stored
    command = ["tokenizer", "verify", str(folder / "tokenizer"), str(corpus), "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "every unit is the same, alone or in company" in printed
    assert all(way in printed for way in tokenizer.batchings)
    positions = sum(tokens.num_positions for _, tokens in TokenShards(folder / "tokens"))
    clips = [read_clip(utterance, tokenizer.sample_rate) for utterance in read_manifest(corpus)]
    agreement = measure_batchings(tokenizer, clips)["exact"]
    assert agreement.num_different == 0 and agreement.num_frames >= positions  # runs are compared frame by frame


def test_usage_of_one_stream(stored):
    tokenizer, folder = stored
    for stream in tokenizer.streams:
        shards = TokenShards(folder / "tokens").stream(stream.name)
        result = run_benchmark(Units(UnitsConfig(tokens=folder / "tokens", stream=stream.name, num_resamples=10)))
        ids = torch.cat([tokens.codes for _, tokens in shards], 1)
        used = sum(len(row.unique()) / size for row, size in zip(ids, stream.codebook_sizes)) / stream.num_levels
        assert result.scores["used"].value == pytest.approx(used)
        assert result.fingerprints["tokenizer"] == shards.fingerprint
        nominal = result.measurements["nominal_bits_per_second"]
        assert nominal == (None if stream.rate is None else pytest.approx(stream.bits_per_second))
        assert (result.measurements["num_frames"] is None) == (stream.rate is None)


def test_resynthesis(stored, corpus: Path):
    from vocable.evaluation.judges import Judges
    from vocable.evaluation.resynthesis import Resynthesis, ResynthesisConfig
    from vocable.recognition.transcribe import WhisperTranscriber

    tokenizer = load_tokenizer(stored[1] / "tokenizer")
    judges = Judges(WhisperTranscriber(*make_tiny_recogniser(), "test/tiny-whisper", batch_size=2))
    opened = {"utterances": read_manifest(corpus)[:3], "tokenizer": tokenizer, "judges": judges}
    result = run_benchmark(Resynthesis(ResynthesisConfig(manifest=corpus, tokenizer=stored[1] / "tokenizer"), opened))
    assert len(result.items) == 3 and set(result.measurements["streams"]) == {one.name for one in tokenizer.streams}
    for item, utterance in zip(result.items, read_manifest(corpus)):
        (tokens,) = tokenizer.encode([read_clip(utterance, 16_000)])
        (speech,) = tokenizer.decode([tokens])
        assert item["resynthesis_seconds"] == pytest.approx(len(speech) / DECODE_RATE, abs=1e-3)  # not at 16 kHz


def test_twist_trains_on_one_stream(stored, tmp_path: Path):
    from vocable.lm.surgery import UnitLMConfig
    from vocable.systems import twist
    from vocable.training.language_model import LMTrainingConfig

    tokenizer, folder = stored
    shards = TokenShards(folder / "tokens")
    config = twist.TwistConfig(
        stream=READ[tokenizer.name],
        lm=UnitLMConfig(text_model=str(save_tiny_lm("opt", tmp_path / "text"))),
        training=LMTrainingConfig(max_steps=2, context_tokens=64, tokens_per_batch=128, precision="fp32"),
        valid_share=0.3,
    )
    result = twist.train(config, shards, tmp_path / "lm", tokenizer=tokenizer)
    card = json.loads((result.last / "vocable.json").read_text())
    read = shards.stream(READ[tokenizer.name])
    assert card["tokenizer_fingerprint"] == read.fingerprint and card["tokenizer_card"] == read.card
    assert card["vocabulary"]["codebook_size"] == read.streams[0].codebook_size
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    opened = load_lm(tmp_path / "lm")
    assert opened.tokenizer.fingerprint == read.fingerprint and opened.tokenizer.streams == read.streams
    assert (opened.card.unit_seconds is None) == (read.streams[0].rate is None)


# the codec


def test_streams_and_bits():
    codec = SineCodec.make()
    assert codec.bits_per_second == 50 * 6 + 25 * LEVELS * 4
    assert WordTokenizer().bits_per_second is None
    uneven = Stream(name="a", codebook_sizes=(8, 2, 2), rate=10.0)
    assert uneven.bits_per_second == 50 and uneven.num_levels == 3
    with pytest.raises(ConfigError, match=r"has 3 codebooks \(levels\), of sizes 8, 2, 2"):
        _ = uneven.codebook_size
    with pytest.raises(ConfigError, match=r"several streams \(semantic, acoustic\)"):
        _ = codec.codebook_size
    assert codec.stream("semantic").codebook_size == 64
    for wrong in ({"codebook_sizes": ()}, {"codebook_sizes": (0,)}, {"rate": 0.0}):
        with pytest.raises(ConfigError, match="The stream 'a'"):
            replace(Stream(name="a", codebook_sizes=(2,), rate=1.0), **wrong)


@pytest.mark.parametrize("index", [3, 20, 41])
def test_a_tone_comes_back_as_it_was(index: int):
    codec = SineCodec.make()
    frequency, level = float(codec.frequencies[index]), -12.3
    amplitude = math.sqrt(2) * 10 ** (level / 20)
    (tokens,) = codec.encode([amplitude * torch.sin(2 * math.pi * frequency * torch.arange(16_000) / 16_000)])
    assert tokens.stream("semantic").units.tolist() == [index]
    assert tokens.stream("semantic") == SpeechTokens(codes=torch.tensor([[index]]), durations=torch.tensor([50]))
    assert tokens.stream("acoustic").codes.shape == (LEVELS, 25)
    (speech,) = codec.decode([tokens])
    assert codec.decode_rate == DECODE_RATE and len(speech) == DECODE_RATE
    spectrum = torch.fft.rfft(speech.double()).abs()
    assert abs(int(spectrum.argmax()) - frequency) <= 1  # one bin is one hertz
    assert 10 * math.log10(float(speech.square().mean())) == pytest.approx(level, abs=0.1)
    (higher,) = codec.decode([tokens], voice=torch.tensor([0.5]))
    assert abs(int(torch.fft.rfft(higher.double()).abs().argmax()) - frequency * 2**0.5) <= 1


def test_level_codes_are_a_number_to_the_base_of_their_size():
    level = torch.tensor([-80.0, -37.25, 0.0, 15.99])
    codes = level_codes(level)
    share = ((level + 80) / 96 * STEPS**LEVELS).long()
    assert (codes[0] * STEPS**2 + codes[1] * STEPS + codes[2]).tolist() == share.tolist()
    torch.testing.assert_close(codes_level(codes), level, atol=96 / STEPS**LEVELS, rtol=0)


def test_a_codec_is_its_own_synthesizer(tmp_path: Path):
    codec = SineCodec.make()
    codec.save_pretrained(tmp_path / "codec")
    opened = load_synthesizer(tmp_path / "codec", codec)
    assert opened.sample_rate == DECODE_RATE and load_synthesizer(tokenizer=codec) is codec.synthesizer
    with pytest.raises(FingerprintError, match=codec.fingerprint):
        load_synthesizer(tmp_path / "codec", WordTokenizer())
    with pytest.raises(ConfigError, match="has no synthesizer"):
        codec.stream("acoustic").decode([])


def test_one_stream_of_a_codec_may_be_heard_alone(make_speechlike):
    """Where the codec has a decoder for it, which is then that of the stream's own tokens."""
    codec, waveform = SineCodec.make(), make_speechlike(16_000)
    semantic = codec.stream("semantic")
    (tokens,) = semantic.encode([waveform])
    (alone,) = semantic.decode([tokens])
    frames = tokens.num_frames // 2 * 320
    assert len(alone) == frames and alone.square().mean() == pytest.approx(10 ** (-20 / 10), rel=0.05)  # at -20 dB
    assert load_synthesizer(tokenizer=semantic).tokenizer_fingerprint == semantic.fingerprint


def test_a_vocoder_may_read_one_stream(tmp_path: Path, make_speechlike):
    codec, waveform = SineCodec.make(), make_speechlike(16_000)
    for stream in codec.streams:
        view = codec.stream(stream.name)
        config = VocoderConfig(
            codebook_size=max(stream.codebook_sizes),
            num_codebooks=stream.num_levels,
            token_frame_rate=stream.rate or 0.0,
            tokenizer_fingerprint=view.fingerprint,
            collapsed=False,
            frontend=TINY_FRONTEND,
            decoder=TINY_DECODER,
            prosody_dim=8,
        )
        UnitVocoder(config).save_pretrained(tmp_path / stream.name)
        reader = attach_synthesizer(codec, tmp_path / stream.name)
        assert reader.fingerprint == view.fingerprint and reader.decode_rate == 16_000
        (speech,) = reader.decode(reader.encode([waveform]))
        assert len(speech) == 16_000
    assert codec.decode_rate == DECODE_RATE  # its own


def test_a_vocoder_is_trained_on_one_stream(corpus: Path, tmp_path: Path):
    codec = SineCodec.make()
    codec.save_pretrained(tmp_path / "codec")
    command = ["vocoder", "train", str(corpus), str(tmp_path / "run"), "--tokenizer", str(tmp_path / "codec")]
    small = [*SMALL, "training.max_minutes=null"]
    assert main([*command, *small]) == 2  # which stream?
    assert main([*command, "--stream", "acoustic", *small]) == 0
    reader = attach_synthesizer(codec, tmp_path / "run" / "vocoder")
    assert reader.fingerprint == codec.stream("acoustic").fingerprint
    assert isinstance(reader.synthesizer, UnitVocoder)
    assert reader.synthesizer.config.sizes == (STEPS,) * LEVELS and reader.decode_rate == 16_000


def test_a_view_is_saved_as_the_whole(tmp_path: Path):
    codec = SineCodec.make()
    loaded = load_tokenizer(codec.stream("acoustic").save_pretrained(tmp_path / "view"))
    assert loaded.fingerprint == codec.fingerprint and len(loaded.streams) == 2
    assert "stream acoustic | 16 x 16 x 16 codes, 25 Hz" in loaded._readme("me/codec")


# words


def test_utterances_without_words_are_rejected(corpus: Path, tmp_path: Path, capsys):
    first, second, *_ = read_manifest(corpus)
    bare = Utterance(id="bare", audio=second.audio, text=second.text)
    write_manifest([first, bare], tmp_path / "manifest.jsonl")
    WordTokenizer().save_pretrained(tmp_path / "words")
    command = ["tokenize", str(tmp_path / "manifest.jsonl"), str(tmp_path / "out"), "--tokenizer"]
    assert main([*command, str(tmp_path / "words"), "--device", "cpu"]) == 0
    assert [utterance.id for utterance, _ in TokenShards(tmp_path / "out")] == [first.id]
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert rejected["id"] == "bare" and "without words and their times" in rejected["reason"]


def test_needs_are_checked_where_clips_come_in(make_speechlike):
    words = WordTokenizer()
    with pytest.raises(AudioFormatError, match=r"waveforms\[0\] comes without words.*vocable align"):
        words.encode([make_speechlike(1600)])
    words.needs_text = True
    with pytest.raises(AudioFormatError, match=r"comes without text.*in the manifest, as `text`"):
        words.encode([make_speechlike(1600)])
    with pytest.raises(UnknownNameError, match="masked"):
        words.encode([], batching="masked")
    spoken = (Word(word="hi", start=0.0, end=0.1),)
    blocks = make_speechlike(1600).split(500)
    assert words.encode_stream(blocks, "hi", spoken) == words.encode([Clip(torch.cat(blocks), "hi", spoken)])[0]


# tokens


def test_words_are_no_frames():
    tokens = SpeechTokens(codes=torch.tensor([[4, 5]]), words=(Word(word="a", start=0.0, end=1.0),) * 2)
    assert tokens.num_positions == 2 and not tokens.has_frames
    with pytest.raises(ConfigError, match=r"follow words.*no frames"):
        _ = tokens.num_frames
    assert Stream(name="words", codebook_sizes=(8,), rate=None).seconds(tokens) is None


def test_tokens_of_several_streams():
    semantic = SpeechTokens(codes=torch.tensor([[1, 2]]), durations=torch.tensor([3, 1]))
    acoustic = SpeechTokens(codes=torch.tensor([[1, 2], [3, 4]]))
    both = SpeechTokens(streams={"semantic": semantic, "acoustic": acoustic})
    assert both.stream("semantic") is semantic and semantic.stream("anything") is semantic
    assert both == SpeechTokens(streams={"semantic": semantic, "acoustic": acoustic}) and both != semantic
    assert both.num_positions == 4 and semantic.num_frames == 4
    for name in ("codes", "durations", "words", "spans", "units", "num_frames"):
        with pytest.raises(ConfigError, match=r"several streams \(semantic, acoustic\)"):
            getattr(both, name)
    with pytest.raises(ConfigError, match="no stream 'prosody'"):
        both.stream("prosody")
    assert both.without_durations().stream("semantic").durations is None
    assert compare_tokens([both], [both.without_durations()]) == (6, 3)  # 1 1 1 2 against 1 2
    for wrong in ({}, {"codes": torch.zeros(1, 1, dtype=torch.long), "streams": {}}, {"streams": {}, "words": ()}):
        with pytest.raises(ValueError, match=r"SpeechTokens take either|belong to one stream"):
            SpeechTokens(**wrong)


def test_cards_of_before_have_one_stream():
    card = {"name": "old", "codebook_size": 500, "num_codebooks": 1, "frame_rate": 50.0, "fingerprint": "f"}
    assert streams_of_card(card) == (Stream(name="units", codebook_sizes=(500,), rate=50.0),)
    assert card_of_stream(card, None) == card and fingerprints_of_card(card) == {"f"}


# voices


def test_a_voice_is_a_name_a_recording_or_a_vector(tmp_path: Path, make_speechlike):
    speaker = SpeakerEncoder(hidden_dim=8, embedding_dim=4)
    waveform = make_speechlike(16_000)
    write_audio(tmp_path / "me.flac", waveform, 16_000)
    vector = torch.tensor([1.0, 2.0])
    assert voice_vector(vector) is vector
    for recording in (tmp_path / "me.flac", Audio(waveform, 16_000)):
        torch.testing.assert_close(voice_vector(recording, speaker), speaker.embed(waveform), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match=r"the name 'ann'.*copies a recording"):
        SineCodec.make().decode(SineCodec.make().encode([waveform]), voice="ann")


def test_rows_of_many_streams_are_plain_columns(tmp_path: Path, corpus: Path):
    SineCodec.make().save_pretrained(tmp_path / "codec")
    command = ["tokenize", str(corpus), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "codec")]
    assert main([*command, "--device", "cpu"]) == 0
    (path,) = (tmp_path / "out").glob("*.parquet")
    names = pq.read_schema(path).names
    assert {"codes.semantic", "durations.semantic", "codes.acoustic"} <= set(names) and "codes" not in names
