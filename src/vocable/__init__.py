"""Vocable: speech to tokens, language models on them, and back to speech.

    audio -> features -> tokens -> sequences -> language model -> tokens -> audio

The folders of this package follow that line. `docs/architecture.md` follows one utterance along it. What most programs
need is here, and loaded when it is first used:

    tokenizer = vocable.load_tokenizer("runs/mine/tokenizer")
    (tokens,) = tokenizer.encode([vocable.read_audio("a.wav", tokenizer.sample_rate).waveform])
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vocable.audio.io import read_audio
    from vocable.audio.manifest import read_manifest, write_manifest
    from vocable.audio.writing import write_audio
    from vocable.evaluation.runner import evaluate
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.spoken import load_lm
    from vocable.sequences.joint_rows import Segment
    from vocable.synthesis.opening import load_synthesizer
    from vocable.systems import train
    from vocable.tokens.shards import TokenShards
    from vocable.tokens.tokenizer import load_tokenizer
    from vocable.types import Clip, SpeechTokens, Stream, Utterance, Word

_HOMES = {
    "Clip": "vocable.types",
    "GenerationConfig": "vocable.lm.generation",
    "Segment": "vocable.sequences.joint_rows",
    "SpeechTokens": "vocable.types",
    "Stream": "vocable.types",
    "TokenShards": "vocable.tokens.shards",
    "Utterance": "vocable.types",
    "Word": "vocable.types",
    "evaluate": "vocable.evaluation.runner",
    "load_lm": "vocable.lm.spoken",
    "load_synthesizer": "vocable.synthesis.opening",
    "load_tokenizer": "vocable.tokens.tokenizer",
    "read_audio": "vocable.audio.io",
    "read_manifest": "vocable.audio.manifest",
    "train": "vocable.systems",
    "write_audio": "vocable.audio.writing",
    "write_manifest": "vocable.audio.manifest",
}

__all__ = [
    "Clip",
    "GenerationConfig",
    "Segment",
    "SpeechTokens",
    "Stream",
    "TokenShards",
    "Utterance",
    "Word",
    "__version__",
    "evaluate",
    "load_lm",
    "load_synthesizer",
    "load_tokenizer",
    "read_audio",
    "read_manifest",
    "train",
    "write_audio",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    """Load what is public when it is first asked for, so that importing the package is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vocable' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
