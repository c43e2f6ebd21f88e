"""A speech decoder that can be read off its sound: a tone for each word, as long and as high as its vector says."""

import math

import torch

from vocable.systems.taste.speech_decoder import DecoderLoss, SpeechDecoder, SpokenWords, WordChange, register_decoder
from vocable.types import Word

RATE, GAP = 24_000, 0.05


def tone_of(vector, median_hz, change):
    """Seconds, Hz and amplitude of a word's tone."""
    seconds = (0.3 + 0.1 * math.tanh(float(vector[0]))) * change.stretch
    semitones = 4 * math.tanh(float(vector[1])) + change.semitones
    return seconds, median_hz * 2 ** (semitones / 12), 0.1 * 10 ** (change.decibels / 20)


@register_decoder
class ToneDecoder(SpeechDecoder):
    """Tones with a gap between them."""

    kind = "tones"
    part_names = ()
    sample_rate = RATE

    def __init__(self, knows_times: bool = True) -> None:
        super().__init__()
        self.knows_times = knows_times

    def speak(self, words, vectors, speaker, changes=None, seed=0):
        median = 150.0 if speaker.pitch is None else math.exp(float(speaker.pitch[0]))
        vectors = torch.zeros(len(words), 2) if vectors is None else vectors
        sounds, times, place = [], [], 0
        for index, (word, vector) in enumerate(zip(words, vectors, strict=True)):
            seconds, hertz, amplitude = tone_of(vector, median, (changes or {}).get(index, WordChange()))
            time = torch.arange(round(seconds * RATE)) / RATE
            tone = sum(torch.sin(2 * math.pi * hertz * k * time) / k for k in range(1, 6))
            sounds += [amplitude * tone, torch.zeros(round(GAP * RATE))]
            times.append(Word(word=word, start=place / RATE, end=(place + len(time)) / RATE))
            place += len(time) + len(sounds[-1])
        return SpokenWords(torch.cat(sounds), tuple(times) if self.knows_times else ())

    def targets(self, utterance, waveform, words):
        return {}

    def loss(self, batch, targets):
        return DecoderLoss(torch.zeros(()), 1, {})

    def saved_config(self):
        return {"knows_times": self.knows_times}

    @classmethod
    def from_saved(cls, config, tensors):
        return cls(**config)
