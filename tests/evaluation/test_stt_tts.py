"""Transcribing and speaking with a tiny random language model: numbers are those of its own replies, counted again."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tiny import make_tiny_tokenizer, save_tiny_joint_run, save_tiny_unit_run
from vocable.audio.io import read_audio, read_utterance
from vocable.audio.manifest import write_manifest
from vocable.audio.waveforms import resample
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, FingerprintError, ManifestError
from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.judges import Judges
from vocable.evaluation.metrics.wer import count_errors
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import evaluate
from vocable.features.speaker import SpeakerEncoder
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Segment, load_lm
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.kmeans import KMeans
from vocable.tokens.shards import ShardsConfig, plan_shards, write_token_shard
from vocable.tokens.unit_tokenizer import UnitTokenizer

FEW: dict[str, Any] = {"num_resamples": 50, "device": "cpu"}
SPEECH = GenerationConfig(min_seconds=0.1, max_seconds=0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_tiny_joint_run(tmp_path_factory.mktemp("run"), make_tiny_tokenizer())


@pytest.fixture
def recorded(make_utterances, tmp_path):
    utterances = make_utterances(["The cat sat.", "on the mats", None, "by rivers"])
    write_manifest(utterances, tmp_path / "m.jsonl")
    return utterances, tmp_path / "m.jsonl"


class Level:
    """A predictor that knows loudness only."""

    sample_rate = 16_000

    def __init__(self) -> None:
        self.name, self.weights = "level", {"name": "none"}

    def predict(self, waveforms):
        return [1 + float(one.abs().mean()) for one in waveforms]


def rate_of(items, column: str, level: str = "word", text: str = "hypothesis") -> float:
    counts = [count_errors(item["reference"], item[text], level) for item in items]  # type: ignore[arg-type]
    assert [count.errors for count in counts] == [
        sum(item[f"{column}_{level}_{edit}"] for edit in ("substitutions", "deletions", "insertions")) for item in items
    ]
    return sum(count.errors for count in counts) / sum(count.reference_length for count in counts)


def test_transcripts_are_the_models_and_their_errors_are_counted(run, recorded, tmp_path):
    utterances, manifest = recorded
    evaluate("stt", manifest=manifest, model=run, out=tmp_path / "out", max_text_tokens=12, **FEW)
    result = load_result(tmp_path / "out" / "stt.json")
    assert result.excluded == {"no text": 1} and [item["id"] for item in result.items] == ["u0", "u1", "u3"]
    lm = load_lm(run)
    greedy = GenerationConfig(temperature=0.0)
    written = 0
    for item in result.items:
        (utterance,) = (one for one in utterances if one.id == item["id"])
        waveform = read_utterance(utterance, 16_000)
        (tokens,) = lm.tokenizer.encode([waveform])
        (reply,) = lm.continue_([[Segment(tokens=tokens)]], greedy, to="text", task="transcribe", max_text_tokens=12)
        assert item["hypothesis"] == reply.text.strip() and item["reference"] == utterance.text
        assert item["text_tokens"] == len(reply.token_ids) and item["stopped"] == reply.stopped
        assert item["prompt_tokens"] == len(reply.prompt_ids)
        assert item["seconds"] == pytest.approx(tokens.num_frames / (lm.tokenizer.frame_rate or 0))
        written += len(reply.token_ids)
    assert any(item["hypothesis"] for item in result.items)
    assert result.scores["wer_stt"].value == pytest.approx(rate_of(result.items, "stt"))
    assert result.scores["cer_stt"].value == pytest.approx(rate_of(result.items, "stt", "character"))
    assert result.measurements["audio_hours"] * 3600 == pytest.approx(sum(item["seconds"] for item in result.items))
    assert result.measurements["text_tokens_per_second"] > 0 and written > 0
    assert result.conventions["temperature"] == 0.0 and result.conventions["task"] == "transcribe"
    assert result.fingerprints["tokenizer"] == lm.tokenizer.fingerprint


def test_shards_give_the_same_transcripts_and_strangers_are_refused(run, recorded, tmp_path):
    utterances, manifest = recorded
    tokenizer = make_tiny_tokenizer()

    def shards(tokenizer, name: str) -> Path:
        for job in plan_shards(utterances, tmp_path / name, tokenizer.card(), ShardsConfig()):
            write_token_shard(job, tokenizer)
        return tmp_path / name

    settings = {"manifest": manifest, "model": run, "max_text_tokens": 8, **FEW}
    stored = shards(tokenizer, "tokens")
    assert evaluate("stt", **settings).items == evaluate("stt", tokens=stored, **settings).items
    stranger = UnitTokenizer(tokenizer.encoder, KMeans(1 - tokenizer.kmeans.centroids), tokenizer.config)
    with pytest.raises(FingerprintError, match="The language model"):
        evaluate("stt", manifest=manifest, model=run, tokens=shards(stranger, "others"), **FEW)


def test_what_does_not_fit_into_the_model_counts_as_not_heard(run, recorded):
    _, manifest = recorded
    lm = load_lm(run)
    lm.model.config.max_position_embeddings = 20  # shorter than the longest prompt, longer than the shortest
    lengths = [item["prompt_tokens"] for item in evaluate("stt", manifest=manifest, model=run, **FEW).items]
    lm.model.config.max_position_embeddings = max(lengths)
    result = evaluate("stt", manifest=manifest, model=run, opened={"model": lm}, **FEW)
    fits = [item["prompt_tokens"] < max(lengths) for item in result.items]
    assert True in fits and False in fits
    for item, fit in zip(result.items, fits, strict=True):
        assert fit or (item["hypothesis"] == "" and item["stt_word_deletions"] == item["stt_word_reference_length"])
    assert any("did not end by themselves (does not fit)" in note for note in result.notes)


def test_models_of_units_and_manifests_without_text_are_refused(
    run, recorded, tiny_transcriber, make_utterances, tmp_path
):
    _, manifest = recorded
    units = save_tiny_unit_run(tmp_path / "units", make_tiny_tokenizer())
    (tmp_path / "texts.txt").write_text("the cat\n")
    with pytest.raises(ConfigError, match="reads units only"):
        evaluate("stt", manifest=manifest, model=units, **FEW)
    with pytest.raises(ConfigError, match="reads units only"):
        evaluate("tts", texts=tmp_path / "texts.txt", model=units, vocoder=units / "vocoder", **FEW)
    write_manifest(make_utterances([None, "..."]), tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="no text: 2"):
        evaluate("stt", manifest=tmp_path / "none.jsonl", model=run, **FEW)
    with pytest.raises(ManifestError, match="none of 2 lines has a text to say"):
        speak(run, tmp_path / "none.jsonl", Judges(tiny_transcriber))
    with pytest.raises(ConfigError, match="num_utterances is 0"):
        evaluate("stt", manifest=manifest, model=run, num_utterances=0)


def speak(run, texts, judges, out=None, lm=None, **settings: Any):
    opened = {"judges": judges} if lm is None else {"judges": judges, "model": lm}
    settings = {"generation": SPEECH, "vocoder": run / "vocoder", **FEW, **settings}
    return evaluate("tts", texts=texts, model=run, opened=opened, out=out, **settings)


def open_lm(run: Path):
    """The model, with a vocoder that copies voices."""
    lm, vocoder = load_lm(run), UnitVocoder.from_pretrained(run / "vocoder")
    torch.manual_seed(0)
    decoder = dataclasses.replace(vocoder.config.decoder, speaker_dim=6)
    vocoder = UnitVocoder(dataclasses.replace(vocoder.config, decoder=decoder)).eval()
    vocoder._encoder[:] = [SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()]
    lm.tokenizer.synthesizer = vocoder
    return lm


def test_speech_is_the_models_and_is_judged_beside_recordings(
    run, recorded, tiny_transcriber, make_speechlike, tmp_path
):
    utterances, manifest = recorded
    voice = tmp_path / "voice.wav"
    write_audio(voice, make_speechlike(24_000, seed=7), 16_000)
    voices = SpeakerEncoder().eval()
    judges = Judges(tiny_transcriber, cast(Any, Level()), voices)
    lm = open_lm(run)
    speak(run, manifest, judges, tmp_path / "out", lm, voice=voice, num_examples=2)
    result = load_result(tmp_path / "out" / "tts.json")
    assert result.excluded == {"no text": 1} and len(result.items) == 3
    asked = voices.embed(read_audio(voice, 16_000).waveform)
    for item in result.items:
        (utterance,) = (one for one in utterances if one.id == item["id"])
        (reply,) = lm.continue_(
            [[Segment(text=utterance.text)]], SPEECH, to="speech", task="speak", seeds=[stable_seed(0, utterance.id)]
        )
        assert item["stopped"] == reply.stopped and item["num_positions"] == reply.tokens.num_positions
        (speech,) = lm.tokenizer.decode([reply.tokens], voice=voice)
        speech = resample(speech, lm.tokenizer.decode_rate, 16_000)
        recording = read_utterance(utterance, 16_000)
        assert item["seconds"] == len(speech) / 16_000 and item["recorded_seconds"] == len(recording) / 16_000
        assert item["mos_tts"] == pytest.approx(1 + float(speech.abs().mean()), abs=1e-4)
        assert item["mos_recording"] == pytest.approx(1 + float(recording.abs().mean()))
        assert item["voice_similarity"] == pytest.approx(float(voices.embed(speech) @ asked), abs=1e-4)
        assert item["transcript_recording"] == tiny_transcriber.transcribe([recording])[0]
    value = {name: score.value for name, score in result.scores.items()}
    assert value["wer_tts"] == pytest.approx(rate_of(result.items, "tts", text="transcript_tts"))
    assert value["wer_topline"] == pytest.approx(rate_of(result.items, "recording", text="transcript_recording"))
    seconds = [sum(item[name] for item in result.items) for name in ("seconds", "recorded_seconds")]
    assert value["duration_ratio"] == pytest.approx(seconds[0] / seconds[1])
    assert (tmp_path / "out" / "tts.html").read_text().count("<audio ") == 4


def test_a_list_of_texts_has_no_recordings(run, tiny_transcriber, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat sat\n\non mats\n")
    judges = Judges(tiny_transcriber)
    result = speak(run, tmp_path / "texts.txt", judges, tmp_path / "out")
    assert [item["id"] for item in result.items] == ["line-1", "line-3"] and result.excluded == {"no text": 1}
    assert set(result.scores) == {"wer_tts", "cer_tts"}
    with pytest.raises(ManifestError, match="no recording, or one too short to copy the voice of: 2"):
        speak(run, tmp_path / "texts.txt", judges, voice="own")


def test_the_own_voice_is_that_of_each_recording(run, recorded, tiny_transcriber, make_speechlike, tmp_path):
    utterances, _ = recorded
    write_audio(utterances[1].audio, make_speechlike(24_000, seed=7), 16_000)  # the others are too short
    write_manifest(utterances, tmp_path / "own.jsonl")
    voices = SpeakerEncoder().eval()
    result = speak(run, tmp_path / "own.jsonl", Judges(tiny_transcriber, speaker=voices), lm=open_lm(run), voice="own")
    (item,) = result.items
    assert item["id"] == "u1" and result.excluded["no recording, or one too short to copy the voice of"] == 2
    asked = voices.embed(read_utterance(utterances[1], 16_000))
    lm = open_lm(run)
    seeds = [stable_seed(0, "u1")]
    (reply,) = lm.continue_([[Segment(text="on the mats")]], SPEECH, to="speech", task="speak", seeds=seeds)
    (speech,) = lm.tokenizer.decode([reply.tokens], voice=utterances[1].audio)
    copy = voices.embed(resample(speech, lm.tokenizer.decode_rate, 16_000))
    assert item["voice_similarity"] == pytest.approx(float(asked @ copy), abs=1e-4)


def test_nothing_said_and_sounds_that_are_broken(run, recorded, tiny_transcriber, monkeypatch):
    _, manifest = recorded
    lm = open_lm(run)
    judges = Judges(tiny_transcriber, cast(Any, Level()), SpeakerEncoder().eval())
    decode, spoilt = lm.tokenizer.decode, [torch.zeros(0), torch.full((100,), float("nan"))]
    monkeypatch.setattr(
        lm.tokenizer, "decode", lambda tokens, voice: [spoilt.pop()] if spoilt else decode(tokens, voice=voice)
    )
    result = speak(run, manifest, judges, lm=lm)
    assert result.excluded["speech is not finite"] == 1
    silent, spoken = result.items
    assert silent["seconds"] == 0 and silent["mos_tts"] is None and silent["tts_word_deletions"] == 3
    assert spoken["seconds"] > 0 and result.measurements["nothing_said"] == 1
    assert result.scores["mos_tts"].num_items == 1
