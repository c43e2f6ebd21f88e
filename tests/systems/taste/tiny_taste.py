"""A tiny text-aligned tokenizer, its tokens of a little speech, and a tiny text model."""

from dataclasses import replace

import torch

from sequences.joint_examples import text_tokenizer
from tiny import save_tiny_lm, save_tiny_whisper, write_speech
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.features import EncoderConfig
from vocable.systems.from_speech import tokenize_manifest
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from vocable.tokens.shards import ShardsConfig, TokenShards

SENTENCES = (
    "The cat sat on the mat.",
    "And then the hills were far away!",
    "Words, cats, mats.",
    "A river by the hills.",
    "The mats sat far away.",
)
QUANTIZER = ResidualQuantizerConfig(
    level=VectorQuantizerConfig(dim=8, codebook_size=16, init="random"), num_levels=4, dropout=1.0
)


def make_taste(folder, seed=3, **settings):
    """An untrained tokenizer of the tiny Whisper in a folder."""
    config = TasteConfig(
        **{
            "encoder": EncoderConfig(name=str(folder), layer=3),
            "shallow_layer": 1,
            "quantizer": QUANTIZER,
            **settings,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TasteTokenizer.of_checkpoint(config)


def save_text_model(folder, positions=256):
    """A tiny Llama with a byte-level tokenizer."""
    save_tiny_lm("SmolLM", folder, positions)
    text_tokenizer().save_pretrained(folder)
    return folder


def save_parts(folder, make_speechlike, texts=SENTENCES):
    """Write `tokenizer/`, `tokens/` and `text-model/`; return the tokenizer and its shards."""
    tokenizer = make_taste(save_tiny_whisper(folder / "whisper"))
    tokenizer.save_pretrained(folder / "tokenizer")
    manifest = write_speech(folder / "speech", make_speechlike, count=10)
    utterances = read_manifest(manifest)
    spoken = [replace(one, text=texts[index % len(texts)]) for index, one in enumerate(utterances)]
    write_manifest(spoken, manifest)
    tokenize_manifest(manifest, folder / "tokens", str(folder / "tokenizer"), ShardsConfig())
    save_text_model(folder / "text-model")
    return tokenizer, TokenShards(folder / "tokens")
