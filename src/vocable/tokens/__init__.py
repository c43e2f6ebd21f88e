"""Frames to units and codes: k-means, runs, tokenizers and their folders, token shards on disk.

    tokenizer = load_tokenizer("units-whisper-tiny-500")
    (tokens,) = tokenizer.encode([waveform])        # SpeechTokens

Previous stage: features/. Next: sequences/.
"""

from vocable.tokens.kmeans import KMeans, KMeansConfig, fit_kmeans
from vocable.tokens.quantizers import Quantized, VectorQuantizer, VectorQuantizerConfig
from vocable.tokens.runs import Runs, collapse_runs, expand_runs
from vocable.tokens.shards import ShardJob, TokenShards, plan_shards, write_token_shard
from vocable.tokens.tokenizer import SpeechTokenizer, load_tokenizer, register_tokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig

__all__ = [
    "KMeans",
    "KMeansConfig",
    "Quantized",
    "Runs",
    "ShardJob",
    "SpeechTokenizer",
    "TokenShards",
    "UnitTokenizer",
    "UnitTokenizerConfig",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "collapse_runs",
    "expand_runs",
    "fit_kmeans",
    "load_tokenizer",
    "plan_shards",
    "register_tokenizer",
    "write_token_shard",
]
