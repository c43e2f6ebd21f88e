"""Synthesis while the tokens are still coming: chunks of units in, stretches of waveform out.

A frame of sound depends on the frames within `VocoderConfig.reach`, no further. The stream therefore keeps that much
left context, waits for that much right context, and gives the samples in between; they equal those of whole-utterance
synthesis up to rounding.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.features.voice import Voice
from vocable.synthesis.vocoder import UnitVocoder, clean_codes
from vocable.types import SpeechTokens


class StreamingVocoder:
    """One utterance in progress: `push` chunks, then `finish`.

    Runs whose durations must be predicted wait for the runs that the duration predictor sees behind them.
    """

    def __init__(self, vocoder: UnitVocoder, voice: Voice | None = None) -> None:
        self.vocoder, self.config = vocoder, vocoder.config
        self.speaker = vocoder.speaker(voice)
        empty = torch.zeros(self.config.num_codebooks, 0, dtype=torch.long, device=vocoder.device)
        self.codes = empty
        """Token frames from `first_token` on: left context, and what has not been given out."""
        self.first_token = 0
        self.num_given = 0
        """Frames of the decoder whose samples were given out."""
        self.runs = empty
        """Runs that have no durations yet, with their left context."""
        self.num_context_runs = 0
        self.phase = 0.0
        """Phase of the pulses, in cycles, at the end of what was given out."""

    @property
    def lookahead_seconds(self) -> float:
        """Time by which the waveform stays behind the frames pushed."""
        return self.config.reach[1] / self.config.decoder.frame_rate

    @property
    def num_tokens(self) -> int:
        """Token frames pushed so far."""
        return self.first_token + self.codes.shape[1]

    @torch.inference_mode()
    def push(self, tokens: SpeechTokens) -> Float[Tensor, " samples"]:
        """Take the next tokens; return the samples that no later token can change (often none).

        Raises:
            FingerprintError: an id is outside the codebook.
        """
        self._add(tokens)
        complete = int(self.num_tokens / self.config.tokens_per_frame + 1e-9)
        return self._give(complete, complete - self.config.reach[1])

    @torch.inference_mode()
    def finish(self) -> Float[Tensor, " samples"]:
        """End the utterance; return the rest of the samples."""
        self._predict_durations(is_last=True)
        frames = self.config.num_frames(self.num_tokens)
        total, given = self.config.num_samples(self.num_tokens), self.num_given * self.config.decoder.hop_length
        return self._give(frames, frames)[: total - given]

    def _add(self, tokens: SpeechTokens) -> None:
        codes, durations = clean_codes(tokens, self.config.sizes)
        codes = codes.to(self.vocoder.device)
        if durations is None and self.config.collapsed:
            self.runs = torch.cat([self.runs, codes], 1)
            self._predict_durations(is_last=False)
            return
        if durations is not None:
            codes = codes.repeat_interleave(durations.to(codes.device), dim=1)
        self.codes = torch.cat([self.codes, codes], 1)

    def _predict_durations(self, is_last: bool) -> None:
        """Turn those runs into token frames whose durations no later run can change."""
        vocoder = self.vocoder
        reach = vocoder.duration_predictor.reach
        num_ready = self.runs.shape[1] - (0 if is_last else reach)
        if num_ready <= self.num_context_runs:
            return
        inputs = vocoder.embed(self.runs[None], vocoder.prosody_embedding)
        durations = vocoder.duration_predictor.durations(inputs, self.config.duration_scale)[0]
        fresh = slice(self.num_context_runs, num_ready)
        self.codes = torch.cat([self.codes, self.runs[:, fresh].repeat_interleave(durations[fresh], dim=1)], 1)
        first_kept = max(0, num_ready - reach)
        self.runs = self.runs[:, first_kept:]
        self.num_context_runs = num_ready - first_kept

    def _give(self, available: int, up_to: int) -> Float[Tensor, " samples"]:
        """Synthesise up to frame `available`, and cut out the frames from `num_given` to `up_to`."""
        if up_to <= self.num_given:
            return torch.zeros(0)
        vocoder, hop, before = self.vocoder, self.config.decoder.hop_length, self.config.reach[0]
        first = max(0, self.num_given - before)
        speech = vocoder.neutral(self.codes, first, available - first, self.first_token)
        prosody = vocoder.with_voice(speech, self.speaker)
        begin, end = ((frame - first) * hop for frame in (self.num_given, up_to))
        # at the far ends of the kept frames pitch lacks context; the phase is therefore tied where the last chunk ended
        cycles = vocoder.decoder.cycles(prosody.f0)[0]
        phase = self.phase - float(cycles[begin - 1]) if begin else self.phase
        waveform = vocoder.waveform(speech.content, prosody, self.speaker.vector[None], first, phase)[0, begin:end]
        self.phase = (phase + float(cycles[end - 1])) % 1.0
        self.num_given = up_to
        needed = int((max(0, up_to - before) + 0.5) * self.config.tokens_per_frame - 0.5)
        dropped = max(0, needed - self.first_token)
        self.codes, self.first_token = self.codes[:, dropped:], self.first_token + dropped
        return waveform.clamp(-1, 1).cpu()
