"""A tokenizer, a vocoder and a recogniser, all tiny and random: they prove plumbing, not quality."""

import pytest

from tiny import make_tiny_recogniser, make_tiny_tokenizer, make_tiny_vocoder
from vocable.audio.writing import write_audio
from vocable.recognition.transcribe import WhisperTranscriber
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.unit_tokenizer import UnitTokenizer
from vocable.types import Utterance


@pytest.fixture
def tiny_tokenizer() -> UnitTokenizer:
    return make_tiny_tokenizer()


@pytest.fixture
def tiny_vocoder(tiny_tokenizer: UnitTokenizer) -> UnitVocoder:
    return make_tiny_vocoder(tiny_tokenizer)


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
