"""Text-aligned language models on disk: the text model or its adapters, and what speech needs beside it.

lm/  vocable.json  words.json  words.safetensors  tokenizer.json ...
     adapter_config.json  adapter_model.safetensors     adapters, in peft's form; the text model is named and hashed
     config.json  model.safetensors                     or the whole text model, where all of it was trained
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocable.assets.quiet import silenced_transformers
from vocable.assets.weights import read_weights
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, FingerprintError
from vocable.files import write_json
from vocable.lm.checkpoint import LMCard, LoadedLM, check_dtype, write_card
from vocable.lm.lora import LoraConfig, add_lora, has_lora, load_adapters, save_adapters
from vocable.lm.surgery import DTYPES
from vocable.lm.word_model import WordModel, WordModelConfig
from vocable.tokens.fingerprint import tensor_sha256
from vocable.tokens.tokenizer import resolve_folder

WORDS_FILE, WORDS_CONFIG = "words.safetensors", "words.json"
OWN_PARTS = ("project.", "pad_audio", "pad_text", "mix", "head.")
"""Beginnings of the names of what is not the text model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordModelCard:
    """How a text-aligned model is put together again."""

    model: WordModelConfig = field(default_factory=WordModelConfig)
    codebook_sizes: tuple[int, ...]
    """Codes of each level."""
    text_model: str
    """Text model that it started from."""
    text_sha256: str
    """Hash of that model's weights."""
    lora: LoraConfig | None = None
    """Adapters; None: the whole text model is in the folder."""


def load_base(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load a text model by folder, asset or hub name.

    Raises:
        AssetError: it cannot be found, or is damaged.
    """
    folder = resolve_folder(name)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{folder}: not a complete causal language model: {error}") from error


def save_words(model: WordModel, folder: Path, card: LMCard, words: WordModelCard, text_tokenizer: Any) -> None:
    """Write the model, its cards and its text tokenizer into a folder that exists."""
    tensors = {name: value for name, value in model.state_dict().items() if name.startswith(OWN_PARTS)}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / WORDS_FILE)
    write_json(config_to_dict(words), folder / WORDS_CONFIG, indent=2)
    if has_lora(model.lm):
        save_adapters(model.lm, folder)
    else:
        with silenced_transformers():
            model.lm.save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    write_card(folder, card)


def read_words(folder: Path, card: LMCard, dtype: str | None = None, device: torch.device | str = "cpu") -> LoadedLM:
    """Read a model in evaluation mode; its text model is looked up by name where adapters alone were saved.

    Raises:
        AssetError: a file is missing or damaged, or the text model cannot be found.
        FingerprintError: the text model found under the name is not the one that the adapters were trained on.
    """
    folder = Path(folder)
    check_dtype(dtype)
    words = read_words_card(folder)
    type_ = DTYPES[dtype or "float32"]
    lm = load_base(str(folder) if words.lora is None else words.text_model, torch.float32)
    if words.lora is not None:
        found = tensor_sha256(lm.state_dict())
        if found != words.text_sha256:
            raise FingerprintError(
                f"{folder}: its adapters were trained on the text model {words.text_model!r} with weights "
                f"{words.text_sha256[:16]}, but what is found under that name has {found[:16]}. Get that model."
            )
        add_lora(lm, words.lora, ())
        load_adapters(lm, folder)
    tensors = read_weights(folder / WORDS_FILE)
    vectors = tensors["head.space.vectors"]
    model = WordModel(lm, vectors.split(words.codebook_sizes), words.model)
    _restore(model, tensors, folder)
    model.lm.to(type_)
    return LoadedLM(model.to(device).eval(), card, AutoTokenizer.from_pretrained(folder))  # type: ignore[arg-type]


def read_words_card(folder: Path) -> WordModelCard:
    """Read `words.json`.

    Raises:
        AssetError: it is missing or damaged.
    """
    path = Path(folder) / WORDS_CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: cannot be read ({error}). Copy the folder again.") from error
    return config_from_dict(WordModelCard, values, source=str(path))


def _restore(model: WordModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(OWN_PARTS)}
    wrong = sorted(wanted.keys() ^ tensors.keys())
    wrong += [name for name in sorted(wanted.keys() & tensors.keys()) if wanted[name].shape != tensors[name].shape]
    if wrong:
        raise AssetError(
            f"{folder / WORDS_FILE}: does not fit {WORDS_CONFIG} or the text model ({wrong[0]} and {len(wrong) - 1} "
            "others). Copy the folder again."
        )
    model.load_state_dict(dict(tensors), strict=False)
