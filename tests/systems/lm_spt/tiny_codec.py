"""A codec of a few thousand weights, and recordings for it."""

from pathlib import Path
from typing import Any

import torch

from vocable.audio.writing import write_audio
from vocable.features import EncoderConfig
from vocable.synthesis.discriminators import DiscriminatorConfig
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.systems.lm_spt.config import CodecConfig, CodecTrainingConfig, LmSptConfig
from vocable.systems.lm_spt.decoders import SourceFilterCodecConfig
from vocable.systems.lm_spt.distillation import DistillationConfig, TeacherConfig
from vocable.systems.lm_spt.mel import MelEncoderConfig
from vocable.systems.lm_spt.vocos import VocosDecoderConfig
from vocable.tokens.quantizers import ResidualQuantizerConfig, SplitQuantizerConfig, VectorQuantizerConfig
from vocable.types import Utterance

RATE, FRAME_RATE, HOP = 8000, 12.5, 640
JUDGES = DiscriminatorConfig(periods=(3,), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4)
LEVEL = VectorQuantizerConfig(dim=6, codebook_size=8, init_batches=1)
QUANTIZER = SplitQuantizerConfig(semantic=LEVEL, acoustic=ResidualQuantizerConfig(level=LEVEL, num_levels=2))
SOURCE = SourceFilterConfig(
    content_dim=4, dim=16, hidden_dim=16, num_layers=1, kernel_size=3, sample_rate=RATE, hop_length=100, n_fft=200,
    speaker_dim=3,
)  # fmt: skip
VOCOS = VocosDecoderConfig(
    dim=8, hidden_dim=12, num_layers=1, kernel_size=3, sample_rate=RATE, upsample=(4,), fine_layers=1
)
MEL = MelEncoderConfig(
    num_mels=20, max_frequency=3800.0, stride=8, dim=12, hidden_dim=16, frame_layers=1, token_layers=1, kernel_size=3
)
VOICE = SourceFilterCodecConfig(
    stride=8, dim=12, hidden_dim=16, token_layers=1, frame_layers=1, kernel_size=3, source=SOURCE, weights=None
)


def codec_config(**settings: Any) -> CodecConfig:
    values = {"sample_rate": RATE, "frame_rate": FRAME_RATE, "dim": 6, "encoder": MEL, "quantizer": QUANTIZER}
    return CodecConfig(**{**values, "decoder": VOICE, "auxiliary": VOCOS, **settings})


def tiny_config(teacher: Path | None = None, codec: CodecConfig | None = None, **training: Any) -> LmSptConfig:
    """A recipe; without a teacher nothing is distilled."""
    values = {"max_steps": 6, "batch_size": 3, "crop_seconds": 0.8, "loudness_db": -27.0, "top_hz": None}
    values |= {"discriminators": JUDGES, "precision": "fp32", "log_every": 1, "validate_every": 3}
    values |= {"checkpoint_every": 3, "quantize_from": 0.0, "adversarial_crop_seconds": 0.3}
    distillation = DistillationConfig(mode="none")
    if teacher is not None:
        encoder = EncoderConfig(name=str(teacher), layer=2)
        distillation = DistillationConfig(weight=1.0, teacher=TeacherConfig(encoder=encoder, padding="crop"))
    return LmSptConfig(
        training=CodecTrainingConfig(**{**values, **training}),
        codec=codec or codec_config(),
        distillation=distillation,
        start=None,
    )


def write_recordings(
    folder: Path, make_speechlike, seconds: tuple[float, ...] = (1.5, 0.3, 2.0, 1.1)
) -> list[Utterance]:
    """Write recordings, one of them shorter than a crop."""
    found = []
    for seed, length in enumerate(seconds):
        path = folder / f"clip-{seed}.flac"
        write_audio(path, make_speechlike(int(length * RATE), seed=seed, sample_rate=RATE), RATE)
        found.append(Utterance(id=path.stem, audio=path, duration=length, speaker=f"speaker-{seed % 2}"))
    return found


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
