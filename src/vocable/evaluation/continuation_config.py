"""What is continued, and what stands beside it; continuation.py does it."""

from dataclasses import dataclass, field
from typing import Literal

from vocable.errors import ConfigError
from vocable.lm.generation import GenerationConfig
from vocable.registry import look_up

ANCHORS = ("true", "resynthesised", "shuffled", "copy", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationConfig:
    """Which prompts are continued, how, and what stands beside the model."""

    num_prompts: int | None = 100
    """Drawn from the utterances that are long enough, without replacement; None takes all."""
    prompt_seconds: float = 3.0
    min_seconds: float = 6.0
    """Utterances must be longer than this, so that there is a true continuation."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Sampling; its `max_seconds` also bounds the true continuation. Its seed is not used: see `seed`."""
    anchors: tuple[str, ...] = ANCHORS
    voice: str | None = None
    """Of the vocoder; None takes its first."""
    language: str = "en"
    """Utterances marked with another language are left out, and counted."""
    same_judge: Literal["refuse", "allow"] = "refuse"
    """What to do when the recogniser is the tokenizer's own encoder."""
    seed: int = 0
    """Of the draw of prompts, of sampling (together with the utterance's id) and of the bootstrap."""
    num_resamples: int = 2000
    num_examples: int = 8
    """Prompts kept as sound for the page."""

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or None for all.")
        if not 0 < self.prompt_seconds < self.min_seconds:
            raise ConfigError(
                f"prompt_seconds is {self.prompt_seconds}, min_seconds {self.min_seconds}: the prompt must be above 0 "
                "and shorter than the shortest utterance, or there is nothing to continue."
            )
        if self.num_examples < 0 or self.num_resamples < 1:
            raise ConfigError("num_examples must not be negative, and num_resamples at least 1.")
