"""Speech-text models on the semantic tokens of a codec: they write what is heard, and say what is written.

    semantic tokens (speech) <-> text:   <U> codes <U2T> text <E>,  <T> text <T2U> codes <E>
    text model + rows for the codes  ->  fine-tuned on such rows, loss on the answers  ->  an ordinary joint spoken LM

These are the language models that the paper judges its tokenizer by (Jo et al., 2025, arXiv:2506.16738): Qwen2.5 0.5B
Instruct and LLaMA 3.2 3B Instruct, 10,000 steps, speech to text and text to speech. Its prompts, how codes are written,
learning rate and batch are not known to us; they are settings, with our choice as default. Only the semantic stream is
read and written here: its speech comes from the auxiliary decoder, or with acoustic levels that acoustics.py predicts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard
from vocable.lm.lora import LoraConfig
from vocable.lm.packed import token_losses
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.lazy import LazyDocuments
from vocable.sequences.mixing import BuiltDocuments, Mixture, MixtureConfig
from vocable.sequences.packing import PackedBatch
from vocable.sequences.speech_text import Instructions, PairTask, SpeechTextLayout
from vocable.sequences.subwords import SubwordConfig
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
from vocable.systems.shared import LanguageModelStage, lm_card
from vocable.systems.stage import Run
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.training.language_model import JointParts, LMTrainingConfig, train_lm
from vocable.training.loop import TrainingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTextConfig:
    """A speech-text model, and how it is trained."""

    stream: str | None = "semantic"
    """Stream that the model reads and writes; None: the only one, for tokenizers that have no other."""
    tasks: Mapping[PairTask, float] = field(default_factory=lambda: {"transcribe": 1.0, "speak": 1.0})
    """Tasks that are trained, and the share of each among the rows, in any scale: one model for both, or for one."""
    instructions: Instructions = field(default_factory=Instructions)
    """Text before the rows of each task. The paper's is not known to us."""
    text_case: Literal["kept", "lower"] = "kept"
    """Write texts as they are, or in small letters, where transcripts of several corpora differ."""
    collapsed: bool = False
    """Merge runs of equal codes. A codec's decoder needs a code a frame, so this is for units with a vocoder."""
    subwords: SubwordConfig | None = None
    """Subwords of codes in the place of codes; None: codes, as published."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text tokenizer of a model that starts from random weights."""
    lm: UnitLMConfig = field(default_factory=UnitLMConfig)
    """Text model to start from (published: Qwen/Qwen2.5-0.5B-Instruct, meta-llama/Llama-3.2-3B-Instruct)."""
    lora: LoraConfig | None = None
    """Warm only: train low-rank adapters and the rows for speech, and leave the text model's weights as they are."""
    training: LMTrainingConfig = field(default_factory=lambda: LMTrainingConfig(max_steps=10_000))
    """The paper trains for 10,000 steps. Utterances whose rows are longer than the context are left out."""
    seed: int = 0
    """Order of the rows."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks is empty. Name what the model shall do, e.g. tasks: {transcribe: 1, speak: 1}.")
        for name, share in self.tasks.items():
            if not share > 0:
                raise ConfigError(f"tasks.{name} is {share}; a share is above 0. Leave the task out instead.")
        check_lm_settings(self)


def build_layout(config: SpeechTextConfig, readers: Readers) -> SpeechTextLayout:
    """Rows of all tasks that are trained."""
    return SpeechTextLayout(
        vocabulary=readers.vocabulary,
        tasks=tuple(config.tasks),
        instructions=config.instructions,
        text_case=config.text_case,
        collapsed=config.collapsed,
        seed=config.seed,
    ).bind(readers.text_tokenizer, readers.subwords)


def build_sources(
    config: SpeechTextConfig, layout: SpeechTextLayout, examples: Sequence[JointExample]
) -> dict[PairTask, Source]:
    """Give each task the examples whose rows it can build and the context can hold."""
    return {
        task: find_usable(replace(layout, tasks=(task,)), examples, max_tokens=config.training.context_tokens)
        for task in layout.tasks
    }


def build_mixture(config: SpeechTextConfig, sources: Mapping[PairTask, Source]) -> Mixture:
    """Mix the rows of the tasks in their shares; an utterance serves each of them."""
    return Mixture(
        {task: BuiltDocuments(source.examples, source.layout) for task, source in sources.items()},
        MixtureConfig(ratios={**config.tasks}, by="sequences", seed=config.seed),
    )


def build_card(
    config: SpeechTextConfig,
    layout: SpeechTextLayout,
    shards: TokenShards,
    tokenizer: SpeechTokenizer | None = None,
) -> LMCard:
    """Describe the model."""
    training = {
        "system": "lm-spt",
        **config.lm.card(),
        "lora": None if config.lora is None else config.lora.rank,
        "tasks": dict(config.tasks),
    }
    return lm_card(layout, shards, tokenizer, training)


def loss(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, ""]:
    """Sum of -log p(answer token | what is asked, answer so far) over a packed row, end symbols included, in nats."""
    return token_losses(model, batch).sum()


def train(
    config: SpeechTextConfig,
    shards: TokenShards,
    out: Path,
    valid_shards: TokenShards | None = None,
    tokenizer: SpeechTokenizer | None = None,
    *,
    valid_share: float = 0.02,
    report: Callable[[str], None] = print,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train a speech-text model; a run that is in `out` already goes on.

    Args:
        config: the recipe's section `speech_text`.
        shards: training tokens, with the utterances' text.
        out: the run's folder: `lm/best` and `lm/last` are Hugging Face folders with their text tokenizer.
        valid_shards: validation tokens; None takes what is marked `valid`, or a share of the rest.
        tokenizer: lets the card say which codes are silence, for the silence guard.
        valid_share: that share; no sentence is on both sides.
        report: told how many utterances each task has, and why others cannot be used.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        FingerprintError: the validation tokens, or the tokenizer, are not of the kind that the training tokens are.
        ConfigError: the tokens have no stream of this name, or no utterance can be used.
        ManifestError: a validation sentence is among the training sentences.
    """
    shards, valid_shards, tokenizer = choose_tokens(config.stream, shards, valid_shards, tokenizer)
    examples, held_out = divide_examples(shards, valid_shards, valid_share, report=report)
    readers = build_readers(config, shards, examples, out)
    layout = build_layout(config, readers)
    sources = build_sources(config, layout, examples)
    for task, source in sources.items():
        if not source.examples:
            reason = next(iter(source.unusable.values()), "there are no utterances")
            raise ConfigError(f"The task {task!r} has no example. {reason}")
        report(f"{task}: {source.summary()}")
    valid = build_sources(config, layout, held_out)
    return train_lm(
        build_lm(config, readers),
        build_mixture(config, sources).epoch,
        {task: LazyDocuments(source.examples, source.layout.document) for task, source in valid.items()},
        config.training,
        out / "lm",
        build_card(config, layout, shards, tokenizer),
        joint=JointParts(text_tokenizer=readers.text_tokenizer, subwords=readers.subwords),
        stop_at_step=stop_at_step,
        show=show,
    )


class SpeechTextStage(LanguageModelStage):
    """Train a speech-text model on tokens; for configs with `speech_text` and `valid_share`."""

    def __init__(self) -> None:
        super().__init__(_train_stage)

    def is_needed(self, config: Any) -> bool:
        """Whether the recipe has a speech-text model."""
        return config.speech_text is not None

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings of the model, and what decides who is held out."""
        return {"speech_text": config_to_dict(config.speech_text), "valid_share": config.valid_share}


def _train_stage(
    run: Run, shards: TokenShards, valid_shards: TokenShards | None, tokenizer: SpeechTokenizer | None
) -> TrainingResult:
    share = run.config.valid_share
    return train(run.config.speech_text, shards, run.out, valid_shards, tokenizer, valid_share=share)
