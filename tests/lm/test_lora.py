"""LoRA on grown models: new rows learn, text rows stay bit for bit, merging and reloading change no logits."""

import copy
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vocable.errors import ConfigError, MissingDependencyError
from vocable.lm.checkpoint import LMCard, read_lm, save_lm
from vocable.lm.lora import LoraConfig, add_lora, has_lora, merge_lora
from vocable.lm.packed import enable_packing, packed_logits, token_losses
from vocable.lm.surgery import append_vocabulary
from vocable.sequences.packing import pack_documents
from vocable.sequences.vocabulary import UnitVocabulary

pytest.importorskip("peft")
TEXT, GROWN = 96, 130
MODELS = ["llama_tied", "llama_untied", "opt", "opt_projections", "gpt_neox_untied", "bloom"]


@pytest.fixture
def grow(make_model):
    def make(name):
        if name == "llama_untied":
            model = make_model("llama_tied", tie_word_embeddings=False)
        else:
            model = make_model(name)
        return append_vocabulary(model, GROWN, pad_id=TEXT, end_id=TEXT)

    return make


def tables(model):
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def train(model, steps=4):
    """A few large steps on rows that mix old and new ids, as packed batches, with weight decay."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, GROWN, (12,), generator=generator) for _ in range(4)]
    enable_packing(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        for batch in pack_documents(documents, 64, context_tokens=32):
            loss = token_losses(model.train(), batch).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    model.eval()
    return losses


def logits_of(model):
    with torch.no_grad():
        return model(torch.arange(0, GROWN, 3)[None]).logits


@pytest.mark.parametrize("name", MODELS)
def test_growing_training_merging_and_reloading(grow, name, tmp_path):
    model = grow(name)
    before = copy.deepcopy(model)
    tied = tables(model)[0].data_ptr() == tables(model)[1].data_ptr()
    adapted = add_lora(model, LoraConfig(rank=4), range(TEXT, GROWN))
    assert adapted is model and has_lora(model)
    assert torch.equal(logits_of(model), logits_of(before))
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    trained = logits_of(model)
    assert float((trained - logits_of(before)).abs().max()) > 0.1

    merged = merge_lora(model)
    assert not has_lora(merged) and type(merged) is type(before)
    assert set(merged.state_dict()) == set(before.state_dict())
    # float32: the update is added to the weight instead of to the product; ten times the worst difference seen, 1e-5
    torch.testing.assert_close(logits_of(merged), trained, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits_of(model), trained)  # the adapted model goes on as it was
    for new, old in zip(tables(merged), tables(before)):
        assert torch.equal(new[:TEXT], old[:TEXT])
        assert (new[TEXT:] != old[TEXT:]).any(1).all()
    assert (tables(merged)[0].data_ptr() == tables(merged)[1].data_ptr()) == tied
    assert bool(merged.config.tie_word_embeddings) == bool(before.config.tie_word_embeddings)
    assert all(parameter.requires_grad for parameter in merged.parameters())

    vocabulary = UnitVocabulary(codebook_size=GROWN - TEXT - 1, unit_offset=TEXT + 1, bos_eos_id=TEXT, pad_id=0)
    card = LMCard(vocabulary=vocabulary, layout={"name": "units"}, tokenizer_fingerprint="x")
    save_lm(merged, tmp_path / "lm", card)
    torch.testing.assert_close(logits_of(read_lm(tmp_path / "lm").model), logits_of(merged), atol=0.0, rtol=0.0)
    assert not list((tmp_path / "lm").glob("adapter*"))


def test_only_adapters_and_new_rows_are_trained(grow):
    model = add_lora(grow("llama_tied"), LoraConfig(rank=2, targets=("q_proj", "v_proj")), range(TEXT, GROWN))
    shapes = sorted(tuple(p.shape) for p in model.parameters() if p.requires_grad)
    # two layers of q (32 to 32) and v (32 to 16), A and B of each; one table of new rows, shared with the head
    assert shapes == sorted([(GROWN - TEXT, 32), *[(2, 32), (32, 2), (2, 32), (16, 2)] * 2])
    without = add_lora(grow("llama_tied"), LoraConfig(rank=2, targets=("q_proj",)), ())
    assert not without.get_input_embeddings().weight.requires_grad


def test_packed_and_single_documents_agree(grow):
    """Adapters do not undo packing."""
    model = add_lora(grow("opt_projections"), LoraConfig(rank=2), range(TEXT, GROWN))
    train(model)
    documents = [torch.arange(90, 100), torch.arange(100, 120)]
    (batch,) = pack_documents(documents, 64, context_tokens=32)
    with torch.no_grad():
        packed = packed_logits(model, batch)
        alone = [model(document[None]).logits[0] for document in documents]
    # another order of float32 sums
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_adapters_are_drawn_by_their_seed(grow):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed + len(drawn))
        model = add_lora(grow("llama_tied"), LoraConfig(rank=2, seed=seed), ())
        drawn.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_training_goes_on_after_a_stop(grow, tmp_path):
    """What the training loop writes and reads, with tied rows that stand in it twice."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(add_lora(grow("llama_tied"), LoraConfig(rank=2), range(TEXT, GROWN)))
    train(model)
    accelerator.save_state(str(tmp_path / "state"), safe_serialization=True)
    stopped = logits_of(model)
    train(model)
    assert not torch.equal(logits_of(model), stopped)
    accelerator.load_state(str(tmp_path / "state"))
    assert torch.equal(logits_of(model), stopped)
    torch.testing.assert_close(logits_of(merge_lora(model)), stopped, atol=1e-4, rtol=1e-4)


def test_a_missing_package_is_named(grow, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vocable\[lora\]'"):
        add_lora(grow("llama_tied"), LoraConfig(), ())


def test_what_cannot_be_done_is_explained(grow):
    model = grow("llama_tied")
    with pytest.raises(ConfigError, match="no low-rank adapters to merge"):
        merge_lora(model)
    with pytest.raises(ConfigError, match="Rows 96 to 130 are to be trained, but the model has 130"):
        add_lora(model, LoraConfig(), range(TEXT, GROWN + 1))
    with pytest.raises(ConfigError, match="targets has qproj; the model's linear layers: down_proj"):
        add_lora(model, LoraConfig(targets=("qproj",)), ())
    add_lora(model, LoraConfig(), ())
    with pytest.raises(ConfigError, match="has low-rank adapters already"):
        add_lora(model, LoraConfig(), ())
    config = AutoConfig.for_model(
        "phi", vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ConfigError, match="The output head of PhiForCausalLM has a bias"):
        add_lora(AutoModelForCausalLM.from_config(config), LoraConfig(), range(40, 50))
    with pytest.raises(ConfigError, match=r"lora.rank is 0"):
        LoraConfig(rank=0)
    with pytest.raises(ConfigError, match=r"lora.dropout is 1"):
        LoraConfig(dropout=1.0)
