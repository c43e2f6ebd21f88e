"""SUTLM: one language model over speech units and text (Chou et al., 2023, arXiv:2310.08715).

    speech -> units (-> unit subwords)  \\
    text   -> text tokens               /  unit-only, text-only, concatenated and alternating rows, mixed
           -> one causal LM over both  ->  units or text  ->  speech or text

Loss: -sum_t log p(z_t | z_<t) over the mixed row, z from the union of both vocabularies, switch symbols included. The
paper's model has 350M parameters and starts from random weights, as far as is known; warm, a text model keeps its text
vocabulary and gets rows for speech behind it. What the paper leaves open is a setting, with our choice as its default.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from vocable.errors import ConfigError
from vocable.files import read_lines
from vocable.lm.checkpoint import LMCard
from vocable.lm.generation import GenerationConfig
from vocable.lm.lora import LoraConfig
from vocable.lm.packed import token_losses
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.joint_layouts import JointLayout, make_layout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.layouts import change_layout
from vocable.sequences.lazy import LazyDocuments
from vocable.sequences.mixing import BuiltDocuments, Mixture, MixtureConfig, assign_roles
from vocable.sequences.packing import PackedBatch
from vocable.sequences.subwords import SubwordConfig
from vocable.splits import check_valid_share, split_key
from vocable.systems.joint import (
    Readers,
    Source,
    TextConfig,
    build_lm,
    build_readers,
    check_lm_settings,
    choose_tokens,
    divide_examples,
    find_usable,
)
from vocable.systems.shared import LanguageModelStage, TokensStage, UnitsStage, lm_card
from vocable.systems.stage import Run, System
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizerConfig
from vocable.training.language_model import JointParts, LMTrainingConfig, train_lm
from vocable.training.loop import TrainingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One kind of rows in the mixture."""

    layout: str | None = None
    """A preset of sequences/joint_layouts.py: unit-only, text-only, cst, cst-u2t, cst-t2u, ast, sims, spirit-lm. None:
    the source's own name."""
    ratio: float = 1.0
    """Its share, in any scale (the paper: one third each of speech, text and pairs)."""
    role: str | None = None
    """Which of `roles` its examples have; None: any."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the layout, e.g. `{spans: {kind: poisson, mean_words: 10}}`."""

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ConfigError(f"sources: ratio is {self.ratio}; a share is above 0. Leave the source out instead.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SutlmConfig:
    """Everything that a SUTLM recipe sets."""

    system: Literal["sutlm"] = "sutlm"
    tokenizer: UnitTokenizerConfig = field(default_factory=UnitTokenizerConfig)
    kmeans_file: str | None = None
    """A published scikit-learn k-means file to use instead of fitting; it is read without unpickling code."""
    stream: str | None = None
    """Stream that the language model reads, where the tokenizer writes several; it has one code per position."""
    subwords: SubwordConfig | None = None
    """Unit subwords in the place of units (the paper: 10,000, its best); None: units."""
    text: TextConfig = field(default_factory=TextConfig)
    lm: UnitLMConfig = field(default_factory=lambda: UnitLMConfig(warm=False))
    lora: LoraConfig | None = None
    """Warm only: train low-rank adapters and the rows for speech, and leave the text model's weights as they are."""
    sources: Mapping[str, SourceConfig] = field(
        default_factory=lambda: {name: SourceConfig() for name in ("unit-only", "text-only", "ast")}
    )
    """Kinds of rows, by name. An example serves every source that finds in it what it needs."""
    mix_by: Literal["tokens", "sequences"] = "tokens"
    """What shares count. Unread for SUTLM; Spirit-LM and SIMS balance tokens."""
    roles: Mapping[str, float] | None = None
    """Divide the utterances, by their text, into those used as speech, as text, as pairs, ...: shares by role. So the
    two sides of an utterance are never both 'unpaired'. None: no division, each utterance serves every source."""
    predict_switches: bool = True
    """Whether openers and switch symbols are predicted, as in the loss over the whole mixed row; the end always is."""
    training: LMTrainingConfig
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    valid_share: float = 0.02
    """Share of the utterances, chosen by the hash of their text, to validate on where neither a validation set is given
    nor the manifest says who is held out: no sentence is on both sides, whoever speaks it."""
    seed: int = 0
    """Order of the mixture, and what layouts draw: which words are spoken, which side comes first."""

    def __post_init__(self) -> None:
        check_valid_share(self.valid_share)
        if not self.sources:
            raise ConfigError("sources is empty. Name kinds of rows, e.g. sources: {unit-only: {}, text-only: {}}.")
        for name, source in self.sources.items():
            if source.role is not None and source.role not in (self.roles or {}):
                raise ConfigError(
                    f"sources.{name}.role is {source.role!r}; roles are {', '.join(self.roles or {}) or 'not set'}."
                )
        check_lm_settings(self)


def build_sources(
    config: SutlmConfig, readers: Readers, examples: Sequence[JointExample], *, by_role: bool = True
) -> dict[str, Source]:
    """Bind the layouts, and give each the examples that it can build.

    Args:
        config: the recipe.
        readers: text tokenizer, subwords, vocabulary.
        examples: of training, or of validation.
        by_role: divide examples by role; False: each serves every source, and a source may have none.

    Raises:
        ConfigError: a source is left without an example; the message says why.
    """
    roles = _roles(config, examples) if by_role else {}
    sources = {}
    for name, source in config.sources.items():
        layout = _layout(source.layout or name, source.settings, config.seed, readers)
        chosen = None if source.role is None or not by_role else functools.partial(_has_role, roles, source.role)
        found = find_usable(layout, examples, chosen)
        if not found.examples and by_role:
            reason = next(iter(found.unusable.values()), f"no example has the role {source.role!r}")
            raise ConfigError(f"The source {name!r} has no example. {reason}")
        sources[name] = found
    return sources


def build_mixture(config: SutlmConfig, sources: Mapping[str, Source]) -> Mixture:
    """Mix the sources in their shares; spans are drawn anew each time that an example comes up."""
    return Mixture(
        {name: BuiltDocuments(source.examples, source.layout) for name, source in sources.items()},
        MixtureConfig(
            ratios={name: config.sources[name].ratio for name in sources}, by=config.mix_by, seed=config.seed
        ),
    )


def build_card(
    config: SutlmConfig,
    sources: Mapping[str, Source],
    shards: TokenShards,
    tokenizer: SpeechTokenizer | None = None,
) -> LMCard:
    """Describe the model; the layout is the last source's, which in recipes is the one that joins speech and text."""
    layouts = {name: source.layout for name, source in sources.items()}
    training = {
        "system": "sutlm",
        **config.lm.card(),
        "lora": None if config.lora is None else config.lora.rank,
        "sources": {
            name: {"layout": a.card()["name"], "ratio": config.sources[name].ratio} for name, a in layouts.items()
        },
        "mix_by": config.mix_by,
        "predict_switches": config.predict_switches,
    }
    return lm_card(list(layouts.values())[-1], shards, tokenizer, training)


def loss(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, ""]:
    """Sum of -log p(z_t | z_<t) over the predicted tokens of a packed row, units, text and symbols alike, in nats."""
    return token_losses(model, batch).sum()


def train(
    config: SutlmConfig,
    shards: TokenShards,
    out: Path,
    valid_shards: TokenShards | None = None,
    tokenizer: SpeechTokenizer | None = None,
    texts: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> TrainingResult:
    """Train a model of speech and text; a run that is in `out` already goes on.

    Args:
        config: the recipe.
        shards: training tokens, with the utterances' text and word times where they are known.
        out: the run's folder: `lm/best` and `lm/last` are Hugging Face folders with their text tokenizer.
        valid_shards: validation tokens; None takes what is marked `valid`, or `config.valid_share` of the rest.
        tokenizer: lets the card say which units are silence, for the silence guard.
        texts: text without speech.
        report: told how many examples each source has, and why others cannot be used.

    Raises:
        FingerprintError: the validation tokens, or the tokenizer, are not of the kind that the training tokens are.
        ConfigError: the tokens have several streams and none is chosen, the stream has several codebooks, or a source
            has no example.
        ManifestError: a validation sentence is among the training sentences.
    """
    shards, valid_shards, tokenizer = choose_tokens(config.stream, shards, valid_shards, tokenizer)
    examples, held_out = divide_examples(shards, valid_shards, config.valid_share, texts, report)
    readers = build_readers(config, shards, examples, out)
    sources = build_sources(config, readers, examples)
    for name, source in sources.items():
        report(f"{name}: {source.summary()}")
    mixture = build_mixture(config, sources)
    symbols = torch.arange(readers.vocabulary.size)
    valid = build_sources(config, readers, held_out, by_role=False)
    spoken = [source.examples for source in valid.values() if source.layout.name == "unit-only"]
    return train_lm(
        build_lm(config, readers),
        mixture.epoch,
        {name: LazyDocuments(source.examples, source.layout.document) for name, source in valid.items()},
        config.training,
        out / "lm",
        build_card(config, sources, shards, tokenizer),
        valid_seconds=_seconds(spoken[0], shards.streams[0].rate) if spoken else None,
        joint=JointParts(
            text_tokenizer=readers.text_tokenizer,
            subwords=readers.subwords,
            unpredicted=None if config.predict_switches else readers.vocabulary.is_switch(symbols),
        ),
    )


def _layout(name: str, settings: Mapping[str, Any], seed: int, readers: Readers) -> JointLayout:
    collapsed = readers.subwords is None or readers.subwords.card.over == "runs"
    layout = change_layout(make_layout(name, readers.vocabulary, seed=seed, collapsed=collapsed), settings)
    assert isinstance(layout, JointLayout)
    return layout.bind(readers.text_tokenizer, readers.subwords)


def _roles(config: SutlmConfig, examples: Sequence[JointExample]) -> dict[str, str]:
    if config.roles is None:
        return {}
    keys = {example.id: split_key(example, "text") for example in examples}
    found = assign_roles(keys, config.roles, config.seed, group=keys.__getitem__)
    return {id: role for role, ids in found.items() for id in ids}


def _has_role(roles: Mapping[str, str], role: str, example: JointExample) -> bool:
    return roles.get(example.id) == role


def _seconds(examples: Sequence[JointExample], frame_rate: float | None) -> float | None:
    if frame_rate is None:
        return None
    return sum(example.tokens.num_frames for example in examples if example.tokens is not None) / frame_rate or None


def _train_stage(
    run: Run, shards: TokenShards, valid_shards: TokenShards | None, tokenizer: SpeechTokenizer | None
) -> TrainingResult:
    text = run.find("text")
    texts = [] if text is None else read_lines(text)
    return train(run.config, shards, run.out, valid_shards, tokenizer, texts)


SYSTEM = System(
    name="sutlm",
    config=SutlmConfig,
    stages=(UnitsStage(), TokensStage(by="text"), LanguageModelStage(_train_stage, may_read=("text",))),
)
