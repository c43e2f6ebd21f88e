"""Continue rows of speech and text: in one modality, in the other, or in whichever the model likes.

    <U> units        ->  units          <U> units <U2T>  ->  text       what was said, or how it goes on
    <T> text         ->  text           <T> text <T2U>   ->  units

A switch symbol after the prompt asks for the other modality. Concatenated rows (CST) teach a model to say the same
again there, alternating rows (AST) to go on; after training on both, the prompt alone does not say which. The loop, its
guards and its random streams are those of generation.py. Token ids in, token ids out; spoken.py speaks of segments.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard
from vocable.lm.generation import GenerationConfig, StopReason, TokenRules, continue_rows, start_rows
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_vocabulary import JointVocabulary


class JointContinuation(NamedTuple):
    """What was generated after one prompt."""

    token_ids: Int[Tensor, " positions"]
    """New tokens only, without the end symbol."""
    seconds: float
    """Expected length of the new speech."""
    stopped: StopReason
    """Why generation ended; `eos` is the end symbol."""


def generate_joint(
    model: PreTrainedModel,
    prompts: Sequence[Int[Tensor, " _"]],
    config: GenerationConfig,
    vocabulary: JointVocabulary,
    *,
    speech: bool,
    text: bool,
    unit_seconds: float | Float[Tensor, " speech"] | None = None,
    max_text_tokens: int = 128,
    silence: Collection[int] = (),
    never: Collection[int] = (),
    seeds: Sequence[int] | None = None,
) -> list[JointContinuation]:
    """Continue each prompt with speech, text, or both.

    Args:
        model: a Hugging Face causal LM over `vocabulary`.
        prompts: token ids, with opener and switch symbol as in training (`JointLM.prompt`).
        config: sampling, lengths of speech, guards. `min_seconds` holds where speech alone is allowed.
        vocabulary: token ids of text, speech and symbols.
        speech: whether units (or subwords) may be drawn.
        text: whether text may be drawn. With both, openers and switch symbols may be, too.
        unit_seconds: expected duration of a unit (or subword), for all or for each of the speech block
            (`speech_seconds`); needed where speech may be drawn.
        max_text_tokens: stop after this many tokens that are not speech: text, and the symbols between segments.
        silence: units (or subwords) of the silence guard.
        never: further token ids that are not drawn, such as the text tokenizer's own symbols.
        seeds: one per prompt, instead of `config.seed` + position.

    Raises:
        ConfigError: neither modality is allowed, or a length is missing or not above 0; a prompt is empty, holds ids
            outside the vocabulary, or exceeds the context; the model's table is too small; the number of seeds.
        NumericsError: the model returned NaN.
    """
    _check_vocabulary(model, vocabulary, prompts)
    if not (speech or text):
        raise ConfigError("A continuation may hold neither speech nor text. Allow one of them.")
    if max_text_tokens < 1:
        raise ConfigError(f"max_text_tokens is {max_text_tokens}; it must be at least 1.")
    rules = TokenRules(
        banned=_bans(vocabulary, speech, text, never),
        seconds=_seconds_of_ids(vocabulary, unit_seconds if speech else None, speech),
        end_id=vocabulary.end_id,
        pad_id=vocabulary.pad_id,
        silence=frozenset(unit + vocabulary.speech_offset for unit in silence) if speech else frozenset(),
        max_text_tokens=max_text_tokens if text else None,
    )
    if text:  # a text is as long as it is
        config = replace(config, min_seconds=0.0)
    rows = start_rows([prompt.tolist() for prompt in prompts], config, seeds)
    continue_rows(model, rows, config, rules)
    return [
        JointContinuation(torch.tensor(row.tokens, dtype=torch.int64), row.seconds, row.stopped or "context")
        for row in rows
    ]


def speech_seconds(layout: JointLayout, card: LMCard) -> Float[Tensor, " speech"]:
    """Return how long each unit, or each subword, of the speech block lasts: a subword as long as its units together.

    In rows of frames, a unit lasts one frame; in rows of runs, its mean in the training data, which the card has.

    Raises:
        ConfigError: the card lacks it.
    """
    known = layout.vocabulary
    if not layout.collapsed:
        frame_rate = card.tokenizer_card.get("frame_rate")
        if frame_rate is None:
            raise ConfigError("The language model's card has no frame rate, so lengths in seconds cannot be kept.")
        seconds = torch.full((known.codebook_size,), 1 / frame_rate)
    elif card.unit_seconds is None:
        raise ConfigError("The language model's card has no unit durations, so lengths in seconds cannot be kept.")
    else:
        seconds = torch.tensor(card.unit_seconds, dtype=torch.float32)
    return _sum_over_subwords(layout, seconds)


def _check_vocabulary(model: PreTrainedModel, vocabulary: JointVocabulary, prompts: Sequence[Tensor]) -> None:
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if rows < vocabulary.size:
        raise ConfigError(
            f"The model has {rows} vocabulary rows, the vocabulary {vocabulary.size} ids. They do not belong together."
        )
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ConfigError(f"Prompt {index} is empty; the model needs at least one token to go on, e.g. an opener.")
        if int(prompt.min()) < 0 or int(prompt.max()) >= vocabulary.size:
            raise ConfigError(
                f"Prompt {index} has ids from {int(prompt.min())} to {int(prompt.max())}; there are {vocabulary.size}."
            )


def _bans(vocabulary: JointVocabulary, speech: bool, text: bool, never: Collection[int]) -> Tensor:
    banned = vocabulary.bans(speech=speech, text=text)
    banned[list(never)] = True
    return banned


def _seconds_of_ids(vocabulary: JointVocabulary, unit_seconds: float | Tensor | None, speech: bool) -> Tensor:
    seconds = torch.zeros(vocabulary.size)
    if not speech:
        return seconds
    if unit_seconds is None:
        raise ConfigError("unit_seconds is missing: lengths of speech are in seconds. See speech_seconds.")
    lasting = torch.as_tensor(unit_seconds, dtype=torch.float32).cpu()
    if lasting.ndim and len(lasting) != vocabulary.num_speech:
        raise ConfigError(f"unit_seconds has {len(lasting)} values; the speech block has {vocabulary.num_speech} ids.")
    if float(lasting.min()) <= 0:
        raise ConfigError("unit_seconds holds a value of 0 or less; every unit lasts some time.")
    seconds[vocabulary.speech_offset :] = lasting
    return seconds


def _sum_over_subwords(layout: JointLayout, values: Float[Tensor, " units"]) -> Float[Tensor, " speech"]:
    """Sum a value of each unit over the units of each subword; without subwords, the values themselves."""
    size = layout.vocabulary.num_subwords
    if size is None:
        return values
    if layout.subwords is None:
        raise ConfigError("The vocabulary is made of unit subwords, which are not there. Bind them to the layout.")
    units = layout.subwords.decode(torch.arange(size))
    owners = torch.arange(size).repeat_interleave(layout.subwords.lengths[:size])
    return torch.zeros(size).index_add_(0, owners, values[units])


def silent_speech(layout: JointLayout, silence_units: Collection[int]) -> list[int]:
    """Units, or subwords all of whose units, stand for silence."""
    sounding = torch.ones(layout.vocabulary.codebook_size)
    sounding[list(silence_units)] = 0.0
    return (_sum_over_subwords(layout, sounding) == 0).nonzero()[:, 0].tolist()


def unwritten(layout: JointLayout) -> list[int]:
    """Ids of the text part that write nothing: the tokenizer's own symbols, and rows that it never uses."""
    tokenizer = layout.text_tokenizer
    if tokenizer is None:
        return []
    text_size = layout.vocabulary.text_size
    used = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    return [id for id in range(text_size) if id not in used]
