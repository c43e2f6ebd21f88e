"""Load a transformers recogniser, as aligners and judges need it: model, feature extractor and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from vocable.assets import resolve
from vocable.assets.quiet import silenced_transformers
from vocable.errors import AssetError


class Recogniser(NamedTuple):
    """The parts of a checkpoint, and the folder they were read from."""

    folder: Path
    model: Any
    feature_extractor: Any
    tokenizer: Any


def load_recogniser(name: str, kind: Literal["Whisper", "CTC"], dtype: str | None = None) -> Recogniser:
    """Load a checkpoint by hub name, asset name or folder; without `dtype`, in the type that transformers chooses.

    Raises:
        AssetError: it is not available, or not a complete checkpoint of this kind.
    """
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, WhisperForConditionalGeneration

    folder = Path(resolve(name))
    model_class: Any = WhisperForConditionalGeneration if kind == "Whisper" else AutoModelForCTC
    try:
        with silenced_transformers():
            model = model_class.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))
            return Recogniser(
                folder, model, AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
            )
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{folder}: not a complete {kind} checkpoint: {error}") from error
