"""The speech decoder as published: units written one after another, spoken by a unit vocoder.

    words, their vectors, speaker -> unit_network.py -> units, 50 a second -> synthesizer of the units -> waveform

Source: Tseng et al., 2025, arXiv:2504.07053, section 3.1.2. Differs in the units: the paper has CosyVoice's S3, 4096
classes of a recogniser's states, spoken by a flow and a vocoder that read the speaker vector; here any unit tokenizer
serves (unit_source.py), by default the k-means units that come with Vocable, with the vocoder that comes with it.

It hears nothing of when a word begins: `speak` returns no times, and words cannot be made slower, higher or louder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.features.voice import Speaker, Voice
from vocable.sequences.word_tokens import WordTextTokenizer, WordTokens
from vocable.systems.taste.model import load_reader
from vocable.systems.taste.speech_decoder import (
    DecoderLoss,
    SpeechDecoder,
    SpokenWords,
    WordBatch,
    WordChange,
    register_decoder,
)
from vocable.systems.taste.unit_network import UnitNetwork, UnitNetworkConfig
from vocable.systems.taste.unit_source import UnitSource
from vocable.types import Utterance

MORE_TOKENS = 3
"""Tokens that the published HF code adds to a text's own before it bounds the number of units."""
PART_ENDS = (".", "!", "?", ";", ":", ",")
"""Marks after which a long text is best cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDecoderConfig:
    """A unit decoder."""

    kind: Literal["units"] = "units"
    units: str = "vocable/units-500"
    """Unit tokenizer whose units are written: a name or folder; or a folder of token shards, whose units are taken by
    the utterance's id, where the tokenizer does not run here (CosyVoice's S3)."""
    stream: str | None = None
    """Stream of the tokenizer, where it has several."""
    collapse: bool = False
    """Whether neighbouring equal units are written once. The synthesizer then predicts how long each lasts, whatever
    the words' vectors say of it."""
    synthesizer: str | None = None
    """Synthesizer of the units, a name or folder; None: the tokenizer's own, else `vocable/voices`."""
    voice: str = "speaker"
    """Voice of the synthesizer: `speaker`, which copies the one that is asked for; `default`; or a name that it knows,
    for synthesizers that copy no voice."""
    network: UnitNetworkConfig = field(default_factory=UnitNetworkConfig)
    top_k: int | None = 25
    """Units are drawn from so many likeliest ones; 1 takes the likeliest, None draws from all."""
    least_units: float = 2.0
    """Fewest units for a token of text; the end symbol is not drawn before."""
    most_units: float = 20.0
    """Most units for a token of text."""
    most_tokens: int = 80
    """Longest text that is spoken at once, in tokens: longer than what 30 s of training hold. Longer ones are spoken
    in parts."""

    def __post_init__(self) -> None:
        for name in ("top_k", "most_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"decoder.{name} is {value}; it must be at least 1.")
        if not 0 <= self.least_units <= self.most_units or not self.most_units > 0:
            raise ConfigError(
                f"decoder.least_units is {self.least_units} and most_units {self.most_units}: at least 0, and the "
                "second above 0 and not below the first."
            )

    def build(self, word_dim: int, reader: WordTextTokenizer) -> "UnitDecoder":
        """Draw a new decoder; see DecoderConfig.

        Raises:
            AssetError: there is no such tokenizer.
            ConfigError: it writes no units.
        """
        return UnitDecoder(self, word_dim, reader)


@register_decoder
class UnitDecoder(SpeechDecoder):
    """Words and their vectors to speech, by units."""

    kind = "units"
    part_names = ("accuracy_top1", "accuracy_top5")

    def __init__(self, config: UnitDecoderConfig, word_dim: int, reader: WordTextTokenizer) -> None:
        super().__init__()
        self.config, self.word_dim, self.reader = config, word_dim, reader
        self.source = UnitSource(config.units, config.stream, config.synthesizer, config.collapse)
        self.network = UnitNetwork(config.network, word_dim, reader.size, self.source.codebook_size)

    @property
    def sample_rate(self) -> int:
        """See SpeechDecoder."""
        return self.source.synthesizer.sample_rate

    def targets(
        self, utterance: Utterance, waveform: Float[Tensor, " samples"], words: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the units of a recording; see SpeechDecoder.

        Raises:
            AudioFormatError: the recording has none.
        """
        return {"units": self.source.units(utterance, waveform).int()}

    def targets_key(self) -> dict[str, Any]:
        """See SpeechDecoder."""
        return {"units": self.source.fingerprint, "collapse": self.config.collapse}

    def loss(self, batch: WordBatch, targets: Sequence[Mapping[str, Tensor]]) -> DecoderLoss:
        """Return the cross entropy of units and end symbols, and how many of them are the likeliest, or among five."""
        joint = self.network.encode(batch.ids, batch.word_ids, batch.vectors)
        units = [one["units"].long() for one in targets]
        logits, wanted = self.network.scores(joint, batch.word_ids >= 0, batch.speaker, units)
        logits = logits.float()
        count = len(wanted)
        hits = (logits.detach().topk(min(5, logits.shape[1])).indices == wanted[:, None]).cumsum(1)
        parts = {"accuracy_top1": (float(hits[:, 0].sum()), count), "accuracy_top5": (float(hits[:, -1].sum()), count)}
        return DecoderLoss(functional.cross_entropy(logits, wanted, reduction="sum"), count, parts)

    @torch.no_grad()
    def speak(
        self,
        words: Sequence[str],
        vectors: Float[Tensor, "words dim"] | None,
        speaker: Speaker,
        changes: Mapping[int, WordChange] | None = None,
        seed: int = 0,
    ) -> SpokenWords:
        """See SpeechDecoder; times of words are not known, and changes are refused."""
        if changes:
            raise ConfigError(
                "A unit decoder cannot make words slower, higher or louder: its units say all at once. Give words the "
                "codes of another reading, or take the decoder of kind 'prosody'."
            )
        units = self.write(words, vectors, speaker, seed)
        voices: dict[str, Voice | None] = {"speaker": speaker, "default": None}
        return SpokenWords(self.source.speak(units, voices.get(self.config.voice, self.config.voice)), ())

    @torch.no_grad()
    def write(
        self, words: Sequence[str], vectors: Float[Tensor, "words dim"] | None, speaker: Speaker, seed: int = 0
    ) -> Tensor:
        """Return the units that words are spoken with; arguments as in `speak`.

        Raises:
            ConfigError: other numbers of words and vectors, or vectors or a speaker of another length.
        """
        if vectors is not None and vectors.shape != (len(words), self.word_dim):
            raise ConfigError(
                f"There are vectors of shape {tuple(vectors.shape)} for {len(words)} words; this decoder reads one of "
                f"{self.word_dim} numbers for each word."
            )
        if speaker.vector.shape != (self.config.network.speaker_dim,):
            raise ConfigError(
                f"The speaker vector has shape {tuple(speaker.vector.shape)}; this decoder reads "
                f"{self.config.network.speaker_dim} numbers."
            )
        device, generator = self.network.balance.device, torch.Generator().manual_seed(seed)
        who = speaker.vector.to(device).float()
        known = None if vectors is None else vectors.to(device).float()
        parts = [torch.zeros(0, dtype=torch.int64)]
        for first, tokens in self._parts(words):
            last = first + int(tokens.word_ids[-1]) + 1
            own = None if known is None else known[None, first:last]
            joint = self.network.encode(tokens.ids[None].to(device), tokens.word_ids[None].to(device), own)[0]
            size = len(tokens.ids) + MORE_TOKENS
            least, most = int(self.config.least_units * size), max(1, int(self.config.most_units * size))
            parts.append(self.network.write(self.network.prefix(joint, who), least, most, self.config.top_k, generator))
        return torch.cat(parts)

    def _parts(self, words: Sequence[str]) -> list[tuple[int, WordTokens]]:
        """Cut a text into parts that are not too long, after marks where there are some: first word and tokens."""
        tokens = self.reader.encode(words)
        ends = torch.bincount(tokens.word_ids, minlength=len(words)).cumsum(0).tolist()
        parts, first = [], 0
        while first < len(words):
            start = ends[first - 1] if first else 0
            last = max(sum(end <= start + self.config.most_tokens for end in ends), first + 1)
            if last < len(words):
                marked = [word for word in range(first + 1, last + 1) if words[word - 1].endswith(PART_ENDS)]
                last = marked[-1] if marked else last
            stop = ends[last - 1]
            parts.append((first, WordTokens(tokens.ids[start:stop], tokens.word_ids[start:stop] - first)))
            first = last
        return parts

    def saved_config(self) -> dict[str, Any]:
        """Return the settings, and what the tokenizers of text and units were."""
        return {
            "config": config_to_dict(self.config),
            "word_dim": self.word_dim,
            "reader": self.reader.name,
            "vocabulary_size": self.reader.size,
            "units_fingerprint": self.source.fingerprint,
        }

    @classmethod
    def from_saved(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "UnitDecoder":
        """See SpeechDecoder."""
        settings = config_from_dict(UnitDecoderConfig, config["config"], source="decoder")
        decoder = cls(settings, config["word_dim"], load_reader(config["reader"]))
        found = {"vocabulary_size": decoder.reader.size, "units_fingerprint": decoder.source.fingerprint}
        for name, now in found.items():
            if now != config[name]:
                what = settings.units if name == "units_fingerprint" else config["reader"]
                raise AssetError(
                    f"The unit decoder was trained with {what} of {name.replace('_', ' ')} {config[name]}, but what is "
                    f"found under that name now has {now}. Get the one that it was trained with."
                )
        try:
            decoder.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise AssetError(f"Weights and settings of the unit decoder do not fit: {error}") from error
        return decoder.requires_grad_(False).eval()
