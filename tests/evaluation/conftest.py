"""A tokenizer, a vocoder and a recogniser, all tiny and random: they prove plumbing, not quality."""

import pytest
import torch

from tiny import make_tiny_recogniser
from vocable.audio.io import write_audio
from vocable.evaluation.transcribe import WhisperTranscriber
from vocable.features import EncoderConfig, load_encoder
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.kmeans import KMeans, KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance


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
    return WhisperTranscriber(*make_tiny_recogniser(), "test/tiny-whisper", batch_size=2)


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
