"""Align with a CTC recogniser of transformers (wav2vec 2.0, HuBERT, WavLM), or with log posteriors in files.

    waveform 16 kHz -> model -> log posteriors (frames, vocabulary) -> best path of the letters -> word times

Recordings go through the model one by one, so that padding cannot reach the norms of the base models. Checkpoints that
write pieces of several letters (BPE) are refused word by word: their letters are not in the vocabulary.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, ConfigError
from vocable.recognition.aligner import Found
from vocable.recognition.checkpoints import load_recogniser
from vocable.recognition.ctc import ctc_viterbi
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.words import CTCVocabulary, times_from_path, word_labels
from vocable.types import Utterance

DESCRIPTION = "posteriors.json"
ARRAY = "log_probs"


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
        vocabulary: what the columns stand for.
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
    _, model, feature_extractor, tokenizer = load_recogniser(name, "CTC", "float32")
    special = set(tokenizer.all_special_tokens)
    symbols = tokenizer.get_vocab()
    delimiter = symbols.get(getattr(tokenizer, "word_delimiter_token", None))
    vocabulary = CTCVocabulary(
        symbols={token: id for token, id in symbols.items() if token not in special and id != delimiter},
        blank=int(model.config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id),
        delimiter=delimiter,
    )
    return CTCAligner(model.to(device), feature_extractor, vocabulary, f"ctc:{name}", max_seconds, strict)


class PosteriorFolder:
    """Log posteriors that another program wrote: one file per utterance, and one that describes them.

    FOLDER/posteriors.json   {"vocabulary": ["<blank>", "|", "a", ...], "blank": "<blank>", "delimiter": "|",
                              "frame_rate": 50.0, "offset": 0.0}
    FOLDER/<id>.npz or <id>.safetensors   an array `log_probs` (frames, vocabulary)
    """

    def __init__(self, folder: Path, strict: bool = False) -> None:
        """Read the description and list the files.

        Raises:
            ConfigError: there is no such folder or description, or it is not as described above.
        """
        self.name = f"posteriors:{folder}"
        self.strict = strict
        self.files = files_by_name(folder, (".npz", ".safetensors"))
        path = Path(folder) / DESCRIPTION
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            symbols = {str(symbol): index for index, symbol in enumerate(row["vocabulary"])}
            special = {row["blank"], row.get("delimiter")}
            self.vocabulary = CTCVocabulary(
                symbols={symbol: index for symbol, index in symbols.items() if symbol not in special},
                blank=symbols[row["blank"]],
                delimiter=None if row.get("delimiter") is None else symbols[row["delimiter"]],
            )
            self.frame_rate, self.offset = float(row["frame_rate"]), float(row.get("offset", 0.0))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({type(error).__name__}: {error}). It holds vocabulary (a list), blank, "
                "frame_rate (Hz), and if need be delimiter and offset (seconds)."
            ) from error
        if not self.frame_rate > 0:
            raise ConfigError(f"{path}: frame_rate is {self.frame_rate}; it must be more than 0 Hz.")
        self.num_symbols = len(row["vocabulary"])

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Time the words; confidence as in `times_from_path`."""
        path = find_file(self.files, utterance.id)
        log_probs = _read(path)
        if log_probs.ndim != 2 or log_probs.shape[1] != self.num_symbols:
            raise AlignmentError(
                f"{path}: {ARRAY} has shape {tuple(log_probs.shape)}; expected (frames, {self.num_symbols})."
            )
        return align_posteriors(log_probs, words, self.vocabulary, self.frame_rate, self.offset, self.strict)


def _read(path: Path) -> Float[Tensor, "..."]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return torch.from_numpy(arrays[ARRAY])
        from safetensors.torch import load_file

        return load_file(path)[ARRAY]
    except Exception as error:  # numpy, zipfile and safetensors have many
        raise AlignmentError(f"{path}: no readable array {ARRAY!r}: {type(error).__name__}: {error}") from error
