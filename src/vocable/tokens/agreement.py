"""How often two ways of encoding the same clips differ: the proof of batch invariance, and the price of speed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens


class Agreement(NamedTuple):
    """Frames that were compared, and those whose code differs in any codebook."""

    num_frames: int
    num_different: int

    @property
    def mismatch_rate(self) -> float:
        """Share of the frames that differ."""
        return self.num_different / max(self.num_frames, 1)


def compare_tokens(reference: Sequence[SpeechTokens], other: Sequence[SpeechTokens]) -> Agreement:
    """Compare clip by clip, frame by frame; where one has more frames, all the additional ones differ."""
    num_frames = num_different = 0
    for first, second in zip(reference, other, strict=True):
        a, b = frames_of(first), frames_of(second)
        shared = min(a.shape[1], b.shape[1])
        longest = max(a.shape[1], b.shape[1])
        different = (a[:, :shared] != b[:, :shared]).any(0)
        num_frames += longest
        num_different += int(different.sum()) + longest - shared
    return Agreement(num_frames, num_different)


def frames_of(tokens: SpeechTokens) -> Int[Tensor, "num_codebooks frames"]:
    """Return one column per frame, with collapsed runs expanded."""
    if tokens.durations is None:
        return tokens.codes
    return torch.repeat_interleave(tokens.codes, tokens.durations, dim=1)


def encode_each(tokenizer: SpeechTokenizer, waveforms: Sequence[Float[Tensor, " _samples"]]) -> list[SpeechTokens]:
    """Encode every clip alone: what any other way is compared with."""
    return [tokenizer.encode([waveform])[0] for waveform in waveforms]
