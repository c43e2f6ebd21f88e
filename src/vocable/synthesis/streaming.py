"""Synthesis while the tokens are still coming: chunks of units in, stretches of waveform out.

A sample depends on the units within `UnitVocoder.reach` frames, no further. The stream therefore keeps that many frames
as left context, waits for that many as right context, and gives the samples in between; they equal those of
whole-utterance synthesis up to rounding.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.features.voice import Voice
from vocable.synthesis.excitation import harmonic_phase
from vocable.synthesis.vocoder import UnitVocoder, clean_codes
from vocable.types import SpeechTokens


class StreamingVocoder:
    """One utterance in progress: `push` chunks, then `finish`.

    Runs whose durations must be predicted wait for the runs that the duration predictor sees behind them.
    """

    def __init__(self, vocoder: UnitVocoder, voice: Voice | None = None) -> None:
        self.vocoder = vocoder
        self.device = vocoder.unit_embedding.weight.device
        row = vocoder.voice_index(voice)
        self.voice = None if row is None else torch.tensor([row], device=self.device)
        empty = torch.zeros(vocoder.config.num_codebooks, 0, dtype=torch.long, device=self.device)
        self.frames = empty
        """Frames from `first_frame` on: left context, and what has not been given out."""
        self.first_frame = 0
        self.num_given = 0
        """Frames whose samples were given out."""
        self.runs = empty
        """Runs from `first_run` on that have no durations yet, with their left context."""
        self.num_context_runs = 0
        self.phase = 0.0
        """Of the harmonics, at the first sample that was not given out."""

    @property
    def lookahead_seconds(self) -> float:
        """How far the waveform stays behind the frames pushed."""
        return self.vocoder.reach / self.vocoder.config.token_frame_rate

    @torch.inference_mode()
    def push(self, tokens: SpeechTokens) -> Float[Tensor, " samples"]:
        """Take the next tokens; return the samples that no later token can change (often none).

        Raises:
            FingerprintError: an id is outside the codebook.
        """
        self._add(tokens)
        return self._give(up_to=self.first_frame + self.frames.shape[1] - self.vocoder.reach)

    @torch.inference_mode()
    def finish(self) -> Float[Tensor, " samples"]:
        """End the utterance; return the rest of the samples."""
        self._predict_durations(is_last=True)
        return self._give(up_to=self.first_frame + self.frames.shape[1])

    def _add(self, tokens: SpeechTokens) -> None:
        config = self.vocoder.config
        codes, durations = clean_codes(tokens, config.sizes)
        codes = codes.to(self.device)
        if durations is None and config.collapsed:
            self.runs = torch.cat([self.runs, codes], 1)
            self._predict_durations(is_last=False)
            return
        if durations is not None:
            codes = codes.repeat_interleave(durations.to(self.device), dim=1)
        self.frames = torch.cat([self.frames, codes], 1)

    def _predict_durations(self, is_last: bool) -> None:
        """Turn those runs into frames whose durations no later run can change."""
        reach = self.vocoder.duration_predictor.reach
        num_ready = self.runs.shape[1] - (0 if is_last else reach)
        if num_ready <= self.num_context_runs:
            return
        inputs = self.vocoder.prosody_input(self.runs[None], self.voice)
        durations = self.vocoder.duration_predictor.durations(inputs, self.vocoder.config.duration_scale)[0]
        fresh = slice(self.num_context_runs, num_ready)
        frames = self.runs[:, fresh].repeat_interleave(durations[fresh], dim=1)
        self.frames = torch.cat([self.frames, frames], 1)
        first_kept = max(0, num_ready - reach)
        self.runs = self.runs[:, first_kept:]
        self.num_context_runs = num_ready - first_kept

    def _give(self, up_to: int) -> Float[Tensor, " samples"]:
        """Synthesise all kept frames and cut out those from `num_given` to `up_to`."""
        if up_to <= self.num_given:
            return torch.zeros(0)
        hop = self.vocoder.config.token_hop
        begin, end = ((frame - self.first_frame) * hop for frame in (self.num_given, up_to))
        waveform = self._decode(begin, end)[begin:end].clamp(-1, 1).cpu()
        self.num_given = up_to
        dropped = max(0, up_to - self.vocoder.reach - self.first_frame)
        self.frames, self.first_frame = self.frames[:, dropped:], self.first_frame + dropped
        return waveform

    def _decode(self, begin: int, end: int) -> Float[Tensor, " samples"]:
        """Waveform of the kept frames; the phase of the harmonics continues at sample `begin`."""
        config = self.vocoder.config
        pitch = self.vocoder.predict_pitch(self.frames, self.voice)
        phase = 0.0
        if pitch is not None:
            # at the far ends of the kept frames pitch lacks context; the phase is therefore tied at `begin`
            moving = harmonic_phase(pitch, config.sample_rate, config.token_hop)
            phase = self.phase - float(moving.phase[0, begin])
            self.phase = math.fmod(phase + float(moving.phase[0, end - 1] + moving.steps[0, end - 1]), 2 * math.pi)
        start = self.first_frame * config.token_hop
        return self.vocoder.decode(self.frames[None], self.voice, pitch, start=start, phase=phase)[0]
