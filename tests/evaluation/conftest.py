"""A tokenizer, a vocoder and a recogniser, all tiny and random: they prove plumbing, not quality."""

import pytest
import torch

from vocable.audio.io import write_audio
from vocable.evaluation.transcribe import WhisperTranscriber
from vocable.features import EncoderConfig, load_encoder
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.kmeans import KMeans, KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance

WORDS = ["the", "cat", "sat", "on", "mats", "by", "rivers", "and", "hills", "far", "away", "."]


@pytest.fixture
def tiny_tokenizer() -> UnitTokenizer:
    generator = torch.Generator().manual_seed(0)
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    kmeans = KMeans(torch.randn(8, encoder.dim, generator=generator) * 3)
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=8, init_frames=8)
    )
    return UnitTokenizer(encoder, kmeans, config)


@pytest.fixture
def tiny_vocoder(tiny_tokenizer: UnitTokenizer) -> UnitVocoder:
    torch.manual_seed(0)
    config = VocoderConfig(
        codebook_size=8,
        token_frame_rate=tiny_tokenizer.frame_rate,
        dim=8,
        hidden_dim=16,
        num_layers=1,
        prosody_dim=8,
        pitch_layers=1,
        tokenizer_fingerprint=tiny_tokenizer.fingerprint,
    )
    return UnitVocoder(config).eval()


@pytest.fixture
def tiny_transcriber() -> WhisperTranscriber:
    """Whisper with two narrow layers, random weights, a vocabulary of twelve words and at most six of them."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Whisper

    vocabulary = {word: index for index, word in enumerate(["<end>", "<start>", "<pad>", *WORDS, "<notimestamps>"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="."))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>", bos_token="<start>"
    )
    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        eos_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=1,
        pad_token_id=2,
        init_std=1.0,
        max_target_positions=12,
    )
    model = Whisper(config)
    model.generation_config.suppress_tokens = [1, 2, vocabulary["<notimestamps>"]]
    model.generation_config.begin_suppress_tokens = [0]
    model.generation_config.no_timestamps_token_id = vocabulary["<notimestamps>"]
    return WhisperTranscriber(
        model, WhisperFeatureExtractor(feature_size=80), tokenizer, "test/tiny-whisper", batch_size=2
    )


@pytest.fixture
def make_utterances(tmp_path, make_speechlike):
    """Write recordings of half a second and more; return their utterances."""

    def make(texts: list[str | None]) -> list[Utterance]:
        utterances = []
        for index, text in enumerate(texts):
            path = tmp_path / f"{index}.wav"
            write_audio(path, make_speechlike(8000 + 1600 * index, seed=index), 16_000)
            utterances.append(Utterance(id=f"u{index}", audio=path, text=text, speaker=f"s{index % 2}"))
        return utterances

    return make
