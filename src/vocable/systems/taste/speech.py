"""A speech decoder as the synthesizer of a tokenizer by word: tokens with their words become sound.

tokens: words, codes (levels, words) -> vectors of the codes -> speech decoder, in a voice -> waveform
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import ConfigError
from vocable.features.speaker import load_speaker_encoder
from vocable.features.voice import Speaker, Voice, find_speaker
from vocable.registry import look_up
from vocable.systems.taste.speech_decoder import SpeechDecoder, SpokenWords, restore_decoder
from vocable.types import SpeechTokens

if TYPE_CHECKING:
    from vocable.systems.taste.tokenizer import TasteTokenizer

DECODER, VOICE = "decoder.", "voice."
"""Prefixes of the names of saved tensors."""
SPEECH = (DECODER, VOICE)


class WordSynthesizer:
    """The speech decoder that a tokenizer was trained with.

    A voice is a recording or a speaker vector; without one, speech is in the voice that was saved along.
    """

    def __init__(
        self, tokenizer: "TasteTokenizer", decoder: SpeechDecoder, voice: Speaker, speaker_encoder: str = "resemblyzer"
    ) -> None:
        """Join them.

        Args:
            tokenizer: Whose quantizer's vectors the decoder reads.
            decoder: In its final state.
            voice: Voice of speech for which none is asked.
            speaker_encoder: Name or folder of the encoder that the decoder knows speakers by.
        """
        self.tokenizer, self.voice, self.speaker_encoder = tokenizer, voice, speaker_encoder
        self.decoder = decoder.requires_grad_(False).eval().to(tokenizer.encoder.device)
        self.tokenizer_fingerprint = tokenizer.fingerprint
        self.voices: list[str] = []
        self._encoder: Any = None

    @property
    def sample_rate(self) -> int:
        """Samples per second of what it makes, Hz."""
        return self.decoder.sample_rate

    def synthesize(
        self, tokens: Sequence[SpeechTokens], voice: Voice | None = None
    ) -> list[Float[Tensor, " _samples"]]:
        """Speak each item. No words give no samples; codes may be those of the first levels alone.

        Raises:
            AudioFormatError: the voice's recording cannot be read, is silent, or shorter than a second.
            ConfigError: tokens without words, or codes that are not in the codebooks.
            UnknownNameError: the voice is a name.
        """
        speaker = self.speaker(voice)
        return [self.speak(item, speaker).waveform for item in tokens]

    @torch.inference_mode()
    def speak(self, tokens: SpeechTokens, speaker: Speaker) -> SpokenWords:
        """Speak tokens, and say when each word is spoken."""
        if tokens.words is None or len(tokens.words) != tokens.codes.shape[1]:
            raise ConfigError(
                f"The tokens have {tokens.codes.shape[1]} positions and "
                f"{'no' if tokens.words is None else len(tokens.words)} words; to be spoken, every word has one."
            )
        words = [one.word for one in tokens.words]
        if not words:
            return SpokenWords(torch.zeros(0), ())
        spoken = self.decoder.speak(words, self.vectors(tokens), speaker)
        return spoken._replace(waveform=spoken.waveform.cpu())

    def vectors(self, tokens: SpeechTokens) -> Float[Tensor, "words dim"]:
        """Return the vectors that codes stand for.

        Raises:
            ConfigError: a code outside its codebook.
        """
        return self.tokenizer.words.quantizer.decode(tokens.codes[None].to(self.tokenizer.encoder.device))[0]

    def speaker(self, voice: Voice | None) -> Speaker:
        """Return who speaks.

        Raises:
            AudioFormatError: the recording cannot be read, is silent, or shorter than a second.
            UnknownNameError: the voice is a name.
        """
        if voice is None:
            return self.voice
        if isinstance(voice, str):
            look_up("voice", voice, dict.fromkeys(self.voices))
        if isinstance(voice, Tensor):
            return Speaker(voice, None)
        if self._encoder is None:
            self._encoder = load_speaker_encoder(self.speaker_encoder)
        return find_speaker(voice, self._encoder)  # type: ignore[arg-type]  # names were refused

    def saved_config(self) -> dict[str, Any]:
        """Return what `from_saved` needs, as JSON values."""
        kind, own = self.decoder.kind, self.decoder.saved_config()
        return {"kind": kind, "decoder": own, "speaker_encoder": self.speaker_encoder}

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the decoder's weights and the voice."""
        tensors = {f"{DECODER}{name}": tensor for name, tensor in self.decoder.saved_tensors().items()}
        tensors[f"{VOICE}vector"] = self.voice.vector
        if self.voice.pitch is not None:
            tensors[f"{VOICE}pitch"] = self.voice.pitch
        return tensors

    @classmethod
    def from_saved(
        cls, tokenizer: "TasteTokenizer", config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "WordSynthesizer":
        """Build the decoder again."""
        own = {name.removeprefix(DECODER): value for name, value in tensors.items() if name.startswith(DECODER)}
        decoder = restore_decoder(config["kind"], config["decoder"], own)
        voice = Speaker(tensors[f"{VOICE}vector"], tensors.get(f"{VOICE}pitch"))
        return cls(tokenizer, decoder, voice, config["speaker_encoder"])
