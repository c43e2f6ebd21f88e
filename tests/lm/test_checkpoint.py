"""Language models on disk: plain Hugging Face folders with a card, whole or absent."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from sequences.joint_examples import random_example, text_tokenizer
from vocable.errors import AssetError, ConfigError, FingerprintError, OutputError
from vocable.lm.checkpoint import LMCard, LoadedLM, read_lm, save_lm
from vocable.lm.packed import enable_packing
from vocable.lm.shapes import shape_config
from vocable.lm.spoken import Segment, open_lm
from vocable.lm.surgery import cold_start, replace_vocabulary
from vocable.sequences import UnitsLayout, UnitVocabulary
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_rows import Part
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.subwords import SubwordConfig, UnitSubwords
from vocable.types import SpeechTokens, Utterance

VOCABULARY = UnitVocabulary(codebook_size=30)
LAYOUT = UnitsLayout(vocabulary=VOCABULARY)
CARD = LMCard(
    vocabulary=VOCABULARY,
    layout=LAYOUT.card(),
    tokenizer_fingerprint="abc123",
    tokenizer_card={"name": "test", "layer": 2},
    unit_seconds=(0.25,) * 30,
    silence_units=(3, 4),
    training={"text_model": "tiny", "warm": True},
)


def test_round_trip_and_plain_loading(make_model, architecture, tmp_path):
    model = replace_vocabulary(make_model(architecture), VOCABULARY.size)
    enable_packing(model)
    save_lm(model, tmp_path / "lm", CARD)
    ids = torch.randint(2, 32, (2, 7))
    loaded = read_lm(tmp_path / "lm", tokenizer=SimpleNamespace(fingerprint="abc123"))
    assert loaded.card == CARD
    assert loaded.card.build_layout() == LAYOUT
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "lm").eval()
    assert torch.equal(plain(ids).logits, model(ids).logits)
    assert "vocable" not in (tmp_path / "lm" / "config.json").read_text()
    assert not list(tmp_path.glob(".*"))


def test_another_tokenizer_is_refused(make_model, tmp_path):
    save_lm(make_model("opt"), tmp_path / "lm", CARD)
    with pytest.raises(FingerprintError, match=r"(?s)abc123.*ffff99"):
        read_lm(tmp_path / "lm", tokenizer=SimpleNamespace(fingerprint="ffff99"))


def test_dtype_on_loading(make_model, tmp_path):
    save_lm(make_model("opt"), tmp_path / "lm", CARD)
    assert read_lm(tmp_path / "lm", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype is 'bf16'; known: float32"):
        read_lm(tmp_path / "lm", dtype="bf16")


def test_missing_and_broken_cards(make_model, tmp_path):
    with pytest.raises(AssetError, match=r"vocable.json: missing"):
        read_lm(tmp_path)
    (tmp_path / "vocable.json").write_text("{")
    with pytest.raises(AssetError, match="not a card of a Vocable language model"):
        read_lm(tmp_path)
    (tmp_path / "vocable.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(AssetError, match="format 99, this version reads format 1"):
        read_lm(tmp_path)


def test_a_full_folder_is_not_overwritten(make_model, tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        save_lm(make_model("opt"), tmp_path / "lm", CARD)
    assert (tmp_path / "lm" / "notes.txt").read_text() == "mine"
    save_lm(make_model("opt"), tmp_path / "lm", CARD, overwrite=True)
    assert read_lm(tmp_path / "lm").card == CARD


def test_a_vocabulary_larger_than_the_table_is_refused(make_model, tmp_path):
    model = replace_vocabulary(make_model("opt"), 10)
    with pytest.raises(ConfigError, match="The model has 10 vocabulary rows, its card 32"):
        save_lm(model, tmp_path / "lm", CARD)


def test_a_joint_model_keeps_its_text_tokenizer_and_subwords(tmp_path):
    tokenizer = text_tokenizer()
    spoken = [(Utterance(id=str(seed), audio=tmp_path), random_example(seed).tokens) for seed in range(60)]
    subwords = UnitSubwords.fit(
        spoken, {"codebook_size": 12, "fingerprint": "abc123"}, SubwordConfig(vocabulary_size=30)
    )
    vocabulary = joint_vocabulary(tokenizer, subwords)
    layout = make_layout("unit-only", vocabulary)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint="abc123")
    model = cold_start(shape_config("tiny"), vocabulary)
    save_lm(model, tmp_path / "lm", card, text_tokenizer=tokenizer, subwords=subwords)
    loaded = read_lm(tmp_path / "lm")
    assert loaded.card == card
    bound = open_lm(loaded).layout
    tokens = SpeechTokens(codes=torch.tensor([[0, 1, 2, 0, 1]]))
    for part in (Part(text=" a cat"), Part(tokens=tokens)):
        ids = bound.ids_of(part)
        assert torch.equal(ids, layout.bind(tokenizer, subwords).ids_of(part))
    assert torch.equal(bound.revert(ids).tokens.codes, tokens.codes)
    with pytest.raises(ConfigError, match="reads units only"):
        open_lm(LoadedLM(model, CARD)).prompt([Segment(text="a cat")])
