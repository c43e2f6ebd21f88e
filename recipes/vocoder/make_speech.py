"""Make varied synthetic speech whose phonemes are known, to teach a vocoder's front end.

    python recipes/vocoder/make_speech.py SENTENCES.txt OUT --hours 3.5 --seed 1

One sentence a line. The pretrained voice (asset hibari) speaks it at another pitch, range, speed and loudness, with
formants moved by up to a sixth, a tilt and some noise, so that units of many voices come up. Writes FLAC files and
OUT/manifest.jsonl, whose lines hold the symbols and their frames. With --plain the voice stays as it is, and has its
name. Needs the extra `voice`.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocable.audio.manifest import write_manifest
from vocable.audio.waveforms import resample
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError
from vocable.progress import progress
from vocable.synthesis.phonemes import join_words, open_phonemizer
from vocable.synthesis.source_filter import VOICED_HZ
from vocable.synthesis.text_to_speech import Prosody, TextToSpeech
from vocable.training.phone_targets import SYMBOLS_KEY
from vocable.training.vocoder import OWN_PITCH
from vocable.types import Utterance


def main() -> None:
    """Speak sentences in a random order until there is speech for so many hours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=3.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    model, phonemizer = TextToSpeech.from_pretrained(), open_phonemizer()
    sentences = options.sentences.read_text(encoding="utf-8").splitlines()
    rng, made, seconds = np.random.default_rng(options.seed), [], 0.0
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), progress("Speaking", round(options.hours * 3600)) as advance:
        for number in rng.permutation(len(sentences)):
            try:
                text, _ = join_words(phonemizer(sentences[number]))
            except ConfigError:
                continue
            if options.plain:
                spoken = model.speak(text)
                waveform, frames = spoken.waveform, spoken.prosody.durations.tolist()
            else:
                waveform, frames = speak(model, text, rng)
            name = f"{'plain' if options.plain else 'varied'}-{options.seed}-{number:06d}"
            path = options.out / f"{name}.flac"
            write_audio(path, waveform, model.sample_rate)
            duration = len(waveform) / model.sample_rate
            extra = {SYMBOLS_KEY: {"text": text, "frames": frames}}
            speaker = "heart" if options.plain else None
            made.append(
                Utterance(id=name, audio=path, duration=duration, text=sentences[number], speaker=speaker, extra=extra)
            )
            seconds += duration
            advance(round(duration))
            if seconds >= options.hours * 3600:
                break
    write_manifest(made, options.out / "manifest.jsonl")
    print(f"{options.out / 'manifest.jsonl'}: {len(made)} utterances, {seconds / 3600:.2f} h")


@torch.inference_mode()
def speak(model: TextToSpeech, text: str, rng: np.random.Generator) -> tuple[Tensor, list[int]]:
    """Speak symbols in a voice of its own; return 24 kHz samples, and the frames (40 Hz) of each symbol."""
    formants, speed = math.exp(rng.uniform(math.log(0.85), math.log(1.18))), rng.uniform(0.85, 1.2)
    # larger heads speak lower: half of the pitch follows the formants
    semitones = float(np.clip(rng.uniform(-7, 6) * 0.7 + 12 * math.log2(formants) * 1.2, -8, 7))
    spread, louder = rng.uniform(0.7, 1.4), rng.normal(0, 1.0)
    if rng.random() < 0.1:
        formants, semitones, spread, louder = 1.0, 0.0, 1.0, 0.0
    ids = model.ids(text)
    frames = model.predict_prosody(ids, speed=speed).durations
    # spoken `formants` times as long, at a pitch lower by as much, then played as much faster
    longer = (frames.double() * formants).cumsum(0).round().diff(prepend=torch.zeros(1)).clamp(min=1).long()
    _, f0, energy = model.predict_prosody(ids, longer)
    deviation = f0.clamp(min=1).log() - OWN_PITCH[0]
    moved = (OWN_PITCH[0] + spread * deviation + semitones * math.log(2) / 12).exp() / formants
    f0 = torch.where(f0 > VOICED_HZ, moved.clamp(min=VOICED_HZ + 5), f0)
    waveform = model.decode(model.content(ids[None])[0], Prosody(longer, f0, energy + louder))
    waveform = resample(waveform, round(model.sample_rate * formants), model.sample_rate)
    waveform = waveform * (0.05 / waveform.square().mean().sqrt().clamp(min=1e-4)) * math.exp(rng.normal(0, 0.3))
    tilted = waveform + rng.uniform(-0.35, 0.35) * torch.nn.functional.pad(waveform[:-1], (1, 0))
    hiss = torch.from_numpy(rng.standard_normal(len(tilted))).float()
    hiss = hiss + rng.uniform(0, 0.95) * torch.nn.functional.pad(hiss[:-1], (1, 0))
    level = tilted.square().mean().sqrt() * 10 ** (-rng.uniform(18, 50) / 20)
    ends = (longer.double().cumsum(0) / formants).round()
    return tilted + hiss * (level / hiss.std()), ends.diff(prepend=torch.zeros(1)).long().tolist()


if __name__ == "__main__":
    main()
