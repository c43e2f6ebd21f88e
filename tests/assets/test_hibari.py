"""hibari's converter: ONNX files are read as they were written, and every weight lands in a module of ours."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from vocable.assets import resolve
from vocable.assets.converters import hibari
from vocable.assets.converters.onnx_weights import DTYPES, read_weights
from vocable.errors import AssetError
from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig

TYPE_OF = {np.dtype(dtype): number for number, dtype in DTYPES.items()}


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1  # two's complement
    out = b""
    while number >= 128:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, array: np.ndarray, how: str = "raw") -> bytes:
    """A TensorProto that stores its values in one of the ways of the format."""
    out = b"".join(varint(1 << 3) + varint(size) for size in array.shape)
    out += varint(2 << 3) + varint(TYPE_OF[array.dtype]) + message(8, name.encode())
    if how == "raw":
        return out + message(9, array.tobytes())
    if how == "floats":
        return out + message(4, b"".join(struct.pack("<f", value) for value in array.ravel()))
    return out + message(7 if array.dtype == np.int64 else 5, b"".join(varint(int(v)) for v in array.ravel()))


def model_file(path: Path, tensors: list[bytes]) -> Path:
    graph = message(1, b"a node") + b"".join(message(5, tensor) for tensor in tensors)
    path.write_bytes(varint(1 << 3) + varint(8) + message(7, graph) + message(8, b"opset"))
    return path


@given(values=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5))
def test_tensors_come_back_however_they_are_stored(tmp_path_factory: pytest.TempPathFactory, values: list[int]):
    longs = np.array(values, dtype=np.int64)
    floats = longs.astype(np.float32)[None]
    path = model_file(
        tmp_path_factory.mktemp("onnx") / "model.onnx",
        [
            tensor("raw", floats),
            tensor("floats", floats, "floats"),
            tensor("integers", longs, "integers"),
            tensor("half", np.array(2.5, dtype=np.float16)),
        ],
    )
    found = read_weights(path)
    assert np.array_equal(found["raw"], floats) and np.array_equal(found["floats"], floats)
    assert np.array_equal(found["integers"], longs) and found["integers"].dtype == np.int64
    assert found["half"].shape == () and found["half"] == 2.5


def test_quantised_matrices_become_floats(tmp_path: Path):
    quantised = np.array([[-128, 0, 127]], dtype=np.int8)
    tensors = [
        tensor("w_quantized", quantised),
        tensor("w_scale", np.array(0.5, dtype=np.float32)),
        tensor("w_zero_point", np.array(3, dtype=np.int8), "integers"),
    ]
    found = read_weights(model_file(tmp_path / "model.onnx", tensors))
    assert found.keys() == {"w"}
    assert found["w"].tolist() == [[-65.5, -1.5, 62.0]]


def test_a_file_cut_short_is_refused(tmp_path: Path):
    path = model_file(tmp_path / "model.onnx", [tensor("w", np.ones(100, dtype=np.float32))])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(AssetError, match=r"model\.onnx: its weights cannot be read as ONNX"):
        read_weights(path)
    path.write_bytes(b"")
    with pytest.raises(AssetError, match="holds no weights"):
        read_weights(path)


def test_a_graph_without_the_matrices_is_refused(tmp_path: Path):
    path = model_file(tmp_path / "model.onnx", [tensor("m.text.emb.weight", np.ones((2, 2), dtype=np.float32))])
    with pytest.raises(AssetError, match=r"has no weights of the node /convs\.0/pw1/Transpose"):
        hibari.weights_of_graph(path)


def test_matrices_and_names_are_those_of_the_model():
    state = TextToSpeech(TextToSpeechConfig(), {}).state_dict()
    assert set(hibari.MATRICES) <= set(state)
    renamed = {
        "m.text.emb.weight": "text.embed.weight",
        "pn.text.attn.self_attn.in_proj_bias": "prosody.text.attention.qkv.bias",
        "pn.dur.2.bias": "prosody.duration_head.bias",
        "pn.pro.3.gamma": "prosody.blocks.3.scale",
        "m.dec.7.dw.weight": "decoder.blocks.7.depthwise.weight",
        "m.dec_norm.bias": "decoder.norm.bias",
    }
    for theirs, ours in renamed.items():
        assert hibari.rename(theirs) == ours and ours in state


@pytest.mark.asset("hibari")
def test_the_asset_holds_every_weight_and_its_licences():
    folder = resolve("hibari")
    state = TextToSpeech(TextToSpeechConfig(), {}).state_dict()
    weights = load_file(folder / "model.safetensors")
    assert {name: weight.shape for name, weight in weights.items()} == {k: v.shape for k, v in state.items()}
    symbols = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert symbols["ə"] == 83 and max(symbols.values()) < 178
    notice = (folder / "licences" / "hibari-tts-0.2.1-NOTICE").read_text(encoding="utf-8")
    assert "Kokoro-82M" in notice and (folder / "licences" / "hibari-tts-0.2.1-LICENSE").is_file()
