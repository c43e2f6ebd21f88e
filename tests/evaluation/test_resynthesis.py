"""The whole way with tiny random models: what goes in is counted, what cannot be judged is said."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tokens.example_tokenizers import SineCodec
from vocable.audio.io import Audio, read_utterance
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, FingerprintError, ManifestError
from vocable.evaluation.judges import Judges
from vocable.evaluation.metrics.mos import DistillMOS
from vocable.evaluation.metrics.wer import count_errors
from vocable.evaluation.results import load_result
from vocable.evaluation.resynthesis import Resynthesis, ResynthesisConfig, choose_utterances
from vocable.evaluation.runner import run_benchmark
from vocable.features.speaker import SpeakerEncoder
from vocable.synthesis import UnitVocoder
from vocable.types import SpeechTokens, Utterance

NAMED: dict[str, Any] = {"manifest": Path("m.jsonl"), "tokenizer": Path("tokenizer")}
FEW_DRAWS = ResynthesisConfig(**NAMED, num_resamples=50)


def evaluate_resynthesis(utterances, tokenizer, judges, config=FEW_DRAWS, out=None, on_progress=None):
    opened = {"utterances": utterances, "tokenizer": tokenizer, "judges": judges}
    return run_benchmark(Resynthesis(config, opened, on_progress), out)


@pytest.fixture
def speaking(tiny_tokenizer, tiny_vocoder):
    tiny_tokenizer.synthesizer = tiny_vocoder
    return tiny_tokenizer


@pytest.fixture
def quick_mos(monkeypatch) -> DistillMOS:
    """A quality judge that only measures loudness: the network takes a second of CPU per window."""
    judge = DistillMOS().eval()
    monkeypatch.setattr(judge, "forward", lambda windows: 1 + windows.abs().mean(1))
    return judge


def test_the_whole_way(speaking, tiny_transcriber, quick_mos, make_utterances, tmp_path):
    utterances = make_utterances(["the cat sat", "on the mats", None])
    judges = Judges(tiny_transcriber, quick_mos, SpeakerEncoder().eval())
    done = []

    def watch(step: str, count: int, total: int) -> None:
        done.append((count, total))

    evaluate_resynthesis(utterances, speaking, judges, out=tmp_path / "out", on_progress=watch)
    result = load_result(tmp_path / "out" / "resynthesis.json")
    assert done == [(0, 3), (3, 3)] and [item["id"] for item in result.items] == ["u0", "u1", "u2"]

    with_text = result.items[:2]
    for name, whose in (("wer_topline", "original"), ("wer_resynthesis", "resynthesis")):
        counts = [count_errors(item["reference"], item[f"transcript_{whose}"]) for item in with_text]
        expected = sum(count.errors for count in counts) / sum(count.reference_length for count in counts)
        assert result.scores[name].value == pytest.approx(expected)
        assert result.scores[name].num_items == 2
    rates = [result.scores[name].value for name in ("wer_resynthesis", "wer_topline")]
    assert rates[0] is not None and rates[1] is not None
    loss = rates[0] - rates[1]
    assert result.scores["wer_loss"].value == pytest.approx(loss)
    # the utterance without text stands apart, and the reader is told
    assert result.scores["wer_resynthesis_to_asr"].num_items == 1
    assert result.items[2]["reference_source"] == "asr of the original"
    assert result.items[2]["reference"] == result.items[2]["transcript_original"]
    assert any("1 utterances have no text" in note for note in result.notes)

    assert {"mos_topline", "mos_resynthesis", "speaker_similarity"} <= set(result.scores)
    assert result.scores["speaker_similarity"].num_items == 3
    frames = sum(item["num_frames"] for item in result.items)
    assert result.measurements["streams"]["units"]["num_frames"] == frames
    assert result.fingerprints["tokenizer"] == speaking.fingerprint and len(result.fingerprints["vocoder"]) == 16
    assert result.conventions["judge_and_tokenizer_encoder"] == "different"
    assert set(result.weights) == {"transcriber", "mos", "speaker"}
    assert pq.read_table(tmp_path / "out" / "resynthesis.items.parquet").num_rows == 3


def test_a_perfect_codec_loses_nothing(speaking, tiny_transcriber, make_utterances, monkeypatch):
    """Resynthesis by handing the original back: every loss is zero, every voice its own."""
    utterances = make_utterances(["the cat sat", "on the mats"])
    originals: list[torch.Tensor] = []
    encode = speaking.encode_clips

    def remember(clips, batching):
        originals.extend(clip.waveform for clip in clips)
        return encode(clips, batching)

    monkeypatch.setattr(speaking, "encode_clips", remember)
    monkeypatch.setattr(speaking, "decode", lambda tokens, voice=None: originals)
    judges = Judges(tiny_transcriber, speaker=SpeakerEncoder().eval())
    scores = evaluate_resynthesis(utterances, speaking, judges, FEW_DRAWS).scores
    assert scores["wer_loss"].value == scores["cer_loss"].value == 0
    assert scores["wer_resynthesis"] == dataclasses.replace(
        scores["wer_topline"], meaning=scores["wer_resynthesis"].meaning
    )
    assert "mos_topline" not in scores
    assert scores["speaker_similarity"].value == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_judged_is_counted(speaking, tiny_transcriber, make_utterances, tmp_path):
    good, dots, french = make_utterances(["the cat", "...", "le chat"])
    french = dataclasses.replace(french, language="fr")
    broken = Utterance(id="broken", audio=tmp_path / "missing.wav", text="gone")
    write_audio(tmp_path / "short.wav", torch.full((20,), 0.1), 16_000)
    short = Utterance(id="short", audio=tmp_path / "short.wav", text="tick")
    result = evaluate_resynthesis([good, dots, french, broken, short], speaking, Judges(tiny_transcriber), FEW_DRAWS)
    reasons = dict(result.excluded)
    assert reasons.pop("language is not en") == 1
    assert reasons.pop("unreadable audio") == 1
    assert reasons.pop("error rate: empty reference (manifest)") == 1
    judged = [item["id"] for item in result.items]
    assert judged[:2] == ["u0", "u1"]
    assert sum(reasons.values()) == ("short" not in judged)  # refused or without a frame: either way it is counted
    assert result.scores["wer_topline"].num_items == 2 - 1 + ("short" in judged)


def test_silence_after_synthesis_counts_every_word(speaking, tiny_transcriber, make_utterances, monkeypatch):
    utterances = make_utterances(["the cat sat on mats"])
    heard = tiny_transcriber.transcribe
    monkeypatch.setattr(tiny_transcriber, "transcribe", lambda waveforms: [*heard(waveforms[:1]), ""])
    result = evaluate_resynthesis(utterances, speaking, Judges(tiny_transcriber), FEW_DRAWS)
    assert result.scores["wer_resynthesis"].value == 1
    assert any("In 1 copies by resynthesis nothing was heard" in note for note in result.notes)


def test_predicted_durations_leave_the_true_ones_out(speaking, tiny_transcriber, make_utterances, monkeypatch):
    seen: list[SpeechTokens] = []
    decode = speaking.decode

    def watch(tokens, voice=None):
        seen.extend(tokens)
        return decode(tokens, voice=voice)

    monkeypatch.setattr(speaking, "decode", watch)
    for durations in ("true", "predicted"):
        config = dataclasses.replace(FEW_DRAWS, durations=durations)
        result = evaluate_resynthesis(make_utterances(["the cat"]), speaking, Judges(tiny_transcriber), config)
        assert result.conventions["durations"] == durations
    assert [tokens.durations is None for tokens in seen] == [False, True]


@pytest.fixture
def watched(tiny_tokenizer, tiny_vocoder, monkeypatch):
    """A tokenizer whose vocoder copies voices, and what it was told to speak with: voice and prosody of each call."""
    decoder = dataclasses.replace(tiny_vocoder.config.decoder, speaker_dim=6)
    vocoder = UnitVocoder(dataclasses.replace(tiny_vocoder.config, decoder=decoder)).eval()
    vocoder._encoder[:] = [SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()]
    tiny_tokenizer.synthesizer = vocoder
    calls: list[tuple[Any, Any]] = []
    decode = tiny_tokenizer.decode

    def watch(tokens, voice=None, prosody=None):
        calls.append((voice, prosody))
        return decode(tokens, voice, prosody)

    monkeypatch.setattr(tiny_tokenizer, "decode", watch)
    return tiny_tokenizer, calls


def sound_of(utterance: Utterance) -> torch.Tensor:
    return read_utterance(utterance, 16_000)


def test_the_own_voice_is_taken_from_another_recording_of_the_speaker(watched, tiny_transcriber, tmp_path):
    """The first of four seconds or more; else the first other one; else the recording itself."""
    tokenizer, calls = watched
    rows = [
        ("ann", 1.2),
        ("ann", 1.5),
        ("bob", 1.3),
        ("ann", 4.5),
        ("ann", 5.0),
        ("bob", 1.1),
        ("eve", 1.4),
        (None, 1.6),
    ]
    utterances = []
    for index, (speaker, seconds) in enumerate([*rows, (None, 1.2)]):
        time = torch.arange(int(seconds * 16_000)) / 16_000
        buzz = sum(torch.sin(2 * torch.pi * (110 + 10 * index) * k * time) / k for k in range(1, 9))
        write_audio(tmp_path / f"{index}.wav", 0.1 * torch.as_tensor(buzz), 16_000)
        utterances.append(
            Utterance(id=f"u{index}", audio=tmp_path / f"{index}.wav", duration=seconds, speaker=speaker, text="the")
        )
    config = dataclasses.replace(FEW_DRAWS, voice="own")
    result = evaluate_resynthesis(utterances, tokenizer, Judges(tiny_transcriber), config)
    assert len(result.items) == 9 and result.conventions["prosody"] == "tokens"
    #            ann: 4.5 s     bob's other  ann         ann's other of 4 s   eve and nobody have no other
    expected = [3, 3, 5, 4, 3, 2, 6, 7, 8]
    for (voice, prosody), row in zip(calls, expected, strict=True):
        assert isinstance(voice, Audio) and voice.sample_rate == 16_000 and prosody is None
        assert torch.equal(voice.waveform, sound_of(utterances[row]))


def test_prosody_of_the_recordings_is_handed_to_the_vocoder(watched, tiny_transcriber, make_utterances):
    tokenizer, calls = watched
    utterances = make_utterances(["the cat", "sat"])
    config = dataclasses.replace(FEW_DRAWS, prosody="recording")
    result = evaluate_resynthesis(utterances, tokenizer, Judges(tiny_transcriber), config)
    assert result.conventions["prosody"] == "recording" and len(result.items) == len(calls) == 2
    for (voice, prosody), utterance in zip(calls, utterances, strict=True):
        assert voice is None and len(prosody) == 1
        assert torch.equal(prosody[0].waveform, sound_of(utterance))


def test_a_synthesizer_that_follows_no_prosody_says_so(tiny_transcriber, make_utterances):
    config = dataclasses.replace(FEW_DRAWS, prosody="recording")
    with pytest.raises(
        ConfigError, match=r"'sines' takes pitch and energy from the tokens.*Unit vocoders of Vocable can"
    ):
        evaluate_resynthesis(make_utterances(["the cat"]), SineCodec.make(), Judges(tiny_transcriber), config)


def test_a_voice_to_be_like(speaking, tiny_transcriber, make_utterances):
    utterances = make_utterances(["the cat", "sat"])
    config = dataclasses.replace(FEW_DRAWS, voice_reference=utterances[0].audio)
    judges = Judges(tiny_transcriber, speaker=SpeakerEncoder().eval())
    scores = evaluate_resynthesis(utterances, speaking, judges, config).scores
    assert -1 <= scores["voice_similarity"].value <= 1  # type: ignore[operator]
    with pytest.raises(ConfigError, match="no speaker encoder to compare with"):
        evaluate_resynthesis(utterances, speaking, Judges(tiny_transcriber), config)


def test_nothing_to_judge_is_an_error(speaking, tiny_transcriber, make_utterances, tmp_path):
    with pytest.raises(ManifestError, match="no utterance that can be read"):
        evaluate_resynthesis([], speaking, Judges(tiny_transcriber))
    missing = Utterance(id="x", audio=tmp_path / "missing.wav")
    with pytest.raises(ManifestError, match=r"None of 1 utterances could be judged \(unreadable audio: 1\)"):
        evaluate_resynthesis([missing], speaking, Judges(tiny_transcriber))


def test_parts_that_do_not_fit_are_refused(tiny_tokenizer, tiny_vocoder, tiny_transcriber, make_utterances):
    with pytest.raises(ConfigError, match="no synthesizer"):
        evaluate_resynthesis(make_utterances(["the cat"]), tiny_tokenizer, Judges(tiny_transcriber))
    with pytest.raises(FingerprintError, match="anotherone"):
        other = dataclasses.replace(tiny_vocoder.config, tokenizer_fingerprint="anotherone")
        tiny_tokenizer.synthesizer = UnitVocoder(other)
    tiny_transcriber.name = "log-mel"
    with pytest.raises(ConfigError, match="would judge its own features"):
        evaluate_resynthesis(make_utterances(["the cat"]), tiny_tokenizer, Judges(tiny_transcriber))


def test_the_draw_is_seeded_and_keeps_order(tmp_path):
    utterances = [Utterance(id=str(index), audio=tmp_path / "a.wav") for index in range(50)]
    drawn = [[int(one.id) for one in choose_utterances(utterances, 10, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(set(drawn[0])) and len(drawn[0]) == 10
    assert choose_utterances(utterances, None, 0) == utterances == choose_utterances(utterances, 99, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"num_utterances": 0}, "num_utterances is 0"), ({"normaliser": "englisch"}, "Did you mean 'english'")],
)
def test_settings_out_of_range(setting, message: str):
    with pytest.raises(ValueError, match=message):
        ResynthesisConfig(**NAMED, **setting)


def test_the_page_escapes_and_marks(speaking, tiny_transcriber, make_utterances, tmp_path):
    utterances = make_utterances(["<b>cat</b> xylophone", None])
    utterances[0] = dataclasses.replace(utterances[0], id="<script>alert(1)</script>")
    config = dataclasses.replace(FEW_DRAWS, num_examples=1)
    evaluate_resynthesis(utterances, speaking, Judges(tiny_transcriber), config, out=tmp_path)
    page = (tmp_path / "resynthesis.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert '<span class="delete">' in page and "xylophone" in page
    assert page.count("<audio ") == 2  # one example, original and resynthesis
    assert "wer_resynthesis_to_asr" in page


def test_the_command(speaking, tiny_vocoder, tiny_transcriber, make_utterances, tmp_path, monkeypatch, capsys):
    from vocable.audio.manifest import write_manifest
    from vocable.cli import main

    write_manifest(make_utterances(["the cat sat", "on mats"]), tmp_path / "m.jsonl")
    speaking.save_pretrained(tmp_path / "units")
    tiny_vocoder.save_pretrained(tmp_path / "vocoder")
    monkeypatch.setattr("vocable.evaluation.judges.load_judges", lambda *_: Judges(tiny_transcriber))
    words = ["evaluate", "resynthesis", "--manifest", str(tmp_path / "m.jsonl"), "--tokenizer", str(tmp_path / "units")]
    words += ["--vocoder", str(tmp_path / "vocoder"), "--out", str(tmp_path / "out"), "--num-utterances", "1"]
    assert main(words) == 0
    assert "wer_resynthesis" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "resynthesis.json").read_text())
    assert record["num_items"] == 1 and record["scores"]["wer_topline"]["num_items"] == 1
    assert (tmp_path / "out" / "resynthesis.html").stat().st_size > 1000
    assert main(words) == 2
    assert "holds an earlier result" in capsys.readouterr().err

    description = json.loads((tmp_path / "vocoder" / "config.json").read_text())
    description["config"]["tokenizer_fingerprint"] = "0123456789abcdef"
    (tmp_path / "vocoder" / "config.json").write_text(json.dumps(description))
    assert main([*words, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert "0123456789abcdef" in error and speaking.fingerprint in error
