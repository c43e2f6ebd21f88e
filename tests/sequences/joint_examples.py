"""A byte-level text tokenizer made on the spot, and random utterances with words and units, for the joint layouts."""

import functools

import numpy as np
import tokenizers
import torch
from transformers import PreTrainedTokenizerFast

from vocable.sequences.joint_rows import JointExample
from vocable.tokens.runs import collapse_runs
from vocable.types import SpeechTokens, Word

FRAME_RATE = 50.0
SENTENCES = ["The cat sat on the mat, by the river.", "And then the hills were far away!", "Words and mats and cats."]


@functools.cache
def text_tokenizer(size=300):
    """A byte-level BPE: any text comes back as it was."""
    model = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    model.train_from_iterator(SENTENCES, vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=model._tokenizer, eos_token="<|endoftext|>")


def random_example(seed, num_words=None, codebook_size=12, collapsed=True, id=None):
    """Words with pauses and overlaps between them, and units of random lengths, for about 0.3 s a word."""
    rng = np.random.default_rng(seed)
    num_words = num_words or int(rng.integers(1, 25))
    starts = np.cumsum(rng.uniform(0.02, 0.6, num_words))
    ends = starts + rng.uniform(0.01, 0.5, num_words)
    vocabulary = ["the", "cat", "sat", "on", "mats", "don't", "héllo"]
    words = tuple(Word(word=str(rng.choice(vocabulary)), start=float(s), end=float(e)) for s, e in zip(starts, ends))
    num_frames = max(num_words, int((starts[-1] + rng.uniform(-0.3, 0.8)) * FRAME_RATE))
    frames = torch.from_numpy(np.repeat(rng.integers(0, codebook_size, num_frames), rng.integers(1, 5, num_frames)))
    frames = frames[:num_frames]
    tokens = SpeechTokens(codes=frames[None])
    if collapsed:
        runs = collapse_runs(frames)
        tokens = SpeechTokens(codes=runs.units[None], durations=runs.durations)
    text = " ".join(word.word for word in words).capitalize() + "."
    return JointExample(id=id or f"u{seed}", tokens=tokens, frame_rate=FRAME_RATE, text=text, words=words)


def frames_of(tokens):
    """One unit a frame, counted out by hand."""
    durations = [1] * tokens.codes.shape[1] if tokens.durations is None else tokens.durations.tolist()
    return [unit for unit, count in zip(tokens.units.tolist(), durations) for _ in range(count)]
