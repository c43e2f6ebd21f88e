"""Give a text language model a vocabulary of units, in the place of its text or behind it, and keep everything else.

    text model, 49,152 rows  ->  replace_vocabulary  ->  same network, 502 rows
                             ->  append_vocabulary   ->  same network, 49,152 text rows and 505 new ones

TWIST (Hassid et al., 2023, arXiv:2305.13009) drops the text embeddings and draws new ones (`reinit`). slamkit, under
the same name, keeps the first rows of the text table (`truncate`). `mean` puts every unit at the mean text embedding,
which is what one does for added words. A model that reads both keeps its text rows: SUTLM from a text model.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from vocable.errors import ConfigError
from vocable.lm.frozen import train_new_rows
from vocable.lm.lora import vocabulary_tables
from vocable.lm.shapes import SHAPES, shape_config
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.vocabulary import UnitVocabulary

VocabularyInit = Literal["reinit", "truncate", "mean"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEAN_NOISE = 0.1  # `mean`: noise around the mean row, as a share of each column's standard deviation over text rows


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLMConfig:
    """The language model: where it starts from."""

    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """A folder, an asset name or a hub name of any causal LM; cold, also a name from lm/shapes.py such as 'small'."""
    warm: bool = True
    """Start from the text model's weights (TWIST); False: from random weights of the same shape."""
    vocabulary_init: VocabularyInit = "reinit"
    """Where unit embeddings start when warm: random rows (TWIST), the first text rows (slamkit; only where text is
    given up), or the mean row."""
    trained: Literal["all", "new_rows"] = "all"
    """Warm: 'new_rows' keeps the text model as it is, bit for bit, and trains the rows of units alone, input and output
    (lm/frozen.py): one frozen model for text and speech, as in LAST. `dtype` may then be bfloat16: new rows are float32
    in training."""
    dropout: float | None = None
    """Dropout of every kind in the network; None keeps the text model's own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory. Train in float32 with bf16 arithmetic (`training.precision`)."""
    seed: int = 0
    """Draws the new rows, and all weights of a cold start."""

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lm.dropout is {self.dropout}; a probability below 1 is needed, or null to keep the model's."
            )
        if self.trained == "new_rows" and not self.warm:
            raise ConfigError(
                "lm.trained is 'new_rows', but lm.warm is false: the network would keep its random weights. Set "
                "lm.warm to true, or lm.trained to all."
            )

    def card(self) -> dict[str, Any]:
        """Say where a model came from, for its card; `trained` is named where it is not 'all'."""
        values = {"text_model": self.text_model, "warm": self.warm}
        return values if self.trained == "all" else {**values, "trained": self.trained}


def build_lm(config: UnitLMConfig, vocabulary: UnitVocabulary | JointVocabulary) -> PreTrainedModel:
    """Load the text model and give it the vocabulary (warm), or draw a model of the same shape (cold).

    A vocabulary of units takes the place of the text model's; a joint one keeps its rows and appends the others. With
    `trained` 'new_rows' the result wants gradients of these alone, and is saved through `merge_new_rows`.

    Raises:
        ConfigError: a warm start from a name that is a shape only, or a joint vocabulary made for another text model.
        AssetError: the text model cannot be found.
    """
    if not config.warm:
        hf_config = _config_of(config.text_model)
        return cold_start(hf_config, vocabulary, seed=config.seed, dropout=config.dropout, dtype=DTYPES[config.dtype])
    if config.text_model in SHAPES and "/" not in config.text_model:
        raise ConfigError(f"lm.text_model {config.text_model!r} is a shape without weights. Set lm.warm to false.")
    model = AutoModelForCausalLM.from_pretrained(_locate(config.text_model), dtype=DTYPES[config.dtype])
    _set_dropout(model, config.dropout)
    special = {"pad_id": vocabulary.pad_id, "end_id": vocabulary.end_id}
    if isinstance(vocabulary, UnitVocabulary):
        model = replace_vocabulary(model, vocabulary.size, config.vocabulary_init, config.seed, **special)
        return train_new_rows(model, 0) if config.trained == "new_rows" else model
    rows = _num_rows(model)
    if rows != vocabulary.text_size:
        raise ConfigError(
            f"The vocabulary keeps {vocabulary.text_size} ids for text, but {config.text_model} has {rows} rows. Make "
            "it with joint_vocabulary(..., text_rows=text_rows(text_model)), for this model's own tokenizer."
        )
    model = append_vocabulary(model, vocabulary.size, config.vocabulary_init, config.seed, **special)
    return train_new_rows(model, rows) if config.trained == "new_rows" else model


def text_rows(text_model: str) -> int:
    """Return the rows of a text model's table, which may be more than its tokenizer has ids: what its joint vocabulary
    keeps for text."""
    return _config_of(text_model).get_text_config(decoder=True).vocab_size


def cold_start(
    hf_config: PretrainedConfig,
    vocabulary: UnitVocabulary | JointVocabulary,
    *,
    seed: int = 0,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Draw a model of the shape of `hf_config`, with this vocabulary, by transformers' own initialisation."""
    hf_config = copy.deepcopy(hf_config)
    hf_config.vocab_size = vocabulary.size
    _set_special_ids(hf_config, vocabulary.pad_id, vocabulary.end_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
    _set_dropout(model, dropout)
    _set_special_ids(model.generation_config, vocabulary.pad_id, vocabulary.end_id)
    return model


def replace_vocabulary(
    model: PreTrainedModel,
    num_tokens: int,
    mode: VocabularyInit = "reinit",
    seed: int = 0,
    *,
    pad_id: int = 0,
    end_id: int = 1,
) -> PreTrainedModel:
    """Replace the embedding table and the output head, tied or not, in place; all other tensors stay as they are.

    Args:
        model: any Hugging Face causal LM; OPT-350M's narrower embeddings keep their width.
        mode: `reinit` draws from a normal with the config's `initializer_range` (what TWIST drew from is not stated);
            `truncate` keeps the first text rows; `mean` is the mean text row plus noise of a tenth of the columns'
            standard deviation, without which all units would stay alike.
        pad_id: written to the config, as is the next.
        end_id: opens and closes a document.

    Raises:
        ConfigError: `truncate` with more units than text rows.
    """
    if mode == "truncate" and num_tokens > _num_rows(model):
        raise ConfigError(
            f"vocabulary_init 'truncate' keeps the first text rows, but the text model has {_num_rows(model)} and "
            f"{num_tokens} are needed. Use 'reinit' or 'mean'."
        )
    keep = num_tokens if mode == "truncate" else 0
    return _resize(model, num_tokens, keep, mode, seed, pad_id, end_id)


def append_vocabulary(
    model: PreTrainedModel,
    num_tokens: int,
    mode: VocabularyInit = "reinit",
    seed: int = 0,
    *,
    pad_id: int,
    end_id: int,
) -> PreTrainedModel:
    """Append rows to the embedding table and the output head, tied or not, in place; the rows that are there stay.

    Args:
        num_tokens: rows of the new table, old ones included.
        mode: where the new rows start: `reinit` or `mean`, as in `replace_vocabulary`.

    Raises:
        ConfigError: fewer rows than there are, or `truncate`, which has no meaning here.
    """
    rows = _num_rows(model)
    if num_tokens < rows:
        raise ConfigError(f"The table has {rows} rows and cannot keep them all in {num_tokens}.")
    if mode == "truncate":
        raise ConfigError(
            "vocabulary_init 'truncate' keeps text rows in the place of units; with the text vocabulary kept, units "
            "get rows of their own: use 'reinit' or 'mean'."
        )
    return _resize(model, num_tokens, rows, mode, seed, pad_id, end_id)


def _resize(
    model: PreTrainedModel, num_tokens: int, keep: int, mode: VocabularyInit, seed: int, pad_id: int, end_id: int
) -> PreTrainedModel:
    """Keep the first `keep` rows of each table, and start the others as `mode` says."""
    tables = vocabulary_tables(model)
    old_rows = [table.weight.detach().clone() for table in tables]
    old_biases = [None if getattr(table, "bias", None) is None else table.bias.detach().clone() for table in tables]
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    spread = _initializer_range(model.config)
    for table, rows, bias in zip(vocabulary_tables(model), old_rows, old_biases):
        with torch.no_grad():
            table.weight[:keep] = rows[:keep]
            if keep < num_tokens:
                table.weight[keep:] = _new_rows(rows, num_tokens - keep, mode, spread, generator).to(rows.dtype)
            if bias is not None:
                table.bias.zero_()
                table.bias[:keep] = bias[:keep]
    model.config.vocab_size = num_tokens
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.padding_idx is not None:
        embedding.padding_idx = pad_id  # gets no gradient; the text model's own may stand for another token now
    for settings in (model.config, model.generation_config):
        _set_special_ids(settings, pad_id, end_id)
    return model


def _num_rows(model: PreTrainedModel) -> int:
    return len(vocabulary_tables(model)[0].weight)


def _new_rows(old: Tensor, count: int, mode: VocabularyInit, spread: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(count, old.shape[1], generator=generator).to(old.device)
    if mode == "reinit":
        return spread * noise
    text = old.float()
    return text.mean(0) + MEAN_NOISE * text.std(0) * noise


def _initializer_range(hf_config: PretrainedConfig) -> float:
    for name in ("initializer_range", "init_std"):
        if getattr(hf_config, name, None) is not None:
            return float(getattr(hf_config, name))
    return 0.02


def _set_special_ids(settings: Any, pad_id: int, end_id: int) -> None:
    if settings is not None:  # a model that cannot generate has no generation config
        settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = pad_id, end_id, end_id


def _set_dropout(model: PreTrainedModel, dropout: float | None) -> None:
    """Set every dropout of the network: those that are modules, those kept as numbers, and the config's."""
    if dropout is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in ("dropout", "attention_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)
    for name, value in model.config.to_dict().items():
        if "dropout" in name and isinstance(value, (int, float)):
            setattr(model.config, name, dropout)


def _locate(name: str) -> str:
    """A local folder as it is; else through the asset cache, which falls back to the hub."""
    if Path(name).is_dir():
        return name
    from vocable.assets import resolve

    return str(resolve(name))


def _config_of(name: str) -> PretrainedConfig:
    if name in SHAPES and not Path(name).is_dir():
        return shape_config(name)
    return AutoConfig.from_pretrained(_locate(name))
