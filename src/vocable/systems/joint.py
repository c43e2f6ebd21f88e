"""What systems with a language model of speech and text share: who is trained on, readers, usable examples, the model.

token shards (+ text) -> divide_examples -> examples -> build_readers -> vocabulary -> build_lm
                                                     -> find_usable   -> what a layout can build
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedModel

from vocable.errors import ConfigError, ManifestError
from vocable.lm import surgery
from vocable.lm.lora import LoraConfig, add_lora
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.joint_vocabulary import JointVocabulary, joint_vocabulary
from vocable.sequences.lazy import Lazy
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.sequences.text_tokenizers import fit_text_tokenizer, load_text_tokenizer
from vocable.splits import divide, plain_text, training_items, validation_items
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import Split


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


class JointConfig(Protocol):
    """The settings that every such system has."""

    @property
    def text(self) -> TextConfig: ...
    @property
    def subwords(self) -> SubwordConfig | None: ...
    @property
    def lm(self) -> UnitLMConfig: ...
    @property
    def lora(self) -> LoraConfig | None: ...


def check_lm_settings(config: JointConfig) -> None:
    """Refuse settings of model, adapters and text that do not go together.

    Raises:
        ConfigError: adapters without a text model to adapt, or a text tokenizer beside the text model's own.
    """
    if config.lora is not None and not config.lm.warm:
        raise ConfigError("lora adapts a text model's weights, but lm.warm is false: there are none to keep.")
    if config.lora is not None and config.lm.trained == "new_rows":
        raise ConfigError("lora adapts the network, which lm.trained 'new_rows' keeps as it is: leave one out.")
    if config.lm.warm and config.text != TextConfig():
        raise ConfigError(
            "lm.warm keeps the text model's vocabulary, so its tokenizer is used: leave text.tokenizer and "
            "text.vocabulary_size out, or set lm.warm to false."
        )


class Tokens(NamedTuple):
    """The stream that a language model reads, to train on and to validate on, and the tokenizer that made it."""

    shards: TokenShards
    valid_shards: TokenShards | None
    tokenizer: SpeechTokenizer | None


def choose_tokens(
    stream: str | None, shards: TokenShards, valid_shards: TokenShards | None, tokenizer: SpeechTokenizer | None
) -> Tokens:
    """Take one stream of all, and see that they belong together.

    Raises:
        FingerprintError: the validation tokens, or the tokenizer, are not of the kind that the training tokens are.
        ConfigError: the tokens have several streams and none is chosen, or have no stream of this name.
    """
    shards = shards.stream(stream)
    valid_shards = None if valid_shards is None else valid_shards.stream(stream)
    tokenizer = None if tokenizer is None else tokenizer.matching(shards.fingerprint)
    for other, what in ((valid_shards, "the validation tokens"), (tokenizer, "the tokenizer")):
        if other is not None:
            check_fingerprint(shards.fingerprint, other.fingerprint, str(shards.folder), what)
    return Tokens(shards, valid_shards, tokenizer)


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


class Mark(NamedTuple):
    """The fields that decide about the split of an example."""

    number: int
    id: str
    text: str | None
    speaker: str | None = None
    split: Split | None = None


def marks_of(shards: TokenShards, texts: Sequence[str] = ()) -> list[Mark]:
    """Return the marks of all examples, in the order of `build_examples`, without reading their tokens."""
    spoken = [Mark(number, *mark) for number, mark in enumerate(shards.marks)]
    return spoken + [Mark(len(spoken) + index, f"text {index}", text) for index, text in enumerate(texts)]


class Divided(NamedTuple):
    """Examples to train on, and examples to validate on; each is read when it is asked for."""

    train: Lazy[JointExample]
    valid: Lazy[JointExample]


def divide_examples(
    shards: TokenShards,
    valid_shards: TokenShards | None,
    valid_share: float,
    texts: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Divided:
    """Divide by text, so that no sentence is on both sides.

    Args:
        shards: training tokens.
        valid_shards: validation tokens; None takes what is marked `valid`, or a share of the rest.
        valid_share: that share.
        texts: text without speech.
        report: told how many utterances are left out since their text is held out.

    Raises:
        ManifestError: a validation sentence is among the training sentences, or nothing is left to train on.
    """
    every, marks = build_examples(shards, texts), marks_of(shards, texts)
    if valid_shards is None:
        chosen, valid_marks = divide(marks, valid_share, by="text")
        train_marks, valid = without_texts_of(chosen, marks), every.take([mark.number for mark in valid_marks])
        if len(train_marks) < len(chosen):
            report(f"{len(chosen) - len(train_marks)} utterances are not trained on, since their text is held out")
    else:
        train_marks, valid_marks = training_items(marks), validation_items(marks_of(valid_shards))
        _refuse_shared_texts(train_marks, valid_marks)
        valid = build_examples(valid_shards).take([mark.number for mark in valid_marks])
    return Divided(every.take([mark.number for mark in train_marks]), valid)


class Readers(NamedTuple):
    """What turns text and units into token ids."""

    text_tokenizer: Any
    subwords: UnitSubwords | None
    vocabulary: JointVocabulary


def build_readers(config: JointConfig, shards: TokenShards, examples: Sequence[JointExample], folder: Path) -> Readers:
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


class Source(NamedTuple):
    """Examples that a layout can build, and those that it cannot."""

    layout: JointLayout
    examples: Sequence[JointExample]
    """Read when they are asked for."""
    unusable: dict[str, str]
    """Ids of examples that lack something, with the reason."""

    def summary(self) -> str:
        """Count both, and give a reason."""
        reasons = self.unusable
        left_out = f"; {len(reasons)} left out, e.g.: {next(iter(reasons.values()))}" if reasons else ""
        return f"{len(self.examples)} examples{left_out}"


def find_usable(
    layout: JointLayout,
    examples: Lazy[JointExample] | Sequence[JointExample],
    is_wanted: Callable[[JointExample], bool] | None = None,
    max_tokens: int | None = None,
) -> Source:
    """Try which examples a layout can build.

    Args:
        is_wanted: which examples come into question; None: all.
        max_tokens: longest row that is used; None: any.
    """
    usable, unusable = array("q"), {}
    for number, example in enumerate(examples):
        if is_wanted is not None and not is_wanted(example):
            continue
        try:
            if max_tokens is None:
                layout.parts(example, 0)
            elif (length := len(layout.build(example))) > max_tokens:
                raise ManifestError(
                    f"Utterance {example.id!r} makes a row of {length} tokens; training.context_tokens is {max_tokens}."
                )
            usable.append(number)
        except ManifestError as error:
            unusable[example.id] = str(error)
    return Source(layout, Lazy(examples, lambda example: example).take(usable), unusable)


def build_lm(config: JointConfig, readers: Readers) -> PreTrainedModel:
    """The text model with rows for speech behind its own (warm), or its shape with random weights (cold)."""
    model, vocabulary = surgery.build_lm(config.lm, readers.vocabulary), readers.vocabulary
    if config.lora is None:
        return model
    return add_lora(model, config.lora, range(vocabulary.text_size, vocabulary.size))


def without_texts_of(train: Sequence[Mark], every: Iterable[Mark]) -> list[Mark]:
    """Leave out what has a text that marks in the manifest hold out, as those of a split by speaker may."""
    trained = {example.id for example in train}
    held_out = {plain_text(example.text) for example in every if example.text and example.id not in trained}
    return [example for example in train if not example.text or plain_text(example.text) not in held_out]


def _refuse_shared_texts(train: Sequence[Mark], valid: Sequence[Mark]) -> None:
    known: Mapping[str, str] = {plain_text(example.text): example.id for example in train if example.text}
    shared = [example for example in valid if example.text and plain_text(example.text) in known]
    if shared:
        first = shared[0]
        raise ManifestError(
            f"{len(shared)} of {len(valid)} validation utterances have a text that is trained on: {first.id} has that "
            f"of {known[plain_text(first.text or '')]}. Divide by text, or leave the validation set out."
        )
