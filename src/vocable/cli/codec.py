"""`vocable codec encode` turns recordings into small files of codes, and `vocable codec decode` makes sound of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import vocable
from vocable.devices import best_device
from vocable.errors import AssetError, AudioFormatError, ManifestError, OutputError
from vocable.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.audio.manifest import Rejections
    from vocable.tokens.tokenizer import SpeechTokenizer

CODEC = "vocable/codec-12.5hz"
"""The codec of both commands where none is named."""


def encode(
    audio: tuple[Path, ...], out: Path, tokenizer: str = CODEC, device: str | None = None, strict: bool = False
) -> None:
    """Compress recordings into files of codes, one each, a hundred times smaller than FLAC or more.

    vocable codec encode speech.flac codes
    vocable codec encode one.wav recordings codes --tokenizer runs/codec/tokenizer

    Args:
        audio: audio files, and folders of them.
        out: folder to write; a recording keeps its name, with the suffix .codes.
        tokenizer: folder of the codec, or its name.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        strict: stop at the first unreadable file; otherwise these are noted in rejected.jsonl and left out.
    """
    from vocable.audio.io import iterate_audio
    from vocable.audio.manifest import Rejections
    from vocable.corpora.folder import import_folder
    from vocable.tokens.code_files import SUFFIX, write_codes

    codec, rejections = open_codec(tokenizer, device), Rejections(out)
    found = [item for path in audio for item in import_folder(path, strict=strict, rejections=rejections)]
    targets = claim_files(out, [f"{item.id}{SUFFIX}" for item in found])
    num_samples = num_bytes = done = 0

    def counted(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        nonlocal length
        for block in blocks:
            length += len(block)
            yield block

    for item, target in track(list(zip(found, targets, strict=True)), "Encoding"):
        length = 0
        try:
            tokens = codec.encode_stream(counted(iterate_audio(item.audio, codec.sample_rate)))
        except AudioFormatError as error:
            _leave_out(error, item.id, item.audio, rejections, strict)
            continue
        write_codes(target, tokens, codec.card(), length, item.audio.name)
        num_samples, num_bytes, done = num_samples + length, num_bytes + target.stat().st_size, done + 1
    seconds = num_samples / codec.sample_rate
    if seconds:
        print(f"{seconds:.1f} s of speech in {num_bytes:,} bytes, {8 * num_bytes / seconds:,.0f} bits a second")
    _report(done, out, rejections)


def decode(
    files: tuple[Path, ...],
    out: Path,
    tokenizer: str = CODEC,
    levels: str = "all",
    format: Literal["wav", "flac", "ogg", "mp3"] = "wav",
    device: str | None = None,
    strict: bool = False,
) -> None:
    """Make sound of files of codes; each lasts as long as the recording did, at the codec's sample rate.

    vocable codec decode codes/speech.codes heard
    vocable codec decode codes heard --levels 2 --tokenizer runs/codec/tokenizer

    Args:
        files: files that `vocable codec encode` wrote, and folders of them.
        out: folder to write.
        tokenizer: folder of the codec that wrote them, or its name.
        levels: what is decoded: all, a number (so many levels of each stream, the first ones), or the name of a stream,
            such as semantic.
        format: format of the audio.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        strict: stop at the first damaged file; otherwise these are noted in rejected.jsonl and left out.
    """
    from vocable.audio.manifest import Rejections
    from vocable.audio.writing import write_audio_blocks
    from vocable.evaluation.reconstruction import Decoding
    from vocable.tokens.code_files import SUFFIX, read_code_card, read_codes
    from vocable.tokens.fingerprint import check_fingerprint

    codec, rejections = open_codec(tokenizer, device), Rejections(out)
    decoding = Decoding.of(codec.streams, levels, f"The codec {codec.name!r}")
    found = []
    for path, id in _code_files(files, SUFFIX):
        try:
            made_by = read_code_card(path)["fingerprint"]
        except AudioFormatError as error:
            _leave_out(error, id, path, rejections, strict)
            continue
        check_fingerprint(made_by, codec.fingerprint, f"The file {path}", f"the codec {tokenizer}")
        found.append((path, id))
    targets = claim_files(out, [f"{id}.{format}" for _, id in found])
    done = 0
    for (path, id), target in track(list(zip(found, targets, strict=True)), "Decoding"):
        try:
            file = read_codes(path)
        except AudioFormatError as error:
            _leave_out(error, id, path, rejections, strict)
            continue
        (waveform,) = codec.decode([decoding.of_tokens(file.tokens)])
        length = round(file.num_samples * codec.decode_rate / codec.sample_rate)
        write_audio_blocks(target, [waveform[:length]], codec.decode_rate)
        done += 1
    _report(done, out, rejections)


def open_codec(tokenizer: str, device: str | None) -> SpeechTokenizer:
    """Load a codec.

    Raises:
        AssetError: it is the one that is meant where none is named, and this installation does not have it.
    """
    from vocable.assets import is_available

    if tokenizer == CODEC and not is_available(CODEC):
        raise AssetError(
            f"{CODEC} does not come with this installation. Train a codec, and name it: vocable train "
            "recipes/lm-spt/cpu-12.5hz.yaml --manifest speech.jsonl --out runs/codec; then --tokenizer "
            "runs/codec/tokenizer"
        )
    return vocable.load_tokenizer(tokenizer, best_device(device))


def claim_files(out: Path, names: Sequence[str]) -> list[Path]:
    """Return the files to write, none of which is there.

    Raises:
        OutputError: one is there, or two have the same name.
    """
    targets = [out / name for name in names]
    twice = [path for path, count in Counter(targets).items() if count > 1]
    if twice:
        raise OutputError(f"{twice[0]} would hold two recordings of the same name. Rename one, or choose two folders.")
    there = [path for path in targets if path.exists()]
    if there:
        raise OutputError(f"{there[0]} is there already. Choose another folder, or delete it.")
    return targets


def _code_files(given: Sequence[Path], suffix: str) -> list[tuple[Path, str]]:
    """Paths of files of codes, and their names inside the folder that was given."""
    found = []
    for path in given:
        inside = sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path]
        if not inside:
            raise ManifestError(f"{path}: no file of codes (*{suffix}) in it. Make some: vocable codec encode")
        home = path if path.is_dir() else path.parent
        found += [(one, one.relative_to(home).as_posix().removesuffix(suffix)) for one in inside]
    return found


def _leave_out(error: AudioFormatError, id: str, path: Path, rejections: Rejections, strict: bool) -> None:
    if strict:
        raise error
    rejections.add(id, path, str(error))


def _report(done: int, out: Path, rejections: Rejections) -> None:
    if rejections.count:
        print(f"Left out: {rejections.count}; the reasons are in {rejections.path}")
    print(f"Files in {out}: {done}")


COMMANDS = {"codec encode AUDIO... OUT": encode, "codec decode FILES... OUT": decode}
