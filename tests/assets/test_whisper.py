"""CTranslate2's model file is read as it was written, and becomes a Whisper that computes the same."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from vocable.assets import resolve
from vocable.assets.converters.ctranslate2 import read_ctranslate2
from vocable.assets.converters.whisper import convert_whisper
from vocable.errors import AssetError

TYPE_NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
SPECIAL = ["endoftext", "startoftranscript", "en", "iw", "translate", "transcribe", "startoflm", "startofprev"]
SPECIAL += ["nocaptions", "notimestamps"]
VOCABULARY = 30  # no time stamps: random ones would cut the audio into hundreds of segments
DIM = 16


def write_string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def write_ctranslate2(path: Path, variables: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6) -> None:
    """The obvious writer of the layout."""
    out = struct.pack("<I", version) + write_string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += write_string(name) + struct.pack("<B", array.ndim) + b"".join(struct.pack("<I", n) for n in array.shape)
        out += struct.pack("<BI", TYPE_NUMBERS[str(array.dtype)], array.nbytes) + array.tobytes()
    out += struct.pack("<I", len(aliases)) + b"".join(write_string(word) for pair in aliases.items() for word in pair)
    path.write_bytes(out)


def as_ctranslate2(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """Write down a Hugging Face Whisper under CTranslate2's names."""
    config, state = model.config, model.state_dict()
    out: dict[str, np.ndarray] = {}

    def put(name: str, *sources: str) -> None:
        zeros = torch.zeros(DIM)  # CTranslate2 stores a key bias of zeros, Hugging Face stores none
        parts = [state.get(f"model.{source}", zeros) for source in sources]
        out[name] = torch.cat(parts).numpy().astype(np.float16)

    def put_both(name: str, *sources: str) -> None:
        for kind in ("weight", "bias"):
            put(f"{name}/{kind}", *(f"{source}.{kind}" for source in sources))

    def put_norm(name: str, source: str) -> None:
        put(f"{name}/gamma", f"{source}.weight")
        put(f"{name}/beta", f"{source}.bias")

    for side, num_heads in (("encoder", config.encoder_attention_heads), ("decoder", config.decoder_attention_heads)):
        out[f"{side}/num_heads"] = np.array(num_heads, dtype=np.int16)
        put(f"{side}/position_encodings/encodings", f"{side}.embed_positions.weight")
        put_norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for layer in range(2):
            new, old = f"{side}/layer_{layer}", f"{side}.layers.{layer}"
            put_norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm")
            put_both(f"{new}/self_attention/linear_0", *(f"{old}.self_attn.{p}_proj" for p in "qkv"))
            put_both(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
            put_norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm")
            put_both(f"{new}/ffn/linear_0", f"{old}.fc1")
            put_both(f"{new}/ffn/linear_1", f"{old}.fc2")
            if side == "decoder":
                put_norm(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm")
                put_both(f"{new}/attention/linear_0", f"{old}.encoder_attn.q_proj")
                put_both(f"{new}/attention/linear_1", *(f"{old}.encoder_attn.{p}_proj" for p in "kv"))
                put_both(f"{new}/attention/linear_2", f"{old}.encoder_attn.out_proj")
    put_both("encoder/conv1", "encoder.conv1")
    put_both("encoder/conv2", "encoder.conv2")
    put("decoder/embeddings/weight", "decoder.embed_tokens.weight")
    out["decoder/pre_norm"] = np.array(1, dtype=np.int8)
    out["decoder/alignment_heads"] = np.array([1, 1], dtype=np.int16)
    return out


@pytest.fixture
def reference() -> WhisperForConditionalGeneration:
    """A tiny random Whisper, its weights representable in fp16."""
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=DIM,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=1500,
        max_target_positions=20,
        num_mel_bins=80,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.2).half().float())
    return model


@pytest.fixture
def source(tmp_path: Path, reference) -> Path:
    """A folder as CTranslate2's converter writes it."""
    folder = tmp_path / "source"
    folder.mkdir()
    variables = as_ctranslate2(reference)
    write_ctranslate2(folder / "model.bin", variables, {"decoder/projection/weight": "decoder/embeddings/weight"})
    settings = {"alignment_heads": [[1, 1]], "suppress_ids": [3, 4], "suppress_ids_begin": [0]}
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({chr(97 + i): i for i in range(20)}, []))
    special = [f"<|{name}|>" for name in SPECIAL]
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    variables = {
        "a/float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/half": np.array([0.5, -2.0], dtype=np.float16),
        "scalar": np.array(7, dtype=np.int16),
        "byte": np.array([[-1]], dtype=np.int8),
        "empty": np.empty((0, 3), dtype=np.int32),
    }
    write_ctranslate2(tmp_path / "model.bin", variables, {"tied": "a/half"})
    model = read_ctranslate2(tmp_path / "model.bin")
    assert (model.specification, model.revision, model.aliases) == ("WhisperSpec", 3, {"tied": "a/half"})
    assert list(model.variables) == list(variables)
    for name, array in variables.items():
        np.testing.assert_array_equal(model.variables[name], array, strict=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-3], "the file is cut off"),
        (lambda data: data + b"more", "4 bytes are left"),
        (lambda data: struct.pack("<I", 5) + data[4:], "binary version 5; only version 6"),
        (
            lambda data: data.replace(b"w\0\x01\x02\0\0\0\x04", b"w\0\x01\x03\0\0\0\x04"),
            r"w has 2 values.*shape is \[3\]",
        ),
        (lambda data: data.replace(b"w\0\x01\x02\0\0\0\x04", b"w\0\x01\x02\0\0\0\x09"), "w has the type number 9"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage, message: str):
    path = tmp_path / "model.bin"
    write_ctranslate2(path, {"w": np.array([1, 2], dtype=np.float16)}, {})
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(AssetError, match=message):
        read_ctranslate2(path)


def test_a_converted_whisper_computes_the_same(tmp_path: Path, source: Path, reference):
    convert_whisper(source, tmp_path / "out")
    model, report = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == torch.float32
    features, token_ids = torch.randn(1, 80, 3000), torch.tensor([[1, 9, 25, 3]])
    with torch.no_grad():
        expected = reference(input_features=features, decoder_input_ids=token_ids).logits
        found = model.eval()(input_features=features, decoder_input_ids=token_ids).logits
    assert expected.std() > 0.1  # not trivially equal
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_converted_whisper_transcribes_without_the_hub(tmp_path: Path, source: Path, make_speechlike):
    convert_whisper(source, tmp_path / "out")
    processor = WhisperProcessor.from_pretrained(tmp_path / "out")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    features = processor(make_speechlike(16_000).numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    assert features.shape == (1, 80, 3000)
    token_ids = model.generate(features, language="hebrew", task="transcribe", max_new_tokens=5)
    assert not {3, 4} & set(token_ids[0].tolist())  # suppressed
    settings = model.generation_config
    assert settings.lang_to_id == {"<|en|>": 22, "<|he|>": 23}
    assert settings.task_to_id == {"transcribe": 25, "translate": 24}
    assert (settings.no_timestamps_token_id, settings.prev_sot_token_id) == (29, 27)
    assert processor.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|he|>", "b"]) == [20, 23, 1]
    assert processor.tokenizer.all_special_ids[-1] == 29  # time stamps are counted from here


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.pop("decoder/layer_1/ffn/linear_0/bias"),
            r"weights missing \['model.decoder.layers.1.fc1.bias'\]",
        ),
        (
            lambda v: v.update({"encoder/conv3/bias": v["encoder/conv2/bias"]}),
            "'encoder/conv3/bias' is not part of Whisper",
        ),
        (lambda v: v.update({"encoder/layer_norm/beta": v["encoder/layer_norm/beta"][1:]}), "the weights do not fit"),
        (lambda v: v["encoder/layer_0/self_attention/linear_0/bias"].fill(1), "has a key bias"),
    ],
)
def test_a_model_that_is_not_quite_whisper_is_refused(tmp_path: Path, source: Path, reference, change, message: str):
    variables = as_ctranslate2(reference)
    change(variables)
    write_ctranslate2(source / "model.bin", variables, {})
    with pytest.raises(AssetError, match=message):
        convert_whisper(source, tmp_path / "out")


@pytest.mark.asset("whisper-tiny.en")
def test_the_real_tiny_english_whisper_is_whole():
    folder = resolve("whisper-tiny.en")
    model, report = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert sum(parameter.numel() for parameter in model.model.parameters()) == 37_760_256
    processor = WhisperProcessor.from_pretrained(folder)
    text = " How are you, Zoë? 3.14"
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids, skip_special_tokens=True) == text
    silence = processor(np.zeros(16_000, dtype=np.float32), sampling_rate=16_000, return_tensors="pt").input_features
    assert model.generate(silence, max_new_tokens=8).max() < 51_864
