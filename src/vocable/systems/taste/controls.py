"""Controls for speech by the word: what codes chosen without regard to the recording give, and what units alone give.

    random     every word with codes drawn evenly            floor of the codes: right form, no information
    borrowed   every word with the codes of another word     likely codes, of other words
    exchanged  two readings with some words' codes swapped   a reading with itself: nothing may change
    topline    units of the recording, spoken                all that a unit decoder could reach; no words, no codes

Source: topline and swaps are those of TASTE (Tseng et al., 2025, arXiv:2504.07053, table 1 and section 4.1); the
controls by chance are ours. Text alone is a decoder without vectors: `speak(words, None, speaker)`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import ConfigError
from vocable.features.voice import Voice
from vocable.systems.taste.delivered import DeliveredSpeech, edited
from vocable.systems.taste.unit_source import UnitSource
from vocable.types import Utterance


def random_codes(speech: DeliveredSpeech, codebook_sizes: Sequence[int], seed: int = 0) -> DeliveredSpeech:
    """Return the speech with codes drawn evenly from each codebook."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(size, (len(speech.words),), generator=generator) for size in codebook_sizes]
    codes = torch.stack(drawn, dim=1).tolist()
    return edited(speech, [replace(word, codes=tuple(own)) for word, own in zip(speech.words, codes, strict=True)])


def borrowed_codes(speech: DeliveredSpeech, others: Sequence[DeliveredSpeech], seed: int = 0) -> DeliveredSpeech:
    """Return the speech with each word's codes replaced by those of a word of other speech, drawn at random.

    Raises:
        ConfigError: no word of the others has codes, or they are of another tokenizer.
    """
    if any(other.tokenizer_fingerprint != speech.tokenizer_fingerprint for other in others):
        raise ConfigError("Codes can be borrowed only from speech of the same tokenizer.")
    givers = [word.codes for other in others for word in other.words if word.codes is not None]
    if not givers:
        raise ConfigError("There is no word with codes to borrow from.")
    picks = torch.randint(len(givers), (len(speech.words),), generator=torch.Generator().manual_seed(seed)).tolist()
    return edited(speech, [replace(word, codes=givers[pick]) for word, pick in zip(speech.words, picks, strict=True)])


def exchange_codes(
    first: DeliveredSpeech, second: DeliveredSpeech, places: Collection[int]
) -> tuple[DeliveredSpeech, DeliveredSpeech]:
    """Exchange the codes of words at some places between two readings of as many words, as in the paper's swaps.

    Raises:
        ConfigError: they have other numbers of words, or are of other tokenizers; or there is no such place.
    """
    if len(first.words) != len(second.words) or first.tokenizer_fingerprint != second.tokenizer_fingerprint:
        raise ConfigError(
            f"Codes are exchanged between two readings of one text by one tokenizer; these have {len(first.words)} and "
            f"{len(second.words)} words, of tokenizers {first.tokenizer_fingerprint} and "
            f"{second.tokenizer_fingerprint}."
        )
    outside = [place for place in places if not 0 <= place < len(first.words)]
    if outside:
        raise ConfigError(f"There is no word {outside[0]}: there are {len(first.words)}, from 0.")

    def taking(own: DeliveredSpeech, other: DeliveredSpeech) -> DeliveredSpeech:
        pairs = enumerate(zip(own.words, other.words, strict=True))
        return edited(own, [word.like(giver) if place in places else word for place, (word, giver) in pairs])

    return taking(first, second), taking(second, first)


def speak_topline(
    source: UnitSource, utterance: Utterance, waveform: Float[Tensor, " samples"], voice: Voice | None = None
) -> Float[Tensor, " samples"]:
    """Speak the units of a recording, at 16 kHz, as they are: the upper end of what a unit decoder can reach."""
    return source.speak(source.units(utterance, waveform), voice)
