"""Units: frames of a pretrained encoder, each replaced by the number of its nearest k-means centroid.

    waveform  --FeatureEncoder-->  features (frames, dim)  --KMeans-->  units (frames,)  --collapse_runs-->  runs

GSLM (Lakhotia et al., 2021, arXiv:2102.01192) and TWIST (Hassid et al., 2023, arXiv:2305.13009). The folder of a saved
tokenizer holds the codebook; the encoder is named in it and loaded again, and must be the very same.
"""

import random
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.audio.manifest import Rejections
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.features import EncoderConfig, FeatureEncoder, load_encoder
from vocable.features.base import BATCHINGS
from vocable.files import differences
from vocable.tokens import processes
from vocable.tokens.feature_files import read_feature_files, write_feature_files
from vocable.tokens.fingerprint import encoder_fingerprint, fingerprint, tensor_sha256
from vocable.tokens.kmeans import KMeans, KMeansConfig, fit_kmeans
from vocable.tokens.kmeans_report import KMeansReport
from vocable.tokens.runs import collapse_runs
from vocable.tokens.sklearn_kmeans import read_centroids
from vocable.tokens.streaming import read_features
from vocable.tokens.tokenizer import SpeechTokenizer, UnitVectors, register_tokenizer
from vocable.types import Clip, SpeechTokens, Stream, Utterance, Word

UNITS_VERSION = 1
"""Goes up when the same features and codebook give other units than before; part of the fingerprint."""
REPORT_FILE = "fit_report.json"
INCOMPLETE = "{}: the tokenizer folder is incomplete. Copy or download it again."
C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTokenizerConfig:
    """A unit tokenizer, and how to fit it."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Pretrained encoder that gives the features."""
    kmeans: KMeansConfig = field(default_factory=KMeansConfig)
    """Codebook, and how it is fitted."""
    collapse: bool = True
    """Whether `encode` collapses runs of a unit, keeping their durations."""
    name: str = "units"
    """Name on the card."""
    fit_hours: float | None = None
    """Hours of speech to fit on, drawn at random; None takes all. Some ten minutes per 100 clusters is plenty."""

    def __post_init__(self) -> None:
        if self.fit_hours is not None and self.fit_hours <= 0:
            raise ConfigError(f"fit_hours is {self.fit_hours}; it must be positive, or None for all speech.")


class FrameTokenizer(SpeechTokenizer):
    """A frozen encoder, and one unit for each of its frames; runs of a unit are collapsed if `config.collapse` says so.

    With `exact` batching the units of a clip do not depend on its company, bit for bit: `frame_units` takes clip by
    clip. Other ways of batching (see `FeatureEncoder.encode`) are faster on a GPU and may change a few units.
    """

    batchings = BATCHINGS
    config: Any
    """Settings, with the fields `name`, `collapse` and `encoder`."""
    window_frames: int
    """Most frames of a recording that are given their units at once."""
    context_frames: int = 0
    """Context of a window on each side of the frames that are kept of it."""

    def __init__(self, encoder: FeatureEncoder, config: Any, codebook_size: int, identity: Mapping[str, Any]) -> None:
        """Name the tokenizer by its encoder and by `identity`, which says what else decides the units."""
        self.encoder, self.config = encoder, config
        self._streams = (Stream(name="units", codebook_sizes=(codebook_size,), rate=encoder.frame_rate),)
        encoded_by = encoder_fingerprint(encoder.description())
        self._fingerprint = fingerprint({"tokenizer_type": self.tokenizer_type, "encoder": encoded_by, **identity})

    @abstractmethod
    def window_units(self, features: Float[Tensor, "frames dim"]) -> Int[Tensor, " frames"]:
        """Return the units of one window."""

    def frame_units(self, pieces: Iterable[Float[Tensor, "_frames dim"]]) -> Int[Tensor, " frames"]:
        """Return the units of one recording, whose features come in pieces; how it is cut changes nothing."""
        units, keep_start = [], 0
        size, context = self.window_frames, self.context_frames
        waiting = torch.empty(0, self.encoder.dim, device=self.encoder.device)
        for piece in pieces:
            waiting = torch.cat([waiting, piece])
            while len(waiting) > size:
                units.append(self.window_units(waiting[:size])[keep_start : size - context])
                keep_start, waiting = context, waiting[size - 2 * context :]
        units.append(self.window_units(waiting)[keep_start:])
        return torch.cat(units)

    @property
    def name(self) -> str:
        """As set in the config."""
        return self.config.name

    @property
    def sample_rate(self) -> int:
        """The encoder's, Hz."""
        return self.encoder.sample_rate

    @property
    def streams(self) -> tuple[Stream, ...]:
        """One stream: a unit per frame of the encoder."""
        return self._streams

    @property
    def fingerprint(self) -> str:
        """Name of the encoder's weights and settings, and of all else that decides the units; not of `collapse`."""
        return self._fingerprint

    def card(self) -> dict[str, Any]:
        """Return the common entries, and encoder, collapsing and number type."""
        return {
            **super().card(),
            "collapse": self.config.collapse,
            "dtype": self.config.encoder.dtype,
            "encoder": self.encoder.description(),
        }

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        """Return the units of clips, runs collapsed if so configured."""
        features = self.encoder.encode([clip.waveform for clip in clips], batching)
        return [self._as_tokens(self.frame_units([frames])) for frames in features]

    def encode_stream(
        self,
        blocks: Iterable[Float[Tensor, " _samples"]],
        text: str | None = None,
        words: tuple[Word, ...] | None = None,
    ) -> SpeechTokens:
        """Return the units of one recording that arrives in blocks: the same bits as `encode`, in little memory."""
        return self._as_tokens(self.frame_units(self.encoder.encode_stream(blocks)))

    def _as_tokens(self, units: Int[Tensor, " frames"]) -> SpeechTokens:
        units = units.cpu()
        if not self.config.collapse:
            return SpeechTokens(codes=units[None])
        runs = collapse_runs(units)
        return SpeechTokens(codes=runs.units[None], durations=runs.durations)


@register_tokenizer("units")
class UnitTokenizer(FrameTokenizer):
    """A frozen encoder and a codebook. Encoder and codebook live on the same device."""

    config: UnitTokenizerConfig

    def __init__(
        self, encoder: FeatureEncoder, kmeans: KMeans, config: UnitTokenizerConfig, report: KMeansReport | None = None
    ) -> None:
        if encoder.dim != kmeans.dim:
            raise ConfigError(
                f"The codebook has {kmeans.dim} dimensions, but {encoder.name!r} layer {encoder.layer} gives "
                f"{encoder.dim}: it was fitted on other features."
            )
        self.kmeans, self.report, self.window_frames = kmeans.to(encoder.device), report, kmeans.block_frames
        identity = {"units_version": UNITS_VERSION, "codebook_sha256": tensor_sha256(kmeans.centroids)}
        super().__init__(encoder, config, kmeans.codebook_size, identity)

    @classmethod
    def fit(
        cls,
        utterances: Sequence[Utterance],
        config: UnitTokenizerConfig = UnitTokenizerConfig(),  # frozen
        *,
        device: str = "cpu",
        rejections: Rejections | None = None,
        strict: bool = False,
        work_folder: Path | None = None,
        on_utterance: Callable[[Utterance], None] | None = None,
        on_pass: Callable[[int, float], None] | None = None,
    ) -> "UnitTokenizer":
        """Extract features once, into files, and fit the codebook on them; long recordings are streamed.

        Under `torch.distributed` every process extracts its own share, and all end with the same tokenizer.

        Args:
            utterances: The speech to fit on.
            config: The settings.
            device: Where encoder and k-means run.
            rejections: Where unreadable files are noted; they are skipped.
            strict: Whether an unreadable file is an error instead.
            work_folder: For the features, 4 * dim bytes per frame; None: a temporary folder.
            on_utterance: Called after each utterance, to show progress.
            on_pass: Called after each pass of k-means; see `fit_kmeans`.

        Raises:
            AudioFormatError: an unreadable file, when `strict`.
            ConfigError: too little speech for so many clusters.
            OutputError: the features do not fit on the disk.
        """
        encoder = load_encoder(config.encoder, device)
        with tempfile.TemporaryDirectory(prefix="vocable-features-", dir=work_folder) as folder:
            features = _features_to_fit_on(utterances, encoder, config, rejections, strict, on_utterance)
            paths = write_feature_files(features, Path(folder))
            kmeans, report = fit_kmeans(read_feature_files(paths), config.kmeans, device, on_pass=on_pass)
        return cls(encoder, kmeans, config, report)

    @classmethod
    def from_kmeans_file(cls, config: UnitTokenizerConfig, path: Path | str, device: str = "cpu") -> "UnitTokenizer":
        """Take a published scikit-learn k-means file, read without unpickling, or a .npy, in place of fitting.

        The tokenizer's config then says how many clusters the file holds.

        Raises:
            ConfigError: `kmeans.num_clusters` is set, that is, not left at its default, and the file holds another
                number of clusters.
        """
        centroids = read_centroids(Path(path))
        size, kmeans = len(centroids), config.kmeans
        if kmeans.num_clusters not in (size, KMeansConfig().num_clusters):
            raise ConfigError(
                f"tokenizer.kmeans.num_clusters is {kmeans.num_clusters}, but {path} holds {size} clusters. Set "
                f"tokenizer.kmeans.num_clusters={size}, or leave it out; or name another kmeans_file."
            )
        kmeans = replace(kmeans, num_clusters=size, init_frames=max(kmeans.init_frames, size))
        return cls(
            load_encoder(config.encoder, device), KMeans(centroids, kmeans.block_frames), replace(config, kmeans=kmeans)
        )

    def window_units(self, features: Float[Tensor, "frames dim"]) -> Int[Tensor, " frames"]:
        """Return the nearest centroids; windows are the blocks that `KMeans.assign` would cut the whole into."""
        return self.kmeans.assign(features)

    def in_bfloat16(self) -> "UnitTokenizer | None":
        """Return the same units by an encoder in bfloat16; None where it runs in bfloat16 already."""
        if self.config.encoder.dtype != "float32":
            return None
        encoder = load_encoder(replace(self.config.encoder, dtype="bfloat16"), str(self.encoder.device))
        return UnitTokenizer(encoder, self.kmeans, self.config)

    def unit_vectors(self) -> UnitVectors:
        """Return the centroids."""
        description = self.encoder.description()
        return UnitVectors(self.kmeans.centroids.cpu(), self.encoder.name, encoder_fingerprint(description))

    def saved_config(self) -> dict[str, Any]:
        """Return the settings, and what the encoder was."""
        return {"units": config_to_dict(self.config), "encoder": self.encoder.description()}

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the codebook; the encoder's weights stay where they are."""
        return {"centroids": self.kmeans.centroids}

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write config.json, model.safetensors, and the report of the fit if there was one."""
        folder = super().save_pretrained(folder)
        if self.report is not None:
            self.report.save(folder / REPORT_FILE)
        return folder

    @classmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "UnitTokenizer":
        """Load the encoder by its name, check that it is the one of old, and add the codebook."""
        if "centroids" not in tensors:
            raise AssetError(INCOMPLETE.format(source))
        settings, encoder = load_saved_encoder(UnitTokenizerConfig, config, "units", device, source)
        return cls(encoder, KMeans(tensors["centroids"], settings.kmeans.block_frames), settings)


def load_saved_encoder(
    kind: type[C], config: Mapping[str, Any], key: str, device: str, source: str
) -> tuple[C, FeatureEncoder]:
    """Return the settings of a saved tokenizer, and its encoder, loaded by name and checked to be the one of old.

    Raises:
        AssetError: settings are missing.
        FingerprintError: another encoder is found under the name.
    """
    if key not in config or "encoder" not in config:
        raise AssetError(INCOMPLETE.format(source))
    settings: Any = config_from_dict(kind, config[key], source=source)
    encoder = load_encoder(settings.encoder, device)
    check_encoder(config["encoder"], encoder.description(), source)
    return settings, encoder


def check_encoder(expected: Mapping[str, Any], found: Mapping[str, Any], source: str) -> None:
    """Compare the encoder that a codebook was fitted on with the one at hand.

    Raises:
        FingerprintError: they differ; the message has both fingerprints and what differs.
    """
    before, now = encoder_fingerprint(expected), encoder_fingerprint(found)
    if before != now:
        raise FingerprintError(
            f"{source}: the codebook was fitted on encoder {expected.get('name')!r} layer {expected.get('layer')} with "
            f"fingerprint {before}, but the encoder found under that name has fingerprint {now} "
            f"({differences(expected, found)}). Its units would mean nothing: get the encoder it was fitted on, or fit "
            "a new codebook."
        )


def _features_to_fit_on(
    utterances: Sequence[Utterance],
    encoder: FeatureEncoder,
    config: UnitTokenizerConfig,
    rejections: Rejections | None,
    strict: bool,
    on_utterance: Callable[[Utterance], None] | None,
) -> Iterator[Tensor]:
    """Features of this process's share of the utterances: all in order, or random ones up to the hours asked for.

    In order, stretches of one lossy file are read one after the other, and it is decoded once.
    """
    chosen = list(utterances)
    if config.fit_hours is not None:
        random.Random(config.kmeans.seed).shuffle(chosen)
    wanted_seconds = float("inf") if config.fit_hours is None else config.fit_hours * 3600 / processes.num_processes()
    seconds = 0.0
    for utterance in chosen[processes.rank() :: processes.num_processes()]:
        if seconds >= wanted_seconds:
            return
        num_samples, features = read_features(utterance, encoder, rejections, strict)
        seconds += num_samples / encoder.sample_rate
        yield from features
        if on_utterance is not None:
            on_utterance(utterance)
