"""Text to speech in one voice, small and differentiable: phonemes -> content, durations, pitch, energy -> waveform.

    symbols (L)        -> text encoder                            -> content (L, 128)
    symbols (L)        -> prosody network                         -> frames of each symbol, 40 a second
    features repeated  -> prosody network                         -> F0 and energy, 80 a second
    content repeated twice a frame, F0, energy (80 a second)      -> source-filter decoder -> 24 kHz samples

Durations, F0 and energy can be given instead of predicted, so that other models, edits by the word (word_prosody.py)
and recordings decide how the text is spoken. Content is what front ends of other tokens learn to predict. A symbol is
heard about 50 ms (two frames of durations) before its place; pitch and energy are heard where they are given.

Architecture and weights (asset `hibari`): the Apache-2.0 package hibari-tts 0.2.1, distilled from one voice of
Kokoro-82M; durations and prosody as in FastSpeech 2 (Ren et al., 2020, arXiv:2006.04558). The symbols are Kokoro's.
Differs from it: float32 throughout, where its graph rounds activations to 8 bits.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.assets import resolve
from vocable.assets.weights import read_weights
from vocable.errors import AssetError, ConfigError
from vocable.files import read_text
from vocable.synthesis.layers import ConvNeXtBlock, whole_durations
from vocable.synthesis.phonemes import SYMBOL_RATE
from vocable.synthesis.source_filter import SourceFilterConfig, SourceFilterDecoder

ENERGY_PER_NEPER = 2.9
"""What one neper of amplitude (8.7 dB) is on the scale of the energy. Measured: +6 dB asked by it were +5.5 dB."""
END_ID = 0
"""Stands before the first symbol and after the last."""
F0_SCALE, ENERGY_SCALE = 100.0, 5.0
"""What the prosody network's outputs are multiplied by: Hz, and units of energy."""
PREDICTOR_DILATIONS = (1, 2, 4, 8, 1, 2)
WRITTEN_OTHERWISE = {
    "g": "ɡ",
    "'": "ˈ",
    "’": "ˈ",
    "`": "ˌ",
    "ɝ": "ɜɹ",
    "ɫ": "l",
    "ɘ": "ə",
    "ɵ": "ə",
    "ʉ": "u",
    "ʏ": "ɪ",
}
"""Symbols of the alphabet that lie nearest to ones that people write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToSpeechConfig:
    """Sizes of the networks. The defaults are those of the pretrained weights."""

    num_symbols: int = 178
    """Rows of the symbol embeddings; ids of symbols are below it."""
    content_loops: int = 4
    """Times that the text encoder applies its attention layer."""
    prosody_dim: int = 192
    """Channels of the prosody network."""
    prosody_loops: int = 6
    """Times that the prosody network applies its attention layer."""
    median_hz: float = 192.0
    """Median pitch of the voice, Hz. The default: 219 voiced seconds of predicted stories."""
    decoder: SourceFilterConfig = field(default_factory=SourceFilterConfig)
    """The decoder; its content_dim is the size of the text encoder."""


class Prosody(NamedTuple):
    """How a text is spoken."""

    durations: Int[Tensor, " symbols"]
    """Frames of each symbol, 40 a second, with the two end marks."""
    f0: Float[Tensor, " frames"]
    """Pitch in Hz, 80 frames a second; unvoiced frames are below 40, those that are predicted not always 0."""
    energy: Float[Tensor, " frames"]
    """Energy of the same frames: about 2.9 per neper of amplitude; 2.5 +- 5.8 in speech."""


class SpokenText(NamedTuple):
    """A waveform and the prosody that it was spoken with."""

    waveform: Float[Tensor, " samples"]
    """24 kHz."""
    prosody: Prosody


class AttentionLayer(nn.Module):
    """Self-attention of two heads and a feed-forward layer, each after a LayerNorm; positions are not marked."""

    def __init__(self, dim: int, hidden_dim: int, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.feed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.expand, self.contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(
        self, symbols: Float[Tensor, "batch symbols dim"], mask: Bool[Tensor, "batch symbols"] | None = None
    ) -> Float[Tensor, "batch symbols dim"]:
        """Return the symbols, changed; nobody looks at those that `mask` marks False."""
        batch, length, dim = symbols.shape
        heads = self.qkv(self.norm(symbols)).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        symbols = symbols + self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return symbols + self.contract(functional.gelu(self.expand(self.feed_norm(symbols))))


class TextEncoder(nn.Module):
    """Embedding, two ConvNeXt blocks, one attention layer that is applied several times, LayerNorm."""

    def __init__(self, num_symbols: int, dim: int, num_loops: int) -> None:
        super().__init__()
        self.num_loops = num_loops
        self.embed = nn.Embedding(num_symbols, dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim, 2 * dim, 5, scale=0.5) for _ in range(2))
        self.attention = AttentionLayer(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, ids: Int[Tensor, "batch symbols"], mask: Bool[Tensor, "batch symbols"] | None = None
    ) -> Float[Tensor, "batch symbols dim"]:
        """Return a vector for each symbol; what `mask` marks False cannot change the others."""
        symbols = self.embed(ids)
        for block in self.blocks:
            symbols = block(symbols if mask is None else symbols * mask[..., None])
        for _ in range(self.num_loops):
            symbols = self.attention(symbols, mask)
        return self.norm(symbols)


class ProsodyPredictor(nn.Module):
    """Durations from symbols; F0 and energy from the symbols' features, repeated by any durations."""

    def __init__(self, num_symbols: int, dim: int, num_loops: int) -> None:
        super().__init__()
        self.text = TextEncoder(num_symbols, dim, num_loops)
        self.duration_mix = nn.Conv1d(dim, dim, 3, padding="same")
        self.duration_head = nn.Linear(dim, 1)
        self.embed = nn.Linear(dim, dim)
        scale = 1 / len(PREDICTOR_DILATIONS)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, 2 * dim, 7, scale, dilation=dilation) for dilation in PREDICTOR_DILATIONS
        )
        self.head = nn.Linear(dim, 4)

    def log_durations(
        self, features: Float[Tensor, "batch symbols dim"], mask: Bool[Tensor, "batch symbols"] | None = None
    ) -> Float[Tensor, "batch symbols"]:
        """Return log(1 + frames) of each symbol, from the features that `text` gives."""
        features = features if mask is None else features * mask[..., None]
        return self.duration_head(functional.gelu(self.duration_mix(features.mT).mT))[..., 0]

    def frames(
        self, repeated: Float[Tensor, "batch slow_frames dim"], mask: Bool[Tensor, "batch slow_frames"] | None = None
    ) -> Float[Tensor, "batch slow_frames dim"]:
        """Return what F0 and energy are read from; what `mask` marks False cannot change the others."""
        frames = self.embed(repeated)
        for block in self.blocks:
            frames = block(frames if mask is None else frames * mask[..., None])
        return frames

    def f0_and_energy(
        self, frames: Float[Tensor, "batch slow_frames dim"]
    ) -> tuple[Float[Tensor, "batch frames"], Float[Tensor, "batch frames"]]:
        """Return F0 in Hz and energy, two frames for every one of `frames`."""
        f0, energy = two_a_frame(self.head(frames)).unbind(-1)
        return f0 * F0_SCALE, energy * ENERGY_SCALE


def two_a_frame(outputs: Float[Tensor, "batch slow_frames twice"]) -> Float[Tensor, "batch frames values"]:
    """Turn the outputs for slow frames, value by value the first frame and the second, into those of frames."""
    return outputs.unflatten(-1, (-1, 2)).mT.flatten(1, 2)


class TextToSpeech(nn.Module):
    """Phonemes to speech; see the module. `symbols` are those that it reads, with their ids."""

    def __init__(self, config: TextToSpeechConfig, symbols: Mapping[str, int]) -> None:
        super().__init__()
        outside = [symbol for symbol, id in symbols.items() if not 0 <= id < config.num_symbols]
        if outside:
            raise ConfigError(f"The symbol {outside[0]!r} has an id outside num_symbols ({config.num_symbols}).")
        self.config = config
        self.symbols = dict(symbols)
        self.text = TextEncoder(config.num_symbols, config.decoder.content_dim, config.content_loops)
        self.prosody = ProsodyPredictor(config.num_symbols, config.prosody_dim, config.prosody_loops)
        self.decoder = SourceFilterDecoder(config.decoder)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path = "hibari", device: str = "cpu") -> "TextToSpeech":
        """Open the weights of an asset or folder (model.safetensors, vocab.json).

        Raises:
            AssetError: they are nowhere to be had, or do not fit.
        """
        folder = resolve(str(name_or_folder))
        if not (folder / "vocab.json").is_file():
            raise AssetError(f"{folder}: no vocab.json, so this is no text-to-speech. Name the asset hibari.")
        model = cls(TextToSpeechConfig(), json.loads(read_text(folder / "vocab.json")))
        weights, own = read_weights(folder), model.state_dict()
        unfit = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        unfit += [name for name in weights if name not in own]
        if unfit:
            raise AssetError(
                f"{folder}: its weights are not those of TextToSpeech; {unfit[0]} and {len(unfit) - 1} others differ."
            )
        model.load_state_dict(weights)
        return model.eval().to(device)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveform, Hz."""
        return self.config.decoder.sample_rate

    def ids(self, phonemes: str) -> Int[Tensor, " symbols"]:
        """Return the ids of a string of symbols, with the end marks.

        Raises:
            ConfigError: it is empty, or holds symbols that the model does not have; the message says what to write.
        """
        if not phonemes.strip():
            raise ConfigError(f"{phonemes!r} holds no phoneme to speak.")
        unknown = sorted(set(phonemes) - set(self.symbols))
        if unknown:
            raise ConfigError(_unknown_symbols(phonemes, unknown, self.symbols))
        ids = [END_ID, *(self.symbols[symbol] for symbol in phonemes), END_ID]
        return torch.tensor(ids, device=self.decoder.embed.weight.device)

    def content(
        self, ids: Int[Tensor, "batch symbols"], mask: Bool[Tensor, "batch symbols"] | None = None
    ) -> Float[Tensor, "batch symbols content_dim"]:
        """Return what the decoder is told of each symbol; repeated by its duration, this is the decoder's content."""
        return self.text(ids, mask)

    def predict_prosody(
        self, ids: Int[Tensor, " symbols"], durations: Int[Tensor, " _"] | None = None, speed: float = 1.0
    ) -> Prosody:
        """Predict how a text is spoken; with `durations`, pitch and energy for these.

        Raises:
            ConfigError: another number of durations than symbols, a negative one, or a speed of 0 or less.
        """
        if not speed > 0:
            raise ConfigError(f"speed is {speed}; 1 is normal, 2 twice as fast.")
        features = self.prosody.text(ids[None])
        if durations is None:
            durations = whole_durations(self.prosody.log_durations(features)[0], 1 / speed)
        durations = self._checked_durations(durations, len(ids))
        f0, energy = self.prosody.f0_and_energy(self.prosody.frames(features.repeat_interleave(durations, 1)))
        return Prosody(durations, f0[0].clamp(min=0), energy[0])

    def decode(self, content: Float[Tensor, "symbols content_dim"], prosody: Prosody) -> Float[Tensor, " samples"]:
        """Speak symbols' content with a prosody; differentiable in content, energy, and what F0 tells the filter.

        Raises:
            ConfigError: durations, F0 or energy have another length, or are no finite numbers.
        """
        durations = self._checked_durations(prosody.durations, len(content))
        num_frames = 2 * int(durations.sum())
        f0 = _checked_frames("F0", prosody.f0, num_frames)
        if bool((f0 < 0).any()):
            raise ConfigError("F0 has negative values; it is in Hz, and 0 where speech is unvoiced.")
        energy = _checked_frames("energy", prosody.energy, num_frames)
        repeated = content.repeat_interleave(2 * durations, 0)[None]
        return self.decoder.synthesise(self.decoder(repeated, f0[None], energy[None]), f0[None])[0]

    def speak(
        self,
        phonemes: str,
        *,
        durations: Int[Tensor, " _"] | None = None,
        f0: Float[Tensor, " _"] | None = None,
        energy: Float[Tensor, " _"] | None = None,
        speed: float = 1.0,
    ) -> SpokenText:
        """Speak a string of symbols; what is not given is predicted.

        Args:
            phonemes: Kokoro's symbols: one for each sound, stress marks before vowels, punctuation for pauses, such as
                `həlˈO ðˈɛɹ.`
            durations: Frames of each symbol, 40 a second, the end marks before and after them included.
            f0: Pitch in Hz of each of twice as many frames, 80 a second; 0 where unvoiced.
            energy: Energy of the same frames; see Prosody.
            speed: Divides predicted durations.

        Raises:
            ConfigError: no symbols, unknown ones, or prosody of another length.
        """
        ids = self.ids(phonemes)
        if durations is None or f0 is None or energy is None:
            predicted = self.predict_prosody(ids, durations, speed)
            durations = predicted.durations
            f0 = predicted.f0 if f0 is None else f0
            energy = predicted.energy if energy is None else energy
        prosody = Prosody(durations, f0, energy)
        return SpokenText(self.decode(self.content(ids[None])[0], prosody), prosody)

    def _checked_durations(self, durations: Tensor, num_symbols: int) -> Tensor:
        if len(durations) != num_symbols:
            raise ConfigError(
                f"There are {len(durations)} durations for {num_symbols} symbols. The end marks before the first "
                "symbol and after the last have one each, too."
            )
        if durations.is_floating_point() or bool((durations < 0).any()) or not bool(durations.any()):
            raise ConfigError("Durations are whole frames, 0 or more, and not all of them 0.")
        return durations


def _checked_frames(what: str, values: Tensor, num_frames: int) -> Tensor:
    if len(values) != num_frames:
        raise ConfigError(
            f"{what} has {len(values)} frames, but the durations say {num_frames}: two ({2 * SYMBOL_RATE} Hz) for each "
            f"frame of duration ({SYMBOL_RATE} Hz)."
        )
    if not bool(values.isfinite().all()):
        raise ConfigError(f"{what} holds values that are no finite numbers.")
    return values


def _unknown_symbols(phonemes: str, unknown: list[str], symbols: Mapping[str, int]) -> str:
    """Say which symbols are unknown, what to write for them, and which there are."""
    named = []
    for symbol in unknown:
        base = unicodedata.normalize("NFKD", symbol)[0]
        nearest = next((s for s in (WRITTEN_OTHERWISE.get(symbol), base, symbol.lower()) if s and s in symbols), None)
        nearest = nearest or WRITTEN_OTHERWISE.get(symbol)
        named.append(f"{symbol!r} (write {nearest!r}?)" if nearest else repr(symbol))
    spoken = phonemes if len(phonemes) <= 40 else phonemes[:40] + "…"
    return f"{spoken!r} has symbols that this voice does not know: {', '.join(named)}. Known: {' '.join(symbols)}"
