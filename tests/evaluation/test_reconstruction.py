"""Reconstruction: every number against the same by hand, and against a codec that loses nothing."""

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from tokens.example_tokenizers import SineCodec
from vocable.audio.io import read_utterance
from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.errors import ConfigError, MissingDependencyError, UnknownNameError
from vocable.evaluation.codecs import Codec, parse_codec
from vocable.evaluation.comparison.compare import CompareConfig, compare_results
from vocable.evaluation.judges import Judges
from vocable.evaluation.metrics import signal
from vocable.evaluation.metrics.wer import count_errors
from vocable.evaluation.reconstruction import Decoding, Reconstruction, ReconstructionConfig
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import print_result, run_benchmark
from vocable.features.speaker import SpeakerEncoder
from vocable.types import SpeechTokens, Utterance

COPY = "copy = cp {input} {coded}; cp {coded} {output}"
CONFIG = ReconstructionConfig(
    manifest=Path("m.jsonl"), tokenizer=Path("codec"), num_resamples=50, metrics=("stoi", "mel"), num_examples=1
)


class Level:
    """A predictor that knows loudness only."""

    sample_rate = 16_000

    def __init__(self, name: str) -> None:
        self.name, self.weights = name, {"name": "none"}

    def predict(self, waveforms):
        return [1 + float(one.abs().mean()) for one in waveforms]


def run(utterances, judges, out=None, tokenizer=None, opinions=(), **changes: Any):
    config = dataclasses.replace(CONFIG, **changes)
    opened = {"utterances": utterances, "tokenizer": tokenizer or SineCodec.make(), "judges": judges}
    return run_benchmark(Reconstruction(config, {**opened, "opinions": opinions}), out)


def test_every_number_by_hand(tiny_transcriber, make_utterances, tmp_path):
    utterances = make_utterances(["the cat sat", "on the mats"])
    voices, codec = SpeakerEncoder().eval(), SineCodec.make()
    judges = Judges(tiny_transcriber, cast(Any, Level("mos")), voices)
    asked: dict[str, Any] = {"levels": ("all", 1, "semantic"), "codecs": ("opus",)}
    run(utterances, judges, tmp_path, opinions=[Level("second")], **asked)
    result = load_result(tmp_path / "reconstruction.json")
    assert list(result.measurements["bits_per_second"]) == ["all", "first_1", "semantic", "opus"]

    sizes, seconds = 0, 0.0
    found: dict[str, list[float]] = {}
    for utterance, item in zip(utterances, result.items, strict=True):
        original = read_utterance(utterance, 16_000)
        whole = codec.encode([original])[0]
        acoustic = whole.stream("acoustic")
        first = SpeechTokens(codes=acoustic.codes[:1])
        decoded = {
            "all": whole,
            "first_1": SpeechTokens(streams={"semantic": whole.stream("semantic"), "acoustic": first}),
            "semantic": SpeechTokens(streams={"semantic": whole.stream("semantic")}),
        }
        copies = {n: resample(codec.decode([t])[0], 8_000, 16_000)[: len(original)] for n, t in decoded.items()}
        packed = encode_audio(original, 16_000, compression=1.0)
        sizes, seconds = sizes + len(packed), seconds + len(original) / 16_000
        (tmp_path / "a.opus").write_bytes(packed)
        copies["opus"] = torch.from_numpy(soundfile.read(tmp_path / "a.opus", dtype="float32")[0])[: len(original)]
        for name, copy in copies.items():
            aligned = signal.align(original, copy)
            for score, value in {
                f"mel_distance_{name}": signal.mel_distance(aligned.original, aligned.copy),
                f"stoi_{name}": signal.stoi(aligned.original, aligned.copy),
                f"mos_{name}": 1 + float(copy.abs().mean()),
                f"second_{name}": 1 + float(copy.abs().mean()),
                f"speaker_similarity_{name}": float(voices.embed(original) @ voices.embed(copy)),
            }.items():
                assert item[score] == pytest.approx(value, abs=1e-5)  # float32 sums, batched or alone
                found.setdefault(score, []).append(value)
            counts = count_errors(utterance.text or "", item[f"transcript_{name}"])
            assert item[f"{name}_word_substitutions"] == counts.substitutions
            assert item["transcript_original"] == tiny_transcriber.transcribe([original])[0]
        assert item["opus_bytes"] == len(packed)
    for score, values in found.items():
        assert result.scores[score].value == pytest.approx(np.mean(values), abs=1e-5)
    bits = result.measurements["bits_per_second"]
    assert bits["opus"] == pytest.approx(8 * sizes / seconds)
    # 50 Hz of log2(64) bits; 25 Hz of three levels of log2(16) bits
    assert {n: bits[n] for n in ("all", "first_1", "semantic")} == {"all": 600, "first_1": 400, "semantic": 300}
    for name in ("topline", "all", "first_1", "semantic", "opus"):
        whose = "original" if name == "topline" else name
        parts = [count_errors(one["reference"], one[f"transcript_{whose}"]) for one in result.items]
        expected = sum(part.errors for part in parts) / sum(part.reference_length for part in parts)
        assert result.scores[f"wer_{name}"].value == pytest.approx(expected)
    # a loudness of three levels is nearer than one of none
    assert result.scores["mel_distance_all"].value < result.scores["mel_distance_semantic"].value  # type: ignore[operator]
    page = (tmp_path / "reconstruction.html").read_text()
    assert page.count("<audio ") == 5 and page.count("speaker similarity") == 4


def test_a_codec_that_loses_nothing(tiny_transcriber, make_utterances, capsys):
    utterances = make_utterances(["the cat sat", "on the mats"])
    judges = Judges(tiny_transcriber, speaker=SpeakerEncoder().eval())
    result = run(utterances, judges, codecs=(COPY,), metrics=("stoi", "pesq", "mel", "prosody"))
    value = {name: score.value for name, score in result.scores.items()}
    assert value["wer_copy"] == value["wer_topline"] and value["cer_loss_copy"] == 0
    assert value["speaker_similarity_copy"] == pytest.approx(1, abs=1e-6)
    assert value["mel_distance_copy"] == 0 and value["stoi_copy"] == pytest.approx(1, abs=1e-6)
    assert value["pesq_copy"] == pytest.approx(4.6439, abs=1e-3)  # the most that P.862.2 gives
    assert value["voicing_agreement_copy"] == 1 and value["energy_correlation_copy"] == pytest.approx(1)
    samples = [len(read_utterance(one, 16_000)) for one in utterances]
    expected = 8 * sum(44 + 2 * count for count in samples) / (sum(samples) / 16_000)
    assert result.measurements["bits_per_second"]["copy"] == pytest.approx(expected)
    assert result.measurements["codecs"] == [COPY]
    benchmark = Reconstruction(CONFIG)
    benchmark.systems = ["all", "copy"]
    print_result(result, table=benchmark.table(result))
    printed = capsys.readouterr().out
    assert "topline" in printed and "PESQ" in printed and f"{expected:.0f}" in printed


def test_two_codecs_can_be_compared(tiny_transcriber, make_utterances):
    utterances = make_utterances(["the cat sat", "on the mats"])
    results = {str(n): run(utterances, Judges(tiny_transcriber), levels=("all", n), metrics=("mel",)) for n in (1, 2)}
    found = compare_results(results, CompareConfig(num_resamples=50, num_permutations=50))
    differences = {one.measure: one.difference for one in found.differences}
    assert differences["wer_all"] == differences["mel_distance_all"] == 0 and "wer_topline" not in differences


def test_a_codec_without_a_file_has_no_bit_rate(tiny_transcriber, make_utterances):
    result = run(make_utterances(["the cat"]), Judges(tiny_transcriber), codecs=("same = cp {input} {output}",))
    assert result.measurements["bits_per_second"] == {"all": 600, "same": None}


def test_what_a_codec_refuses_is_counted(tiny_transcriber, make_utterances, tmp_path):
    script = tmp_path / "picky.py"  # takes a second of sound, and nothing shorter
    script.write_text("import shutil, sys, os\nos.path.getsize(sys.argv[1]) < 32000 and sys.exit('too short')\n")
    with script.open("a") as file:
        file.write("shutil.copy(sys.argv[1], sys.argv[2])\n")
    command = f"picky = {shlex.quote(sys.executable)} {script} {{input}} {{output}}"
    short, long = make_utterances(["the cat", "sat"] + ["on"] * 5)[::6]
    result = run([short, long], Judges(tiny_transcriber), codecs=(command,))
    assert [item["id"] for item in result.items] == [long.id]
    assert result.excluded["picky is empty or not finite"] == 1
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, math.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    broken = Utterance(id="nan", audio=tmp_path / "nan.wav", text="gone")
    assert run([broken, long], Judges(tiny_transcriber)).excluded["unreadable audio"] == 1


@pytest.mark.parametrize(
    ("codec", "error", "message"),
    [
        ("mp3", ConfigError, r"'mp3' is no codec. Write opus, or a name"),
        ("a-b = cp {input} {output}", ConfigError, "is no codec"),
        ("x = cp {input}", ConfigError, r"must name the files \{input\} and \{output\}"),
        ("x = cp {input} {output} {out}", ConfigError, "and no others"),
        ("x = cp '{input} {output}", ConfigError, "No closing quotation"),
        ("x = no-such-program {input} {output}", MissingDependencyError, "needs the program 'no-such-program'"),
        ("x = false {input} {output}", ConfigError, "ended with status 1: it says nothing"),
        ("x = cp {input}.no {output}", ConfigError, "ended with status 1: cp: .*No such file"),
        ("x = true {input} {output}", ConfigError, r"left no sound in \{output\}"),
    ],
)
def test_codecs_that_do_not_work_stop_the_run_before_it_begins(codec, error, message, tiny_transcriber):
    with pytest.raises(error, match=message):
        run([], Judges(tiny_transcriber), codecs=(codec,))


def test_a_command_is_not_given_to_a_shell():
    codec = parse_codec("x = cp {input} {output} ; cp {output} {coded}")
    assert codec == Codec("x", (("cp", "{input}", "{output}"), ("cp", "{output}", "{coded}")))
    with pytest.raises(ConfigError, match=r"cp: .*\$HOME"):
        parse_codec("x = cp {input} $HOME/{output}")(torch.zeros(16_000), 16_000)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "levels is empty"),
        ((0,), "levels has 0; .* has 3 to decode from"),
        ((4,), "levels has 4; .* has 3 to decode from"),
        (("-1",), "levels has -1"),
        (("words",), "has no stream 'words'; it has semantic, acoustic"),
        (("all", "all"), "a name of its own; here they are all, all"),
    ],
)
def test_levels_that_are_not_there(levels, message, tiny_transcriber):
    with pytest.raises(ConfigError, match=message):
        run([], Judges(tiny_transcriber), levels=levels)


def test_the_only_stream_keeps_its_durations():
    (stream,) = SineCodec.make().stream("acoustic").streams
    tokens = SpeechTokens(codes=torch.arange(12).view(3, 4), durations=torch.tensor([1, 2, 3, 4]))
    two = Decoding.of([stream], "2", "it")
    assert two.name == "first_2" and two.bits_per_second == 25 * 8
    assert two.of_tokens(tokens) == SpeechTokens(codes=tokens.codes[:2], durations=tokens.durations)
    assert Decoding.of([stream], "acoustic", "it").of_tokens(tokens) == tokens


def test_units_have_one_level_to_decode(tiny_tokenizer, tiny_vocoder, tiny_transcriber, make_utterances):
    tiny_tokenizer.synthesizer = tiny_vocoder
    result = run(make_utterances(["the cat"]), Judges(tiny_transcriber), tokenizer=tiny_tokenizer, levels=("units",))
    assert "wer_units" in result.scores
    with pytest.raises(ConfigError, match="has 1 to decode from"):
        run([], Judges(tiny_transcriber), tokenizer=tiny_tokenizer, levels=(1,))
    with pytest.raises(UnknownNameError, match="Did you mean 'stoi'"):
        dataclasses.replace(CONFIG, metrics=("sto",))
