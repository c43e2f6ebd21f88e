"""A language model of text, as a judge of transcripts or as the thing that is measured.

Any Hugging Face causal LM with a fast tokenizer, by hub name, asset name or folder. A language model whose vocabulary
was replaced by speech units has nothing to say about text, and is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import AssetError, ConfigError
from vocable.lm.checkpoint import CARD_NAME
from vocable.lm.packed import enable_packing

Opening = Literal["bos", "none"]


class TextLM(NamedTuple):
    """A causal LM of text with its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    """How results call it."""
    opening: Opening
    """Whether texts open with the start symbol, so that their first token is scored too."""
    weights: Mapping[str, str]
    """Name and hash."""

    @property
    def bos_id(self) -> int | None:
        """The start symbol: the tokenizer's, else the model's."""
        found = self.tokenizer.bos_token_id
        return self.model.config.bos_token_id if found is None else found

    @property
    def context_tokens(self) -> int | None:
        """Longest row that the model reads; None where its config does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def conventions(self) -> dict[str, Any]:
        """Every switch that changes a score."""
        return {
            "text_lm": self.name,
            "text_lm_opening": self.opening,
            "text_lm_dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def token_ids(self, text: str) -> Int[Tensor, " tokens"]:
        """The text's tokens, without symbols around them."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)


def load_text_lm(
    name: str,
    *,
    opening: Opening = "bos",
    tokenizer: str | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> TextLM:
    """Load a text LM.

    Args:
        name: hub name, asset name or folder; resolved by `vocable.assets`.
        opening: open texts with the start symbol, or not; then first tokens are not scored.
        tokenizer: where the text tokenizer is, when it is not beside the weights.
        device: where it runs.
        dtype: of weights and activations.

    Raises:
        AssetError: the weights or the tokenizer are not at hand.
        ConfigError: it is a language model of speech units; it names no start symbol but `opening` is "bos"; its
            tokenizer has more entries than it has rows, or is not a fast one; `dtype` is unknown.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vocable.assets import resolve
    from vocable.assets.weights import weights_record

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype is {dtype!r}; it must be 'float32' or 'bfloat16'.")
    folder = resolve(name)
    check_reads_text(folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(f"{folder}: not a complete causal language model: {error}") from error
    try:
        text_tokenizer: Any = AutoTokenizer.from_pretrained(folder if tokenizer is None else resolve(tokenizer))
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"{tokenizer or folder}: no text tokenizer: {error}. Copy tokenizer.json beside the weights, or name the "
            "folder of the text model that it comes from."
        ) from error
    return make_text_lm(model.to(device), text_tokenizer, name, opening, weights_record(name, folder))


def make_text_lm(
    model: Any, tokenizer: Any, name: str, opening: Opening = "bos", weights: Mapping[str, str] | None = None
) -> TextLM:
    """Wrap loaded parts; `load_text_lm` does it by name and says what is raised."""
    if opening not in ("bos", "none"):
        raise ConfigError(f"opening is {opening!r}; known: bos, none.")
    if not tokenizer.is_fast:
        raise ConfigError(f"{name}: needs a fast tokenizer (tokenizer.json), which knows where each token lies.")
    rows = len(model.get_input_embeddings().weight)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"{name}: its tokenizer has {len(tokenizer)} entries, the model {rows} rows. They do not belong together: "
            "was the text vocabulary replaced?"
        )
    enable_packing(model)
    lm = TextLM(model.eval(), tokenizer, name, opening, dict(weights or {"name": name}))
    if opening == "bos" and lm.bos_id is None:
        raise ConfigError(f"{name}: names no start symbol. Score without one: opening 'none' leaves first tokens out.")
    return lm


def check_reads_text(folder: Path) -> None:
    """Refuse a folder whose `vocable.json` says that its vocabulary holds speech units only.

    Raises:
        ConfigError: it is a unit language model.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        return
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))["layout"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path}: not a card of a Vocable language model ({error}).") from error
    if layout == "units":
        raise ConfigError(
            f"{folder}: a language model of speech units; its text vocabulary was replaced when it was made, so there "
            "is no text left in it to score. Name a text model, or one that kept its text vocabulary."
        )
