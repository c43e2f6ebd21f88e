"""A file with the codes of one recording, in as few bits as their codebooks need.

    SpeechTokens --write_codes--> speech.codes --read_codes--> SpeechTokens, the length, the tokenizer's card

A safetensors file: for every stream a row of bytes, its name the stream's. A code of K takes ceil(log2 K) bits, the
highest first; the codes of a position follow each other, level by level, then those of the next position. The header
says how many positions there are, how many samples the recording had, and which tokenizer made the codes.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vocable.errors import AudioFormatError, ConfigError
from vocable.files import replace_file
from vocable.tokens.streams import streams_of_card
from vocable.types import SpeechTokens

SUFFIX = ".codes"
VERSION = 1


class CodeFile(NamedTuple):
    """The codes of one recording, and what is needed to make sound of them."""

    tokens: SpeechTokens
    num_samples: int
    """Length of the recording, in samples at the tokenizer's rate."""
    name: str
    """Name of the file that was encoded."""
    card: Mapping[str, Any]
    """Card of the tokenizer that made the codes."""


def write_codes(path: Path, tokens: SpeechTokens, card: Mapping[str, Any], num_samples: int, name: str) -> None:
    """Write the codes of a recording.

    Raises:
        ConfigError: the codes are not those of frames, or outside the codebooks that the card names.
        OutputError: the file cannot be written.
    """
    packed, positions = {}, {}
    for stream in streams_of_card(card):
        one = tokens.stream(stream.name)
        if one.durations is not None or stream.rate is None:
            raise ConfigError(
                f"{path}: the stream {stream.name!r} of {card.get('name')!r} has no code for each frame; files of "
                "codes are for codecs. Token shards keep durations: vocable tokenize"
            )
        packed[stream.name] = pack_codes(one.codes, stream.codebook_sizes)
        positions[stream.name] = one.codes.shape[1]
    about = {
        "version": VERSION,
        "num_samples": num_samples,
        "name": name,
        "positions": positions,
        "crc32": _crc32(packed),
        "card": dict(card),
    }
    header = {"vocable_codes": json.dumps(about, separators=(",", ":"), ensure_ascii=False)}
    with replace_file(path) as file:
        file.write(safetensors.numpy.save(packed, metadata=header))


def read_codes(path: Path) -> CodeFile:
    """Read what `write_codes` wrote.

    Raises:
        AudioFormatError: the file is not there, is no such file, or is damaged.
    """
    about, packed = _read(path, with_codes=True)
    try:
        if _crc32(packed) != about["crc32"]:
            raise ValueError("a checksum does not fit")
        streams = {
            stream.name: SpeechTokens(
                codes=unpack_codes(packed[stream.name], stream.codebook_sizes, about["positions"][stream.name])
            )
            for stream in streams_of_card(about["card"])
        }
    except (KeyError, TypeError, ValueError) as error:
        raise AudioFormatError(f"{path}: is damaged ({error}). Copy it, or encode the recording, again.") from error
    tokens = SpeechTokens(streams=streams) if len(streams) > 1 else next(iter(streams.values()))
    return CodeFile(tokens, about["num_samples"], about["name"], about["card"])


def read_code_card(path: Path) -> dict[str, Any]:
    """Return the card of the tokenizer that made the codes, without reading them; errors are those of `read_codes`."""
    return _read(path, with_codes=False)[0]["card"]


def pack_codes(codes: Int[Tensor, "levels positions"], sizes: Sequence[int]) -> UInt8[np.ndarray, " bytes"]:
    """Write codes as bits, in ceil(log2 size) bits each.

    Raises:
        ConfigError: there are not as many levels as sizes, or a code is outside its codebook.
    """
    if len(codes) != len(sizes):
        raise ConfigError(f"The codes have {len(codes)} levels, and the card of the tokenizer {len(sizes)}.")
    bits = []
    for level, size in zip(codes.numpy(), sizes, strict=True):
        if level.size and not 0 <= level.min() <= level.max() < size:
            raise ConfigError(f"There is a code {level.min()} or {level.max()}; the codebook has 0 to {size - 1}.")
        bits.append(level[:, None] >> np.arange(_num_bits(size))[::-1] & 1)
    return np.packbits(np.concatenate(bits, axis=1).astype(np.uint8))


def unpack_codes(
    packed: UInt8[np.ndarray, " bytes"], sizes: Sequence[int], positions: int
) -> Int[Tensor, "levels positions"]:
    """Undo `pack_codes`.

    Raises:
        ValueError: the bytes do not hold so many codes, or a code is outside its codebook.
    """
    widths = [_num_bits(size) for size in sizes]
    if len(packed) != -(-positions * sum(widths) // 8):
        raise ValueError(f"{len(packed)} bytes do not hold {positions} x {sum(widths)} bits")
    bits = np.unpackbits(packed, count=positions * sum(widths)).reshape(positions, sum(widths))
    levels = [
        part @ (1 << np.arange(width, dtype=np.int64)[::-1])
        for part, width in zip(np.split(bits, np.cumsum(widths)[:-1], axis=1), widths, strict=True)
    ]
    for level, size in zip(levels, sizes, strict=True):
        if level.size and level.max() >= size:
            raise ValueError(f"there is a code {level.max()}, and the codebook has {size}")
    return torch.from_numpy(np.stack(levels).astype(np.int64))


def _num_bits(size: int) -> int:
    """Bits of a code: ceil(log2 size)."""
    return (size - 1).bit_length()


def _crc32(packed: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(packed):
        checksum = zlib.crc32(packed[name].tobytes(), checksum)
    return checksum


def _read(path: Path, with_codes: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and, if asked for, the bytes of each stream."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["vocable_codes"])
            packed = {name: file.get_tensor(name) for name in file.keys()} if with_codes else {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise AudioFormatError(
            f"{path}: is no whole file of codes ({type(error).__name__}: {error}). Make one: vocable codec encode"
        ) from error
    if about.get("version") != VERSION:
        raise AudioFormatError(
            f"{path}: has version {about.get('version')} of the format; this Vocable reads version {VERSION}."
        )
    return about, packed
