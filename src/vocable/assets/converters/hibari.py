"""hibari's ONNX graph -> model.safetensors in float32 under the names of TextToSpeech, and vocab.json (symbol -> id).

The wheel stores matrix products in int8; what it gives back as float32 is exact.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocable.assets.converters.onnx_weights import read_weights
from vocable.errors import AssetError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "hibari-tts-0.2.1/hibari/assets/hibari.onnx"
VOCABULARY = "hibari-tts-0.2.1/hibari/assets/vocab.json"
CONFIG = {"vocable_class": "TextToSpeech", "sample_rate": 24_000}

RENAMED = (
    (r"^m\.text\.", "text."),
    (r"^m\.", "decoder."),
    (r"^pn\.", "prosody."),
    (r"^decoder\.dec_in\.", "decoder.embed."),
    (r"^decoder\.dec\.", "decoder.blocks."),
    (r"^decoder\.dec_norm\.", "decoder.norm."),
    (r"\.emb\.", ".embed."),
    (r"\.convs\.", ".blocks."),
    (r"\.attn\.norm1\.", ".attention.norm."),
    (r"\.attn\.norm2\.", ".attention.feed_norm."),
    (r"\.attn\.self_attn\.in_proj_bias$", ".attention.qkv.bias"),
    (r"\.attn\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.attn\.linear1\.", ".attention.expand."),
    (r"\.attn\.linear2\.", ".attention.contract."),
    (r"^prosody\.dur\.0\.", "prosody.duration_mix."),
    (r"^prosody\.dur\.2\.", "prosody.duration_head."),
    (r"^prosody\.pro_in\.", "prosody.embed."),
    (r"^prosody\.pro\.", "prosody.blocks."),
    (r"^prosody\.pro_out\.", "prosody.head."),
    (r"\.dw\.", ".depthwise."),
    (r"\.pw1\.", ".expand."),
    (r"\.pw2\.", ".contract."),
    (r"\.gamma$", ".scale"),
)
"""Names of the graph's constants, rewritten one after the other."""

BLOCKS = (  # block in our names, its node in the graph, what its nodes' names end with
    *((f"text.blocks.{i}", f"convs.{i}", "") for i in range(2)),
    *((f"prosody.text.blocks.{i}", f"convs.{i}", "_1") for i in range(2)),
    *((f"prosody.blocks.{i}", f"pro.{i}", "") for i in range(6)),
    *((f"decoder.blocks.{i}", f"dec.{i}", "") for i in range(8)),
)
MATRICES = {
    **{
        f"{block}.{ours}.weight": f"/{node}/{theirs}{end}/Transpose"
        for block, node, end in BLOCKS
        for ours, theirs in (("expand", "pw1"), ("contract", "pw2"))
    },
    "text.attention.qkv.weight": "/Transpose_2",
    "prosody.text.attention.qkv.weight": "/Transpose_25",
    **{
        f"{part}.attention.{ours}.weight": f"/{theirs}{end}/Transpose"
        for part, end in (("text", ""), ("prosody.text", "_4"))
        for ours, theirs in (("out", "out_proj"), ("expand", "linear1"), ("contract", "linear2"))
    },
    "decoder.head.weight": "/head/Transpose",
}
"""The quantised matrices, which the graph names after the nodes that transpose them."""


def convert(unpacked: Path, folder: Path) -> None:
    """Write model.safetensors, vocab.json and config.json."""
    from safetensors.torch import save_file

    save_file(weights_of_graph(unpacked / MODEL), folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(unpacked / VOCABULARY, folder / "vocab.json")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")


def weights_of_graph(path: Path) -> dict[str, Tensor]:
    """Read the weights of hibari's ONNX file under our names.

    Raises:
        AssetError: the file cannot be read, or lacks a matrix.
    """
    import torch

    constants = read_weights(path)
    arrays = {rename(name): array for name, array in constants.items() if name.startswith(("m.", "pn."))}
    for name, node in MATRICES.items():
        if f"{node}_output_0" not in constants:
            raise AssetError(f"{path}: has no weights of the node {node}.")
        arrays[name] = constants[f"{node}_output_0"].T
    for name, array in arrays.items():
        if array.ndim == 3 and array.shape[-1] == 1:  # a convolution over one frame is a matrix
            arrays[name] = array[..., 0]
    return {name: torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for name, array in arrays.items()}


def rename(name: str) -> str:
    """Our name of a constant."""
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name
