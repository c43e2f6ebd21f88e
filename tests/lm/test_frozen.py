"""New rows around a frozen model: they alone learn, all else keeps its bits, merging and reloading change no logits."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, read_lm, save_lm
from vocable.lm.frozen import JoinedEmbedding, has_new_rows, merge_new_rows, train_new_rows
from vocable.lm.lora import LoraConfig, add_lora
from vocable.lm.packed import enable_packing, packed_logits, token_losses
from vocable.lm.surgery import UnitLMConfig, append_vocabulary, build_lm, replace_vocabulary
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.packing import pack_documents
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.training.language_model import LMTrainingConfig, train_lm
from vocable.training.task import make_optimizer

TEXT, GROWN = 96, 130
MODELS = ["llama_tied", "llama_untied", "opt", "opt_projections", "gpt_neox_untied", "qwen2", "bloom"]
VOCABULARY = UnitVocabulary(codebook_size=GROWN - TEXT - 1, unit_offset=TEXT + 1, bos_eos_id=TEXT, pad_id=0)
CARD = LMCard(vocabulary=VOCABULARY, layout={"name": "units"}, tokenizer_fingerprint="x")
SETTINGS = LMTrainingConfig(
    max_steps=6,
    context_tokens=32,
    tokens_per_batch=64,
    learning_rate=0.03,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.1,
    precision="fp32",
    log_every=1,
    validate_every=None,
    checkpoint_every=None,
)


@pytest.fixture
def text_model(make_model):
    def make(name):
        if name == "llama_untied":
            return make_model("llama_tied", tie_word_embeddings=False)
        return make_model(name)

    return make


@pytest.fixture
def grow(text_model):
    def make(name):
        return append_vocabulary(text_model(name), GROWN, pad_id=TEXT, end_id=TEXT)

    return make


def documents(low=0, count=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(low, GROWN, (12,), generator=generator) for _ in range(count)]


def train(model, steps=4):
    """A few large steps on rows that mix old and new ids, with weight decay; return the losses."""
    enable_packing(model)
    optimizer = make_optimizer(model, SETTINGS)
    losses = []
    for _ in range(steps):
        for batch in pack_documents(documents(), 64, context_tokens=32):
            loss = token_losses(model.train(), batch).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    model.eval()
    return losses


def tables(model):
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def logits_of(model, ids=None):
    with torch.no_grad():
        return model((torch.arange(0, GROWN, 3) if ids is None else ids)[None]).logits


@pytest.mark.parametrize("name", MODELS)
def test_training_merging_and_reloading(text_model, grow, name, tmp_path):
    text, model = text_model(name), grow(name)
    before = copy.deepcopy(model)
    spoken = torch.arange(0, TEXT, 3)  # text alone
    assert train_new_rows(model, TEXT) is model and has_new_rows(model)
    torch.testing.assert_close(logits_of(model), logits_of(before))
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    trained = logits_of(model)
    assert float((trained - logits_of(before)).abs().max()) > 0.1
    # the text model's own logits, to the bit: the same products of the same numbers
    assert torch.equal(logits_of(model, spoken)[..., :TEXT], logits_of(text, spoken))

    merged = merge_new_rows(model)
    assert not has_new_rows(merged) and type(merged) is type(before)
    assert set(merged.state_dict()) == set(before.state_dict())
    torch.testing.assert_close(logits_of(merged), trained)
    assert torch.equal(logits_of(model), trained)  # the model goes on as it was
    assert all(parameter.requires_grad for parameter in merged.parameters())
    _assert_kept(merged, before)
    (inputs, outputs), starts = tables(merged), tables(before)
    for new, old in zip((inputs, outputs), starts):
        assert (new[TEXT:] != old[TEXT:]).any(1).all()
    assert (inputs[TEXT:] != outputs[TEXT:]).any(1).all()  # learnt apart, tied or not

    save_lm(merged, tmp_path / "lm", CARD)
    loaded = read_lm(tmp_path / "lm").model
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(logits_of(loaded), logits_of(merged))
    _assert_kept(loaded, before)
    torch.testing.assert_close(logits_of(loaded, spoken)[..., :TEXT], logits_of(text, spoken))


def _assert_kept(after, before):
    """All tensors but new rows have the bits that they had."""
    old = before.state_dict()
    names = {name for name, tensor in old.items() if tensor.shape[:1] == (GROWN,)}
    assert names
    for name, tensor in after.state_dict().items():
        keep = TEXT if name in names else None
        assert torch.equal(tensor[:keep], old[name][:keep]), name


@pytest.mark.parametrize("name", ["llama_tied", "llama_untied", "opt_projections"])
def test_the_optimiser_holds_new_rows_only_and_gradients_reach_them_only(grow, name):
    model = grow(name)
    inputs, outputs = (table.shape[1] for table in tables(model))
    train_new_rows(model, TEXT)
    groups = make_optimizer(model, SETTINGS).param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == (GROWN - TEXT) * (inputs + outputs)
    enable_packing(model)
    (batch,) = pack_documents(documents(), 64, context_tokens=32)
    token_losses(model.train(), batch).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(reached) == 2 and all(name.endswith(".new.weight") for name in reached)
    seen = torch.zeros(GROWN - TEXT, dtype=torch.bool)
    read = torch.cat([document[:-1] for document in documents()])  # the last token of a document is not read on
    seen[read[read >= TEXT] - TEXT] = True
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, JoinedEmbedding)
    gradient = embedding.new.weight.grad
    assert gradient is not None and torch.equal(gradient.abs().sum(1) > 0, seen)
    assert float(model.get_output_embeddings().new.weight.grad.abs().min(1).values.max()) > 0


def test_gradients_are_those_of_the_whole_model(grow):
    """Untied, the new rows' gradients are the last rows of what training everything gives."""
    whole = grow("llama_untied")
    apart = train_new_rows(copy.deepcopy(whole), TEXT)
    (batch,) = pack_documents(documents(), 64, context_tokens=32)
    for model in (whole, apart):
        token_losses(model, batch).sum().backward()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        expected = getattr(whole, get)().weight.grad[TEXT:]
        torch.testing.assert_close(getattr(apart, get)().new.weight.grad, expected)


def test_a_padding_id_of_the_text_model_stops_no_unit(text_model):
    """OPT's table has a padding row without gradient, whose id is that of another token among the units."""
    opt = replace_vocabulary(text_model("opt"), 34, pad_id=0, end_id=1)
    padding = opt.get_input_embeddings().padding_idx
    model: Any = train_new_rows(opt, 0)
    assert padding is not None
    (batch,) = pack_documents([torch.arange(34)], 64, context_tokens=64)
    token_losses(model, batch).sum().backward()
    assert (model.get_input_embeddings().new.weight.grad[:33].abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_vocabulary_of_units_alone(text_model, name, tmp_path):
    """All rows are new; the network between them is the text model's."""
    before = text_model(name)
    model = replace_vocabulary(text_model(name), GROWN, pad_id=0, end_id=TEXT)
    start = logits_of(model)
    assert torch.equal(logits_of(train_new_rows(model, 0)), start)
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    merged = merge_new_rows(model)
    save_lm(merged, tmp_path / "lm", CARD)
    assert torch.equal(logits_of(read_lm(tmp_path / "lm").model), logits_of(model))
    for key, tensor in before.state_dict().items():
        if tensor.shape[:1] != (TEXT,):
            assert torch.equal(merged.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["llama_tied", "llama_untied"])
def test_a_run_goes_on_after_a_stop(grow, name, tmp_path):
    """The training loop: stopped and resumed, the bits are those of a run in one go, and so is what it saved."""
    runs = {}
    for stops in ((None,), (3, None)):
        out = tmp_path / str(len(stops))
        for stop in stops:
            model = train_new_rows(grow(name), TEXT)
            result = train_lm(
                model, documents(), documents(count=2), SETTINGS, out, CARD, stop_at_step=stop, show=False
            )
        assert result.finished
        runs[stops] = read_lm(result.last).model
        assert torch.equal(logits_of(runs[stops]), logits_of(merge_new_rows(model)))
        assert result.train_curve[-1]["loss"] < result.train_curve[0]["loss"] - 0.1
        _assert_kept(runs[stops], grow(name))
    whole, resumed = runs.values()
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_packed_and_single_documents_agree(grow):
    model = train_new_rows(grow("opt_projections"), TEXT)
    train(model)
    alone = [torch.arange(90, 100), torch.arange(100, 120)]
    (batch,) = pack_documents(alone, 64, context_tokens=32)
    with torch.no_grad():
        packed = packed_logits(model, batch)
        single = torch.cat([model(document[None]).logits[0] for document in alone])
    # another order of float32 sums
    torch.testing.assert_close(packed, single, atol=1e-4, rtol=1e-4)


def test_a_head_with_a_bias_gets_one_for_new_rows():
    config = AutoConfig.for_model(
        "phi", vocab_size=TEXT, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    text = copy.deepcopy(model)
    append_vocabulary(model, GROWN, pad_id=TEXT, end_id=TEXT)
    start = logits_of(model)
    train_new_rows(model, TEXT)
    torch.testing.assert_close(logits_of(model), start)
    train(model)
    merged = merge_new_rows(model)
    torch.testing.assert_close(logits_of(merged), logits_of(model))
    bias, old = (model.state_dict()["lm_head.bias"] for model in (merged, text))
    assert torch.equal(bias[:TEXT], old) and (bias[TEXT:] != 0).all()


def test_an_embedding_that_scales_its_rows_keeps_doing_so():
    """Gemma multiplies embeddings in the table's own forward."""
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=TEXT, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    model = append_vocabulary(AutoModelForCausalLM.from_config(config).eval(), GROWN, pad_id=TEXT, end_id=TEXT)
    ids = torch.arange(1, GROWN)
    table: Any = model.get_input_embeddings()
    start = table(ids).detach()
    assert not torch.allclose(start, table.weight[ids])
    joined: Any = train_new_rows(model, TEXT).get_input_embeddings()
    assert torch.equal(joined(ids).detach(), start)


def test_a_bfloat16_model_learns_float32_rows(text_model, tmp_path):
    text_model("llama_tied").to(torch.bfloat16).save_pretrained(tmp_path / "text")
    vocabulary = JointVocabulary(text_size=TEXT, codebook_size=GROWN - TEXT - 5)
    config = UnitLMConfig(text_model=str(tmp_path / "text"), dtype="bfloat16", trained="new_rows")
    model = build_lm(config, vocabulary)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    merged = merge_new_rows(model)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.bfloat16)
    for new, old in zip(tables(merged), tables(before)):
        assert torch.equal(new[:TEXT], old)
    # rows and products are rounded to 8 bits of mantissa on the way: scores of a few units differ by hundredths
    torch.testing.assert_close(logits_of(merged), logits_of(model), atol=0.1, rtol=0.05)


def test_the_setting_freezes_models_of_either_vocabulary(text_model, tmp_path):
    text_model("llama_tied").save_pretrained(tmp_path)
    config = UnitLMConfig(text_model=str(tmp_path), trained="new_rows")
    for vocabulary, kept in ((VOCABULARY, 0), (JointVocabulary(text_size=TEXT, codebook_size=20), TEXT)):
        model = build_lm(config, vocabulary)
        embedding = model.get_input_embeddings()
        assert isinstance(embedding, JoinedEmbedding)
        assert (embedding.num_kept, len(embedding.weight)) == (kept, vocabulary.size)
        ordinary = build_lm(UnitLMConfig(text_model=str(tmp_path)), vocabulary)
        ids = torch.arange(vocabulary.size)
        torch.testing.assert_close(logits_of(model, ids), logits_of(ordinary, ids))
        assert torch.equal(F.embedding(ids, embedding.weight), embedding(ids))


def test_what_cannot_be_done_is_explained(grow):
    model = grow("llama_tied")
    with pytest.raises(ConfigError, match="no rows that are trained apart"):
        merge_new_rows(model)
    for first in (-1, GROWN):
        with pytest.raises(ConfigError, match=f"Rows from {first} on are to be trained, but the model has 130"):
            train_new_rows(model, first)
    train_new_rows(model, TEXT)
    with pytest.raises(ConfigError, match="new rows are trained apart already"):
        train_new_rows(model, TEXT)
    with pytest.raises(ConfigError, match=r"lm.trained is 'new_rows', but lm.warm is false"):
        UnitLMConfig(trained="new_rows", warm=False)
    other = grow("llama_tied")
    other.set_output_embeddings(torch.nn.Identity())
    with pytest.raises(ConfigError, match="has the embedding Embedding and the head Identity"):
        train_new_rows(other, TEXT)


def test_low_rank_adapters_and_frozen_rows_exclude_each_other(grow):
    pytest.importorskip("peft")
    adapted = add_lora(grow("llama_tied"), LoraConfig(rank=2), range(TEXT, GROWN))
    with pytest.raises(ConfigError, match="The model has low-rank adapters"):
        train_new_rows(adapted, TEXT)
