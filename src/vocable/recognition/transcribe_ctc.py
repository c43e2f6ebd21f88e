"""Speech to text with any transformers CTC model (wav2vec 2.0, HuBERT, WavLM fine-tuned on letters), greedily.

    waveform -> frames of letter probabilities -> best letter each -> repeats and blanks dropped -> text

No language model helps, so the text shows what was heard, misspellings included. Each recording is read by itself:
padding would change it where the encoder normalises over time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.assets.quiet import silenced_transformers
from vocable.errors import AssetError, ConfigError
from vocable.recognition.transcribe import Transcriber, cut_at_quiet, load_whisper


class CTCTranscriber:
    """A recogniser with a CTC head; recordings over 30 s are cut at quiet places and the texts joined.

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

    Args:
        name: hub name, asset name or folder; resolved by `vocable.assets`.
        device: where it runs.

    Raises:
        AssetError: the weights, the tokenizer or the feature extractor are not at hand.
    """
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    from vocable.assets import resolve
    from vocable.assets.weights import weights_record

    folder = resolve(name)
    try:
        with silenced_transformers():
            model: Any = AutoModelForCTC.from_pretrained(folder)
        feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{folder}: not a complete CTC checkpoint: {error}") from error
    return CTCTranscriber(model.to(device), feature_extractor, tokenizer, name, weights_record(name, folder))


def load_transcriber(name: str, language: str = "en", device: str = "cpu") -> Transcriber:
    """Load a recogniser of any known kind: Whisper, or a CTC model.

    Raises:
        AssetError: see `load_whisper` and `load_ctc_transcriber`.
        ConfigError: it is neither, or does not know the language.
    """
    from transformers import AutoConfig

    from vocable.assets import resolve

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
