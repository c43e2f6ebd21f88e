"""Training of the text-aligned language model: losses by hand, what is saved, and what does not fit together."""

import copy
from dataclasses import replace

import pytest
import torch

from systems.taste.tiny_taste import make_taste, save_parts, save_text_model
from tiny import make_tiny_tokenizer, write_speech
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.lm.checkpoint import read_card
from vocable.lm.lora import LoraConfig
from vocable.lm.word_checkpoint import load_base, read_words, read_words_card
from vocable.lm.word_model import LatentHeadConfig, WordModelConfig
from vocable.sequences.word_layout import PackedWords
from vocable.systems.from_speech import tokenize_manifest
from vocable.systems.taste.taslm import (
    TaslmConfig,
    TaslmLossConfig,
    base_divergence,
    build_model,
    code_tables,
    scale_tables,
    train,
)
from vocable.tokens.shards import TokenShards
from vocable.training.language_model import LMTrainingConfig
from vocable.training.logs import read_metrics

pytest.importorskip("peft")
TRAINING = LMTrainingConfig(
    max_steps=2,
    context_tokens=96,
    tokens_per_batch=192,
    log_every=1,
    warmup_steps=0,
    learning_rate=0.01,
    precision="fp32",
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, make_speechlike):
    folder = tmp_path_factory.mktemp("taste")
    return folder, *save_parts(folder, make_speechlike)


def config_of(folder, **settings):
    lora = settings.pop("lora", LoraConfig(rank=4, alpha=8.0))
    training = replace(TRAINING, **settings.pop("training", {}))
    return TaslmConfig(text_model=str(folder / "text-model"), lora=lora, training=training, **settings)


def run(parts, out, **settings):
    folder, tokenizer, shards = parts
    named = {name: settings.pop(name) for name in ("stop_at_step",) if name in settings}
    return train(config_of(folder, **settings), shards, tokenizer, out, valid_share=0.3, show=False, **named)


def outputs_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 16, (20, 4), generator=generator)
    ids = torch.randint(0, 300, (20,), generator=generator)
    batch = PackedWords(token_ids=ids, codes=numbers, next_ids=ids, next_codes=numbers, lengths=(8, 12))
    with torch.no_grad():
        return model.eval()(batch)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("head", ["codes", "latent"])
def test_a_trained_model_comes_back(parts, tmp_path, lora, head):
    settings = {} if lora else {"lora": None}
    if head == "latent":
        settings["model"] = WordModelConfig(head=LatentHeadConfig())
    result = run(parts, tmp_path / "lm", **settings)
    lines = [line for line in read_metrics(tmp_path / "lm") if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    names = {"text_loss", "divergence", "speech_nll", "code_distance", *(f"level{k}_correct" for k in range(1, 5))}
    assert names <= set(lines[0]) and names <= set(result.valid_curve[-1])
    assert lines[0]["divergence"] >= 0 and lines[0]["text_loss"] > 0
    saved = {path.name for path in result.last.iterdir()}
    assert {"words.json", "words.safetensors", "vocable.json", "tokenizer.json"} <= saved
    assert ("adapter_model.safetensors" in saved) == lora and ("model.safetensors" in saved) == (not lora)
    card = read_card(result.last)
    found = read_words(result.last, card)
    assert card.vocabulary.kind == "words" and card.tokenizer_fingerprint == parts[1].fingerprint
    assert 0 < card.token_seconds < 2
    again = read_words(result.last, card)
    for one, other in zip(outputs_of(found.model), outputs_of(again.model)):
        assert torch.equal(one, other)
    if lora:  # adapters in peft's form
        from peft import PeftModel

        base = load_base(str(parts[0] / "text-model"))
        wrapped = PeftModel.from_pretrained(base, str(result.last))
        ids = torch.arange(12)[None]
        with torch.no_grad():
            expected = found.model.lm(ids).logits
            assert (wrapped(ids).logits - expected).abs().max() < 1e-6
            with wrapped.disable_adapter():
                assert (wrapped(ids).logits - expected).abs().max() > 1e-5


def test_a_run_goes_on_where_it_stopped(parts, tmp_path):
    whole = run(parts, tmp_path / "whole", training={"max_steps": 4})
    run(parts, tmp_path / "parts", training={"max_steps": 4, "checkpoint_every": 2}, stop_at_step=2)
    joined = run(parts, tmp_path / "parts", training={"max_steps": 4, "checkpoint_every": 2})
    last = [read_words(result.last, read_card(result.last)).model.state_dict() for result in (whole, joined)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())


def test_it_learns_texts_and_codes_by_heart(parts, tmp_path):
    training = {"max_steps": 60, "learning_rate": 0.02, "log_every": 60}
    loss = TaslmLossConfig(cross_entropy=1.0, divergence=0.0)
    run(parts, tmp_path / "lm", training=training, loss=loss, lora=None)
    first = run(parts, tmp_path / "one", training={"max_steps": 1}, loss=loss, lora=None).train_curve[0]
    (last,) = (line for line in read_metrics(tmp_path / "lm") if line["split"] == "train")
    assert last["text_loss"] < 0.7 * first["text_loss"] and last["speech_nll"] < 0.9 * first["speech_nll"]


def test_loss_is_that_of_the_parts_by_hand(parts, tmp_path):
    """Cross-entropy and divergence in a loop over tokens, with a model that was trained a little."""
    from vocable.systems.taste import taslm

    kept = []

    class Watched(taslm.TaslmTask):
        def loss_sum(self, model, batch):
            found = super().loss_sum(model, batch)
            if not model.training:
                kept.append((model, batch, found, copy.deepcopy(model.state_dict())))
            return found

    original = taslm.TaslmTask
    taslm.TaslmTask = Watched
    try:
        weights = TaslmLossConfig(text_weight=0.3, speech_weight=0.7, cross_entropy=0.2, divergence=0.8)
        run(parts, tmp_path / "lm", loss=weights, training={"learning_rate": 0.05})
    finally:
        taslm.TaslmTask = original
    model, batch, found, state = kept[-1]
    model.load_state_dict(state)
    base = load_base(str(parts[0] / "text-model"))
    end, text, divergence, start = 0, 0.0, 0.0, 0
    with torch.no_grad():
        logits = model(batch).logits
        speech = model.head.loss(model(batch).speech, batch.next_codes[batch.next_codes[:, 0] >= 0]).total
        row = 0
        for length in batch.lengths:
            ids, targets = batch.token_ids[start : start + length], batch.next_ids[start : start + length]
            theirs = base(ids[ids < 600][None]).logits[0].double().log_softmax(-1)
            for place, target in enumerate(targets.tolist()):
                if target < 0:
                    continue
                ours = logits[row].double().log_softmax(-1)
                text -= float(ours[target])
                if target != end:
                    divergence += float((theirs[place].exp() * (theirs[place] - ours)).sum())
                row += 1
            start += length
    assert found.parts["text"] == (pytest.approx(text, rel=1e-5), batch.num_tokens)
    assert found.parts["divergence"] == (pytest.approx(divergence, rel=1e-3), batch.num_tokens - len(batch.lengths))
    expected = 0.3 * (0.2 * text + 0.8 * divergence) + 0.7 * float(speech)
    assert float(found.total) == pytest.approx(expected, rel=1e-4)


def test_an_untrained_model_does_not_diverge(parts):
    """With p_a = 0 and adapters at their start, the divergence is 0."""
    folder, tokenizer, _ = parts
    config = config_of(folder, model=WordModelConfig(fusion_start=(-100.0, 100.0)))
    model = build_model(config, load_base(config.text_model), code_tables(tokenizer)).eval()
    ids = torch.arange(20)
    codes = torch.zeros(20, 4, dtype=torch.long)
    batch = PackedWords(token_ids=ids, codes=codes, next_ids=ids, next_codes=codes, lengths=(20,))
    with torch.no_grad():
        assert float(base_divergence(model(batch).logits, model.text_logits(batch))) == pytest.approx(0, abs=1e-5)


def test_vectors_get_unit_variance(parts):
    _, tokenizer, shards = parts
    tables = code_tables(tokenizer)
    examples = [type("One", (), {"tokens": tokens}) for _, tokens in shards]
    scaled = scale_tables(tables, examples)
    every = torch.cat([sum(t[c] for t, c in zip(scaled, one.tokens.codes)) for one in examples])
    assert float((every - every.mean(0)).square().mean()) == pytest.approx(1.0, rel=1e-4)
    assert float((tables[0] / scaled[0]).std()) < 1e-4


def test_another_tokenizer_is_refused(parts, tmp_path, make_speechlike):
    folder, _, shards = parts
    other = make_taste(folder / "whisper", seed=4)
    with pytest.raises(FingerprintError, match="the tokenizer"):
        train(config_of(folder), shards, other, tmp_path / "lm", show=False)
    units = make_tiny_tokenizer()
    units.save_pretrained(tmp_path / "units")
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    tokenize_manifest(manifest, tmp_path / "tokens", str(tmp_path / "units"))
    with pytest.raises(ConfigError, match="no stream 'words'"):
        train(config_of(folder), TokenShards(tmp_path / "tokens"), units, tmp_path / "lm", show=False)


def test_utterances_that_cannot_be_used_are_left_out_with_the_reason(tmp_path, make_speechlike):
    texts = ("The cat sat.", "", "A river.", "a " * 20, "The hills.")
    tokenizer, shards = save_parts(tmp_path, make_speechlike, texts=texts)
    lines = []
    config = config_of(tmp_path, training={"context_tokens": 20})
    train(config, shards, tokenizer, tmp_path / "lm", valid_share=0.2, show=False, report=lines.append)
    assert any("has no words: its text is empty" in line or "training.context_tokens is 20" in line for line in lines)
    assert sum(int(line.split()[0]) for line in lines if "left out" in line) == 4
    with pytest.raises(ConfigError, match="No utterance can be trained on"):
        config = config_of(tmp_path, training={"context_tokens": 2})
        train(config, shards, tokenizer, tmp_path / "none", valid_share=0.2, show=False, report=lines.append)


def test_a_text_that_nobody_could_speak_does_not_stop_tokenizing(tmp_path, make_speechlike):
    _, shards = save_parts(tmp_path, make_speechlike, texts=["The cat sat.", "words " * 20, "The hills."])
    assert len(shards) == 7
    rejected = (tmp_path / "tokens" / "rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 3 and "The text has 100 letters" in rejected[0]


def test_another_text_model_is_refused(parts, tmp_path):
    folder, tokenizer, shards = parts
    base = save_text_model(tmp_path / "text-model")
    config = replace(config_of(folder), text_model=str(base))
    result = train(config, shards, tokenizer, tmp_path / "lm", valid_share=0.3, show=False)
    model = load_base(str(base))
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(base)
    with pytest.raises(FingerprintError, match=r"adapters were trained on the text model .* Get that model"):
        read_words(result.last, read_card(result.last))
    assert read_words_card(result.last).text_model == str(base)
    (result.last / "words.json").write_text("{")
    with pytest.raises(AssetError, match=r"words.json: cannot be read"):
        read_words(result.last, read_card(result.last))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"taslm.loss.divergence is -1"):
        TaslmLossConfig(divergence=-1.0)
