"""Align with a CTC recogniser of transformers: wav2vec 2.0, HuBERT, WavLM and others that write single letters.

    waveform 16 kHz -> model -> log posteriors (frames, vocabulary) -> best path of the letters -> word times

Recordings go through the model one by one, so that padding cannot reach the norms of the base models. Checkpoints that
write pieces of several letters (BPE) are refused word by word: their letters are not in the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, AssetError
from vocable.recognition.aligner import Found
from vocable.recognition.ctc import ctc_viterbi
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.words import CTCVocabulary, times_from_path, word_labels
from vocable.types import Utterance


def align_posteriors(
    log_probs: Float[Tensor, "frames vocabulary"],
    words: Sequence[SpokenWord],
    vocabulary: CTCVocabulary,
    frame_rate: float,
    offset: float = 0.0,
    strict: bool = False,
) -> Found:
    """Find words in the log posteriors of any CTC model.

    Args:
        log_probs: rows that sum to 1 as probabilities.
        words: of the text.
        vocabulary: what the columns stand for.
        frame_rate: frames per second.
        offset: seconds from the start of the utterance to the start of the first frame.
        strict: a letter that the vocabulary lacks is an error instead of a note.

    Raises:
        AlignmentError: the rows are no log posteriors, or as for `word_labels` and `ctc_viterbi`.
    """
    sums = log_probs.double().logsumexp(-1)
    if log_probs.numel() and not sums.abs().max() < 0.02:  # float16 rounds to 0.001, and many small ones add up
        worst = float(sums[sums.abs().nan_to_num(nan=torch.inf).argmax()])
        raise AlignmentError(
            f"These are no log posteriors: the log of a row's sum is {worst:.3g}, not 0. Apply log_softmax first."
        )
    labels, owners, notes = word_labels(words, vocabulary, strict)
    (path,) = ctc_viterbi(log_probs[None], [labels], blank=vocabulary.blank)
    return Found(times_from_path(path, owners, len(words), frame_rate, offset), notes)


class CTCAligner:
    """A CTC model with its vocabulary."""

    def __init__(
        self,
        model: Any,
        feature_extractor: Any,
        vocabulary: CTCVocabulary,
        name: str,
        max_seconds: float = 120.0,
        strict: bool = False,
    ) -> None:
        """Wrap loaded parts; `load_ctc` does it by name."""
        self.model = model.eval()
        self.feature_extractor = feature_extractor
        self.vocabulary = vocabulary
        self.name = name
        self.max_seconds = max_seconds
        self.strict = strict
        self.sample_rate: int = feature_extractor.sampling_rate
        hop, reach = 1, 1
        for kernel, stride in zip(getattr(model.config, "conv_kernel", ()), getattr(model.config, "conv_stride", ())):
            reach += (kernel - 1) * hop
            hop *= stride
        self.hop_length: int | None = hop if hop > 1 else None
        """Samples per frame; None where the model does not say, and the length of its output decides."""
        self.offset = max(reach - hop, 0) / 2 / self.sample_rate
        """A frame stands for the middle of the samples that it sees."""

    @torch.inference_mode()
    def log_posteriors(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames vocabulary"]:
        """Run the model on one recording at `sample_rate`."""
        inputs = self.feature_extractor(waveform.numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
        inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
        return self.model(**inputs).logits[0].float().log_softmax(-1)

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Time the words; confidence as in `times_from_path`."""
        waveform = read_utterance(utterance, self.sample_rate)
        seconds = waveform.numel() / self.sample_rate
        if seconds > self.max_seconds:
            raise AlignmentError(
                f"{utterance.id} lasts {seconds:.0f} s, more than max_seconds, {self.max_seconds:g}. Cut it, or raise "
                "max_seconds."
            )
        try:
            log_probs = self.log_posteriors(waveform)
        except RuntimeError as error:  # shorter than the model's first frame
            raise AlignmentError(f"{utterance.id}, {seconds:.3f} s: the model cannot read it: {error}") from error
        frame_rate = self.sample_rate / self.hop_length if self.hop_length else len(log_probs) / seconds
        return align_posteriors(log_probs, words, self.vocabulary, frame_rate, self.offset, self.strict)


def load_ctc(name: str, device: str = "cpu", max_seconds: float = 120.0, strict: bool = False) -> CTCAligner:
    """Load a CTC checkpoint with its tokenizer.

    Raises:
        AssetError: it is not at hand, or no CTC checkpoint with a vocabulary.
    """
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    from vocable.assets import resolve
    from vocable.assets.quiet import silenced_transformers

    folder = resolve(name)
    try:
        with silenced_transformers():
            model: Any = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
            feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{folder}: not a complete CTC checkpoint (model, vocabulary, settings): {error}") from error
    special = set(tokenizer.all_special_tokens)
    symbols = tokenizer.get_vocab()
    delimiter = symbols.get(getattr(tokenizer, "word_delimiter_token", None))
    vocabulary = CTCVocabulary(
        symbols={token: id for token, id in symbols.items() if token not in special and id != delimiter},
        blank=int(model.config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id),
        delimiter=delimiter,
    )
    return CTCAligner(model.to(device), feature_extractor, vocabulary, f"ctc:{name}", max_seconds, strict)
