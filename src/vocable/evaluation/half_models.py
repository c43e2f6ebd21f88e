"""What can be asked for continuations of half utterances: a joint model, and the controls that stand beside it.

a folder    a language model of speech and text (all four cells), or of units alone (u2u)
text        a text language model (t2t): the topline of the written cell
random      chance, with its interval on these utterances
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.half_rows import CELLS, Cell, HalfRows, JointHalfRows, TextHalfRows, UnitHalfRows
from vocable.evaluation.halves import (
    CutConfig,
    CutUtterance,
    SpeechForm,
    cut_all,
    cut_utterance,
    reasons,
    without_words,
)
from vocable.evaluation.once import Progress, default_cache, encode_once
from vocable.lm.spoken import SpokenLM, load_lm
from vocable.lm.text_lm import load_text_lm
from vocable.registry import look_up
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfModelConfig:
    """What is evaluated, and what it needs."""

    model: str
    """Folder of a language model or of its run, or a control: text, random."""
    tokenizer: Path | None = None
    """Folder of the speech tokenizer; None looks beside the model for the one that it was trained with."""
    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """Of the control text."""
    dtype: str | None = None
    """Of the language model's weights, e.g. bfloat16; None keeps the saved one."""
    device: str = "cpu"
    cache: Path = field(default_factory=default_cache)
    """Where tokens are kept for the next model."""


class HalfModel(NamedTuple):
    """A model, and how it reads halves."""

    rows: HalfRows | None
    """None: the random control."""
    model: nn.Module | None
    loaded: SpokenLM | None
    """Where the model is one of Vocable."""
    tokenizer: SpeechTokenizer | None
    """Where the model reads speech."""
    fingerprints: dict[str, str]
    weights: dict[str, Any]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that the model can read; random ones need no reading."""
        return CELLS if self.rows is None else self.rows.cells


def load_half_model(config: HalfModelConfig) -> HalfModel:
    """Load what `config.model` names.

    Raises:
        UnknownNameError: the model is neither a folder nor a control.
        ConfigError: the folder holds no language model of Vocable, or its tokenizer is not beside it.
        FingerprintError: the tokenizer is not the one that the language model was trained with.
    """
    if Path(config.model).is_dir():
        return _load_folder(config)
    return look_up("model folder or control", config.model, CONTROLS)(config)


def cut_for(
    model: HalfModel,
    utterances: Sequence[Utterance],
    cut: CutConfig,
    cache: Path,
    on_progress: Progress | None = None,
) -> tuple[list[CutUtterance], Counter[str]]:
    """Encode utterances as the model reads them, and cut them; return them with what was left out, by reason.

    Raises:
        ManifestError: no utterance can be cut.
    """
    kept, left_out = without_words(utterances, cut)
    tokens, speech = {}, None
    if kept and model.tokenizer is not None and model.rows is not None:
        rate = model.tokenizer.frame_rate
        if rate is None or model.tokenizer.num_codebooks != 1:
            raise ConfigError(
                f"{model.tokenizer.name!r} has {model.tokenizer.num_codebooks} codebooks and the frame rate {rate}; "
                "cutting units at words needs one codebook and a frame rate."
            )
        tokens = encode_once(kept, model.tokenizer, cache, on_progress=on_progress)
        speech = SpeechForm(frame_rate=rate, collapsed=model.rows.collapsed)
    layout = model.rows.layout if isinstance(model.rows, JointHalfRows) else None
    form = layout.text_form if layout is not None else "text"
    found, more = cut_all(kept, lambda u: cut_utterance(u, cut, tokens.get(u.id), speech, form))
    left_out += more
    if not found:
        raise ManifestError(
            f"None of {len(utterances)} utterances can be cut in two ({reasons(left_out)}). Word times come from "
            "'vocable align', or from a synthesiser."
        )
    return found, left_out


def readable(model: HalfModel, utterances: Sequence[CutUtterance], excluded: dict[str, int]) -> list[CutUtterance]:
    """Drop utterances of which a half takes more than half of the model's positions, and count them in `excluded`.

    Any prompt can then stand before any continuation.
    """
    positions = getattr(getattr(model.model, "config", None), "max_position_embeddings", None)
    if model.rows is None or positions is None:
        return list(utterances)
    kept = []
    for one in utterances:
        longest = max(
            max(len(model.rows.prompt(half, cell)), len(model.rows.continuation(half, cell)))
            for half in (one.prompt, one.continuation)
            for cell in model.cells
        )
        if longest <= positions // 2:
            kept.append(one)
    if len(kept) < len(utterances):
        excluded[f"a half is longer than half of the model's {positions} positions"] = len(utterances) - len(kept)
    return kept


def _load_folder(config: HalfModelConfig) -> HalfModel:
    loaded = load_lm(config.model, tokenizer=config.tokenizer, dtype=config.dtype, device=config.device)
    tokenizer = loaded.tokenizer
    rows = JointHalfRows(loaded.layout) if "text" in loaded.modalities else UnitHalfRows(loaded.card)
    return HalfModel(
        rows,
        loaded.model,
        loaded,
        tokenizer,
        {"tokenizer": tokenizer.fingerprint},
        {"model": {**loaded.record(), "rows": rows.description()}},
    )


def _load_text(config: HalfModelConfig) -> HalfModel:
    dtype: Any = config.dtype or "float32"
    found = load_text_lm(config.text_model, opening="none", dtype=dtype, device=config.device)
    rows = TextHalfRows(found.tokenizer)
    weights = {"control": "text", "text_model": dict(found.weights), "rows": rows.description()}
    return HalfModel(rows, found.model, None, None, {}, {"model": weights})


def _load_random(config: HalfModelConfig) -> HalfModel:
    return HalfModel(None, None, None, None, {}, {"model": {"control": "random"}})


CONTROLS = {"text": _load_text, "random": _load_random}
