"""SUTLM from end to end on tiny models: what each source reads, roles, splits by text, training, generating."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny import save_tiny_lm, write_speech
from vocable.audio.manifest import read_manifest
from vocable.cli import main
from vocable.errors import ConfigError, FingerprintError, ManifestError
from vocable.features import EncoderConfig
from vocable.lm.generation import GenerationConfig
from vocable.lm.lora import LoraConfig
from vocable.lm.spoken import Segment, load_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.joint_layouts import AlternatingLayout
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.spans import PoissonSpans
from vocable.sequences.subwords import SubwordConfig
from vocable.sequences.text_tokenizers import fit_text_tokenizer
from vocable.splits import divide
from vocable.systems import joint, sutlm
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.language_model import LMTrainingConfig
from vocable.training.logs import read_metrics

LOG_MEL_UNITS = UnitTokenizerConfig(
    encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=6, init_frames=100)
)
TEXTS = ["Anna saw a cat", "the cat sat", "a dog ran home", "we went up", "it was late", "birds sing at noon"]
CONFIG = sutlm.SutlmConfig(
    tokenizer=LOG_MEL_UNITS,
    text=joint.TextConfig(vocabulary_size=300),
    lm=UnitLMConfig(text_model="tiny", warm=False),
    training=LMTrainingConfig(max_steps=3, context_tokens=512, tokens_per_batch=1024, warmup_steps=1, precision="fp32"),
    valid_share=0.3,
)


@pytest.fixture(scope="module")
def speech(tmp_path_factory, make_speechlike):
    """A tokenizer of log-mel units, and shards of twelve clips with words; each text is said twice."""
    folder = tmp_path_factory.mktemp("sutlm")
    manifest = write_speech(folder / "speech", make_speechlike, texts=TEXTS)
    tokenizer = UnitTokenizer.fit(read_manifest(manifest), LOG_MEL_UNITS)
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenize_manifest(manifest, folder / "tokens", str(folder / "tokenizer"))
    return tokenizer, TokenShards(folder / "tokens"), folder


def test_each_source_takes_what_it_can_build(speech, tmp_path):
    _, shards, _ = speech
    examples = list(joint.build_examples(shards, ["text alone"]))
    examples[0] = JointExample(id=examples[0].id, tokens=examples[0].tokens)  # speech alone
    examples[1] = replace(examples[1], words=None)  # no word times
    config = replace(CONFIG, sources={name: sutlm.SourceConfig() for name in ("unit-only", "text-only", "cst", "ast")})
    readers = joint.build_readers(config, shards, examples, tmp_path)
    sources = sutlm.build_sources(config, readers, examples)
    assert {name: len(source.examples) for name, source in sources.items()} == {
        "unit-only": 12, "text-only": 12, "cst": 11, "ast": 10,
    }  # fmt: skip
    assert set(sources["ast"].unusable) == {examples[0].id, examples[1].id, "text 0"}
    assert "word times" in sources["ast"].unusable[examples[1].id]
    with pytest.raises(ConfigError, match=r"The source 'ast' has no example. .* lacks speech tokens, word times"):
        sutlm.build_sources(config, readers, examples[:2])


def test_examples_are_read_lazily_and_marked_as_they_are(speech):
    _, shards, _ = speech
    plain = [JointExample.of(utterance, tokens, shards.streams[0].rate) for utterance, tokens in shards]
    plain += [JointExample(id="text 0", text="one"), JointExample(id="text 1", text="two")]
    lazy = joint.build_examples(shards, ["one", "two"])
    assert list(lazy) == plain and [lazy[index] for index in range(len(lazy))] == plain
    assert list(lazy.take([13, 2, 2])) == [plain[13], plain[2], plain[2]] and list(lazy[3:5]) == plain[3:5]
    fields = [(number, e.id, e.text, e.speaker, e.split) for number, e in enumerate(plain)]
    assert [tuple(mark) for mark in joint.marks_of(shards, ["one", "two"])] == fields


def test_settings_of_a_layout(speech, tmp_path):
    _, shards, _ = speech
    examples = joint.build_examples(shards)
    settings = {"spans": {"kind": "poisson", "mean_words": 2.0}, "marks": "modality"}
    config = replace(CONFIG, sources={"mixed": sutlm.SourceConfig(layout="ast", settings=settings)})
    layout = sutlm.build_sources(config, joint.build_readers(config, shards, examples, tmp_path), examples)[
        "mixed"
    ].layout
    assert isinstance(layout, AlternatingLayout)
    assert (layout.spans, layout.marks) == (PoissonSpans(mean_words=2.0), "modality")
    with pytest.raises(ConfigError, match="has no setting 'direction'"):
        wrong = replace(CONFIG, sources={"ast": sutlm.SourceConfig(settings={"direction": "u2t"})})
        sutlm.build_sources(wrong, joint.build_readers(wrong, shards, examples, tmp_path), examples)


def test_roles_keep_the_two_sides_of_a_text_apart(speech, tmp_path):
    _, shards, _ = speech
    examples = joint.build_examples(shards)
    config = replace(
        CONFIG,
        roles={"speech": 1.0, "text": 1.0},
        sources={"unit-only": sutlm.SourceConfig(role="speech"), "text-only": sutlm.SourceConfig(role="text")},
    )
    sources = sutlm.build_sources(config, joint.build_readers(config, shards, examples, tmp_path), examples)
    texts = {name: {example.text for example in source.examples} for name, source in sources.items()}
    assert texts["unit-only"].isdisjoint(texts["text-only"])
    assert texts["unit-only"] | texts["text-only"] == set(TEXTS)
    assert sum(len(source.examples) for source in sources.values()) == 12


@pytest.mark.parametrize("subwords", [None, SubwordConfig(vocabulary_size=40)], ids=["units", "subwords"])
def test_train_then_use(speech, tmp_path, subwords):
    tokenizer, shards, _ = speech
    said = []
    config = replace(CONFIG, subwords=subwords)
    result = sutlm.train(config, shards, tmp_path / "run", tokenizer=tokenizer, texts=["more text"], report=said.append)
    assert [line.split(":")[0] for line in said] == ["unit-only", "text-only", "ast"]
    line = result.valid_curve[-1]
    assert {"speech_loss", "text_loss", "unit-only_loss", "text-only_loss", "ast_loss", "nll_per_second"} <= set(line)
    lm = load_lm(result.last, tokenizer=tokenizer)
    assert lm.card.training["sources"]["ast"] == {"layout": "ast", "ratio": 1.0}
    assert (lm.subwords is None) == (subwords is None)
    trained = {example.text for example in joint.build_examples(shards)}
    assert trained == set(TEXTS)
    example = joint.build_examples(shards)[0]
    sampling = GenerationConfig(max_seconds=0.5)
    written = [Segment(text=example.text)]
    spoken, again = (lm.continue_([written], sampling, to="speech") for _ in range(2))
    assert torch.equal(spoken[0].token_ids, again[0].token_ids)
    assert all(segment.modality == "speech" for segment in spoken[0].segments)
    (transcript,) = lm.continue_([[Segment(tokens=example.tokens)]], sampling, to="text", task="transcribe")
    assert all(segment.modality == "text" for segment in transcript.segments)
    before = read_metrics(tmp_path / "run" / "lm")
    sutlm.train(config, shards, tmp_path / "run", tokenizer=tokenizer, texts=["more text"], report=said.append)
    assert read_metrics(tmp_path / "run" / "lm") == before  # a finished run is left as it is


def test_a_warm_start_keeps_the_text(speech, tmp_path):
    _, shards, _ = speech
    text_model = save_tiny_lm("SmolLM", tmp_path / "text")
    fit_text_tokenizer(TEXTS, 300).save_pretrained(text_model)
    config = replace(CONFIG, text=joint.TextConfig(), lm=UnitLMConfig(text_model=str(text_model)))
    examples = joint.build_examples(shards)
    readers = joint.build_readers(config, shards, examples, tmp_path)
    assert readers.vocabulary.text_size == 600  # rows of the model; its tokenizer has fewer
    model = joint.build_lm(config, readers)
    text = AutoModelForCausalLM.from_pretrained(text_model)
    for name, tensor in text.state_dict().items():
        assert torch.equal(model.state_dict()[name][: len(tensor)], tensor), name
    with pytest.raises(ConfigError, match=r"lm.warm keeps the text model's vocabulary"):
        replace(config, text=joint.TextConfig(vocabulary_size=300))


def test_adapters_leave_the_text_model_as_it_was(speech, tmp_path):
    pytest.importorskip("peft")
    _, shards, _ = speech
    text_model = save_tiny_lm("SmolLM", tmp_path / "text")
    fit_text_tokenizer(TEXTS, 300).save_pretrained(text_model)
    config = replace(
        CONFIG, text=joint.TextConfig(), lm=UnitLMConfig(text_model=str(text_model)), lora=LoraConfig(rank=2)
    )
    result = sutlm.train(config, shards, tmp_path / "run", report=lambda line: None)
    before, after = load_text_rows(text_model), load_lm(result.last).model.get_input_embeddings().weight
    assert torch.equal(after[:600], before)
    assert len(after) == load_lm(result.last).card.vocabulary.size
    # adapters were merged: a linear layer is no longer the text model's, and there is no trace of peft in the folder
    name = "model.layers.0.mlp.up_proj.weight"
    text = AutoModelForCausalLM.from_pretrained(text_model).state_dict()
    assert not torch.equal(load_lm(result.last).model.state_dict()[name], text[name])
    with pytest.raises(ConfigError, match=r"lora adapts a text model's weights"):
        replace(CONFIG, lora=LoraConfig())


def test_a_frozen_text_model_learns_rows_for_speech(speech, tmp_path):
    """One model for text and speech: what was there has its bits, and what it says of text is what it said."""
    _, shards, _ = speech
    text_model = save_tiny_lm("SmolLM", tmp_path / "text")
    fit_text_tokenizer(TEXTS, 300).save_pretrained(text_model)
    lm = UnitLMConfig(text_model=str(text_model), trained="new_rows")
    config = replace(CONFIG, text=joint.TextConfig(), lm=lm, sources={"unit-only": sutlm.SourceConfig()})
    result = sutlm.train(config, shards, tmp_path / "run", report=lambda line: None)
    found, text = load_lm(result.last), AutoModelForCausalLM.from_pretrained(text_model)
    after = found.model.state_dict()
    for name, tensor in text.state_dict().items():
        assert torch.equal(after[name][: len(tensor)], tensor), name
    assert not torch.equal(after["lm_head.weight"][600:], after["model.embed_tokens.weight"][600:])
    ids = torch.arange(0, 300, 7)[None]
    torch.testing.assert_close(found.model(ids).logits[..., :600], text(ids).logits)
    assert found.card.training["trained"] == "new_rows"
    with pytest.raises(ConfigError, match=r"lora adapts the network, which lm.trained 'new_rows' keeps"):
        replace(config, lora=LoraConfig())


def load_text_rows(folder):
    return AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight


def test_no_text_is_on_both_sides_of_the_split(speech):
    _, shards, _ = speech
    train, valid = divide(joint.build_examples(shards), 0.4, by="text")
    assert train and valid
    assert {example.text for example in train}.isdisjoint({example.text for example in valid})
    with pytest.raises(ManifestError, match=r"12 of 12 validation utterances have a text that is trained on"):
        sutlm.train(CONFIG, shards, Path("unused"), valid_shards=shards)


def test_texts_that_marks_hold_out_are_not_trained_on(speech):
    """Six sentences, twice each; marked by voice, so that each is on both sides."""
    _, shards, _ = speech
    marks = joint.marks_of(shards, ["a new line"])
    marked = [mark._replace(split=("train", "valid")[i >= 10]) for i, mark in enumerate(marks[:12])] + marks[12:]
    train, valid = divide(marked, 0.1, by="text")
    kept = joint.without_texts_of(train, marked)
    shared = {e.text for e in marked[10:12]}
    assert len(train) - len(kept) == sum(e.text in shared for e in marked[:10]) > 0
    assert {e.text for e in kept}.isdisjoint(e.text for e in valid)


def test_what_does_not_fit_is_refused(speech, tmp_path):
    tokenizer, shards, _ = speech
    other = UnitTokenizer(tokenizer.encoder, type(tokenizer.kmeans)(tokenizer.kmeans.centroids + 1), tokenizer.config)
    with pytest.raises(FingerprintError):
        sutlm.train(CONFIG, shards, tmp_path, tokenizer=other)
    for wrong, message in (
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"ast": sutlm.SourceConfig(role="pairs")}}, "role is 'pairs'; roles are not set"),
        ({"valid_share": 1.5}, "valid_share is 1.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **wrong)
    with pytest.raises(ConfigError, match="ratio is 0"):
        sutlm.SourceConfig(ratio=0)


def test_the_command_trains_and_a_text_file_must_be_readable(speech, tmp_path, capsys):
    _, _, folder = speech
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "system: sutlm\ntext: {vocabulary_size: 300}\nlm: {text_model: tiny, warm: false}\nvalid_share: 0.3\n"
        "training: {max_steps: 2, context_tokens: 512, tokens_per_batch: 1024, precision: fp32, log_every: 1}\n"
    )
    lines = tmp_path / "lines.txt"
    lines.write_text("one more\n\nand another\n")
    command = ["train", str(recipe), "--tokens", str(folder / "tokens"), "--tokenizer", str(folder / "tokenizer")]
    command += ["--out", str(tmp_path / "run"), "--text"]
    assert main([*command, str(lines)]) == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "run" / "lm" / "last" / "vocable.json").read_text())
    assert card["vocabulary"]["kind"] == "joint"
    lines.write_text("\n")
    assert main([*command, str(lines)]) == 2
    assert "holds no text" in capsys.readouterr().err
    recipe.write_text("training: {max_steps: 2}\n")
    assert main([*command, str(lines)]) == 2
    assert "--text is given, but twist does not read it; it reads --manifest, --tokenizer" in capsys.readouterr().err
