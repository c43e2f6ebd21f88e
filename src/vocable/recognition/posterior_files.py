"""Align with log posteriors that another program wrote: one file an utterance, and one that describes them.

FOLDER/posteriors.json   {"vocabulary": ["<blank>", "|", "a", ...], "blank": "<blank>", "delimiter": "|",
                          "frame_rate": 50.0, "offset": 0.0}
FOLDER/<id>.npz or <id>.safetensors   an array `log_probs` (frames, vocabulary)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import AlignmentError, ConfigError
from vocable.recognition.aligner import Found
from vocable.recognition.ctc_aligner import align_posteriors
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.words import CTCVocabulary
from vocable.types import Utterance

DESCRIPTION = "posteriors.json"
ARRAY = "log_probs"


class PosteriorFolder:
    """A folder of posteriors."""

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
