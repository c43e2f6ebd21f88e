"""One way to open any synthesizer: ours, a published one, a codec's decoder, or the small one in this package.

Other kinds enter themselves with `@register_synthesizer("name")`, or through the entry point group
`vocable.synthesizers`; config.json in their folder names the kind under `synthesizer_type`.
"""

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from torch import nn

from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.registry import look_up
from vocable.synthesis.unit_hifigan import UnitHiFiGAN
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.tokenizer import SpeechTokenizer, Synthesizer, load_tokenizer, resolve_folder

SHIPPED = "vocable/voices"
"""The vocoder that comes with Vocable; it reads k-means units of one encoder by their vectors."""
SYNTHESIZER_TYPE = "synthesizer_type"
"""Key of config.json."""
ENTRY_POINTS = "vocable.synthesizers"


Opener = Callable[[Path, SpeechTokenizer | None, str], Synthesizer]
"""Opens the synthesizer in a folder; given are also the tokenizer whose tokens are to be heard, where it is known, and
the device."""
_OPENERS: dict[str, Opener] = {}


def register_synthesizer(name: str) -> Callable[[Opener], Opener]:
    """Enter a function under `name`, which config.json files of its kind carry as `synthesizer_type`."""

    def enter(opener: Opener) -> Opener:
        _OPENERS[name] = opener
        return opener

    return enter


def load_synthesizer(
    name_or_folder: Path | str | None = None, tokenizer: SpeechTokenizer | None = None, device: str = "cpu"
) -> Synthesizer:
    """Open what turns tokens into speech.

    Args:
        name_or_folder: A vocoder that `vocable vocoder train` wrote, a published unit HiFi-GAN (generator checkpoint
            and config.json), a tokenizer that is its own synthesizer, or a synthesizer of a registered kind; also the
            folder of a run with `best` or `last` in it. None: the synthesizer that `tokenizer` has, else the small
            vocoder that comes with Vocable.
        tokenizer: The tokenizer whose tokens are to be heard; the synthesizer must fit it.
        device: Where it runs.

    Raises:
        FingerprintError: the synthesizer was made for another tokenizer or encoder; both fingerprints are named.
        ConfigError: it reads units by their vectors, and the tokenizer's units have none.
        AssetError: the folder holds no synthesizer.
    """
    if name_or_folder is None and tokenizer is not None and tokenizer.synthesizer is not None:
        return tokenizer.synthesizer
    path = resolve_folder(SHIPPED if name_or_folder is None else name_or_folder)
    synthesizer = _open(_of_run(path), device, tokenizer)
    if tokenizer is not None:
        if isinstance(synthesizer, UnitVocoder) and synthesizer.config.codebook_dim is not None:
            synthesizer = _fit_to_codebook(synthesizer, tokenizer, path)
        if synthesizer.tokenizer_fingerprint is not None:
            made_for, what = synthesizer.tokenizer_fingerprint, f"the tokenizer {tokenizer.name!r}"
            check_fingerprint(made_for, tokenizer.matching(made_for).fingerprint, f"The synthesizer {path}", what)
    return synthesizer.to(device) if isinstance(synthesizer, nn.Module) else synthesizer


def attach_synthesizer(
    tokenizer: SpeechTokenizer, name_or_folder: Path | str | None = None, device: str = "cpu"
) -> SpeechTokenizer:
    """Open a synthesizer and attach it; see `load_synthesizer`.

    Returns:
        The tokenizer, or the one stream of it that the synthesizer reads.
    """
    synthesizer = load_synthesizer(name_or_folder, tokenizer, device)
    reads = tokenizer.matching(synthesizer.tokenizer_fingerprint)
    reads.synthesizer = synthesizer
    return reads


def _of_run(path: Path) -> Path:
    """Return the folder itself, or the best or last model of a training run in it."""
    folders = (path, path / "best", path / "last")
    return next((folder for folder in folders if (folder / "config.json").is_file()), path)


def _open(path: Path, device: str, tokenizer: SpeechTokenizer | None) -> Synthesizer:
    if not (path / "config.json").is_file():
        raise AssetError(f"{path}: no config.json, so there is no vocoder. Train one: vocable vocoder train")
    description = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "tokenizer_type" in description:
        own = load_tokenizer(path, device).synthesizer
        if own is None:
            raise AssetError(f"{path}: this tokenizer makes no sound by itself. Train a vocoder: vocable vocoder train")
        return own
    if SYNTHESIZER_TYPE in description:
        return _opener(description[SYNTHESIZER_TYPE])(path, tokenizer, device)
    return UnitVocoder.from_pretrained(path) if "vocable_class" in description else _published(path)


def _opener(name: str) -> Opener:
    if name not in _OPENERS:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == name:
                _OPENERS[name] = entry.load()
    return look_up("synthesizer type", name, _OPENERS)


def _fit_to_codebook(vocoder: UnitVocoder, tokenizer: SpeechTokenizer, path: Path) -> UnitVocoder:
    """Give a vocoder that embeds units by their vectors the codebook of a tokenizer."""
    units = tokenizer.unit_vectors()
    if units is None:
        raise ConfigError(
            f"{path} reads k-means units by their vectors, but the tokens of {tokenizer.name!r} stand for no vectors "
            f"of an encoder. Train a vocoder for it: vocable vocoder train MANIFEST OUT --tokenizer {tokenizer.name}"
        )
    if vocoder.config.encoder_fingerprint != units.encoder_fingerprint:
        raise FingerprintError(
            f"{path} reads units of an encoder with fingerprint {vocoder.config.encoder_fingerprint}, but "
            f"{tokenizer.name!r} has encoder {units.encoder_name!r} with fingerprint {units.encoder_fingerprint}. "
            f"Train a vocoder for it: vocable vocoder train MANIFEST OUT --tokenizer {tokenizer.name}"
        )
    return vocoder.for_codebook(units.vectors, tokenizer.fingerprint)


def _published(path: Path) -> UnitHiFiGAN:
    checkpoints = [file for file in sorted(path.iterdir()) if file.suffix in {"", ".pt", ".pth", ".ckpt", ".bin"}]
    if len(checkpoints) != 1:
        raise AssetError(
            f"{path}: a published unit HiFi-GAN is one checkpoint beside its config.json; here are {len(checkpoints)} "
            "files that could be it. Keep one."
        )
    return UnitHiFiGAN.from_published(checkpoints[0], path / "config.json")
