"""Continue rows of speech and text: in one modality, in the other, or in whichever the model likes.

    <U> units        ->  units          <U> units <U2T>  ->  text       what was said, or how it goes on
    <T> text         ->  text           <T> text <T2U>   ->  units

A switch symbol after the prompt asks for the other modality. Concatenated rows (CST) teach a model to say the same
again there, alternating rows (AST) to go on; after training on both, the prompt alone does not say which. The loop, its
guards and its random streams are those of generation.py; here are its rules.
"""

from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard
from vocable.lm.generation import TokenRules, token_seconds
from vocable.sequences.joint_layouts import JointLayout


def joint_rules(
    layout: JointLayout, card: LMCard, to: Literal["speech", "text", "both"], max_text_tokens: int
) -> TokenRules:
    """Say what may be drawn: units (or subwords), text, or both and then also openers and switch symbols.

    Args:
        layout: the model's, bound to its text tokenizer; without one, all text ids may be drawn.
        card: how long units last, and which are silent.
        to: what the continuation may hold.
        max_text_tokens: stop after this many tokens that are not speech, where text is allowed.

    Raises:
        ConfigError: the card lacks what lengths in seconds need.
    """
    known, speech, text = layout.vocabulary, to != "text", to != "speech"
    banned = known.bans(speech=speech, text=text)
    banned[unwritten(layout) if text else []] = True
    lasting = speech_seconds(layout, card) if speech else None
    silence = silent_speech(layout, card.silence_units) if speech else []
    return TokenRules(
        banned=banned,
        seconds=torch.zeros(known.size) if lasting is None else token_seconds(known.size, known.speech_offset, lasting),
        end_id=known.end_id,
        pad_id=known.pad_id,
        silence=frozenset(unit + known.speech_offset for unit in silence),
        max_text_tokens=max_text_tokens if text else None,
    )


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
