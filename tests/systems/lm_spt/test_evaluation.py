"""A codec and a speech-text model, through the benchmarks that are for them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from systems.lm_spt.tiny_codec import HOP, RATE, tiny_config, write_recordings
from tiny import make_tiny_recogniser
from vocable.audio.io import read_utterance
from vocable.audio.waveforms import resample
from vocable.errors import ConfigError
from vocable.evaluation.judges import Judges
from vocable.evaluation.metrics import signal
from vocable.evaluation.runner import evaluate
from vocable.recognition.transcribe import WhisperTranscriber
from vocable.systems.lm_spt.stages import build_codec
from vocable.systems.lm_spt.tokenizer import LmSptTokenizer
from vocable.tokens import load_tokenizer
from vocable.types import SpeechTokens


def codec(teacher: str | None = None) -> LmSptTokenizer:
    """Random weights, and codebooks that have their first values."""
    torch.manual_seed(0)
    trained = build_codec(tiny_config())
    trained.train()
    for seed in range(4):
        frames = (torch.randn(4, 20, 6, generator=torch.Generator().manual_seed(seed + add)) for add in (0, 50))
        trained.quantizer(*frames)
    return LmSptTokenizer.of_codec(trained, "tiny", teacher)


@pytest.fixture
def transcriber():
    return WhisperTranscriber(*make_tiny_recogniser(), "openai/whisper-tiny.en", batch_size=4)


def reconstruct(utterances, tokenizer, transcriber, **settings: Any):
    opened = {"utterances": utterances, "tokenizer": tokenizer, "judges": Judges(transcriber)}
    names = {"manifest": Path("m"), "tokenizer": Path("t"), "num_resamples": 20, "metrics": ("mel",), "device": "cpu"}
    return evaluate("reconstruction", opened=opened, **names, **settings)


def test_all_levels_the_first_and_the_semantic_stream_alone(tmp_path, make_speechlike, transcriber):
    utterances, tokenizer = write_recordings(tmp_path, make_speechlike, (1.5, 0.7)), codec()
    result = reconstruct(utterances, tokenizer, transcriber, levels=("all", 1, "semantic"))
    # 12.5 Hz; one semantic and two acoustic levels of 8 codes
    assert result.measurements["bits_per_second"] == {"all": 12.5 * 9, "first_1": 12.5 * 6, "semantic": 12.5 * 3}
    for utterance, item in zip(utterances, result.items, strict=True):
        (tokens,) = tokenizer.encode([read_utterance(utterance, RATE)])
        semantic, acoustic = tokens.stream("semantic"), tokens.stream("acoustic")
        first = SpeechTokens(codes=acoustic.codes[:1])
        ways = {
            "all": tokens,
            "first_1": SpeechTokens(streams={"semantic": semantic, "acoustic": first}),
            "semantic": SpeechTokens(streams={"semantic": semantic}),
        }
        original = read_utterance(utterance, 16_000)
        for name, way in ways.items():
            copy = resample(tokenizer.decode([way])[0], RATE, 16_000)[: len(original)]
            aligned = signal.align(original, copy)
            expected = signal.mel_distance(aligned.original, aligned.copy)
            assert item[f"mel_distance_{name}"] == pytest.approx(expected, rel=1e-4)
        assert item["all_seconds"] == pytest.approx(item["seconds"]) and item["num_positions"] >= RATE // HOP
    with pytest.raises(ConfigError, match=r"levels has 3; .* has 2 to decode from"):
        reconstruct(utterances, tokenizer, transcriber, levels=(3,))


def test_the_teacher_is_no_judge(tmp_path, make_speechlike, transcriber):
    codec("openai/whisper-tiny.en").save_pretrained(tmp_path / "codec")
    tokenizer = load_tokenizer(tmp_path / "codec")
    assert tokenizer.fingerprint == codec().fingerprint and "teacher" not in codec().card()
    utterances = write_recordings(tmp_path, make_speechlike, (1.1,))
    with pytest.raises(ConfigError, match="would judge its own features"):
        reconstruct(utterances, tokenizer, transcriber)
    transcriber.name = "openai/whisper-base"
    assert any("one family" in note for note in reconstruct(utterances, tokenizer, transcriber).notes)
