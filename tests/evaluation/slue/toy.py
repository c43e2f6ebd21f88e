"""A toy world: sentences of few words, each word spoken as two units of its own, and a tiny model of both."""

import random
from itertools import chain
from pathlib import Path

import tokenizers
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.evaluation.slue.labelled_set import SENTIMENTS, Entity, LabelledSet, Labels
from vocable.evaluation.slue.rows import Speech
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.spoken import open_lm
from vocable.sequences.joint_layouts import TextOnlyLayout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.types import SpeechTokens, Utterance, Word

FEELINGS = {"Negative": ["bad", "sad"], "Neutral": ["so", "thus"], "Positive": ["good", "glad"]}
NAMES = {"PLACE": ["Rome", "Oslo"], "PERSON": ["Tom", "Ann"]}
FILLERS = ["we", "saw", "it", "on", "the", "way"]
WORDS = [*FILLERS, *chain(*FEELINGS.values()), *chain(*NAMES.values())]
CODEBOOK_SIZE = 2 * len(WORDS)
FRAME_RATE = 50.0
FRAMES = 5
"""Of each unit."""


def speak(text):
    """Words with their times, and frames: ten a word, five of each of its two units."""
    spoken = [word.strip(".,") for word in text.split()]
    step = 2 * FRAMES / FRAME_RATE
    words = tuple(Word(word=w, start=i * step, end=(i + 1) * step) for i, w in enumerate(spoken))
    units = [2 * WORDS.index(word) + half for word in spoken for half in (0, 1)]
    return words, SpeechTokens(codes=torch.tensor([units]), durations=torch.full((len(units),), FRAMES))


def sentence(sentiment, generator):
    """Two fillers, a name, a feeling; returns text and entities."""
    tag = generator.choice(sorted(NAMES))
    name, feeling = generator.choice(NAMES[tag]), generator.choice(FEELINGS[sentiment])
    words = [*generator.sample(FILLERS, 2), name, feeling]
    text = " ".join(words) + "."
    return text, (Entity(tag, text.index(name), len(name)),)


def toy_set(num_train=48, num_dev=12, num_test=18, seed=0):
    generator = random.Random(seed)
    labels, utterances, tokens = [], {}, {}
    for split, count in (("train", num_train), ("dev", num_dev), ("test", num_test)):
        for index in range(count):
            sentiment = SENTIMENTS[index % 3]
            text, entities = sentence(sentiment, generator)
            name = f"{split}{index}"
            group = {"half": "first" if index < count // 2 else "second"}
            labels.append(Labels(id=name, split=split, text=text, sentiment=sentiment, entities=entities, group=group))
            words, tokens[name] = speak(text)
            utterances[name] = Utterance(id=name, audio=Path("a.wav"), text=text, words=words, speaker=f"s{index % 2}")
    return LabelledSet(labels=labels, utterances=utterances), Speech(tokens, FRAME_RATE)


def word_tokenizer():
    """A text tokenizer of the toy world: a token a word, and one for the full stop."""
    vocabulary = {word: index for index, word in enumerate(["?", ".", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


def byte_tokenizer(folder):
    return AutoTokenizer.from_pretrained(save_tiny_text_lm(folder))


def joint_lm(tokenizer, seed=0):
    """A tiny Llama of text and units, untrained."""
    vocabulary = joint_vocabulary(tokenizer, CODEBOOK_SIZE)
    config = LlamaConfig(
        vocab_size=vocabulary.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    layout = TextOnlyLayout(vocabulary=vocabulary)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint="f" * 16)
    return open_lm(LoadedLM(model, card, tokenizer))
