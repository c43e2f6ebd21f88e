"""Language models on disk: an ordinary Hugging Face folder, and `vocable.json` beside it.

    lm/  config.json  generation_config.json  model.safetensors  vocable.json
         tokenizer.json ...  subwords/    where the model reads text, or unit subwords

Anything that reads causal LMs reads the folder unchanged. `vocable.json` says what the token ids mean: the ids of
units, the layout of rows, and which tokenizer the units come from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vocable.assets.quiet import silenced_transformers
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError, OutputError
from vocable.files import replace_folder, restore_folder, write_text
from vocable.lm.surgery import DTYPES
from vocable.sequences.layouts import Layout, layout_from_card, vocabulary_from_card
from vocable.sequences.subwords import UnitSubwords
from vocable.sequences.vocabulary import Vocabulary
from vocable.tokens.fingerprint import check_fingerprint

CARD_NAME = "vocable.json"
SUBWORDS_FOLDER = "subwords"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LMCard:
    """Meaning of a language model's token ids."""

    vocabulary: Vocabulary
    """Where units and special symbols are in the embedding table."""
    layout: Mapping[str, Any]
    """The card of the layout that rows were built with; where several were mixed, of one of them."""
    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that made the training tokens."""
    tokenizer_card: Mapping[str, Any] = field(default_factory=dict)
    """The tokenizer's own card."""
    unit_seconds: tuple[float, ...] | None = None
    """Mean duration of each unit (where there are unit subwords: still of each unit) in the training data, for lengths
    in seconds."""
    token_seconds: float | None = None
    """Mean seconds of speech for each text token in the training data, where codes follow words."""
    silence_units: tuple[int, ...] = ()
    """Units that stand for silence, for the silence guard."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How the model was made: text model, vocabulary initialisation, data, steps."""

    def build_layout(self) -> Layout:
        """Make the layout that the rows were built with."""
        return layout_from_card(self.layout)


class LoadedLM(NamedTuple):
    """A language model, its card, and what it reads text and subwords with; `lm.spoken` makes it usable."""

    model: PreTrainedModel
    card: LMCard
    text_tokenizer: Any = None
    """None for a model that reads no text."""
    subwords: UnitSubwords | None = None
    """None for a model that reads single units."""


def save_lm(
    model: PreTrainedModel,
    folder: Path,
    card: LMCard,
    *,
    text_tokenizer: Any = None,
    subwords: UnitSubwords | None = None,
    overwrite: bool = False,
) -> None:
    """Write the model, its card, and what it reads text and subwords with; first under another name, so that a folder
    is whole or absent.

    Raises:
        OutputError: `folder` has something in it and `overwrite` is false, or the disk is full.
        ConfigError: the model's table has another size than the card's vocabulary.
    """
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if rows < card.vocabulary.size:
        raise ConfigError(
            f"The model has {rows} vocabulary rows, its card {card.vocabulary.size}: replace one of them."
        )
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder}: not empty. Give another folder, or allow overwriting.")
    try:
        with replace_folder(folder) as temporary:
            with silenced_transformers():
                model.save_pretrained(temporary)
            write_card(temporary, card)
            if text_tokenizer is not None:
                text_tokenizer.save_pretrained(temporary)
            if subwords is not None:
                subwords.save(temporary / SUBWORDS_FOLDER)
    except SafetensorError as error:  # its name for a full disk
        raise OutputError(f"{folder}: could not write the model ({error}). Is the disk full?") from error


def read_lm(
    folder: Path, *, tokenizer: Any = None, dtype: str | None = None, device: torch.device | str = "cpu"
) -> LoadedLM:
    """Read a model and its card, in evaluation mode; `lm.spoken.load_lm` returns the object that uses them.

    Args:
        tokenizer: the tokenizer whose units the model will read; refused when the model was trained on another's.
        dtype: type of the weights, e.g. 'bfloat16'; None keeps the saved one.

    Raises:
        AssetError: the folder holds no model, or no readable `vocable.json`.
        FingerprintError: the tokenizer is not the one that the model was trained with.
    """
    folder = Path(folder)
    check_dtype(dtype)
    restore_folder(folder)
    card = read_card(folder)
    if tokenizer is not None:
        check_fingerprint(
            card.tokenizer_fingerprint, tokenizer.fingerprint, f"the language model {folder}", "the tokenizer"
        )
    return load_folder(folder, card, dtype, device)


def load_folder(folder: Path, card: LMCard, dtype: str | None = None, device: torch.device | str = "cpu") -> LoadedLM:
    """Load a model whose card is read already, in evaluation mode.

    Raises:
        AssetError: the folder holds no model.
    """
    check_dtype(dtype)
    if not (folder / "config.json").is_file():
        raise AssetError(f"{folder}: no config.json, so no Hugging Face model is here.")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype] if dtype else "auto")
    nn.Module.to(model, device)  # in place
    subwords = folder / SUBWORDS_FOLDER
    return LoadedLM(
        model.eval(),
        card,
        AutoTokenizer.from_pretrained(folder) if "text" in card.vocabulary.modalities else None,
        UnitSubwords.load(subwords) if subwords.is_dir() else None,
    )


def check_dtype(dtype: str | None) -> None:
    """Refuse a type that weights cannot have.

    Raises:
        ConfigError: there is no such type.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}.")


def write_card(folder: Path, card: LMCard) -> None:
    """Write `vocable.json`."""
    values = {"format": FORMAT, **config_to_dict(card)}
    write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", Path(folder) / CARD_NAME)


def read_card(folder: Path) -> LMCard:
    """Read `vocable.json`.

    Raises:
        AssetError: it is missing, broken, or of a newer format.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise AssetError(
            f"{path}: missing, so what the model's token ids mean is unknown. "
            "Language models that Vocable trained have it; for others, write one with vocable.lm.checkpoint.write_card."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("format")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise AssetError(f"{path}: not a card of a Vocable language model ({error}).") from error
    if found != FORMAT:
        raise AssetError(f"{path}: format {found}, this version reads format {FORMAT}. Update vocable.")
    values["vocabulary"] = vocabulary_from_card(values.get("vocabulary") or {})
    return config_from_dict(LMCard, values, source=str(path))
