"""A tiny random prosody decoder with a voice at 8 kHz, and recordings for it that were never recorded."""

import torch

from synthesis.small_vocoders import make_vocoder
from vocable.features.voice import Speaker
from vocable.synthesis.phonemes import read_given
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig
from vocable.systems.taste.prosody_decoder import ProsodyDecoder, ProsodyDecoderConfig
from vocable.systems.taste.prosody_network import ProsodyNetworkConfig
from vocable.systems.taste.speech_decoder import WordBatch
from vocable.systems.taste.word_symbols import read_words

SYMBOLS = {symbol: number + 1 for number, symbol in enumerate("abdefiklmnost ˈ,.—")}
WORD_DIM, SPEAKER_DIM = 10, 6
WORDS = ["tˈadi", "bˈena,", "sˈo", "lˈi"]


def tiny_model() -> TextToSpeech:
    """Random weights; durations of about 3 frames, F0 on both sides of 40 Hz."""
    torch.manual_seed(0)
    decoder = SourceFilterConfig(content_dim=8, dim=8, hidden_dim=16, num_layers=1)
    config = TextToSpeechConfig(num_symbols=20, prosody_dim=8, prosody_loops=2, decoder=decoder)
    model = TextToSpeech(config, SYMBOLS)
    torch.nn.init.normal_(model.prosody.head.weight, std=1.5)
    torch.nn.init.normal_(model.prosody.duration_head.weight, std=1.0)
    torch.nn.init.constant_(model.prosody.duration_head.bias, 1.4)
    model.prosody.head.bias.data = torch.tensor([1.5, 1.5, 0.5, 0.5])
    return model.eval()


def tiny_voice():
    return make_vocoder(decoder={"speaker_dim": SPEAKER_DIM})


def tiny_decoder(own_voice: bool = False, trained: bool = True, **network) -> ProsodyDecoder:
    """A decoder; `trained` fills what starts at 0, so that nothing is left out by chance."""
    config = ProsodyDecoderConfig(
        phonemizer="given", network=ProsodyNetworkConfig(speaker_dim=SPEAKER_DIM, layers=2, **network)
    )
    decoder = ProsodyDecoder(config, WORD_DIM, tiny_model(), None if own_voice else tiny_voice())
    if trained:
        torch.manual_seed(1)
        added = decoder.network
        torch.nn.init.normal_(added.from_vector.weight, std=0.1)
        for part in (added.from_speaker, added.frame_head, added.pause):
            torch.nn.init.normal_(part.weight, std=0.4)
        for name, parameter in added.blocks.named_parameters():
            if name.endswith("scale"):
                torch.nn.init.constant_(parameter, 0.5)
        added.balance.data = torch.tensor([0.4, 0.1])
    return decoder.eval()


def speaker(seed: int = 0, pitch: float | None = None) -> Speaker:
    vector = torch.randn(SPEAKER_DIM, generator=torch.Generator().manual_seed(seed))
    vector = vector / vector.norm()
    return Speaker(vector, None if pitch is None else torch.tensor([pitch, 0.2]))


def make_targets(words, seed: int, commas=()) -> dict[str, torch.Tensor]:
    """Targets by the contract of ProsodyTargets, with commas after these spoken words that the text does not have."""
    generator = torch.Generator().manual_seed(seed)
    read = read_words(words, read_given)
    spoken = read.with_commas(commas)
    frames = torch.randint(0, 5, (len(spoken.text) + 2,), generator=generator)
    frames[0] = 20
    size = 2 * int(frames.sum())
    known = torch.rand(size, generator=generator) > 0.4
    pauses = [-1 if word.pause else int(index in commas) for index, word in enumerate(read.spoken)]
    return {
        "ids": torch.tensor([0, *(SYMBOLS[symbol] for symbol in spoken.text), 0]),
        "owners": torch.tensor(spoken.symbol_owners()),
        "frames": frames,
        "spans": torch.tensor(spoken.spans) + 1,
        "pauses": torch.tensor(pauses),
        "semitones": 4 * torch.randn(size, generator=generator),
        "known": known,
        "voiced": known | (torch.rand(size, generator=generator) > 0.5),
        "energy": 2 + 4 * torch.randn(size, generator=generator),
    }


def make_batch(texts, with_vectors: bool = True, seed: int = 3) -> WordBatch:
    """Vectors of a text depend on the text alone."""
    most = max(map(len, texts))
    mask = torch.tensor([[index < len(text) for index in range(most)] for text in texts])
    vectors = torch.zeros(len(texts), most, WORD_DIM)
    for row, text in enumerate(texts):
        generator = torch.Generator().manual_seed(seed + len(text))
        vectors[row, : len(text)] = torch.randn(len(text), WORD_DIM, generator=generator)
    ids = torch.full((len(texts), 1), -1)
    speakers = torch.stack([speaker(len(text)).vector for text in texts])
    return WordBatch(tuple(map(tuple, texts)), ids, ids, vectors if with_vectors else None, mask, speakers)
