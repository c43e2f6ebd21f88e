"""The table of modalities on a toy world: its cells, its baselines, and what is left out."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.slue import toy
from tiny import save_tiny_joint_run
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import ConfigError
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.slue.benchmark import Slue, SlueConfig, untrained
from vocable.evaluation.slue.heads import FineTuneConfig
from vocable.evaluation.slue.labelled_set import LabelledSet, write_labelled_set
from vocable.evaluation.slue.rows import RowMaker, Speech, make_examples
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.spoken import open_lm
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary

TUNE = FineTuneConfig(epochs=6, patience=6, batch_utterances=8, head_learning_rate=0.1, dropout=0.0, warmup_steps=5)
LABELLED, SPEECH = toy.toy_set(num_train=30, num_dev=9, num_test=12)
TEST = [label for label in LABELLED.labels if label.split == "test"]
TEXTS = {label.id: label.text for label in TEST}


@pytest.fixture(scope="module")
def lm():
    return toy.joint_lm(toy.word_tokenizer())


def slue_config(**settings):
    return SlueConfig(data=Path("data"), model=Path("model"), **settings)


def run_slue(labelled, lm, config, transcripts=None):
    opened = {"labelled": labelled, "lm": lm, "speech": SPEECH, "transcripts": transcripts}
    return run_benchmark(Slue(config, opened=opened))


@pytest.fixture(scope="module")
def result(lm):
    return run_slue(LABELLED, lm, slue_config(task="entities", tune=TUNE, seeds=(0, 7)), transcripts=TEXTS)


def values(result, start=""):
    return {name: score.value for name, score in result.scores.items() if name.startswith(start) and ".run" not in name}


def test_every_cell_and_baseline_is_there(result):
    cells = [f"{a}->{b}" for a in ("speech", "text") for b in ("speech", "text")]
    expected = ["no_entities", *cells, "asr_pipeline", *(f"random_weights.{cell}" for cell in cells)]
    for metric in ("f1", "label_f1"):
        assert set(values(result, f"{metric}.")) == {f"{metric}.{name}" for name in expected}
    assert result.scores["f1.no_entities"].value == 0.0
    assert result.scores["f1.speech->speech"].value > 0.5 and result.scores["f1.text->text"].value > 0.5


def test_a_recogniser_without_errors_is_the_text_cell(result):
    for metric in ("f1", "label_f1"):
        for run in ("", ".run0", ".run1"):
            assert result.scores[f"{metric}.asr_pipeline{run}"] == result.scores[f"{metric}.text->text{run}"]


def test_scores_are_means_over_seeds_and_items_hold_what_was_said(result):
    for name, score in result.scores.items():
        if f"{name}.run0" in result.scores:
            runs = [result.scores[f"{name}.run{index}"].value for index in (0, 1)]
            assert score.value == pytest.approx(sum(runs) / 2)
        assert score.low is not None and score.low <= score.value <= score.high
    assert [item["id"] for item in result.items] == [label.id for label in TEST]
    item = result.items[0]
    assert TEST[0].entities is not None
    (entity,) = TEST[0].entities
    assert item["gold"] == f"{entity.tag}: {entity.phrase(TEST[0].text).lower()}"
    for cell in ("speech->speech.run0", "asr_pipeline.run1", "no_entities"):
        assert item[f"right.{cell}"] == (item[cell] == item["gold"])


def test_the_result_says_how_it_was_made(result, tmp_path):
    assert result.measurements["utterances"] == {"train": 30, "dev": 9, "test": 12}
    assert [run["seed"] for run in result.measurements["fine_tuning"]["text"]] == [0, 7]
    assert set(result.measurements["by_group"]["text->text"]) == {"half=first", "half=second"}
    assert result.conventions["tune"]["train"] == "head" and result.conventions["modalities"] == ["speech", "text"]
    assert any("must also hear them" in note for note in result.notes)
    loaded = load_result(save_result(result, tmp_path))
    assert loaded.scores == result.scores and loaded.benchmark == "slue-entities"


def test_sentiment_has_its_majority_and_a_silent_recogniser_falls_back_on_it(lm):
    config = slue_config(task="sentiment", tune=TUNE, seeds=(0,), random_control=False)
    labels = [label for label in LABELLED.labels if label.id not in ("train0", "train3")]  # two Negatives less
    labelled = dataclasses.replace(LABELLED, labels=labels)
    result = run_slue(labelled, lm, config, transcripts={TEST[0].id: "", TEST[1].id: "we saw Tom good."})
    assert result.scores["macro_f1.majority"].value == pytest.approx((2 * 4 / (12 + 4)) / 3)
    assert result.scores["macro_recall.majority"].value == pytest.approx(1 / 3)
    majority = result.items[0]["majority"]
    assert majority in ("Neutral", "Positive")
    assert all(item["asr_pipeline"] == majority for item in result.items if item["id"] != TEST[1].id)
    assert any("heard nothing in 11 test" in note for note in result.notes)
    assert "macro_f1.text->speech" in result.scores and "macro_f1.text->speech.run0" not in result.scores


def test_a_model_of_units_makes_a_table_of_one_cell():
    vocabulary = UnitVocabulary(codebook_size=toy.CODEBOOK_SIZE)
    config = LlamaConfig(
        vocab_size=vocabulary.size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    layout = UnitsLayout(vocabulary=vocabulary)
    card = LMCard(vocabulary=vocabulary, layout=layout.card(), tokenizer_fingerprint="f" * 16)
    lm = open_lm(LoadedLM(LlamaForCausalLM(config).eval(), card))
    tune = dataclasses.replace(TUNE, epochs=1)
    slue = slue_config(task="sentiment", tune=tune, seeds=(0,), random_control=False)
    result = run_slue(LABELLED, lm, slue, transcripts=TEXTS)
    assert set(values(result, "macro_f1.")) == {"macro_f1.majority", "macro_f1.speech->speech"}


def test_a_model_without_training_has_the_shape_and_none_of_the_weights(lm):
    twin = untrained(lm.model, 1)  # the model itself was drawn by seed 0
    shapes = {name: value.shape for name, value in lm.model.state_dict().items()}
    assert {name: value.shape for name, value in twin.state_dict().items()} == shapes
    assert not torch.equal(twin.get_input_embeddings().weight, lm.model.get_input_embeddings().weight)
    again = untrained(lm.model, 1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in twin.state_dict().items())


def test_what_cannot_be_used_is_counted_in_both_modalities(lm):
    utterances = dict(LABELLED.utterances)
    utterances["train1"] = dataclasses.replace(utterances["train1"], words=None)
    utterances["test2"] = dataclasses.replace(utterances["test2"], words=utterances["test3"].words)
    tokens = {name: found for name, found in SPEECH.tokens.items() if name != "dev0"}
    labelled = LabelledSet(labels=LABELLED.labels, utterances=utterances, excluded={"before": 2})
    found = make_examples(labelled, "entities", RowMaker(lm), Speech(tokens, toy.FRAME_RATE))
    assert found.excluded == {
        "before": 2,
        "no word times, which entities in speech need: vocable align": 1,
        "no speech tokens": 1,
        "the words of the manifest are not those of the labelled text": 1,
    }
    for split, count in (("train", 29), ("dev", 8), ("test", 11)):
        rows = found.splits[split]
        assert [e.labels.id for e in rows["speech"]] == [e.labels.id for e in rows["text"]] and len(
            rows["text"]
        ) == count
    sentiment = make_examples(labelled, "sentiment", RowMaker(lm), Speech(tokens, None))
    assert sentiment.excluded == {"before": 2, "no speech tokens": 1}  # sentiment needs no word times


def test_without_word_times_the_way_out_is_named(lm):
    bare = {name: dataclasses.replace(found, words=None) for name, found in LABELLED.utterances.items()}
    labelled = dataclasses.replace(LABELLED, utterances=bare)
    with pytest.raises(ConfigError, match=r"split 'train' can be used.*no word times.*vocable align \(30\)"):
        make_examples(labelled, "entities", RowMaker(lm), SPEECH)
    nothing = dataclasses.replace(LABELLED, labels=[label for label in LABELLED.labels if label.split != "dev"])
    with pytest.raises(ConfigError, match="split 'dev' can be used for sentiment: none is labelled"):
        make_examples(nothing, "sentiment", RowMaker(lm), SPEECH)


def test_training_data_can_be_cut_and_long_rows_are_left_out(lm):
    maker = RowMaker(lm)
    ids = []
    for seed in (0, 0, 1):
        found = make_examples(LABELLED, "sentiment", maker, SPEECH, max_train=5, seed=seed)
        ids.append([example.labels.id for example in found.splits["train"]["text"]])
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) == 5
    with pytest.raises(ConfigError, match=r"longer than the model's 3 positions \(30\)"):
        make_examples(LABELLED, "sentiment", maker, SPEECH, context_tokens=3)


@pytest.mark.parametrize(
    "bad", [{"task": "ner"}, {"seeds": ()}, {"seeds": (1, 1)}, {"text_case": "upper"}, {"max_train": 1}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        slue_config(**{"task": "sentiment", **bad})


@pytest.fixture
def data(tmp_path, make_speechlike):
    """A small labelled set with sound, as 'evaluate build labelled' writes it."""
    labelled, _ = toy.toy_set(num_train=6, num_dev=3, num_test=4)
    utterances = {}
    for index, (name, found) in enumerate(labelled.utterances.items()):
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, make_speechlike(14_000 + 200 * index, seed=index), 16_000)
        utterances[name] = dataclasses.replace(found, audio=path)
    write_labelled_set(dataclasses.replace(labelled, utterances=utterances), tmp_path / "data")
    return tmp_path / "data"


def test_the_command_writes_a_result_and_prints_a_table(
    data, tmp_path, tiny_tokenizer, tiny_transcriber, monkeypatch, capsys
):
    run = save_tiny_joint_run(tmp_path / "run", tiny_tokenizer)
    monkeypatch.setattr("vocable.evaluation.slue.benchmark.load_transcriber", lambda *_, **__: tiny_transcriber)
    words = ["evaluate", "slue", str(data), "--model", str(run / "lm"), "--cache", str(tmp_path / "cache")]
    words += ["--epochs", "1", "--seeds", "0,1", "--device", "cpu", "--transcriber", "tiny"]
    assert main([*words, "--task", "entities", "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    result = load_result(tmp_path / "out" / "slue-entities.json")
    assert len(result.items) == 4 and result.weights["transcriber"] == tiny_transcriber.weights
    assert result.fingerprints["tokenizer"] == tiny_tokenizer.fingerprint
    shown = capsys.readouterr().out
    assert "slue-entities.json" in shown and "run0" not in shown
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in shown.splitlines() if "│" in line]
    pairs = [(a, b) for a in ("speech", "text") for b in ("speech", "text")]
    cells = [("no entities", "both"), *pairs, ("text", "speech, as a recogniser heard it")]
    assert [tuple(row[:2]) for row in rows] == [*cells, *((f"{a}, random weights", b) for a, b in pairs)]
    f1, label_f1 = (result.scores[f"{name}.speech->text"] for name in ("f1", "label_f1"))
    wanted = [f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in (f1, label_f1)]
    assert ["speech", "text", *wanted] in rows
    assert main([*words, "--task", "entities", "--out", str(tmp_path / "out")]) == 2
    assert "earlier result" in capsys.readouterr().err
    assert main([*words[:-2], "--task", "entities", "--seeds", "one", "--out", str(tmp_path / "new")]) == 2
    assert "seeds.2 is 'one'; input should be a valid integer" in capsys.readouterr().err
