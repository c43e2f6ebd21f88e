"""A tiny random language model of text that reads bytes: enough to check sums, not to judge anything."""

from pathlib import Path

import tokenizers
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def save_tiny_text_lm(folder: Path, seed: int = 0, positions: int = 512, scale: float = 0.3) -> Path:
    """Write a Llama of two narrow layers and a byte tokenizer with a start symbol; return the folder."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("o", "n"), ("Ġ", "t")]
    vocabulary = {symbol: index for index, symbol in enumerate(["<s>", *alphabet, *("".join(pair) for pair in merges)])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>").save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        bos_token_id=0,
        initializer_range=scale,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
