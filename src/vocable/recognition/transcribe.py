"""Speech to text, for error rates: a recogniser that judges what speech a system made.

    waveforms 16 kHz -> log-mel, padded to 30 s -> Whisper encoder -> greedy decoding -> text
    waveforms 16 kHz -> CTC model: letter probabilities -> best letter per frame -> repeats and blanks dropped -> text

The judge must not be the model that the tokenizer encodes with: it would hear in its own features what nobody else
does. `judges.py` compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.assets import resolve
from vocable.assets.quiet import silenced_transformers
from vocable.assets.weights import weights_record
from vocable.audio.pieces import cut_at_quiet
from vocable.errors import AssetError, ConfigError
from vocable.recognition.checkpoints import load_recogniser


class Transcriber(Protocol):
    """Turns waveforms into text."""

    name: str
    """Published name of the recogniser, e.g. openai/whisper-base."""
    sample_rate: int
    conventions: Mapping[str, Any]
    """Every switch that changes the text."""
    weights: Mapping[str, str]
    """Name and hash of the weights."""

    def transcribe(self, waveforms: Sequence[Float[Tensor, " samples"]]) -> list[str]:
        """Return one text per waveform, in order; "" where nothing was heard."""
        ...


class WhisperTranscriber:
    """Whisper with greedy decoding, no timestamps, no text from earlier windows, no temperature fallback.

    Each recording is padded to 30 s, as published, so the text does not depend on what else is in the batch, up to
    float rounding; a window gets at most half of the decoder's positions, as published. Source: Radford et al., 2022,
    arXiv:2212.04356. Differs from the paper's long-form decoding: a recording over 30 s is cut at quiet places and the
    texts are joined.
    """

    def __init__(
        self,
        model: Any,
        feature_extractor: Any,
        tokenizer: Any,
        name: str,
        language: str = "en",
        batch_size: int = 8,
        weights: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap loaded parts; `load_whisper` does it by name.

        Args:
            language: what is spoken; ignored by English-only checkpoints, which refuse anything but "en".
        """
        self.model = model.eval()
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.sample_rate: int = feature_extractor.sampling_rate
        self.multilingual = bool(getattr(model.generation_config, "is_multilingual", False))
        if not self.multilingual and language != "en":
            raise ConfigError(f"{name} transcribes English only, not {language!r}. Choose a multilingual recogniser.")
        self.language = language
        settings = model.generation_config
        self.max_new_tokens = model.config.max_target_positions // 2
        timestamps = range(settings.no_timestamps_token_id + 1, model.config.vocab_size)
        settings.suppress_tokens = sorted({*(settings.suppress_tokens or ()), *timestamps})
        settings.max_length = None  # else it competes with max_new_tokens
        self.weights: Mapping[str, str] = dict(weights or {"name": name})
        self.conventions: Mapping[str, Any] = {
            "transcriber": name,
            "decoding": "greedy",
            "language": language,
            "padding": "30s",
            "timestamps": "suppressed",
            "max_tokens_per_window": self.max_new_tokens,
            "over_30s": "cut at the quietest 20 ms of each window's last 5 s",
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[Float[Tensor, " samples"]]) -> list[str]:
        """Transcribe waveforms at `sample_rate`; recordings of like length are decoded together."""
        pieces = [
            (i, piece) for i, waveform in enumerate(waveforms) for piece in cut_at_quiet(waveform, self.sample_rate)
        ]
        by_length = sorted(range(len(pieces)), key=lambda index: -pieces[index][1].numel())
        texts = [""] * len(pieces)
        for start in range(0, len(pieces), self.batch_size):
            batch = by_length[start : start + self.batch_size]
            for index, text in zip(batch, self._decode([pieces[index][1] for index in batch]), strict=True):
                texts[index] = text
        joined: list[list[str]] = [[] for _ in waveforms]
        for (owner, _), text in zip(pieces, texts, strict=True):
            joined[owner].append(text)
        return [" ".join(part for part in parts if part) for parts in joined]

    def _decode(self, waveforms: Sequence[Float[Tensor, " samples"]]) -> list[str]:
        inputs = self.feature_extractor(
            [waveform.cpu().numpy() for waveform in waveforms],
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            return_attention_mask=True,
        )
        language = {"language": self.language, "task": "transcribe"} if self.multilingual else {}
        with silenced_transformers():
            token_ids = self.model.generate(
                inputs.input_features.to(self.model.device, self.model.dtype),
                do_sample=False,
                num_beams=1,
                return_timestamps=False,
                attention_mask=inputs.attention_mask.to(self.model.device),
                max_new_tokens=self.max_new_tokens,
                **language,
            )
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def load_whisper(name: str = "openai/whisper-base", language: str = "en", device: str = "cpu") -> WhisperTranscriber:
    """Load a Whisper checkpoint as judge, in float32.

    Raises:
        AssetError: the weights are not at hand, or are not a Whisper model.
        ConfigError: the checkpoint cannot transcribe `language`.
    """
    folder, model, feature_extractor, tokenizer = load_recogniser(name, "Whisper", "float32")
    weights = weights_record(name, folder)
    return WhisperTranscriber(model.to(device), feature_extractor, tokenizer, name, language, weights=weights)


class CTCTranscriber:
    """A recogniser with a CTC head, read greedily; recordings over 30 s are cut at quiet places and the texts joined.

    No language model helps, so the text shows what was heard, misspellings included. Each recording is read by itself:
    padding would change it where the encoder normalises over time.

    Source of the decoding rule: Connectionist Temporal Classification (Graves et al., 2006), section 3.2, best path.
    """

    def __init__(
        self, model: Any, feature_extractor: Any, tokenizer: Any, name: str, weights: Mapping[str, str] | None = None
    ) -> None:
        """Wrap loaded parts; `load_ctc_transcriber` does it by name."""
        self.model = model.eval()
        self.feature_extractor, self.tokenizer, self.name = feature_extractor, tokenizer, name
        self.sample_rate: int = feature_extractor.sampling_rate
        self.weights: Mapping[str, str] = dict(weights or {"name": name})
        self.conventions: Mapping[str, Any] = {
            "transcriber": name,
            "decoding": "CTC, best path, no language model",
            "padding": "none",
            "over_30s": "cut at the quietest 20 ms of each window's last 5 s",
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[Float[Tensor, " samples"]]) -> list[str]:
        """Transcribe waveforms at `sample_rate`, one by one; "" where nothing was heard, or nothing could be."""
        texts = []
        for waveform in waveforms:
            parts = [self._decode(piece) for piece in cut_at_quiet(waveform, self.sample_rate)]
            texts.append(" ".join(part for part in parts if part))
        return texts

    def _decode(self, waveform: Float[Tensor, " samples"]) -> str:
        inputs = self.feature_extractor(waveform.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
        values = next(iter(inputs.values())).to(self.model.device, self.model.dtype)
        if int(self.model._get_feat_extract_output_lengths(values.shape[1])) < 1:
            return ""  # shorter than one frame
        return self.tokenizer.decode(self.model(values).logits[0].argmax(-1)).strip()


def load_ctc_transcriber(name: str, device: str = "cpu") -> CTCTranscriber:
    """Load a CTC checkpoint as judge.

    Raises:
        AssetError: the weights, the tokenizer or the feature extractor are not at hand.
    """
    folder, model, feature_extractor, tokenizer = load_recogniser(name, "CTC")
    return CTCTranscriber(model.to(device), feature_extractor, tokenizer, name, weights_record(name, folder))


def load_transcriber(name: str, language: str = "en", device: str = "cpu") -> Transcriber:
    """Load a recogniser of any known kind: Whisper, or a CTC model.

    Raises:
        AssetError: see `load_whisper` and `load_ctc_transcriber`.
        ConfigError: it is neither, or does not know the language.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise AssetError(f"{name}: not a transformers checkpoint: {error}") from error
    architectures = config.architectures or []
    if config.model_type == "whisper":
        return load_whisper(name, language=language, device=device)
    if any(architecture.endswith("ForCTC") for architecture in architectures):
        return load_ctc_transcriber(name, device)
    raise ConfigError(
        f"{name}: a {config.model_type!r} model ({', '.join(architectures) or 'no architecture named'}); recognisers "
        "that can be read are Whisper and models with a CTC head (Wav2Vec2ForCTC, HubertForCTC, ...)."
    )
