import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from vocable import files
from vocable.audio.manifest import write_manifest
from vocable.errors import AudioFormatError, FingerprintError, ManifestError, OutputError
from vocable.features import EncoderConfig, LogMelEncoder
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens import (
    KMeans,
    KMeansConfig,
    TokenShards,
    UnitTokenizer,
    UnitTokenizerConfig,
    plan_shards,
    shards,
    streaming,
    write_token_shard,
)
from vocable.tokens.shards import ShardsConfig
from vocable.tokens.silence import frame_levels
from vocable.types import SpeechTokens, Stream, Utterance, Word

NUM_UTTERANCES = 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_speechlike) -> Path:
    """A manifest of seven utterances, the last two cut from one file, and a tokenizer beside it."""
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for index in range(5):
        path = folder / f"größe {index}.wav"
        soundfile.write(path, make_speechlike(4_000 + 1_111 * index, seed=index).numpy(), 16_000)
        utterances.append(Utterance(id=f"u{index}", audio=path))
    soundfile.write(folder / "long.wav", make_speechlike(32_000, seed=9).numpy(), 16_000)
    words = (Word(word="hello", start=0.1, end=0.4),)
    cut = {"audio": folder / "long.wav", "text": "hello", "speaker": "s", "words": words, "extra": {"take": 3}}
    utterances.append(Utterance(id="a", start=0.5, duration=0.75, **cut))
    utterances.append(Utterance(id="b", start=1.25, duration=0.5, **cut))
    write_manifest(utterances, folder / "all.jsonl")
    make_tokenizer(seed=0).save_pretrained(folder / "units")
    return folder


def make_tokenizer(seed: int, collapse: bool = True) -> UnitTokenizer:
    generator = torch.Generator().manual_seed(seed)
    centroids = -4 + 2 * torch.randn(9, 80, generator=generator)
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=9), collapse=collapse
    )
    return UnitTokenizer(LogMelEncoder(), KMeans(centroids), config)


def run(corpus: Path, out: Path, **settings):
    settings = {"utterances_per_shard": 2, "device": "cpu", "tokenizer": corpus / "units"} | settings
    manifest, tokenizer = settings.pop("manifest", corpus / "all.jsonl"), str(settings.pop("tokenizer"))
    names = {field.name for field in fields(ShardsConfig)} & set(settings)
    config = ShardsConfig(**{name: settings.pop(name) for name in names})
    return tokenize_manifest(manifest, out, tokenizer, config, **settings)


def contents(folder: Path) -> list[tuple[Utterance, SpeechTokens]]:
    return list(TokenShards(folder))


def test_shards_hold_the_manifest_and_the_tokens(corpus: Path, tmp_path: Path):
    from vocable.audio.io import read_utterance
    from vocable.audio.manifest import read_manifest

    summary = run(corpus, tmp_path / "out")
    assert (summary.num_utterances, summary.num_shards, summary.num_rejected) == (NUM_UTTERANCES, 4, 0)
    assert summary.audio_seconds == pytest.approx((5 * 4_000 + 1_111 * 10) / 16_000 + 1.25)
    tokens = TokenShards(tmp_path / "out")
    tokenizer = make_tokenizer(seed=0)
    assert len(tokens) == NUM_UTTERANCES
    assert tokens.fingerprint == tokenizer.fingerprint and tokens.card == tokenizer.card()
    expected = read_manifest(corpus / "all.jsonl")
    assert [utterance for utterance, _ in tokens] == expected
    for utterance, found in tokens:
        assert [found] == tokenizer.encode([read_utterance(utterance, 16_000)])


def test_datasets_reads_the_shards(corpus: Path, tmp_path: Path):
    import datasets

    run(corpus, tmp_path / "out")
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    expected = contents(tmp_path / "out")
    assert rows["id"] == [utterance.id for utterance, _ in expected]
    assert [row["codes"] for row in rows] == [tokens.codes.tolist() for _, tokens in expected]
    assert [row["durations"] for row in rows] == [tokens.durations.tolist() for _, tokens in expected]
    assert rows.features["codes"].feature.feature.dtype == "uint16"


def test_equal_input_gives_equal_files_and_times_go_to_the_log(corpus: Path, broken_corpus: Path, tmp_path: Path):
    for name, processes in (("one", 1), ("two", 1), ("three", 2)):
        run(corpus, tmp_path / name, manifest=broken_corpus, processes=processes)
    first = {path.name: path.read_bytes() for path in sorted((tmp_path / "one").glob("*.parquet"))}
    assert len(first) == 5
    for name in ("two", "three"):
        assert {path.name: path.read_bytes() for path in sorted((tmp_path / name).glob("*.parquet"))} == first
    lines = [json.loads(line) for line in (tmp_path / "one" / "tokenize-log.jsonl").read_text().splitlines()]
    assert sorted(line["shard"] for line in lines) == list(first) and all(line["seconds"] > 0 for line in lines)
    assert sum(line["audio_seconds"] for line in lines) == pytest.approx((5 * 4_000 + 1_111 * 10) / 16_000 + 1.25)


def test_loudness_is_kept_for_the_first_utterances_and_gives_the_units_of_silence(corpus, tmp_path, monkeypatch):
    from vocable.lm import unit_facts

    run(corpus, tmp_path / "all")
    monkeypatch.setattr(shards, "NUM_HEARD", 0)
    run(corpus, tmp_path / "none")
    assert None not in TokenShards(tmp_path / "all").values("levels")
    assert set(TokenShards(tmp_path / "none").values("levels")) == {None}
    monkeypatch.setattr(shards, "NUM_HEARD", 3)
    run(corpus, tmp_path / "three")
    stored = [levels is not None for levels in TokenShards(tmp_path / "three").values("levels")]
    assert stored == [True] * 3 + [False] * (NUM_UTTERANCES - 3)

    monkeypatch.setattr(unit_facts, "frame_levels", lambda *call: frame_levels(*call) - 1000)  # shows who listened
    tokenizer = make_tokenizer(seed=0)
    assert unit_facts.measure_units(TokenShards(tmp_path / "none"), tokenizer).silence_units != ()
    monkeypatch.undo()
    listened = unit_facts.measure_units(TokenShards(tmp_path / "none"), tokenizer)
    for name in ("all", "three"):
        assert unit_facts.measure_units(TokenShards(tmp_path / name), tokenizer) == listened


SLOW_RUN = """
import sys, time
from pathlib import Path
from vocable.tokens.unit_tokenizer import UnitTokenizer
encode = UnitTokenizer.encode
def slow(self, waveforms, batching="exact"):
    (Path(sys.argv[3]) / "encoding").touch()
    time.sleep(0.4)
    return encode(self, waveforms, batching)
UnitTokenizer.encode = slow
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens.shards import ShardsConfig
config = ShardsConfig(utterances_per_shard=2)
tokenize_manifest(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4], config, device="cpu")
"""


def test_a_killed_run_goes_on(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW_RUN, corpus / "all.jsonl", out, tmp_path, corpus / "units"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(list(out.glob("tokens-*.parquet"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("tokens-*.parquet")}
    assert 2 <= len(finished) < 4
    (out / ".0123456789abcdef.tmp").write_bytes(b"half a shard")
    with pytest.raises(OutputError, match=f"{len(finished)} of 4 shards are there. Run the same"):
        TokenShards(out)

    summary = run(corpus, out)
    assert summary.num_shards_before == len(finished) and summary.num_utterances == NUM_UTTERANCES
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    run(corpus, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".*.tmp"))


def test_a_finished_run_is_not_done_again(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "out")
    summary = run(corpus, tmp_path / "out")
    assert summary.num_shards_before == 4 and summary.audio_seconds == 0 and summary.real_time_factor is None


def test_a_folder_of_another_run_is_refused(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(corpus, out)
    other = make_tokenizer(seed=1)
    other.save_pretrained(tmp_path / "other")
    ours = make_tokenizer(seed=0).fingerprint
    with pytest.raises(OutputError, match=f"tokenizer_fingerprint: {ours} -> {other.fingerprint}"):
        run(corpus, out, tokenizer=tmp_path / "other")
    lines = (corpus / "all.jsonl").read_text().splitlines()[:-1]
    (corpus / "fewer.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(OutputError, match=r"manifest_fingerprint: \w+ -> \w+; num_utterances: 7 -> 6"):
        run(corpus, out, manifest=corpus / "fewer.jsonl")
    with pytest.raises(OutputError, match="utterances_per_shard: 2 -> 3"):
        run(corpus, out, utterances_per_shard=3)
    make_tokenizer(seed=0, collapse=False).save_pretrained(tmp_path / "plain")
    with pytest.raises(OutputError, match="collapse: True -> False"):
        run(corpus, out, tokenizer=tmp_path / "plain")
    assert len(contents(out)) == NUM_UTTERANCES


def test_a_folder_with_other_files_is_refused(corpus: Path, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"has no run\.json, .* holds thesis\.txt"):
        run(corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_in_use_is_refused(corpus: Path, tmp_path: Path):
    import filelock

    run(corpus, tmp_path / "out")
    with filelock.FileLock(tmp_path / "out" / ".lock"), pytest.raises(OutputError, match="is writing here"):
        run(corpus, tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_loses_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    original, opened = files.open_temporary, []

    def nearly_full(path: Path):
        opened.append(path)
        return original(path) if len(opened) <= 3 else Path("/dev/full").open("w+b", buffering=0)

    monkeypatch.setattr(files, "open_temporary", nearly_full)  # run.json and two shards still fit
    with pytest.raises(OutputError, match="No space left on device"):
        run(corpus, out)
    assert sorted(path.name for path in out.glob("*.parquet")) == [
        "tokens-00000-of-00004.parquet",
        "tokens-00001-of-00004.parquet",
    ]
    assert not list(out.glob(".*.tmp"))
    monkeypatch.undo()
    assert run(corpus, out).num_shards_before == 2
    run(corpus, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def broken_corpus(corpus: Path) -> Path:
    """The manifest with an unreadable file, a missing one, one that is too short, and a line that is no JSON."""
    (corpus / "noise.wav").write_bytes(b"RIFF but no audio")
    soundfile.write(corpus / "nan.wav", [0.1, float("nan"), 0.2] * 999, 16_000, subtype="FLOAT")
    lines = (corpus / "all.jsonl").read_text().splitlines()
    bad = [json.dumps({"id": name, "audio": f"{name}.wav"}) for name in ("noise", "missing", "nan")]
    path = corpus / "broken.jsonl"
    path.write_text("\n".join([*lines[:3], *bad, "{half a li", *lines[3:]]) + "\n")
    return path


def test_several_processes_write_the_same(corpus: Path, broken_corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "one", manifest=broken_corpus)
    run(corpus, tmp_path / "two", manifest=broken_corpus, processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    one, two = (sorted((tmp_path / name / "rejected.jsonl").read_text().splitlines()) for name in ("one", "two"))
    assert one == two and len(one) == 4


def test_unreadable_audio_is_noted_and_the_run_goes_on(corpus: Path, broken_corpus: Path, tmp_path: Path):
    for _ in range(2):  # a second run notes nothing twice
        summary = run(corpus, tmp_path / "out", manifest=broken_corpus)
        assert (summary.num_utterances, summary.num_rejected) == (NUM_UTTERANCES, 4)
        rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
        assert sorted(str(row["id"]) for row in rows) == ["None", "missing", "nan", "noise"]
        assert {row["line"] for row in rows} == {None, 7}
    assert len(contents(tmp_path / "out")) == NUM_UTTERANCES


def test_strict_stops_at_unreadable_audio(corpus: Path, broken_corpus: Path, tmp_path: Path):
    with pytest.raises(ManifestError, match="line 7"):
        run(corpus, tmp_path / "out", manifest=broken_corpus, strict=True)
    lines = [line for line in broken_corpus.read_text().splitlines() if not line.startswith("{half")]
    broken_corpus.write_text("\n".join(lines) + "\n")
    for _ in range(2):
        with pytest.raises(AudioFormatError, match="Utterance 'noise'"):
            run(corpus, tmp_path / "out", manifest=broken_corpus, strict=True)


def test_strict_is_not_fooled_by_shards_of_a_lenient_run(corpus: Path, broken_corpus: Path, tmp_path: Path):
    lines = [line for line in broken_corpus.read_text().splitlines() if not line.startswith("{half")]
    broken_corpus.write_text("\n".join(lines) + "\n")
    run(corpus, tmp_path / "out", manifest=broken_corpus)
    with pytest.raises(AudioFormatError, match="Utterance 'noise'"):
        run(corpus, tmp_path / "out", manifest=broken_corpus, strict=True)


def test_long_recordings_are_streamed_to_the_same_tokens(corpus: Path, tmp_path: Path, monkeypatch):
    run(corpus, tmp_path / "whole")
    monkeypatch.setattr(streaming, "STREAM_SECONDS", 0.3)
    monkeypatch.setattr(streaming, "BLOCK_SECONDS", 0.11)
    run(corpus, tmp_path / "streamed")
    assert contents(tmp_path / "streamed") == contents(tmp_path / "whole")


def test_shards_are_full_by_number_or_by_minutes(tmp_path: Path):
    utterances = [Utterance(id=str(i), audio=tmp_path / "a.wav", duration=30.0) for i in range(10)]
    card = {"fingerprint": "f"}
    by_minutes = plan_shards(utterances, tmp_path / "a", card, ShardsConfig(minutes_per_shard=2.0))
    assert [len(job.utterances) for job in by_minutes] == [4, 4, 2]
    by_number = plan_shards(utterances, tmp_path / "b", card, ShardsConfig(utterances_per_shard=3))
    assert [len(job.utterances) for job in by_number] == [3, 3, 3, 1]
    assert [u.id for job in by_number for u in job.utterances] == [str(i) for i in range(10)]


def test_ids_must_differ(tmp_path: Path):
    twice = [Utterance(id="x", audio=tmp_path / "a.wav")] * 2
    with pytest.raises(ManifestError, match="Two utterances have the id 'x'"):
        plan_shards(twice, tmp_path / "out", {"fingerprint": "f"})


def test_a_job_refuses_another_tokenizer(corpus: Path, tmp_path: Path):
    utterances = [Utterance(id="x", audio=corpus / "long.wav")]
    (job,) = plan_shards(utterances, tmp_path / "out", {"fingerprint": "0123456789abcdef"})
    with pytest.raises(
        FingerprintError, match=f"0123456789abcdef, but the tokenizer.* {make_tokenizer(0).fingerprint}"
    ):
        write_token_shard(job, make_tokenizer(0))


def test_shards_of_two_runs_are_refused(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "out")
    make_tokenizer(seed=1).save_pretrained(tmp_path / "other")
    run(corpus, tmp_path / "two", tokenizer=tmp_path / "other")
    name = "tokens-00002-of-00004.parquet"
    (tmp_path / "two" / name).replace(tmp_path / "out" / name)
    with pytest.raises(OutputError, match=make_tokenizer(1).fingerprint):
        TokenShards(tmp_path / "out")
    with pytest.raises(OutputError, match="there are no token shards"):
        TokenShards(tmp_path / "empty")


def test_a_shard_that_is_no_parquet_is_written_again(corpus: Path, tmp_path: Path):
    run(corpus, tmp_path / "out")
    (tmp_path / "out" / "tokens-00001-of-00004.parquet").write_bytes(b"damaged")
    assert run(corpus, tmp_path / "out").num_shards_before == 3
    assert len(contents(tmp_path / "out")) == NUM_UTTERANCES


def test_rows_hold_every_kind_of_tokens(tmp_path: Path):
    tokens = SpeechTokens(
        codes=torch.tensor([[1, 70_000], [2, 4]]),
        words=(Word(word="hi", start=0.0, end=0.5),),
        spans=torch.tensor([[0, 2]]),
    )
    streams = (Stream(name="words", codebook_sizes=(100_000, 5), rate=None),)
    schema = shards.make_schema(streams, {})
    row = shards.tokens_to_row(tokens, streams) | shards.utterance_to_row(
        Utterance(id="x", audio=tmp_path / "a"), tmp_path
    )
    pq.write_table(shards.pa.Table.from_pylist([row], schema=schema), tmp_path / "t.parquet")
    (back,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert shards.row_to_tokens(back, streams) == tokens
    assert shards.row_to_utterance(back, tmp_path) == Utterance(id="x", audio=tmp_path / "a")
