"""A language model of text, as a judge of transcripts or as the thing that is measured.

Any Hugging Face causal LM with a fast tokenizer, by hub name, asset name or folder. A language model whose vocabulary
was replaced by speech units has nothing to say about text, and is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import AssetError, ConfigError
from vocable.lm.checkpoint import CARD_NAME, read_card
from vocable.lm.generation import TokenRules
from vocable.lm.model import LanguageModel, Target, Task
from vocable.lm.packed import enable_packing
from vocable.lm.rows import Row, join_parts
from vocable.lm.scoring import Boundary
from vocable.sequences.joint_rows import Segment
from vocable.sequences.spans import Modality

Opening = Literal["bos", "none"]


class TextLM(LanguageModel):
    """A causal LM of text with its tokenizer."""

    modalities: tuple[Modality, ...] = ("text",)
    joins = "tokenized apart, joined by a space"
    prompt_form = "start symbol, prompt"

    def __init__(
        self, model: Any, tokenizer: Any, name: str, opening: Opening = "bos", weights: Mapping[str, str] | None = None
    ) -> None:
        """Take loaded parts; `load_text_lm` checks them."""
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.opening: Opening = opening
        self.weights: Mapping[str, str] = dict(weights or {"name": name})

    @property
    def bos_id(self) -> int | None:
        """The start symbol: the tokenizer's, else the model's."""
        found = self.tokenizer.bos_token_id
        return self.model.config.bos_token_id if found is None else found

    @property
    def conventions(self) -> dict[str, Any]:
        """Every switch that changes a score."""
        return {
            "text_lm": self.name,
            "text_lm_opening": self.opening,
            "text_lm_dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def token_ids(self, text: str) -> Int[Tensor, " tokens"]:
        """Return the text's tokens, without symbols around them."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    def opener(self, modality: Modality) -> Int[Tensor, " opener"]:
        """Return the tokenizer's start symbol, or its end where it has none."""
        symbols = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        found = next((symbol for symbol in symbols if symbol is not None), None)
        if found is None:
            raise ConfigError("The text tokenizer names neither a start nor an end symbol to open a text with.")
        return torch.tensor([found])

    def content(self, segment: Segment) -> Int[Tensor, " positions"]:
        """See `LanguageModel`. A text in capitals alone is lowercased: text models hardly know such text."""
        if segment.text is None:
            raise ConfigError(f"{self.name} is a text model and reads no speech.")
        return self.token_ids(plain_case(segment.text))

    def prompt(
        self, segments: Sequence[Segment], *, to: Target | None = None, task: Task = "continue"
    ) -> Int[Tensor, " prompt"]:
        """See `LanguageModel`."""
        if to not in (None, "text") or task != "continue":
            raise ConfigError(f"{self.name} is a text model and cannot {'speak' if task == 'continue' else task}.")
        return torch.cat([self.opener("text"), *(self.content(segment) for segment in segments)])

    def row(self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False) -> Row:
        """See `LanguageModel`."""
        boundary = boundary or ("bos" if self.opening == "bos" else "none")
        end = self.tokenizer.eos_token_id
        if boundary == "bos_eos" and end is None:
            raise ConfigError("The text tokenizer has no end symbol; score with boundary 'bos' or 'none'.")
        symbol = torch.zeros(0, dtype=torch.long) if boundary == "none" else self.opener("text")
        parts = [(symbol[:0], self.content(segment)) for segment in segments]
        after = torch.tensor([end]) if boundary == "bos_eos" else symbol[:0]
        return join_parts(symbol, parts, after, ending_only)

    def token_rules(self, to: Target, max_text_tokens: int) -> TokenRules:
        """See `LanguageModel`; of the tokenizer's own symbols, only the end is drawn."""
        size = len(self.model.get_input_embeddings().weight)
        symbols = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        end = next(symbol for symbol in symbols if symbol is not None)
        written = set(self.tokenizer.get_vocab().values()) - set(self.tokenizer.all_special_ids)
        return TokenRules(
            banned=torch.tensor([token not in written and token != end for token in range(size)]),
            seconds=torch.zeros(size),
            end_id=end,
            pad_id=end,
            max_text_tokens=max_text_tokens,
        )

    def segments(self, token_ids: Int[Tensor, " positions"]) -> tuple[Segment, ...]:
        """See `LanguageModel`."""
        text = self.tokenizer.decode(token_ids.tolist(), clean_up_tokenization_spaces=False)
        return (Segment(text=text, stop=len(token_ids)),) if len(token_ids) else ()

    def description(self) -> dict[str, Any]:
        """Say what is done with capitals."""
        return {"capitals": "lowercased where nothing else is there"}


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
        tokenizer: where the text tokenizer is, when it is not beside the weights.

    Raises:
        AssetError: the weights or the tokenizer are not available here.
        ConfigError: it is a language model of speech units; it names no start symbol but `opening` is "bos"; its
            tokenizer has more entries than it has rows, or is not a fast one; `dtype` is unknown.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vocable.assets import resolve
    from vocable.assets.weights import weights_record

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype is {dtype!r}; it must be 'float32' or 'bfloat16'.")
    folder = resolve(name)
    if (folder / CARD_NAME).is_file() and "text" not in read_card(folder).vocabulary.modalities:
        raise ConfigError(
            f"{folder}: a language model of speech units; its text vocabulary was replaced when it was made, so there "
            "is no text left in it to score. Name a text model, or one that kept its text vocabulary."
        )
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
    if not text_tokenizer.is_fast:
        raise ConfigError(f"{name}: needs a fast tokenizer (tokenizer.json), which knows where each token lies.")
    rows = len(model.get_input_embeddings().weight)
    if len(text_tokenizer) > rows:
        raise ConfigError(
            f"{name}: its tokenizer has {len(text_tokenizer)} entries, the model {rows} rows. They do not belong "
            "together: was the text vocabulary replaced?"
        )
    enable_packing(model)
    lm = TextLM(model.to(device).eval(), text_tokenizer, name, opening, weights_record(name, folder))
    if opening == "bos" and lm.bos_id is None:
        raise ConfigError(f"{name}: names no start symbol. Score without one: opening 'none' leaves first tokens out.")
    return lm


def plain_case(text: str) -> str:
    """Lowercase a text in capitals alone, as LibriSpeech writes them: text models hardly know such text."""
    return text.lower() if text.isupper() else text
