"""SUTLM: one language model over speech units and text (Chou et al., 2023, arXiv:2310.08715).

    speech -> units (-> unit subwords)  \\
    text   -> text tokens               /  unit-only, text-only, concatenated and alternating rows, mixed
           -> one causal LM over both  ->  units or text  ->  speech or text

Loss: -sum_t log p(z_t | z_<t) over the mixed row, z from the union of both vocabularies, switch symbols included. The
paper's model has 350M parameters and starts from random weights, as far as is known; warm, a text model keeps its text
vocabulary and gets rows for speech behind it. What the paper leaves open is a setting, with our choice as its default.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from vocable.errors import ConfigError, ManifestError
from vocable.files import read_lines
from vocable.lm import surgery
from vocable.lm.checkpoint import LMCard
from vocable.lm.generation import GenerationConfig
from vocable.lm.lora import LoraConfig, add_lora
from vocable.lm.packed import token_losses
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.joint_layouts import JointLayout, make_layout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.joint_vocabulary import JointVocabulary, joint_vocabulary
from vocable.sequences.layouts import change_layout
from vocable.sequences.lazy import Lazy, LazyDocuments
from vocable.sequences.mixing import BuiltDocuments, Mixture, MixtureConfig, assign_roles
from vocable.sequences.packing import PackedBatch
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.sequences.text_tokenizers import fit_text_tokenizer, load_text_tokenizer
from vocable.splits import check_valid_share, divide, plain_text, split_key, training_items, validation_items
from vocable.systems.shared import LanguageModelStage, TokensStage, UnitsStage, lm_card
from vocable.systems.stage import Run, System
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizerConfig
from vocable.training.language_model import JointParts, LMTrainingConfig, train_lm
from vocable.training.loop import TrainingResult
from vocable.types import Split


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
class TextConfig:
    """How text is cut into tokens."""

    tokenizer: str | None = None
    """A folder, asset or hub name; None: the text model's own (warm), or one that is fitted."""
    vocabulary_size: int | None = None
    """Fit a byte-level BPE of this size on the training text. Only for a cold start. Unread for SUTLM."""

    def __post_init__(self) -> None:
        if self.tokenizer is not None and self.vocabulary_size is not None:
            raise ConfigError("text.tokenizer and text.vocabulary_size are both set: name a tokenizer, or fit one.")


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
        if self.lora is not None and not self.lm.warm:
            raise ConfigError("lora adapts a text model's weights, but lm.warm is false: there are none to keep.")
        if self.lora is not None and self.lm.trained == "new_rows":
            raise ConfigError("lora adapts the network, which lm.trained 'new_rows' keeps as it is: leave one out.")
        if self.lm.warm and self.text != TextConfig():
            raise ConfigError(
                "lm.warm keeps the text model's vocabulary, so its tokenizer is used: leave text.tokenizer and "
                "text.vocabulary_size out, or set lm.warm to false."
            )


class Readers(NamedTuple):
    """What turns text and units into token ids."""

    text_tokenizer: Any
    subwords: UnitSubwords | None
    vocabulary: JointVocabulary


class Source(NamedTuple):
    """Examples that a layout can build, and those that it cannot."""

    layout: JointLayout
    examples: Sequence[JointExample]
    """Read when they are asked for."""
    unusable: dict[str, str]
    """Ids of examples that lack something, with the reason."""


def build_examples(shards: TokenShards, texts: Sequence[str] = ()) -> Lazy[JointExample]:
    """Take the utterances of token shards, with text and words where they have them, and text without speech.

    Each is read when it is asked for.
    """
    frame_rate, num_spoken = shards.streams[0].rate, len(shards)

    def build(number: int) -> JointExample:
        if number < num_spoken:
            return JointExample.of(*shards[number], frame_rate)
        return JointExample(id=f"text {number - num_spoken}", text=texts[number - num_spoken])

    return Lazy(range(num_spoken + len(texts)), build)


class _Mark(NamedTuple):
    """The fields that decide about the split of an example."""

    number: int
    id: str
    text: str | None
    speaker: str | None = None
    split: Split | None = None


def _marks(shards: TokenShards, texts: Sequence[str] = ()) -> list[_Mark]:
    """Return the marks of all examples, in the order of `build_examples`, without reading their tokens."""
    spoken = [_Mark(number, *mark) for number, mark in enumerate(shards.marks)]
    return spoken + [_Mark(len(spoken) + index, f"text {index}", text) for index, text in enumerate(texts)]


def build_readers(config: SutlmConfig, shards: TokenShards, examples: Sequence[JointExample], folder: Path) -> Readers:
    """Fit, or load, text tokenizer and unit subwords, and make their vocabulary; what is fitted is kept in `folder`.

    Raises:
        FingerprintError: subwords that are in `folder` were made from other units.
    """
    kept = folder / "text-tokenizer"
    if config.text.vocabulary_size is not None:
        if not (kept / "tokenizer_config.json").is_file():
            texts = [example.text for example in examples if example.text is not None]
            fit_text_tokenizer(texts, config.text.vocabulary_size).save_pretrained(kept)
        text_tokenizer = load_text_tokenizer(str(kept))
    else:
        text_tokenizer = load_text_tokenizer(config.text.tokenizer or config.lm.text_model)
    subwords = None
    if config.subwords is not None:
        found = folder / "subwords"
        if not found.is_dir():
            UnitSubwords.fit(shards, shards.card, config.subwords).save(found)
        subwords = UnitSubwords.load(found)
        subwords.check(shards.fingerprint, f"the shard folder {shards.folder}")
    rows = surgery.text_rows(config.lm.text_model) if config.lm.warm else None
    units = shards.streams[0].codebook_size if subwords is None else subwords
    return Readers(text_tokenizer, subwords, joint_vocabulary(text_tokenizer, units, text_rows=rows))


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
        usable, unusable = array("q"), {}
        for number, example in enumerate(examples):
            if by_role and source.role is not None and roles.get(example.id) != source.role:
                continue
            try:
                layout.parts(example, 0)
                usable.append(number)
            except ManifestError as error:
                unusable[example.id] = str(error)
        if not usable and by_role:
            reason = next(iter(unusable.values()), f"no example has the role {source.role!r}")
            raise ConfigError(f"The source {name!r} has no example. {reason}")
        sources[name] = Source(layout, Lazy(examples, lambda example: example).take(usable), unusable)
    return sources


def build_mixture(config: SutlmConfig, sources: Mapping[str, Source]) -> Mixture:
    """Mix the sources in their shares; spans are drawn anew each time that an example comes up."""
    return Mixture(
        {name: BuiltDocuments(source.examples, source.layout) for name, source in sources.items()},
        MixtureConfig(
            ratios={name: config.sources[name].ratio for name in sources}, by=config.mix_by, seed=config.seed
        ),
    )


def build_lm(config: SutlmConfig, readers: Readers) -> PreTrainedModel:
    """The text model with rows for speech behind its own (warm), or its shape with random weights (cold)."""
    model, vocabulary = surgery.build_lm(config.lm, readers.vocabulary), readers.vocabulary
    if config.lora is None:
        return model
    return add_lora(model, config.lora, range(vocabulary.text_size, vocabulary.size))


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
    shards = shards.stream(config.stream)
    valid_shards = None if valid_shards is None else valid_shards.stream(config.stream)
    tokenizer = None if tokenizer is None else tokenizer.matching(shards.fingerprint)
    for other, what in ((valid_shards, "the validation tokens"), (tokenizer, "the tokenizer")):
        if other is not None:
            check_fingerprint(shards.fingerprint, other.fingerprint, str(shards.folder), what)
    every, marks = build_examples(shards, texts), _marks(shards, texts)
    if valid_shards is None:
        chosen, valid_marks = divide(marks, config.valid_share, by="text")
        train_marks, held_out = _without_texts_of(chosen, marks), every.take([mark.number for mark in valid_marks])
        if len(train_marks) < len(chosen):
            report(f"{len(chosen) - len(train_marks)} utterances are not trained on, since their text is held out")
    else:
        train_marks, valid_marks = training_items(marks), validation_items(_marks(valid_shards))
        _refuse_shared_texts(train_marks, valid_marks)
        held_out = build_examples(valid_shards).take([mark.number for mark in valid_marks])
    examples = every.take([mark.number for mark in train_marks])
    readers = build_readers(config, shards, examples, out)
    sources = build_sources(config, readers, examples)
    for name, source in sources.items():
        left_out = f"; {len(source.unusable)} left out, e.g.: {_first(source.unusable)}" if source.unusable else ""
        report(f"{name}: {len(source.examples)} examples{left_out}")
    mixture = build_mixture(config, sources)
    symbols = torch.arange(readers.vocabulary.size)
    valid = build_sources(config, readers, held_out, by_role=False)
    spoken = [source.examples for source in valid.values() if source.layout.name == "unit-only"]
    return train_lm(
        build_lm(config, readers),
        mixture.epoch,
        {name: LazyDocuments(source.examples, source.layout.build) for name, source in valid.items()},
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


def _without_texts_of(train: Sequence[_Mark], every: Sequence[_Mark]) -> list[_Mark]:
    """Leave out what has a text that marks in the manifest hold out, as those of a split by speaker may."""
    trained = {example.id for example in train}
    held_out = {plain_text(example.text) for example in every if example.text and example.id not in trained}
    return [example for example in train if not example.text or plain_text(example.text) not in held_out]


def _refuse_shared_texts(train: Sequence[_Mark], valid: Sequence[_Mark]) -> None:
    known = {plain_text(example.text): example.id for example in train if example.text}
    shared = [example for example in valid if example.text and plain_text(example.text) in known]
    if shared:
        first = shared[0]
        raise ManifestError(
            f"{len(shared)} of {len(valid)} validation utterances have a text that is trained on: {first.id} has that "
            f"of {known[plain_text(first.text or '')]}. Divide by text, or leave the validation set out."
        )


def _roles(config: SutlmConfig, examples: Sequence[JointExample]) -> dict[str, str]:
    if config.roles is None:
        return {}
    keys = {example.id: split_key(example, "text") for example in examples}
    found = assign_roles(keys, config.roles, config.seed, group=keys.__getitem__)
    return {id: role for role, ids in found.items() for id in ids}


def _seconds(examples: Sequence[JointExample], frame_rate: float | None) -> float | None:
    if frame_rate is None:
        return None
    return sum(example.tokens.num_frames for example in examples if example.tokens is not None) / frame_rate or None


def _first(reasons: Mapping[str, str]) -> str:
    return next(iter(reasons.values()))


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
