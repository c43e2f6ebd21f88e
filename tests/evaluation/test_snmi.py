"""SNMI: equal to counting by hand, 1 for tokens that follow the sentence, 0 for tokens that follow the speaker."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.token_lists import TokenList, said
from tokens.example_tokenizers import SineCodec
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import evaluate
from vocable.evaluation.snmi import buckets_of, project
from vocable.types import SpeechTokens, Stream, Utterance

SENTENCES, SPEAKERS = 5, 6
BOTH = (
    Stream(name="semantic", codebook_sizes=(50,), rate=50.0),
    Stream(name="acoustic", codebook_sizes=(9, 9), rate=25.0),
)


def draw(seed: int, *shape: int, size: int = 9) -> torch.Tensor:
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(seed))


def corpus(noise: float = 0.0):
    """Semantic codes follow the sentence (a share of them at random), acoustic ones the speaker."""
    for number, (sentence, speaker) in enumerate(itertools.product(range(SENTENCES), range(SPEAKERS))):
        semantic, other = draw(sentence, 1, 60, size=50), draw(1000 + number, 1, 60, size=50)
        random = torch.rand(60, generator=torch.Generator().manual_seed(number)) < noise
        tokens = {"semantic": torch.where(random, other, semantic), "acoustic": draw(100 + speaker, 2, 30)}
        streams = {name: SpeechTokens(codes=codes) for name, codes in tokens.items()}
        yield said(number, f"s{speaker}", f"Sentence {sentence}!"), SpeechTokens(streams=streams)


def run(pairs, *streams: Stream, **settings: Any):
    source = TokenList(list(pairs), *(streams or BOTH))
    opened = {"utterances": source.utterances, "tokens": source}
    return evaluate("snmi", manifest=Path("m"), num_resamples=20, opened=opened, **settings)


def by_hand(sentences, buckets) -> float:
    """I(S; B) / H(S), from shares of pairs."""
    n, pairs = len(sentences), Counter(zip(sentences, buckets, strict=True))
    left, right = Counter(sentences), Counter(buckets)
    information = sum(c / n * math.log2(c * n / (left[s] * right[b])) for (s, b), c in pairs.items())
    return information / -sum(c / n * math.log2(c / n) for c in left.values())


def test_content_in_one_stream_and_voice_in_the_other():
    result = run(corpus())
    value = {name: score.value for name, score in result.scores.items()}
    assert value["snmi_semantic"] > 0.9  # type: ignore[operator]  # two sentences may share a bucket
    assert value["snmi_acoustic"] == pytest.approx(0, abs=1e-12)  # every speaker says every sentence once
    assert value["snmi_ratio_acoustic"] == pytest.approx(0, abs=1e-12)
    assert result.measurements["num_buckets"] == 16 and result.measurements["num_sentences"] == 5
    assert 0 < result.measurements["chance"]["snmi_semantic"] < 0.6


def test_the_value_is_that_of_counting_by_hand():
    result = run(corpus(noise=0.5), num_hashes=3, num_bits=3)
    sentences = [item["sentence"] for item in result.items]
    assert Counter(sentences) == Counter({f"sentence {number}": SPEAKERS for number in range(SENTENCES)})
    values = {}
    for stream in ("semantic", "acoustic"):
        hashes = zip(*(item[f"buckets_{stream}"] for item in result.items), strict=True)
        found = [by_hand(sentences, buckets) for buckets in hashes]
        values[stream] = sum(found) / len(found)
        assert len(found) == 3 and result.scores[f"snmi_{stream}"].value == pytest.approx(values[stream])
    assert 0.05 < values["semantic"] < 0.95
    assert result.scores["snmi_ratio_acoustic"].value == pytest.approx(values["acoustic"] / values["semantic"])
    assert result.scores["snmi_semantic"].num_speakers == SPEAKERS
    other = run(corpus(noise=0.5), num_hashes=3, num_bits=3, seed=1)
    assert other.items != result.items


def slow_hash(gram, level: int) -> int:
    found = 0xCBF29CE484222325 + level
    for code in gram:
        found = (found ^ (code + 1)) * 0x100000001B3 % 2**64
    found = (found ^ (found >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return found >> 48


@pytest.mark.parametrize("ngram", [1, 2, 3, 99])
def test_projections_are_means_over_ngrams_of_runs(ngram):
    planes = torch.randn(1 << 16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = torch.tensor([[3, 3, 1, 2, 2, 1, 3, 1, 2], [0, 1, 0, 1, 1, 1, 1, 1, 1]])
    rows = []
    for level, runs in enumerate(([3, 1, 2, 1, 3, 1, 2], [0, 1, 0, 1])):
        size = min(ngram, len(runs))
        rows += [planes[slow_hash(runs[i : i + size], level)] for i in range(len(runs) - size + 1)]
    torch.testing.assert_close(project(SpeechTokens(codes=codes), planes, ngram), torch.stack(rows).mean(0))
    durations = torch.tensor([2, 1, 2, 1, 1, 1, 1])
    collapsed = SpeechTokens(codes=torch.tensor([[3, 1, 2, 1, 3, 1, 2]]), durations=durations)
    whole = SpeechTokens(codes=codes[:1])
    assert torch.equal(project(collapsed, planes, ngram), project(whole, planes, ngram))


def test_buckets_by_hand():
    sides = torch.tensor([[1.0, 0.0, 5.0, 1.0], [3.0, 2.0, 5.0, 0.0], [2.5, 4.0, 5.0, 2.0]])  # means 2.17, 2, 5, 1
    assert buckets_of(sides, 2).tolist() == [[0, 0], [1, 0], [3, 2]]
    assert buckets_of(sides, 4).tolist() == [[0], [1], [11]]


def test_what_is_said_once_or_not_written_is_left_out():
    pairs = list(corpus())
    streams = {
        "semantic": SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.long)),
        "acoustic": pairs[0][1].stream("acoustic"),
    }
    tokens = pairs[0][1]
    odd = [
        (said(100, "s0", "Alone."), tokens),
        (said(101, "s0", None), tokens),
        (said(102, "s0", "sentence 1"), SpeechTokens(streams=streams)),
    ]
    result = run([*pairs, *odd])
    assert len(result.items) == SENTENCES * SPEAKERS
    assert result.excluded == {
        "sentence said only once": 1,
        "no text": 1,
        "a stream without tokens: audio too short": 1,
    }
    with pytest.raises(ManifestError, match=r"0 of 5 sentences are said more than once.*such as VCTK"):
        run(pairs[::SPEAKERS])
    with pytest.raises(ManifestError, match="1 of 1 sentences"):
        run(pairs[:SPEAKERS])


@pytest.mark.parametrize(("settings", "message"), [({"ngram": 0}, "ngram is 0"), ({"num_bits": 17}, "from 1 to 16")])
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        run([], **settings)


def test_from_recordings_by_the_command(tmp_path, make_speechlike, capsys):
    utterances = []
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        write_audio(path, make_speechlike(16_000, seed=number % 3), 16_000)
        utterances.append(Utterance(id=path.stem, audio=path, text=f"text {number % 3}", speaker=f"s{number // 3}"))
    write_manifest(utterances, tmp_path / "m.jsonl")
    SineCodec.make().save_pretrained(tmp_path / "codec")
    places = ["--manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out"), "--num-resamples", "5"]
    assert main(["evaluate", "snmi", *places, "--tokenizer", str(tmp_path / "codec")]) == 0
    assert "snmi_ratio_acoustic" in capsys.readouterr().out
    whole = load_result(tmp_path / "out" / "snmi.json")
    assert whole.scores["snmi_semantic"].value > 0.5  # type: ignore[operator]  # one recording twice is in one bucket
    assert (
        main(["tokenize", str(tmp_path / "m.jsonl"), str(tmp_path / "t"), "--tokenizer", str(tmp_path / "codec")]) == 0
    )
    assert main(["evaluate", "snmi", *places, "--tokens", str(tmp_path / "t"), "--overwrite"]) == 0
    assert load_result(tmp_path / "out" / "snmi.json").items == whole.items
    assert main(["evaluate", "snmi", *places, "--tokens", str(tmp_path / "t"), "--stream=acoustic", "--overwrite"]) == 0
    alone = load_result(tmp_path / "out" / "snmi.json")
    assert list(alone.scores) == ["snmi_acoustic"]
    assert alone.scores["snmi_acoustic"].value == whole.scores["snmi_acoustic"].value
