"""The pair commands, from a folder of sound to a result file; audio is encoded once, whatever is scored on it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from evaluation.tiny_text_lm import save_tiny_text_lm
from tiny import save_tiny_joint_run, save_tiny_lm
from vocable.audio.io import read_utterance
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.once import encode_once, transcribe_once
from vocable.evaluation.pairs import PairItem, PairSet, Segment, write_pair_set
from vocable.evaluation.results import load_result
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.spoken import load_lm
from vocable.lm.surgery import UnitLMConfig, build_lm
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.tokens.shards import plan_shards, write_token_shard
from vocable.tokens.unit_tokenizer import UnitTokenizer
from vocable.types import Utterance


@pytest.fixture
def utterances(tmp_path, make_speechlike):
    found = {}
    for index in range(12):
        path = tmp_path / "audio" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, make_speechlike(6000 + 900 * index, seed=index), 16_000)
        found[f"u{index}"] = Utterance(id=f"u{index}", audio=path, text=f"word {index}", speaker=f"s{index % 2}")
    return found


@pytest.fixture
def data(utterances, tmp_path):
    """Six stories of a context and two endings; three contexts are shared."""
    items = [
        PairItem(
            id=f"p{i}",
            positive=(Segment(speech=f"u{i % 3}"), Segment(speech=f"u{3 + i}")),
            negative=(Segment(speech=f"u{i % 3}"), Segment(speech=f"u{11 - i}")),
            voice=f"s{i % 2}",
            group={"version": "spoken", "story": str(i)},
        )
        for i in range(6)
    ]
    write_pair_set(PairSet(benchmark="storycloze", items=items, utterances=utterances), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(tiny_tokenizer, utterances, tmp_path):
    """A run folder: a tokenizer, token shards, and a language model on its units."""
    folder = tmp_path / "run"
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    for job in plan_shards(list(utterances.values()), folder / "tokens", tiny_tokenizer.card()):
        write_token_shard(job, tiny_tokenizer)
    vocabulary = UnitVocabulary(codebook_size=8)
    text_model = save_tiny_lm("opt", tmp_path / "text")
    model = build_lm(UnitLMConfig(text_model=str(text_model), warm=True), vocabulary)
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary).card(),
        tokenizer_fingerprint=tiny_tokenizer.fingerprint,
    )
    save_lm(model, folder / "warm" / "best", card)
    return folder


def score(data, out, *words):
    return main(["evaluate", "storycloze", str(data), "--out", str(out), "--cache", str(out.parent / "cache"), *words])


def test_speech_is_encoded_once_for_all_models(run, data, tmp_path, monkeypatch, capsys):
    assert score(data, tmp_path / "a", "--model", str(run / "warm")) == 0, capsys.readouterr().err
    first = load_result(tmp_path / "a" / "storycloze.json")
    monkeypatch.setattr(UnitTokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    assert score(data, tmp_path / "b", "--model", str(run / "warm" / "best"), "--normalise", "sum") == 0
    second = load_result(tmp_path / "b" / "storycloze.json")
    assert [i["nll_positive"] for i in first.items] == [i["nll_positive"] for i in second.items]
    assert first.scores["spoken_sum"] == second.scores["spoken"]
    assert first.fingerprints == second.fingerprints
    saved = json.loads((run / "tokenizer" / "config.json").read_text())
    assert first.fingerprints["tokenizer"] == saved["fingerprint"]
    shards = ("--train-tokens", str(run / "tokens"), "--tokenizer", str(run / "tokenizer"))
    for control in ("unigram", "bigram"):
        assert score(data, tmp_path / control, "--model", control, *shards) == 0
        rows = load_result(tmp_path / control / "storycloze.json").items
        assert all(a["tokens_positive"] == b["tokens_positive"] for a, b in zip(rows, first.items))
    assert score(data, tmp_path / "chance", "--model", "random") == 0
    assert load_result(tmp_path / "chance" / "storycloze.json").scores["spoken"].num_items == 6


def test_masked_logits_leave_padding_out(run, data, tmp_path):
    for kept in ("kept", "masked"):
        assert score(data, tmp_path / kept, "--model", str(run / "warm"), "--text-logits", kept) == 0
    kept, masked = (load_result(tmp_path / name / "storycloze.json").items for name in ("kept", "masked"))
    assert all(b["nll_positive"] < a["nll_positive"] for a, b in zip(kept, masked))  # padding's share is given back


def test_text_topline_and_cascade(run, data, utterances, tmp_path, monkeypatch, tiny_transcriber):
    lm = save_tiny_text_lm(tmp_path / "textlm")
    model = ("--text-model", str(lm), "--boundary", "none")
    assert score(data, tmp_path / "text", "--model", "text", *model) == 0
    topline = load_result(tmp_path / "text" / "storycloze.json")
    assert len(topline.items) == 6
    heard = transcribe_once(list(utterances.values()), tiny_transcriber, tmp_path / "cache")
    monkeypatch.setattr("vocable.evaluation.pairs.models.load_transcriber", lambda *_, **__: tiny_transcriber)
    monkeypatch.setattr(tiny_transcriber, "transcribe", lambda _: pytest.fail("transcribed again"))
    empty = {name for name, text in heard.items() if not text.strip()}
    assert score(data, tmp_path / "asr", "--model", "asr", *model) == 0
    cascade = load_result(tmp_path / "asr" / "storycloze.json")
    assert cascade.weights["model"]["transcriber"] == dict(tiny_transcriber.weights)
    assert cascade.excluded.get("a text or transcript is empty", 0) == 6 - len(cascade.items)
    assert len(cascade.items) == 6 or empty


def test_a_model_of_speech_and_text_reads_every_pairing(data, utterances, tiny_tokenizer, tmp_path, capsys):
    run = save_tiny_joint_run(tmp_path / "joint", tiny_tokenizer)
    lm = load_lm(run / "lm" / "best")
    tokens = encode_once(list(utterances.values()), tiny_tokenizer, tmp_path / "cache")
    results = {}
    for modalities in ("S", "S->T", "T->S", "T"):
        for logits in ("kept", "masked"):
            words = ("--modalities", modalities, "--scored", "ending", "--text-logits", logits)
            assert score(data, tmp_path / f"{modalities}-{logits}", "--model", str(run), *words) == 0, (
                capsys.readouterr()
            )
            results[modalities, logits] = load_result(tmp_path / f"{modalities}-{logits}" / "storycloze.json")
    # the right half of the first pair by hand, context u0 and ending u3, in one plain forward pass
    known, tokenizer = lm.card.vocabulary, lm.text_tokenizer
    units = {name: [known.speech_offset + u for u in tokens[name].units.tolist()] for name in ("u0", "u3")}
    for (modalities, logits), result in results.items():
        context, _, ending = modalities.partition("->")
        row = [known.unit_open_id, *units["u0"]]
        if context == "T":
            row = [known.text_open_id, *tokenizer.encode("word 0")]
        if ending:
            row.append(known.unit_to_text_id if ending == "T" else known.text_to_unit_id)
        said = units["u3"] if (ending or context) == "S" else tokenizer.encode(" word 3")
        predicted = lm.model(torch.tensor([row + said])).logits[0, len(row) - 1 : -1]
        if logits == "masked":
            of_same_kind = known.classes == known.classes[said[0]]
            predicted = predicted.masked_fill(~of_same_kind, float("-inf"))
        expected = -predicted.log_softmax(-1)[range(len(said)), said].sum().item()
        item = next(item for item in result.items if item["id"] == "p0")
        assert item["tokens_positive"] == len(said)
        # float32 products of other sizes: ten times the worst difference seen, 1e-5
        assert item["nll_positive"] == pytest.approx(expected, abs=1e-4)
        assert result.conventions["text_logits"] == logits and "text_tokenizer" in result.fingerprints


def test_written_pairs_need_no_tokenizer_but_a_model_that_reads(run, data, tiny_tokenizer, tmp_path, capsys):
    joint = save_tiny_joint_run(tmp_path / "joint", tiny_tokenizer)
    shutil.rmtree(joint / "tokenizer")
    assert score(data, tmp_path / "a", "--model", str(joint), "--modalities", "T") == 0, capsys.readouterr().err
    assert score(data, tmp_path / "b", "--model", str(joint), "--modalities", "S") == 2
    assert "Name its folder: --tokenizer" in capsys.readouterr().err
    for modalities in ("S->T", "T->S", "T"):
        assert score(data, tmp_path / "c", "--model", str(run / "warm"), "--modalities", modalities) == 2
        message = capsys.readouterr().err
        assert "reads units only, but the pairs hold written text. Score a model of speech and text" in message


def test_the_recogniser_is_told_the_language_of_the_set(run, data, utterances, tmp_path, monkeypatch, capsys):
    def refuse(name, language, device):
        raise ConfigError(f"asked for {language}")

    monkeypatch.setattr("vocable.evaluation.pairs.models.load_transcriber", refuse)
    for marks, message in (
        ((None, None), "asked for en"),
        (("de", "de-AT"), "asked for de"),
        (("de", "en"), "several languages (de, en)"),
    ):
        marked = [replace(u, language=marks[i % 2]) for i, u in enumerate(utterances.values())]
        write_manifest(marked, data / "manifest.jsonl")
        assert score(data, tmp_path / "out", "--model", "asr") == 2
        assert message in capsys.readouterr().err


def test_another_text_of_the_same_audio_is_the_same_entry(utterances, tiny_tokenizer, tmp_path, monkeypatch):
    some = list(utterances.values())[:2]
    before = encode_once(some, tiny_tokenizer, tmp_path / "cache")
    monkeypatch.setattr(UnitTokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    corrected = [replace(utterance, text="corrected", speaker=None, language="en") for utterance in some]
    assert encode_once(corrected, tiny_tokenizer, tmp_path / "cache") == before


def test_changed_audio_is_encoded_again(utterances, tiny_tokenizer, tmp_path, make_speechlike):
    some = list(utterances.values())[:2]
    before = encode_once(some, tiny_tokenizer, tmp_path / "cache")
    assert before["u0"] == tiny_tokenizer.encode([read_utterance(some[0], 16_000)])[0]
    write_audio(some[0].audio, make_speechlike(9000, seed=5), 16_000)
    after = encode_once(some, tiny_tokenizer, tmp_path / "cache")
    assert after["u0"].num_frames > before["u0"].num_frames and after["u1"] == before["u1"]
    some[0].audio.unlink()
    with pytest.raises(ManifestError, match="the audio file cannot be found"):
        encode_once(some, tiny_tokenizer, tmp_path / "cache")


def test_what_does_not_fit_is_refused(run, data, tiny_tokenizer, tmp_path, capsys):
    def error(*words):
        assert score(data, tmp_path / "out", *words) == 2
        return capsys.readouterr().err

    said = error("--model", "bigrm")
    assert "bigrm: no such folder of a trained model. Unknown control 'bigrm'. Did you mean 'bigram'?" in said
    assert "name their token shards with --train-tokens" in error("--model", "bigram")
    assert "no language model is here" in error("--model", str(tmp_path))
    other = tmp_path / "other"
    tiny_tokenizer.kmeans.centroids.mul_(1.5)
    changed = UnitTokenizer(tiny_tokenizer.encoder, tiny_tokenizer.kmeans, tiny_tokenizer.config)
    changed.save_pretrained(other)
    message = error("--model", str(run / "warm"), "--tokenizer", str(other))
    assert changed.fingerprint in message and "The language model" in message
    (run / "tokenizer" / "config.json").unlink()
    assert "Name its folder: --tokenizer" in error("--model", str(run / "warm"))
    assert score(data, tmp_path / "twice", "--model", "random") == 0
    assert score(data, tmp_path / "twice", "--model", "random") == 2
    assert "holds an earlier result" in capsys.readouterr().err
