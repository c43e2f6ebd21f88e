"""Acoustic codes for semantic tokens that have none, such as a language model's: level by level, all frames at once.

    semantic (frames)  ->  level 0 of all frames  ->  level 1, given level 0  ->  ...  ->  acoustic (levels, frames)
    a prompt of true codes before them gives the voice

A small transformer that sees the whole utterance predicts level k from the semantic codes and the levels before k, as
VALL-E's second model does (Wang et al., 2023, arXiv:2301.02111, section 4.2.2). How LM-SPT's paper makes speech of what
its language models write is not known to us; its auxiliary decoder, which needs none of this, is the other way.
Training is in acoustics_training.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.audio.io import Audio, read_audio
from vocable.audio.waveforms import resample
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig
from vocable.features.voice import LONGEST_SECONDS, Speaker, Voice
from vocable.files import replace_file
from vocable.synthesis.opening import SYNTHESIZER_TYPE, register_synthesizer
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.streams import card_of_stream, stream_fingerprint, streams_of_card
from vocable.tokens.tokenizer import CONFIG_FILE, WEIGHTS_FILE, SpeechTokenizer
from vocable.types import SpeechTokens, Stream

TYPE = "lm-spt-acoustics"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorConfig:
    """The network that predicts acoustic levels, and the streams that it knows."""

    semantic: str = "semantic"
    """Stream that is given."""
    acoustic: str = "acoustic"
    """Stream that is predicted."""
    transformer: FrameTransformerConfig = field(
        default_factory=lambda: FrameTransformerConfig(
            num_layers=6, width=256, num_heads=4, feedforward_dim=1024, attention="full", reach_frames=None
        )
    )
    """Layers between codes and predictions. Where a prompt shall give the voice, every frame must see it."""
    temperature: float = 0.0
    """Codes are drawn at this temperature; 0 takes the likeliest of each level."""
    seed: int = 0
    """Draws codes, where the temperature is above 0."""

    def __post_init__(self) -> None:
        if self.transformer.attention != "full":
            raise ConfigError(
                f"predictor.transformer.attention is {self.transformer.attention!r}; levels are predicted for all "
                "frames at once, so it must be 'full'."
            )
        if self.temperature < 0:
            raise ConfigError(f"predictor.temperature is {self.temperature}; it must be 0 or more.")


class Codes(NamedTuple):
    """Codes of both streams, one position a frame."""

    semantic: Int[Tensor, " frames"]
    acoustic: Int[Tensor, "levels frames"]


class AcousticPredictor(nn.Module):
    """Predicts each acoustic level from the semantic codes and the levels before it."""

    def __init__(self, config: PredictorConfig, semantic_size: int, acoustic_sizes: Sequence[int]) -> None:
        """Make the network for codebooks of these sizes."""
        super().__init__()
        self.config, self.semantic_size, self.acoustic_sizes = config, semantic_size, tuple(acoustic_sizes)
        width = config.transformer.width
        self.semantic = nn.Embedding(semantic_size, width)
        self.acoustic = nn.ModuleList(nn.Embedding(size, width) for size in acoustic_sizes)
        self.level = nn.Embedding(len(acoustic_sizes), width)
        self.prompt = nn.Parameter(torch.zeros(width))
        self.transformer = FrameTransformer(config.transformer, width, width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in acoustic_sizes)

    @property
    def num_levels(self) -> int:
        """Acoustic codes of a frame."""
        return len(self.acoustic_sizes)

    def forward(
        self,
        semantic: Int[Tensor, "batch frames"],
        acoustic: Int[Tensor, "batch levels frames"],
        level: int,
        prompt: Bool[Tensor, "batch frames"] | None = None,
        mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch frames codebook_size"]:
        """Return logits of one level for every frame.

        Args:
            semantic: codes of every frame.
            acoustic: codes of every frame; of those outside the prompt only the levels before `level` are read, so
                that the others may hold anything.
            level: which one is predicted, from 0 on.
            prompt: frames of which all levels are known; None: no frame.
            mask: True for real frames, which come first in every item; None: all. Padding changes no real frame.
        """
        hidden = self._embedded(self.semantic, semantic, mask) + self.level.weight[level]
        for number, table in enumerate(self.acoustic):
            if number < level:
                hidden = hidden + self._embedded(table, acoustic[:, number], mask)
            elif prompt is not None:
                known = self._embedded(table, acoustic[:, number], mask, prompt)
                hidden = hidden + torch.where(prompt[..., None], known, 0)
        if prompt is not None:
            hidden = hidden + prompt[..., None] * self.prompt
        return self.heads[level](self.transformer(hidden, mask))

    @torch.inference_mode()
    def predict(self, semantic: Int[Tensor, " frames"], prompt: Codes | None = None) -> Int[Tensor, "levels frames"]:
        """Return acoustic codes for semantic ones.

        Args:
            semantic: codes of every frame.
            prompt: codes of speech in the voice that is wanted; None: a voice of the training speech.

        Raises:
            ConfigError: a code is outside its codebook, or the prompt has other levels.
        """
        self.eval()
        device, size = self.level.weight.device, len(semantic)
        before = Codes(semantic[:0], torch.zeros(self.num_levels, 0).long()) if prompt is None else prompt
        if before.acoustic.shape != (self.num_levels, len(before.semantic)):
            shape = tuple(before.acoustic.shape)
            raise ConfigError(f"The prompt's acoustic codes are {shape}, not ({self.num_levels}, its frames).")
        self._check("semantic", torch.cat([before.semantic, semantic]), self.semantic_size)
        for level, codes in enumerate(before.acoustic):
            self._check(f"acoustic level {level}", codes, self.acoustic_sizes[level])
        first = len(before.semantic)
        given = torch.cat([before.semantic, semantic])[None].to(device)
        codes = torch.zeros(1, self.num_levels, first + size, dtype=torch.int64, device=device)
        codes[0, :, :first] = before.acoustic
        known = torch.arange(first + size, device=device)[None] < first
        generator = torch.Generator().manual_seed(self.config.seed)
        for level in range(self.num_levels if size else 0):
            logits = self(given, codes, level, known if first else None)[0, first:].float().cpu()
            codes[0, level, first:] = self._choose(logits, generator).to(device)
        return codes[0, :, first:].cpu()

    def _choose(self, logits: Float[Tensor, "frames size"], generator: torch.Generator) -> Int[Tensor, " frames"]:
        if self.config.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.double() / self.config.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    def _embedded(self, table: nn.Module, codes: Tensor, *known: Tensor | None) -> Tensor:
        """Embed codes where all of `known` say so; elsewhere they may hold anything, and stand for nothing."""
        for where in known:
            codes = codes if where is None else torch.where(where, codes, 0)
        return table(codes)

    def _check(self, what: str, codes: Tensor, size: int) -> None:
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= size):
            raise ConfigError(
                f"Codes of {what} run from {int(codes.min())} to {int(codes.max())}; the codebook has {size}."
            )


def codes_of(tokens: SpeechTokens, config: PredictorConfig, name: str) -> Codes:
    """Return the codes of both streams of an utterance, one position a frame.

    Raises:
        ConfigError: the streams have different numbers of frames; `name` says of which utterance.
    """
    semantic = frames_of(tokens.stream(config.semantic))[0]
    acoustic = frames_of(tokens.stream(config.acoustic))
    if len(semantic) != acoustic.shape[1]:
        raise ConfigError(
            f"{name} has {len(semantic)} frames in its stream {config.semantic!r}, but {acoustic.shape[1]} in "
            f"{config.acoustic!r}; levels are predicted for the same frames."
        )
    return Codes(semantic, acoustic)


def frames_of(tokens: SpeechTokens) -> Int[Tensor, "levels frames"]:
    """Return one column of codes a frame."""
    codes = tokens.codes.long().cpu()
    return codes if tokens.durations is None else codes.repeat_interleave(tokens.durations.cpu(), dim=1)


def predictor_for(config: PredictorConfig, card: Mapping[str, Any]) -> AcousticPredictor:
    """Make the network for the streams of a tokenizer's card.

    Raises:
        ConfigError: it lacks one of the streams, they have different rates, or the given one has several levels.
    """
    semantic, acoustic = (_stream(card, name) for name in (config.semantic, config.acoustic))
    if semantic.rate != acoustic.rate:
        raise ConfigError(
            f"The streams {semantic.name!r} and {acoustic.name!r} have {semantic.rate:g} and {acoustic.rate:g} Hz; "
            "levels are predicted for the same frames."
        )
    return AcousticPredictor(config, semantic.codebook_size, acoustic.codebook_sizes)


def _stream(card: Mapping[str, Any], name: str) -> Stream:
    return streams_of_card(card_of_stream(card, name))[0]


def save_predictor(predictor: AcousticPredictor, folder: Path, card: Mapping[str, Any]) -> None:
    """Write weights, settings and the card of the tokenizer whose codes it predicts."""
    header = {SYNTHESIZER_TYPE: TYPE, "predictor": config_to_dict(predictor.config), "tokenizer_card": dict(card)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in predictor.state_dict().items()}
    with replace_file(folder / WEIGHTS_FILE) as file:
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    with replace_file(folder / CONFIG_FILE) as file:
        file.write(json.dumps(header, indent=2).encode() + b"\n")


class AcousticSynthesizer:
    """Makes semantic tokens heard through a codec's main decoder, with acoustic levels that are predicted.

    A voice is a recording: the beginning of it is encoded and put before the tokens.
    """

    voices: Sequence[str] = ()

    def __init__(self, predictor: AcousticPredictor, card: Mapping[str, Any], tokenizer: SpeechTokenizer) -> None:
        """Take a predictor, and the codec itself.

        Raises:
            FingerprintError: the predictor was trained on codes of another codec.
        """
        check_fingerprint(card["fingerprint"], tokenizer.fingerprint, "The predictor of acoustic levels", "the codec")
        self.predictor, self.codec = predictor.eval(), tokenizer

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the codec decodes, Hz."""
        return self.codec.decode_rate

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the semantic stream."""
        return stream_fingerprint(self.codec.fingerprint, self.predictor.config.semantic)

    def synthesize(self, tokens: Sequence[SpeechTokens], voice: Voice | None = None) -> list[Tensor]:
        """Return one waveform, (samples,), per item.

        Raises:
            ConfigError: the voice is not a recording, or codes are outside their codebooks.
        """
        prompt, names = self._prompt(voice), self.predictor.config
        whole = []
        for item in tokens:
            semantic = frames_of(item.stream(names.semantic))
            acoustic = self.predictor.predict(semantic[0], prompt)
            streams = {names.semantic: SpeechTokens(codes=semantic), names.acoustic: SpeechTokens(codes=acoustic)}
            whole.append(SpeechTokens(streams=streams))
        return self.codec.decode(whole)

    def _prompt(self, voice: Voice | None) -> Codes | None:
        if voice is None:
            return None
        vector = isinstance(voice, Tensor | Speaker)
        if vector or not (isinstance(voice, Audio) or Path(voice).is_file()):
            raise ConfigError(
                "Acoustic levels take their voice from a recording that goes before them: give an audio file, not "
                f"{'a speaker vector' if vector else repr(voice)}."
            )
        if isinstance(voice, Audio):
            waveform = resample(voice.waveform, voice.sample_rate, self.codec.sample_rate)
        else:
            waveform = read_audio(Path(voice), self.codec.sample_rate).waveform
        waveform = waveform[: round(LONGEST_SECONDS * self.codec.sample_rate)]
        (tokens,) = self.codec.encode([waveform])
        return codes_of(tokens, self.predictor.config, "The voice's recording")


@register_synthesizer(TYPE)
def open_acoustics(folder: Path, tokenizer: SpeechTokenizer | None, device: str) -> AcousticSynthesizer:
    """Read what `save_predictor` wrote.

    Args:
        folder: where it is.
        tokenizer: the codec, or its semantic stream.
        device: where the predictor computes.

    Raises:
        ConfigError: the codec is not given.
        AssetError: the weights cannot be read.
        FingerprintError: the predictor was trained on codes of another codec.
    """
    if tokenizer is None:
        raise ConfigError(f"{folder} predicts acoustic levels, which only the codec can make heard: name it too.")
    header = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config = config_from_dict(PredictorConfig, header["predictor"], source=str(folder / CONFIG_FILE))
    predictor = predictor_for(config, header["tokenizer_card"])
    try:
        predictor.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_FILE))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise AssetError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}). Copy it again.") from error
    return AcousticSynthesizer(predictor.to(device), header["tokenizer_card"], tokenizer.whole)
