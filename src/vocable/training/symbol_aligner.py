"""When is each phoneme spoken? A front end that tells symbols apart answers, and so aligns speech for its own training.

    recording -> units -> front end -> log probabilities of symbols, 40 a second \\
    text -> phonemizer -> symbols, a pause possible after each word               -> the best path -> frames of each

A front end that was trained on synthetic speech, whose symbols are known, finds those of recordings this way; trained
on both, it finds them better. No acoustic model of another kind, dictionary or language is needed, and the times
follow the decoder's own convention (a symbol stands 50 ms after its sound begins; see text_to_speech.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, ConfigError
from vocable.synthesis.phonemes import (
    LEAD_FRAMES,
    PAUSES,
    STRESS_MARKS,
    SYMBOL_RATE,
    Phonemizer,
    join_words,
    phone_times,
    word_times,
)
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.runs import frames_of
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.training.phone_targets import SYMBOLS_KEY
from vocable.types import Phone, Utterance, Word

SHORTEST_PAUSE = 3
"""Frames of 40 Hz that a pause that was not written must last."""
SKIPPED = {" ": 0.5, **dict.fromkeys(STRESS_MARKS, 0.5), **dict.fromkeys(PAUSES, 1.5)}
"""Cost in nats of leaving a symbol without a frame; other symbols must have one."""


class SymbolAligner:
    """Finds the frames of each symbol of a text."""

    def __init__(
        self, vocoder: UnitVocoder, tokenizer: SpeechTokenizer, model: TextToSpeech, phonemizer: Phonemizer
    ) -> None:
        """Take the parts.

        Raises:
            ConfigError: the vocoder's front end does not tell the model's symbols apart.
        """
        if vocoder.config.frontend.num_symbols <= max(model.symbols.values()):
            raise ConfigError(
                "The front end of this vocoder tells no symbols apart, so it cannot align. Train it with "
                f"vocoder.frontend.num_symbols={max(model.symbols.values()) + 1} on speech with symbols or phones."
            )
        self.vocoder, self.tokenizer, self.model, self.phonemizer = vocoder, tokenizer, model, phonemizer

    @torch.inference_mode()
    def align(self, utterance: Utterance, waveform: Float[Tensor, " samples"] | None = None) -> tuple[Utterance, float]:
        """Return the utterance with words, phones and symbols, and the mean log probability of its frames.

        The sound is read from the utterance's file, unless it is given at the tokenizer's sample rate.

        Raises:
            AlignmentError: it has no text that can be read, or more symbols than frames.
            AudioFormatError: the audio cannot be read.
        """
        try:
            words = self.phonemizer(utterance.text or "")
        except ConfigError as error:
            raise AlignmentError(f"{utterance.id}: {error}") from error
        written = [bool(word.pause) for word in words]
        words = [word._replace(pause=word.pause or ",") for word in words]  # a pause is possible after each
        words[-1] = words[-1]._replace(pause="." if not written[-1] else words[-1].pause)
        written[-1] = True
        text, spans = join_words(words)
        if waveform is None:
            waveform = read_utterance(utterance, self.tokenizer.sample_rate)
        frames, score = self._frames(utterance.id, waveform, text)
        dropped = []
        for index, (_, end) in enumerate(spans):
            state = end + 1  # the start mark comes first
            if not written[index] and frames[state] < SHORTEST_PAUSE:
                frames[state - 1] += frames[state]
                words[index] = words[index]._replace(pause="")
                dropped.append(state)
        frames = np.delete(frames, dropped)
        text, spans = join_words(words)
        first = int(frames[0]) - LEAD_FRAMES
        words_timed = word_times([word.word for word in words], spans, frames[1:-1], first)
        phones = phone_times(text, frames[1:-1], first)
        extra: dict[str, Any] = {
            **utterance.extra,
            SYMBOLS_KEY: {"text": text, "frames": frames.tolist()},
            "phones": [{"phone": one.phone, **_in_seconds(one)} for one in phones],
        }
        timed = tuple(Word(word=one.word, **_in_seconds(one)) for one in words_timed)
        return replace(utterance, words=timed, extra=extra), score

    def _frames(self, name: str, waveform: Tensor, text: str) -> tuple[np.ndarray, float]:
        """Frames (40 Hz) of each symbol and of both end marks, and the mean log probability of a frame."""
        codes = frames_of(self.tokenizer.encode([waveform])[0]).to(self.vocoder.device)
        config = self.vocoder.config
        speech = self.vocoder.neutral(codes, 0, config.num_frames(codes.shape[1]))
        step = round(config.decoder.frame_rate / SYMBOL_RATE)
        logits = speech.symbols[0].log_softmax(-1)
        slow = logits[: len(logits) // step * step].unflatten(0, (-1, step)).mean(1).cpu().double().numpy()
        ids = self.model.ids(text).tolist()
        costs = [None, *(SKIPPED.get(symbol) for symbol in text), None]
        found = best_path(slow[:, ids], costs)
        if found is None:
            raise AlignmentError(
                f"{name}: {len(slow) / SYMBOL_RATE:.2f} s are too short for the {len(ids)} symbols of its text."
            )
        return found


def best_path(log_probabilities: np.ndarray, costs: Sequence[float | None]) -> tuple[np.ndarray, float] | None:
    """Find the most probable way through all states in their order.

    Args:
        log_probabilities: (frames, states); of each frame in each state.
        costs: of leaving out a state, in nats; None: it lasts a frame at least. At most four in a row can be left out.

    Returns:
        Frames of each state, and the mean log probability of a frame, costs included; None where there are too few
        frames.
    """
    num_frames, num_states = log_probabilities.shape
    skipping = np.array([np.inf if cost is None else cost for cost in costs])
    jumps = [np.zeros(num_states)]  # cost of coming from so many states before
    for jump in range(1, 6):
        between = np.full(num_states, np.inf)
        for state in range(jump, num_states):
            between[state] = skipping[state - jump + 1 : state].sum()
        jumps.append(between)
    score = np.full(num_states, -np.inf)
    score[0] = log_probabilities[0, 0]
    steps = np.zeros((num_frames, num_states), dtype=np.int8)
    for frame in range(1, num_frames):
        best = score.copy()
        for jump in range(1, 6):
            arriving = np.full(num_states, -np.inf)
            arriving[jump:] = score[:-jump] if jump < num_states else -np.inf
            arriving -= jumps[jump]
            better = arriving > best
            best[better], steps[frame, better] = arriving[better], jump
        score = best + log_probabilities[frame]
    if not np.isfinite(score[-1]):
        return None
    frames, state = np.zeros(num_states, dtype=np.int64), num_states - 1
    for frame in range(num_frames - 1, -1, -1):
        frames[state] += 1
        state -= int(steps[frame, state])
    return frames, float(score[-1]) / num_frames


def _in_seconds(timed: Word | Phone) -> dict[str, float]:
    return {"start": round(max(0.0, timed.start), 4), "end": round(max(0.0, timed.end), 4)}
