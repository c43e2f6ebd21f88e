"""Small random unit vocoders for tests of synthesis, at 8 kHz: they prove lengths and equalities, not quality."""

from typing import Any

import torch

from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.types import SpeechTokens

FRONTEND = {"dim": 16, "hidden_dim": 32, "token_layers": 2, "frame_layers": 1, "kernel_size": 3}
DECODER = {"dim": 16, "hidden_dim": 32, "num_layers": 2, "content_dim": 8, "kernel_size": 3}
DECODER |= {"sample_rate": 8000, "hop_length": 100, "n_fft": 200}


def make_config(frontend: dict | None = None, decoder: dict | None = None, **settings) -> VocoderConfig:
    sizes: dict[str, Any] = {"codebook_size": 20, "prosody_dim": 8} | settings
    return VocoderConfig(
        **sizes,
        frontend=FrontendConfig(**FRONTEND | (frontend or {})),
        decoder=SourceFilterConfig(**DECODER | (decoder or {})),
    )


def make_vocoder(frontend: dict | None = None, decoder: dict | None = None, **settings) -> UnitVocoder:
    """A vocoder whose weights are all random: zero biases would hide errors. Its voices have vectors and pitches."""
    torch.manual_seed(0)
    vocoder = UnitVocoder(make_config(frontend, decoder, **settings)).eval()
    for parameter in vocoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.ones_(vocoder.frontend.norm.weight)
    vocoder.frontend.prosody.bias.data = torch.tensor([0.0, 1.0, 0.0])  # most frames are voiced, not all
    torch.nn.init.constant_(vocoder.decoder.head.bias, -1.0)
    vocoder.pitch_of_vector.bias.data = torch.tensor([4.9, 0.3])
    vocoder.voice_vectors.copy_(torch.randn(vocoder.voice_vectors.shape))
    for row in range(len(vocoder.voice_pitch)):
        vocoder.voice_pitch[row] = torch.tensor([4.7 + 0.3 * row, 0.2 + 0.05 * row])
    return vocoder


def make_units(num: int, seed: int = 0, codebooks: int = 1) -> torch.Tensor:
    return torch.randint(0, 20, (codebooks, num), generator=torch.Generator().manual_seed(seed))


def as_frames(num: int, seed: int = 0) -> SpeechTokens:
    """Units of one token frame each."""
    return SpeechTokens(codes=make_units(num, seed), durations=torch.ones(num, dtype=torch.long))
