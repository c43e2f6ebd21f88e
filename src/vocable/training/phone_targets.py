"""Content of speech whose phonemes are known: what the text encoder of the pretrained voice says of them, by frame.

    symbols and their durations (a synthesiser, or symbol_aligner.py), or phones with times -> string of symbols
    -> text encoder -> content of each symbol;   times of the frames -> the symbol that each frame holds

Any aligned speech teaches so, in any voice: the front end learns to say of its units what the text would have said.
A manifest line has `symbols: {text, frames}`, with the frames (40 a second) of each symbol and of the marks at both
ends, or else `phones`, as test sets, stories and corpora have; those lack stress, and teach a little less.
"""

import torch

from vocable.synthesis.phonemes import LEAD_FRAMES, SYMBOL_RATE
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.training.vocoder_data import Content
from vocable.types import Utterance

SYMBOLS_KEY = "symbols"
PAUSE = "sil"
"""Phone of silence."""
SHORTEST_PAUSE = 0.1
"""Seconds without a phone, from which on they are a pause."""


class PhoneTargets:
    """Content targets (see training/vocoder_data.py) from the symbols or phones of an utterance."""

    def __init__(self, model: TextToSpeech) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, utterance: Utterance, num_frames: int) -> Content | None:
        """Return content by frame of the decoder.

        None where the utterance has neither symbols nor phones, or phones of another alphabet.
        """
        known = utterance.extra.get(SYMBOLS_KEY)
        if known:
            text, places = known["text"], self._places_by_frames(known["frames"], num_frames)
        else:
            text, places = self._places_by_phones(utterance, num_frames)
        if not text:
            return None
        ids = self.model.ids(text)
        vectors = self.model.content(ids[None])[0]
        return Content(vectors.cpu(), ids.cpu(), places.clamp(max=len(ids) - 1))

    def _places_by_frames(self, frames: list[int], num_frames: int) -> torch.Tensor:
        """Repeat each symbol by its frames; the last one lasts to the end."""
        counts = torch.tensor(frames) * round(self.model.config.decoder.frame_rate / SYMBOL_RATE)
        places = torch.arange(len(frames)).repeat_interleave(counts)
        return torch.cat([places, torch.full((num_frames,), len(frames) - 1)])[:num_frames]

    def _places_by_phones(self, utterance: Utterance, num_frames: int) -> tuple[str, torch.Tensor]:
        written, ends = self._from_phones(utterance)
        heard = (torch.arange(num_frames, dtype=torch.float64) + 0.5) / self.model.config.decoder.frame_rate
        heard -= LEAD_FRAMES / SYMBOL_RATE
        # a frame holds the last symbol of its phone, not a stress mark before or a space after it
        places, position = [0], 0
        for part in written:
            places.append(position + max(1, len(part.rstrip(" .,"))))  # ids begin with the start mark
            position += len(part)
        places.append(position + 1)
        stretch = torch.searchsorted(torch.tensor(ends, dtype=torch.float64), heard, right=True)
        return "".join(written), torch.tensor(places)[stretch]

    def _from_phones(self, utterance: Utterance) -> tuple[list[str], list[float]]:
        """Symbols phone by phone, and where each stretch ends in seconds, beginning with the start of the first."""
        words = {round(word.start, 3) for word in utterance.words or ()}
        written: list[str] = []
        ends: list[float] = []
        for phone in utterance.extra.get("phones") or ():
            symbols, start, end = str(phone["phone"]), float(phone["start"]), float(phone["end"])
            if symbols != PAUSE and any(symbol not in self.model.symbols for symbol in symbols):
                return [], []
            if not ends:
                ends.append(start)
            elif start - ends[-1] >= SHORTEST_PAUSE:
                written.append(", ")
                ends.append(start)
            else:
                if symbols != PAUSE and round(start, 3) in words and not written[-1].endswith(" "):
                    written[-1] += " "
                ends[-1] = start
            written.append(", " if symbols == PAUSE else symbols)
            ends.append(end)
        if written:
            written[-1] = written[-1].rstrip(" ,") + "."
        return written, ends
