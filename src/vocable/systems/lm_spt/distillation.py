"""Distillation: how the semantic code of LM-SPT learns to keep what a frozen encoder of speech hears.

    recording --------------------------------------------> teacher --> target
    semantic vectors --> a decoder --> waveform (resynthesis) --> teacher --> distance to the target
    semantic vectors --> projection (features) -------------------------> distance to the target at the token rate

    teacher = load_teacher(config.teacher)
    distillation = make_distillation(config, teacher, dim=512, frame_rate=12.5)
    target = teacher.target(recordings, 16_000)
    loss = distillation(teacher, target, vectors, main_decoder, auxiliary_decoder)

Source: LM-SPT (Jo et al., 2025, arXiv:2506.16738), its ablations, and the published code (kakao/lmspt).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vocable.errors import AudioFormatError, ConfigError
from vocable.features import EncoderConfig, FeatureEncoder, load_encoder
from vocable.registry import unknown_name_message
from vocable.training.vocoder_losses import resample_differentiably

DistanceName = Literal["mse", "l1", "cosine"]
CacheName = Literal["none", "float32", "float16"]
ModeName = Literal["none", "features", "resynthesis-shared", "resynthesis-shared-stopped", "resynthesis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """The frozen encoder that listens, and how what it hears is compared."""

    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(name="openai/whisper-small", layer=12))
    """The encoder and its layer. The paper's first version listens through the last layer of Whisper small, the
    release through that of Whisper large-v3. Its `padding` stays `none`: the teacher's own decides."""
    distance: DistanceName = "mse"
    """Mean squared error (as published), mean absolute error, or `cosine`: -log sigmoid of the cosine of each dimension
    over time, averaged over dimensions (SpeechTokenizer, Zhang et al., 2023, arXiv:2308.16692, its D axis)."""
    padding: Literal["30s", "masked", "crop"] = "30s"
    """How a crop is brought to the length that Whisper was trained on. `30s`: silence up to 30 s, whose frames count in
    the mean, as published: with crops of 6 s, four fifths of the frames are silence. `masked`: the same, but the mean
    is over the crop's frames. `crop`: no silence, positional embeddings cut to the crop: the cheapest by far, and the
    only one for encoders other than Whisper."""

    def __post_init__(self) -> None:
        _check_choices("teacher", self)
        if self.encoder.padding != "none":
            raise ConfigError(
                f"teacher.encoder.padding is {self.encoder.padding!r}; leave it out and set teacher.padding instead."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Settings of distillation into the semantic code."""

    mode: ModeName = "resynthesis"
    """`resynthesis`: the auxiliary decoder's speech is compared, as published. `resynthesis-shared`: the main decoder's
    speech from the semantic code alone; `resynthesis-shared-stopped` is the same without this loss in the decoder's own
    weights. `features`: projected semantic vectors are compared with the teacher's frames, averaged to the token rate.
    `none`: no distillation."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    weight: float = 100.0
    """Weight of the distance: 100 in the paper's first version, 500 in the release."""
    reconstruction_weight: float = 0.0
    """Weight of the same distance on the main decoder's speech from all levels (as in JHCodec, arXiv:2603.05887, which
    has it in place of distillation). LM-SPT does without."""
    cache: CacheName = "none"
    """Type of the targets that are kept in a file of the run, so that each crop is heard once: `float32` is exact,
    `float16` takes half the disk. Crops then begin at multiples of their length and keep one gain each, where they else
    begin anywhere at any gain; the rest of a recording is not drawn. An hour of speech takes 0.28 GB in float32 with
    Whisper tiny cut to the crop, and with padding 30 / `training.crop_seconds` times that. `none`: the teacher hears
    each batch anew."""

    def __post_init__(self) -> None:
        _check_choices("distillation", self)
        for name in ("weight", "reconstruction_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"distillation.{name} is {getattr(self, name)}; it must not be negative.")

    @property
    def needs_teacher(self) -> bool:
        """Whether anything is compared through the teacher."""
        return self.mode != "none" or self.reconstruction_weight > 0


def _check_choices(name: str, config: Any) -> None:
    for item in fields(config):
        if get_origin(item.type) is Literal and getattr(config, item.name) not in get_args(item.type):
            value, allowed = getattr(config, item.name), get_args(item.type)
            raise ConfigError(unknown_name_message(f"{name}.{item.name}", str(value), allowed))


def squared_distance(
    made: Float[Tensor, "batch frames dim"],
    target: Float[Tensor, "batch frames dim"],
    mask: Bool[Tensor, "batch frames"] | None,
) -> Float[Tensor, ""]:
    """Mean squared error over the frames that `mask` marks, all clips together."""
    return _masked_mean((made - target).square().mean(-1), mask)


def absolute_distance(
    made: Float[Tensor, "batch frames dim"],
    target: Float[Tensor, "batch frames dim"],
    mask: Bool[Tensor, "batch frames"] | None,
) -> Float[Tensor, ""]:
    """Mean absolute error over the frames that `mask` marks, all clips together."""
    return _masked_mean((made - target).abs().mean(-1), mask)


def cosine_distance(
    made: Float[Tensor, "batch frames dim"],
    target: Float[Tensor, "batch frames dim"],
    mask: Bool[Tensor, "batch frames"] | None,
) -> Float[Tensor, ""]:
    """-log sigmoid of the cosine of each dimension over time, averaged over clips and dimensions.

    Source: SpeechTokenizer (Zhang et al., 2023, arXiv:2308.16692), equation 4, with the minus sign that its first
    version lacks.
    """
    if mask is not None:
        made, target = made * mask[..., None], target * mask[..., None]
    return -functional.logsigmoid(functional.cosine_similarity(made, target, dim=1)).mean()


def _masked_mean(errors: Tensor, mask: Tensor | None) -> Tensor:
    return errors.mean() if mask is None else (errors * mask).sum() / mask.sum().clamp(min=1)


DISTANCES = {"mse": squared_distance, "l1": absolute_distance, "cosine": cosine_distance}


class TeacherTarget(NamedTuple):
    """Features of recordings as the teacher hears them, which depend on each clip alone and may be kept on disk."""

    features: Float[Tensor, "batch frames dim"]
    lengths: Int[Tensor, " batch"] | None = None
    """Samples of each clip at the teacher's rate; None: all clips fill their row."""


class Teacher(nn.Module):
    """A frozen encoder that hears speech of any sample rate; gradients flow through it to the waveforms.

    It stays in evaluation mode. It belongs in no optimiser and no checkpoint.
    Differs from the published code: the floor of Whisper's log-mel is relative to the loudest value of the clip, where
    openai-whisper takes that of the whole batch, so that there the target and the made speech are floored differently.
    """

    def __init__(self, encoder: FeatureEncoder, config: TeacherConfig) -> None:
        """Listen through `encoder`, whose padding suits the config's (see `load_teacher`)."""
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.config = config
        self.sample_rate, self.frame_rate, self.dim = encoder.sample_rate, encoder.frame_rate, encoder.dim
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    def description(self) -> dict[str, Any]:
        """Return what decides a target, as JSON values: the key of targets that are kept."""
        return {**self.encoder.description(), "teacher_padding": self.config.padding}

    def features(
        self,
        waveforms: Float[Tensor, "batch samples"],
        sample_rate: int,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Return what the teacher hears, in float32; with padding `30s`, the frames of the silence too.

        A clip shorter than a frame is lengthened with silence to one. Nothing of one clip is in another's features.

        Args:
            waveforms: Speech; resampled when `sample_rate` is not the teacher's.
            sample_rate: Hz.
            lengths: Samples of each clip, where clips are padded to a common length; None: all of them.

        Raises:
            AudioFormatError: there is not one sample at the teacher's rate.
            ConfigError: the clips are longer than the teacher's window.
        """
        return self._features(waveforms, sample_rate, self.own_lengths(lengths, sample_rate))

    @torch.no_grad()
    def target(
        self,
        waveforms: Float[Tensor, "batch samples"],
        sample_rate: int,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> TeacherTarget:
        """Hear recordings, without gradients; arguments as those of `features`."""
        own_lengths = self.own_lengths(lengths, sample_rate)
        return TeacherTarget(self._features(waveforms, sample_rate, own_lengths), own_lengths)

    def distance(
        self, waveforms: Float[Tensor, "batch samples"], sample_rate: int, target: TeacherTarget
    ) -> Float[Tensor, ""]:
        """Compare speech with the target of recordings of the same length.

        Raises:
            ConfigError: it is not as long as the recordings.
        """
        made = self._features(waveforms, sample_rate, target.lengths)
        if made.shape != target.features.shape:
            raise ConfigError(
                f"The teacher hears {tuple(made.shape)} (batch, frames, dim) in {waveforms.shape[1]} samples of "
                f"decoded speech at {sample_rate} Hz, but {tuple(target.features.shape)} in the recordings. Decoder "
                "and encoders must have the same token rate, and targets must come from this teacher."
            )
        return DISTANCES[self.config.distance](made, target.features, self.mask(target))

    def mask(self, target: TeacherTarget) -> Bool[Tensor, "batch frames"] | None:
        """Return which frames count; None when all do."""
        if target.lengths is None or self.config.padding == "30s":
            return None
        return self._heard(target)

    def pooled(
        self, target: TeacherTarget, frame_rate: float, num_tokens: int
    ) -> tuple[Float[Tensor, "batch num_tokens dim"], Bool[Tensor, "batch num_tokens"]]:
        """Average the target's frames over the time of each token; also return which tokens have any frame.

        Args:
            target: Of recordings.
            frame_rate: Tokens per second.
            num_tokens: Tokens of each clip.
        """
        heard = None if target.lengths is None else self._heard(target)
        return pool_frames(target.features, heard, self.frame_rate / frame_rate, num_tokens)

    def _heard(self, target: TeacherTarget) -> Tensor:
        assert target.lengths is not None
        counts = [self.encoder.num_frames(length) for length in target.lengths.tolist()]
        frames = torch.arange(target.features.shape[1], device=target.features.device)
        return frames < torch.tensor(counts, device=frames.device)[:, None]

    def own_lengths(self, lengths: Tensor | None, sample_rate: int) -> Tensor | None:
        """Turn lengths at `sample_rate` into samples at the teacher's rate."""
        return None if lengths is None else -(-lengths * self.sample_rate // sample_rate)

    def _features(self, waveforms: Tensor, sample_rate: int, own_lengths: Tensor | None) -> Tensor:
        if own_lengths is not None:  # before resampling, which would smear what follows a clip into it
            ends = own_lengths * sample_rate / self.sample_rate
            waveforms = waveforms * (torch.arange(waveforms.shape[1], device=waveforms.device) < ends[:, None])
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = resample_differentiably(waveforms.float(), sample_rate, self.sample_rate)
        num_samples = waveforms.shape[1]
        if num_samples == 0:
            raise AudioFormatError(
                f"A crop has not one sample at the teacher's rate of {self.sample_rate} Hz. Make crops longer."
            )
        if self.encoder.num_frames(num_samples) > self.encoder.window_frames:
            longest = self.encoder.window_frames / self.frame_rate
            raise ConfigError(
                f"A crop of {num_samples / self.sample_rate:g} s is longer than the teacher {self.encoder.name!r} "
                f"hears at once, {longest:g} s. Make crops shorter."
            )
        if own_lengths is not None:
            own_lengths = own_lengths.clamp(1, num_samples)
        return self.encoder(waveforms, own_lengths, keep_padding=self.config.padding == "30s")


def load_teacher(config: TeacherConfig, device: str = "cpu") -> Teacher:
    """Load the encoder of a teacher, on `device`.

    Raises:
        AssetError, UnknownNameError: as `load_encoder`.
        ConfigError: it is not a Whisper, and is to be padded as one; or as `load_encoder`.
    """
    padding = "none" if config.padding == "crop" else "30s"
    try:
        return Teacher(load_encoder(replace(config.encoder, padding=padding), device), config)
    except ConfigError as error:
        if "encoder.padding" not in str(error):
            raise
        raise ConfigError(
            f"teacher.padding is {config.padding!r}, but only Whisper is padded to 30 s, and {config.encoder.name!r} "
            "is none. Set teacher.padding to 'crop'."
        ) from error


def pool_frames(
    features: Float[Tensor, "batch frames dim"],
    mask: Bool[Tensor, "batch frames"] | None,
    frames_per_token: float,
    num_tokens: int,
) -> tuple[Float[Tensor, "batch num_tokens dim"], Bool[Tensor, "batch num_tokens"]]:
    """Average frames over the time of each token, each by the share of it that lies within.

    Frame f takes the time from f to f + 1, token t that from t * frames_per_token to (t + 1) * frames_per_token: no
    ratio has to be whole. Frames outside `mask` are left out. Also returns which tokens have any frame; the others are
    zero.
    """
    frames = torch.arange(features.shape[1], dtype=torch.float64, device=features.device)
    starts = torch.arange(num_tokens, dtype=torch.float64, device=features.device)[:, None] * frames_per_token
    shares = torch.minimum(frames + 1, starts + frames_per_token) - torch.maximum(frames, starts)
    weights = shares.clamp(min=0).expand(len(features), -1, -1)  # (batch, num_tokens, frames)
    if mask is not None:
        weights = weights * mask[:, None]
    sums = weights.sum(-1, keepdim=True)
    pooled = (weights / sums.clamp(min=1e-6)).to(features) @ features
    return pooled, sums[..., 0] > 1e-6  # frames that only touch a token share rounding errors with it


class Distillation(nn.Module, ABC):
    """One way of comparing; its parameters, where it has any, learn with the codec."""

    uses_auxiliary = False
    """Whether it needs an auxiliary decoder."""

    @abstractmethod
    def forward(
        self,
        teacher: Teacher | None,
        target: TeacherTarget | None,
        vectors: Float[Tensor, "batch tokens dim"],
        main_decoder: nn.Module,
        auxiliary: nn.Module | None,
    ) -> Float[Tensor, ""]:
        """Return the distance, without its weight.

        Args:
            teacher: The same one in every call.
            target: What it hears in the recordings, `teacher.target(...)` or the same from a cache.
            vectors: Of the semantic code, after quantization.
            main_decoder: Vectors to waveforms at its `sample_rate`.
            auxiliary: The same of the auxiliary decoder.
        """


class NoDistillation(Distillation):
    """Compare nothing."""

    def forward(
        self,
        teacher: Teacher | None,
        target: TeacherTarget | None,
        vectors: Float[Tensor, "batch tokens dim"],
        main_decoder: nn.Module,
        auxiliary: nn.Module | None,
    ) -> Float[Tensor, ""]:
        """Return 0."""
        return vectors.new_zeros(())


class FeatureDistillation(Distillation):
    """Compare projected semantic vectors with the teacher's frames, averaged to the token rate.

    Source: SpeechTokenizer (arXiv:2308.16692), and the feature-level ablation of LM-SPT (arXiv:2506.16738, table 3).
    """

    def __init__(self, dim: int, frame_rate: float, teacher_dim: int) -> None:
        super().__init__()
        self.frame_rate = frame_rate
        self.projection = nn.Linear(dim, teacher_dim)

    def forward(
        self,
        teacher: Teacher | None,
        target: TeacherTarget | None,
        vectors: Float[Tensor, "batch tokens dim"],
        main_decoder: nn.Module,
        auxiliary: nn.Module | None,
    ) -> Float[Tensor, ""]:
        """Compare frames; no decoder is run."""
        assert teacher is not None and target is not None
        wanted, known = teacher.pooled(target, self.frame_rate, vectors.shape[1])
        return DISTANCES[teacher.config.distance](self.projection(vectors).float(), wanted, known)


class ResynthesisDistillation(Distillation):
    """Decode the semantic vectors alone, and compare what the teacher hears (LM-SPT, arXiv:2506.16738)."""

    def __init__(self, decoder: Literal["main", "auxiliary"], stopped: bool = False) -> None:
        """Decode through one of the decoders; `stopped` keeps this loss out of the decoder's weights."""
        super().__init__()
        self.uses_auxiliary, self.stopped = decoder == "auxiliary", stopped

    def forward(
        self,
        teacher: Teacher | None,
        target: TeacherTarget | None,
        vectors: Float[Tensor, "batch tokens dim"],
        main_decoder: nn.Module,
        auxiliary: nn.Module | None,
    ) -> Float[Tensor, ""]:
        """Compare speech."""
        assert teacher is not None and target is not None
        decoder: Any = auxiliary if self.uses_auxiliary else main_decoder
        assert decoder is not None, "this mode needs an auxiliary decoder"
        if self.stopped:
            weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
            waveforms = functional_call(decoder, weights, (vectors,))
        else:
            waveforms = decoder(vectors)
        return teacher.distance(waveforms, decoder.sample_rate, target)


def make_distillation(
    config: DistillationConfig, teacher: Teacher | None, *, dim: int, frame_rate: float
) -> Distillation:
    """Make what the config names.

    Args:
        config: The mode.
        teacher: What the modes other than `none` compare through.
        dim: Width of the semantic vectors.
        frame_rate: Tokens per second.
    """
    modes: dict[str, Callable[[], Distillation]] = {
        "none": NoDistillation,
        "features": lambda: FeatureDistillation(dim, frame_rate, 0 if teacher is None else teacher.dim),
        "resynthesis-shared": lambda: ResynthesisDistillation("main"),
        "resynthesis-shared-stopped": lambda: ResynthesisDistillation("main", stopped=True),
        "resynthesis": lambda: ResynthesisDistillation("auxiliary"),
    }
    return modes[config.mode]()
