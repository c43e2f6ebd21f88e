"""Vocabulary surgery on every architecture, and the published parameter counts."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from vocable.errors import ConfigError
from vocable.lm.shapes import shape_config
from vocable.lm.surgery import (
    UnitLMConfig,
    append_vocabulary,
    build_lm,
    replace_vocabulary,
    text_rows,
)
from vocable.sequences import UnitVocabulary
from vocable.sequences.joint_vocabulary import JointVocabulary

VOCABULARY = UnitVocabulary(codebook_size=30)


def vocabulary_names(model):
    """Names of the embedding and head tensors."""
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return {name for name, tensor in model.named_parameters(remove_duplicate=False) if id(tensor) in tables}


@pytest.mark.parametrize("mode", ["reinit", "truncate", "mean"])
def test_only_the_vocabulary_changes(make_model, architecture, mode, tmp_path):
    model = make_model(architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    was_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    replace_vocabulary(model, 32, mode, seed=3)
    after, tables = model.state_dict(), vocabulary_names(model)
    assert set(after) == set(before)
    for name in set(before) - tables:
        assert torch.equal(after[name], before[name]), name
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == was_tied
    for name in tables:
        assert after[name].shape[0] == 32
        old = before[name]
        if mode == "truncate":
            assert torch.equal(after[name], old[:32])
        elif mode == "mean":
            # noise of a tenth of the columns' spread: no row is further than half a standard deviation (5 sigma)
            assert ((after[name] - old.mean(0)).abs() <= 0.5 * old.std(0)).all()
            assert after[name].std(0).min() > 0
        else:
            # 32 x 16 draws or more of a normal with standard deviation 0.2
            assert 0.15 < float(after[name].std()) < 0.25
            assert not torch.equal(after[name], old[:32])
    assert model.config.vocab_size == 32
    for settings in (model.config, model.generation_config):
        assert (settings.pad_token_id, settings.bos_token_id, settings.eos_token_id) == (0, 1, 1)
    ids = torch.randint(2, 32, (2, 9))
    logits = model(ids).logits
    assert logits.shape == (2, 9, 32)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(ids).logits, logits)


def test_the_symbol_that_opens_documents_learns(make_model, architecture):
    """In OPT the text model's padding id is 1, which opens a document of units."""
    model = replace_vocabulary(make_model(architecture), 32, "reinit", pad_id=0, end_id=1)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if head.weight is embedding.weight:  # else the head's gradient would hide the table's
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model(input_ids=torch.tensor([[1, 5, 6]])).logits.square().sum().backward()
    assert embedding.weight.grad[1].abs().sum() > 0


def test_rows_follow_from_the_seed(make_model):
    tables = [
        replace_vocabulary(make_model("gpt_neox_untied"), 32, "reinit", seed).get_input_embeddings().weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_untied_head_gets_rows_of_its_own(make_model):
    model = replace_vocabulary(make_model("gpt_neox_untied"), 32)
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_a_larger_vocabulary_than_the_text_models(make_model):
    model = replace_vocabulary(make_model("llama_tied"), 200, "reinit")
    assert model(torch.tensor([[199]])).logits.shape == (1, 1, 200)
    with pytest.raises(ConfigError, match="the text model has 96 and 200 are needed"):
        replace_vocabulary(make_model("llama_tied"), 200, "truncate")


def test_bfloat16_models_keep_their_type(make_model):
    model = replace_vocabulary(make_model("opt").bfloat16(), 32, "mean")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("shape", "count"),
    [  # the papers' tables and model cards, with 500 units + pad + bos/eos
        ("facebook/opt-125m", 87_015_936),
        ("facebook/opt-350m", 305_714_176),
        ("facebook/opt-1.3b", 1_213_829_120),
        ("HuggingFaceTB/SmolLM2-135M", 106_492_608),
        ("HuggingFaceTB/SmolLM2-360M", 315_117_120),
        ("EleutherAI/pythia-160m", 85_827_072),
        ("EleutherAI/pythia-410m", 303_339_520),
        ("Qwen/Qwen2.5-0.5B", 358_347_904),
    ],
)
def test_published_parameter_counts(shape, count):
    config = shape_config(shape)
    config.vocab_size, config.pad_token_id = 502, None  # the text pad id may lie outside the smaller table
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_warm_and_cold_from_one_folder(make_model, tmp_path):
    text = make_model("opt", dropout=0.1)
    text.save_pretrained(tmp_path)
    warm = build_lm(UnitLMConfig(text_model=str(tmp_path)), VOCABULARY)
    cold = build_lm(UnitLMConfig(text_model=str(tmp_path), warm=False), VOCABULARY)
    again = build_lm(UnitLMConfig(text_model=str(tmp_path), warm=False), VOCABULARY)
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(warm.state_dict()[name], text.state_dict()[name])
    assert not torch.equal(cold.state_dict()[name], text.state_dict()[name])
    assert all(torch.equal(a, b) for a, b in zip(cold.state_dict().values(), again.state_dict().values()))
    assert {key: value.shape for key, value in warm.state_dict().items()} == {
        key: value.shape for key, value in cold.state_dict().items()
    }
    assert cold.config.vocab_size == warm.config.vocab_size == 32
    assert (cold.config.bos_token_id, cold.config.pad_token_id) == (1, 0)


def test_dropout_can_be_set(make_model, tmp_path):
    make_model("opt", dropout=0.5, attention_dropout=0.5).save_pretrained(tmp_path)
    model = build_lm(UnitLMConfig(text_model=str(tmp_path), dropout=0.0), VOCABULARY).train()
    ids = torch.randint(2, 32, (1, 8))
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config.dropout == 0.0


def test_loading_in_bfloat16(make_model, tmp_path):
    make_model("qwen2").save_pretrained(tmp_path)
    model = build_lm(UnitLMConfig(text_model=str(tmp_path), dtype="bfloat16"), VOCABULARY)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_bare_shape_cannot_start_warm():
    with pytest.raises(ConfigError, match="'tiny' is a shape without weights"):
        build_lm(UnitLMConfig(text_model="tiny"), VOCABULARY)
    assert build_lm(UnitLMConfig(text_model="tiny", warm=False), VOCABULARY).config.vocab_size == 32


@pytest.mark.parametrize("mode", ["reinit", "mean"])
def test_appended_rows_leave_everything_else_as_it_was(make_model, architecture, mode, tmp_path):
    model = make_model(architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    was_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    text = torch.randint(2, 90, (2, 9))
    text_logits = model(text).logits
    append_vocabulary(model, 140, mode, seed=3, pad_id=139, end_id=139)
    after, tables = model.state_dict(), vocabulary_names(model)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == was_tied
    for name, old in before.items():
        assert torch.equal(after[name][: len(old)], old), name
        assert (name in tables) == (len(after[name]) > len(old))
    # the same text scores the same: more columns change the blocking of the last product, hence the rounding
    torch.testing.assert_close(model(text).logits[..., :96], text_logits, atol=1e-5, rtol=1e-5)
    ids = torch.randint(2, 140, (2, 9))
    logits = model(ids).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, logits)
    assert model.config.vocab_size == 140
    assert (model.config.eos_token_id, model.generation_config.pad_token_id) == (139, 139)


def test_appending_refuses_what_makes_no_sense(make_model):
    special = {"pad_id": 0, "end_id": 1}
    with pytest.raises(ConfigError, match="has 96 rows and cannot keep them all in 32"):
        append_vocabulary(make_model("llama_tied"), 32, **special)
    with pytest.raises(ConfigError, match="use 'reinit' or 'mean'"):
        append_vocabulary(make_model("llama_tied"), 120, "truncate", **special)


def test_a_joint_vocabulary_keeps_the_text(make_model, tmp_path):
    text = make_model("opt")
    text.save_pretrained(tmp_path)
    assert text_rows(str(tmp_path)) == 96
    vocabulary = JointVocabulary(text_size=96, codebook_size=30)
    warm = build_lm(UnitLMConfig(text_model=str(tmp_path)), vocabulary)
    cold = build_lm(UnitLMConfig(text_model=str(tmp_path), warm=False), vocabulary)
    table = text.get_input_embeddings().weight
    assert torch.equal(warm.get_input_embeddings().weight[:96], table)
    assert not torch.equal(cold.get_input_embeddings().weight[:96], table)
    assert warm.config.vocab_size == cold.config.vocab_size == vocabulary.size
    assert warm.config.eos_token_id == cold.config.eos_token_id == vocabulary.end_id
    with pytest.raises(ConfigError, match=r"keeps 90 ids for text, but .* has 96 rows"):
        build_lm(UnitLMConfig(text_model=str(tmp_path)), JointVocabulary(text_size=90, codebook_size=30))
