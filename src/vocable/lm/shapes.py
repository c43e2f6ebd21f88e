"""The shapes of the text models that unit language models start from, as published, without their weights.

They serve to count parameters, to start cold where a checkpoint is out of reach, and for benchmarks. `tiny`, `mini`,
`small` and `medium` are ours, for tests and laptops.
"""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from vocable.registry import look_up


def _opt(layers: int, width: int, heads: int, ffn: int, **settings: Any) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "ffn_dim": ffn,
        "word_embed_proj_dim": width,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
        **settings,
    }


def _llama(layers: int, width: int, heads: int, key_heads: int, ffn: int, **settings: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "intermediate_size": ffn,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
        **settings,
    }


def _pythia(layers: int, width: int, heads: int, ffn: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _llama(2, 64, 4, 2, 128, vocab_size=256, max_position_embeddings=2048),
    "mini": _llama(4, 192, 4, 4, 512, vocab_size=2048, max_position_embeddings=2048),
    "small": _llama(6, 256, 4, 4, 704, vocab_size=4096, max_position_embeddings=4096),
    "medium": _llama(7, 320, 5, 5, 864, vocab_size=4096, max_position_embeddings=4096),
    "facebook/opt-125m": _opt(12, 768, 12, 3072),
    "facebook/opt-350m": _opt(24, 1024, 16, 4096, word_embed_proj_dim=512, do_layer_norm_before=False),
    "facebook/opt-1.3b": _opt(24, 2048, 32, 8192),
    "HuggingFaceTB/SmolLM2-135M": _llama(
        30, 576, 9, 3, 1536, rope_parameters={"rope_type": "default", "rope_theta": 1e5}
    ),
    "HuggingFaceTB/SmolLM2-360M": _llama(
        32, 960, 15, 5, 2560, rope_parameters={"rope_type": "default", "rope_theta": 1e5}
    ),
    "EleutherAI/pythia-160m": _pythia(12, 768, 12, 3072),
    "EleutherAI/pythia-410m": _pythia(24, 1024, 16, 4096),
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "num_hidden_layers": 24,
        "hidden_size": 896,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
}


def shape_config(name: str) -> PretrainedConfig:
    """Return the Hugging Face config of a published shape.

    Raises:
        UnknownNameError: no shape has this name; the nearest one is named.
    """
    return AutoConfig.for_model(**look_up("shape", name, SHAPES))
