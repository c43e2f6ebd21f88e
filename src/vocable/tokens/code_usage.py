"""How much of a codebook is in use, and the alarm when a tokenizer collapses onto a few codes.

A tokenizer that is trained can end with one code for everything: the codes are then easy to predict and mean nothing.
Usage is counted over windows of many frames per code, for in a small batch few codes occur even when all is well.
"""

import logging
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

logger = logging.getLogger(__name__)


class CodeStatistics(NamedTuple):
    """Usage of one codebook over some frames (of all processes, where they were added up)."""

    num_frames: int
    usage: float
    """Share of the codes that occurred."""
    perplexity: float
    """exp(entropy): how many codes would be in use if all were used equally; 0 without frames."""
    normalised_entropy: float
    """Entropy over its largest value, log(codebook_size)."""
    top_share: float
    """Share of the frames that have the most frequent code."""
    num_revived: int
    """Codes revived within these frames."""
    collapsed: bool
    """Whether the last whole window rang the alarm."""


def code_statistics(
    counts: Int[Tensor, " codebook_size"], num_revived: int = 0, collapsed: bool = False
) -> CodeStatistics:
    """Turn the number of frames of each code into what is logged."""
    num_frames = int(counts.sum())
    shares = counts.double() / max(num_frames, 1)
    used = shares[shares > 0]
    entropy = -float((used * used.log()).sum())
    return CodeStatistics(
        num_frames=num_frames,
        usage=len(used) / len(counts),
        perplexity=math.exp(entropy) if num_frames else 0.0,
        normalised_entropy=max(0.0, entropy) / math.log(len(counts)),
        top_share=float(shares.max()),
        num_revived=num_revived,
        collapsed=collapsed,
    )


def usage_metrics(usage: CodeStatistics, prefix: str = "") -> dict[str, float]:
    """Turn the usage of a codebook into numbers for the logs; `collapsed` is 1 while the alarm is on.

    Args:
        usage: What was counted.
        prefix: Opening of every name, such as "acoustic_1_", where there are several codebooks.
    """
    values = {
        "usage": usage.usage,
        "perplexity": usage.perplexity,
        "normalised_entropy": usage.normalised_entropy,
        "top_share": usage.top_share,
        "revived": float(usage.num_revived),
        "collapsed": float(usage.collapsed),
    }
    return {prefix + name: value for name, value in values.items()}


class CodeUsage:
    """Counts codes in windows, and warns once when a window shows a collapse."""

    last_window: CodeStatistics | None = None
    """The last whole window."""
    name: str | None = None
    """Name of the codebook in messages, where there are several."""

    def __init__(
        self, codebook_size: int, window_frames: int, least_perplexity: float | None, largest_share: float | None
    ) -> None:
        """Set what counts as collapse.

        Args:
            codebook_size: Number of codes.
            window_frames: Frames after which a window is whole.
            least_perplexity: Alarm below this share of `codebook_size`; None never.
            largest_share: Alarm when one code has more than this share of the frames; None never.
        """
        self.codebook_size = codebook_size
        self.window_frames = window_frames
        self.least_perplexity = least_perplexity
        self.largest_share = largest_share
        self._warned = False
        self._start_window()

    @property
    def latest(self) -> CodeStatistics:
        """The last whole window; before the first one is whole, what was counted so far."""
        return self.last_window or code_statistics(self._counts, self._num_revived)

    def add(self, counts: Int[Tensor, " codebook_size"], num_revived: int = 0) -> CodeStatistics:
        """Count the frames of one step; return the window so far, this step included."""
        self._counts += counts.cpu()
        self._num_revived += num_revived
        collapsed = self.last_window is not None and self.last_window.collapsed
        statistics = code_statistics(self._counts, self._num_revived, collapsed)
        if statistics.num_frames < self.window_frames:
            return statistics
        reasons = self._reasons(statistics)
        statistics = self.last_window = statistics._replace(collapsed=bool(reasons))
        self._log(statistics, reasons)
        self._start_window()
        return statistics

    def of_codes(self, codes: Int[Tensor, " frames"]) -> CodeStatistics:
        """Return the usage over these codes, and count nothing."""
        collapsed = self.last_window is not None and self.last_window.collapsed
        return code_statistics(torch.bincount(codes, minlength=self.codebook_size), collapsed=collapsed)

    def state_dict(self) -> dict[str, Any]:
        """Return the window so far, as JSON values: what a run that goes on later must remember."""
        return {
            "counts": self._counts.tolist(),
            "num_revived": self._num_revived,
            "last_window": self.last_window,
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self._counts = torch.tensor(state["counts"], dtype=torch.int64)
        self._num_revived, self._warned = state["num_revived"], state["warned"]
        self.last_window = None if state["last_window"] is None else CodeStatistics(*state["last_window"])

    def _start_window(self) -> None:
        self._counts = torch.zeros(self.codebook_size, dtype=torch.int64)
        self._num_revived = 0

    def _reasons(self, window: CodeStatistics) -> list[str]:
        """Return the problems of a window, in words."""
        reasons = []
        if self.least_perplexity is not None and window.perplexity < self.least_perplexity * self.codebook_size:
            reasons.append(f"perplexity is {window.perplexity:.1f} of {self.codebook_size} codes")
        if self.largest_share is not None and window.top_share > self.largest_share:
            reasons.append(f"one code has {window.top_share:.0%} of the frames")
        return reasons

    def _log(self, window: CodeStatistics, reasons: list[str]) -> None:
        logger.info(
            "codes%s over %d frames: usage %.3f, perplexity %.1f, normalised entropy %.3f, top share %.3f, %d revived",
            "" if self.name is None else f" of {self.name}",
            *window[:3],
            *window[3:6],
        )
        if reasons and not self._warned:
            self._warned = True
            logger.warning(
                "The %s has collapsed: over %d frames %s. Look at the weights of the losses (a reconstruction "
                "loss keeps codes apart), or revive dead codes sooner.",
                "codebook" if self.name is None else f"codebook of {self.name}",
                window.num_frames,
                " and ".join(reasons),
            )
