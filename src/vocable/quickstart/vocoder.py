"""The small vocoder that comes with Vocable, and how a tokenizer gets the vocoder that fits it."""

import json
from pathlib import Path
from typing import Any

from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.synthesis.unit_hifigan import UnitHiFiGAN
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer

SHIPPED = Path(__file__).with_name("vocoder")


def vocoder_for(tokenizer: SpeechTokenizer, folder: Path | None = None) -> Any:
    """Return a vocoder that reads this tokenizer's tokens.

    Args:
        tokenizer: whose tokens are to be heard.
        folder: a vocoder that `vocable vocoder train` wrote, or a published unit HiFi-GAN (generator checkpoint and
            config.json); None: the small one that comes with Vocable.

    Raises:
        FingerprintError: the vocoder was made for another tokenizer or encoder; both fingerprints are named.
        AssetError: the folder holds no vocoder.
    """
    path = Path(folder) if folder is not None else SHIPPED
    if not (path / "config.json").is_file():
        raise AssetError(f"{path}: no config.json, so there is no vocoder. Train one: vocable vocoder train")
    description = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "vocable_class" not in description:
        return _published(path)
    vocoder = UnitVocoder.from_pretrained(path)
    if vocoder.config.codebook_dim is None:
        vocoder.check_tokenizer(tokenizer.fingerprint)
        return vocoder
    return _fit_to_codebook(vocoder, tokenizer, path)


def _fit_to_codebook(vocoder: UnitVocoder, tokenizer: SpeechTokenizer, path: Path) -> UnitVocoder:
    """Give a vocoder that embeds units by their vectors the codebook of a unit tokenizer."""
    if not isinstance(tokenizer, UnitTokenizer):
        raise ConfigError(
            f"{path} reads k-means units by their vectors, but {tokenizer.name!r} is no unit tokenizer. "
            "Train a vocoder for it: vocable vocoder train"
        )
    found = encoder_fingerprint(tokenizer.encoder.description())
    if vocoder.config.encoder_fingerprint != found:
        raise FingerprintError(
            f"{path} reads units of an encoder with fingerprint {vocoder.config.encoder_fingerprint}, but "
            f"{tokenizer.name!r} has encoder {tokenizer.encoder.name!r} layer {tokenizer.encoder.layer} with "
            f"fingerprint {found}. Train a vocoder for it: vocable vocoder train"
        )
    return vocoder.for_codebook(tokenizer.kmeans.centroids.cpu(), tokenizer.fingerprint)


def _published(path: Path) -> UnitHiFiGAN:
    checkpoints = [file for file in sorted(path.iterdir()) if file.suffix in {"", ".pt", ".pth", ".ckpt", ".bin"}]
    if len(checkpoints) != 1:
        raise AssetError(
            f"{path}: a published unit HiFi-GAN is one checkpoint beside its config.json; here are {len(checkpoints)} "
            "files that could be it. Keep one."
        )
    return UnitHiFiGAN.from_published(checkpoints[0], path / "config.json")
