"""Train a grown language model with low-rank adapters: the network through LoRA, new vocabulary rows in full.

    text model + new rows  ->  add_lora  ->  train  ->  merge_lora  ->  an ordinary model: text rows as they were

LoRA (Hu et al., 2021, arXiv:2106.09685) freezes the embedding table, so rows that were appended for units would stay
random; training the whole table would move the text rows too, and break the tie with the head when only one of the two
is adapted. Here the new rows alone are trained (peft's trainable tokens), in the head as well, tied or not.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocable.assets.weights import read_weights
from vocable.errors import AssetError, ConfigError, missing_extra

ADAPTER_FILE = "adapter_model.safetensors"
"""As peft calls it."""
_FILE_PREFIX, _IN_MEMORY, _IN_FILE = "base_model.model.", ".default.weight", ".weight"
"""How peft writes the names of the adapters' weights."""
_TUNER = "vocable_lora_tuner"
"""Where a model keeps what merges it; in `__dict__`, so that it is no submodule of its own submodule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters in the linear layers of a language model."""

    rank: int = 16
    """Rank of each update."""
    alpha: float = 32.0
    """Updates are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout of the adapters' input."""
    targets: tuple[str, ...] | None = None
    """Last names of the layers to adapt, e.g. q_proj, v_proj (the paper's choice); None: all linear layers but the head
    (Dettmers et al., 2023, arXiv:2305.14314, section 4, found that all are needed)."""
    seed: int = 0
    """Draws the adapters' first weights."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"lora.rank is {self.rank} and lora.alpha {self.alpha}; both must be above 0.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}; it must be at least 0 and below 1.")


def add_lora(model: PreTrainedModel, config: LoraConfig, new_ids: Sequence[int]) -> PreTrainedModel:
    """Freeze a model in place but for adapters and the rows `new_ids` of its embedding table and head.

    The model stays what it was to everything that calls it, and its first outputs are the same. Save the result of
    `merge_lora`, not this.

    Args:
        model: any Hugging Face causal LM whose vocabulary has grown already (lm/surgery.py).
        config: where the adapters are, and how large.
        new_ids: token ids whose rows are trained, e.g. `range(vocabulary.text_size, vocabulary.size)`.

    Raises:
        ConfigError: the model has adapters; an id has no row; no layer has a target's name; the head has a bias, which
            peft's trainable rows leave out.
        MissingDependencyError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise missing_extra("peft", "lora", "Training with low-rank adapters") from error

    _check(model, config, new_ids)
    tables = [next(n for n, module in model.named_modules() if module is one) for one in vocabulary_tables(model)]
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft says int, and divides
        lora_dropout=config.dropout,
        target_modules="all-linear" if config.targets is None else list(config.targets),
        trainable_token_indices={name: list(new_ids) for name in tables} if len(new_ids) else None,
    )
    tied = len(tables) == 1
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        tuner = peft.LoraModel(model, settings, "default")
    model.__dict__[_TUNER] = tuner
    if len(new_ids) and tied:
        embedding: Any = model.get_input_embeddings()
        head: Any = model.get_output_embeddings()
        assert embedding.token_adapter is head.token_adapter.tied_adapter, "peft did not tie the head's new rows"
    return model


def has_lora(model: nn.Module) -> bool:
    """Say whether `add_lora` was called on the model, and `merge_lora` is needed to save it."""
    return _TUNER in model.__dict__


@contextmanager
def lora_off(model: nn.Module) -> Iterator[None]:
    """Let the model compute as it did before `add_lora`, for a while; without adapters, do nothing."""
    tuner: Any = model.__dict__.get(_TUNER)
    if tuner is None:
        yield
        return
    tuner.disable_adapter_layers()
    try:
        yield
    finally:
        tuner.enable_adapter_layers()


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone, in the form that peft reads: `PeftModel.from_pretrained(text_model, folder)`.

    Raises:
        ConfigError: the model has none.
    """
    if not has_lora(model):
        raise ConfigError("The model has no low-rank adapters to save apart; save it as it is.")
    model.__dict__[_TUNER].peft_config["default"].save_pretrained(folder)
    tensors = {_FILE_PREFIX + name.replace(_IN_MEMORY, _IN_FILE): value for name, value in _adapters(model).items()}
    contents = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contents, folder / ADAPTER_FILE, metadata={"format": "pt"})


def load_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Take the adapters that `save_adapters` wrote into a model that `add_lora` prepared in the same way.

    Raises:
        AssetError: they are of other layers or another rank, or cannot be read.
    """
    found = {
        name.removeprefix(_FILE_PREFIX).replace(_IN_FILE, _IN_MEMORY): value
        for name, value in read_weights(folder / ADAPTER_FILE).items()
    }
    wanted = _adapters(model)
    wrong = sorted(found.keys() ^ wanted.keys())
    wrong += [name for name in sorted(found.keys() & wanted.keys()) if found[name].shape != wanted[name].shape]
    if wrong:
        raise AssetError(
            f"{folder / ADAPTER_FILE}: does not fit the text model ({wrong[0]} and {len(wrong) - 1} others). Copy the "
            "folder again."
        )
    model.load_state_dict(found, strict=False)


def _adapters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if ".lora_" in name}


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with adapters and new rows written into its weights; training can go on with `model`.

    The copy is an ordinary Hugging Face model without a trace of adapters, tied as it was.

    Raises:
        ConfigError: the model has no adapters.
    """
    if not has_lora(model):
        raise ConfigError("The model has no low-rank adapters to merge; save it as it is.")
    merged = copy.deepcopy(model)
    tuner: Any = merged.__dict__.pop(_TUNER)
    return tuner.merge_and_unload().requires_grad_(True)


def _check(model: PreTrainedModel, config: LoraConfig, new_ids: Sequence[int]) -> None:
    if has_lora(model):
        raise ConfigError("The model has low-rank adapters already. Merge them first (merge_lora).")
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if len(new_ids) and not 0 <= min(new_ids) <= max(new_ids) < rows:
        raise ConfigError(
            f"Rows {min(new_ids)} to {max(new_ids)} are to be trained, but the model has {rows}. Grow its vocabulary "
            "first (lm/surgery.py)."
        )
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in config.targets or () if name not in names]
    if unknown:
        raise ConfigError(
            f"lora.targets has {', '.join(unknown)}; the model's linear layers: {', '.join(sorted(names))}."
        )
    if len(new_ids) and getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(
            f"The output head of {type(model).__name__} has a bias, which peft leaves out where rows are trained "
            "beside adapters. Train the whole model, without lora."
        )


def vocabulary_tables(model: PreTrainedModel) -> list[Any]:
    """The embedding, and the output head where it has a weight of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
