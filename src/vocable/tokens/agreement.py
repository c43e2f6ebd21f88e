"""How often two ways of encoding the same clips differ: the proof of batch invariance, and the price of speed."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from vocable.tokens.runs import frames_of
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import Clip, SpeechTokens


class Agreement(NamedTuple):
    """Frames (or words) that were compared, over all streams, and those whose code differs at any level."""

    num_frames: int
    num_different: int

    @property
    def mismatch_rate(self) -> float:
        """Share of the frames that differ."""
        return self.num_different / max(self.num_frames, 1)


def compare_tokens(reference: Sequence[SpeechTokens], other: Sequence[SpeechTokens]) -> Agreement:
    """Compare clip by clip, frame by frame; where one has more frames, all the additional ones differ."""
    num_frames = num_different = 0
    pairs = [pair for clip in zip(reference, other, strict=True) for pair in _same_streams(*clip)]
    for first, second in pairs:
        a, b = frames_of(first), frames_of(second)
        shared = min(a.shape[1], b.shape[1])
        longest = max(a.shape[1], b.shape[1])
        different = (a[:, :shared] != b[:, :shared]).any(0)
        num_frames += longest
        num_different += int(different.sum()) + longest - shared
    return Agreement(num_frames, num_different)


def _same_streams(first: SpeechTokens, second: SpeechTokens) -> list[tuple[SpeechTokens, SpeechTokens]]:
    if first.streams is None:
        return [(first, second)]
    return [(tokens, second.stream(name)) for name, tokens in first.streams.items()]


def encode_each(tokenizer: SpeechTokenizer, clips: Sequence[Clip | Float[Tensor, " _samples"]]) -> list[SpeechTokens]:
    """Encode every clip alone, as the reference for any other way."""
    return [tokenizer.encode([clip])[0] for clip in clips]


def measure_batchings(
    tokenizer: SpeechTokenizer, clips: Sequence[Clip | Float[Tensor, " _samples"]]
) -> dict[str, Agreement]:
    """Compare every way of batching, and half the precision where there is it, with each clip encoded alone."""
    alone = encode_each(tokenizer, clips)
    results = {way: compare_tokens(alone, tokenizer.encode(clips, way)) for way in tokenizer.batchings}
    coarse = tokenizer.in_bfloat16()
    if coarse is not None:
        results["bfloat16"] = compare_tokens(alone, coarse.encode(clips))
    return results
