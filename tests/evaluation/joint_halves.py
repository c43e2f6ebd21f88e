"""Utterances in halves, and a model whose knowledge is planted: what its accuracies must be is known."""

from types import SimpleNamespace

import tokenizers
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vocable.evaluation.halves import CutUtterance, Half, HalfModel
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.spoken import open_lm
from vocable.sequences.joint_layouts import UnitOnlyLayout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.types import SpeechTokens

TOPICS = 6


def word_tokenizer():
    """One token a word: `a0` and `b0` belong to topic 0, and so on."""
    words = ["<unk>", *(f"{letter}{topic}" for topic in range(TOPICS) for letter in "ab")]
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    whole = tokenizers.Tokenizer(model)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>")


def spoken(*units):
    codes, durations = torch.unique_consecutive(torch.tensor(units), return_counts=True)
    return SpeechTokens(codes=codes[None], durations=durations)


def topical(topic):
    """A prompt and a continuation of one topic: units 2t and 2t + 1, words `at` and `bt`."""
    one, two = 2 * topic, 2 * topic + 1
    return CutUtterance(
        f"u{topic}",
        f"s{topic % 2}",
        Half(f"a{topic} b{topic}", 2, spoken(one, one, two)),
        Half(f" a{topic}" * (1 + topic % 3), 1 + topic % 3, spoken(*[one, two][: 1 + topic % 2])),
    )


class TopicModel(nn.Module):
    """Finds tokens likelier whose topic was heard of: in either modality, or only in their own."""

    def __init__(self, vocabulary, shared: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=None)
        ids = torch.arange(vocabulary.size)
        topics = torch.full((vocabulary.size,), -1)
        topics[1 : 1 + 2 * TOPICS] = torch.arange(2 * TOPICS) // 2
        topics[vocabulary.speech_offset :] = torch.arange(2 * TOPICS) // 2
        same = (topics[:, None] == topics[None]) & (topics >= 0)[None]
        if not shared:
            same &= vocabulary.is_text(ids)[:, None] == vocabulary.is_text(ids)[None]
        self.same = nn.Parameter(same.float(), requires_grad=False)

    def forward(self, input_ids, use_cache=False):
        heard = self.same[input_ids].cumsum(1) > 0
        return SimpleNamespace(logits=3.0 * heard.float())


def topic_model(shared):
    """The planted model, ready for CRA."""
    layout = topic_layout()
    model = TopicModel(layout.vocabulary, shared)
    return HalfModel(open_lm(LoadedLM(model, card_of(layout), layout.text_tokenizer)), {}, {})


def topic_layout():
    tokenizer = word_tokenizer()
    return UnitOnlyLayout(vocabulary=joint_vocabulary(tokenizer, 2 * TOPICS)).bind(tokenizer)


def card_of(layout):
    return LMCard(
        vocabulary=layout.vocabulary,
        layout=layout.card(),
        tokenizer_fingerprint="tiny",
        unit_seconds=(0.1,) * layout.vocabulary.codebook_size,
    )


def random_joint_model(layout, positions=256):
    """A small random Llama that reads a layout, as it would be loaded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=layout.vocabulary.size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.4,
        )
        model = LlamaForCausalLM(config).eval()
    loaded = LoadedLM(model, card_of(layout), layout.text_tokenizer, layout.subwords)
    return HalfModel(open_lm(loaded), {}, {"model": {"name": "random"}})
