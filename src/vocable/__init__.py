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
    from vocable.audio.io import read_audio as read_audio
    from vocable.audio.manifest import read_manifest as read_manifest
    from vocable.audio.manifest import write_manifest as write_manifest
    from vocable.audio.writing import write_audio as write_audio
    from vocable.evaluation.runner import evaluate as evaluate
    from vocable.lm.generation import GenerationConfig as GenerationConfig
    from vocable.lm.spoken import load_lm as load_lm
    from vocable.sequences.joint_rows import Segment as Segment
    from vocable.synthesis.opening import load_synthesizer as load_synthesizer
    from vocable.systems import train as train
    from vocable.tokens.shards import TokenShards as TokenShards
    from vocable.tokens.tokenizer import load_tokenizer as load_tokenizer
    from vocable.types import Clip as Clip
    from vocable.types import SpeechTokens as SpeechTokens
    from vocable.types import Stream as Stream
    from vocable.types import Utterance as Utterance
    from vocable.types import Word as Word

_NAMES = {
    "vocable.audio.io": "read_audio",
    "vocable.audio.manifest": "read_manifest write_manifest",
    "vocable.audio.writing": "write_audio",
    "vocable.evaluation.runner": "evaluate",
    "vocable.lm.generation": "GenerationConfig",
    "vocable.lm.spoken": "load_lm",
    "vocable.sequences.joint_rows": "Segment",
    "vocable.synthesis.opening": "load_synthesizer",
    "vocable.systems": "train",
    "vocable.tokens.shards": "TokenShards",
    "vocable.tokens.tokenizer": "load_tokenizer",
    "vocable.types": "Clip SpeechTokens Stream Utterance Word",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted([*_HOMES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load what is public when it is first asked for, so that importing the package is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vocable' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
