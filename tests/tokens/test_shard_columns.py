"""Rows by number equal rows in order; facts of shards add up; equal input gives equal files."""

import hashlib
import json
import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vocable.errors import ConfigError, ManifestError
from vocable.lm.unit_facts import measure_units
from vocable.splits import BY, divide, training_items, validation_items
from vocable.tokens import TokenShards, shard_columns, shards
from vocable.tokens.shard_columns import TokenRows
from vocable.tokens.shard_facts import FACTS_KEY, UnitCounts
from vocable.tokens.streams import streams_to_card
from vocable.types import SpeechTokens, Stream, Utterance, Word

SIZE = 12
UNITS = (Stream(name="units", codebook_sizes=(SIZE,), rate=50.0),)


def random_pair(index: int, rng: random.Random) -> tuple[Utterance, SpeechTokens]:
    """An utterance of 0 to 40 runs or frames; some have text, words and keys of their own."""
    num = rng.choice([0, 1, rng.randrange(2, 40)])
    codes = torch.tensor([[rng.randrange(SIZE) for _ in range(num)]], dtype=torch.int64)
    durations = torch.tensor([rng.randrange(1, 9) for _ in range(num)], dtype=torch.int64)
    utterance = Utterance(
        id=f"größe {index}",
        audio=Path.cwd() / f"{index}.wav",
        start=rng.random(),
        duration=rng.choice([None, 1.5]),
        text=rng.choice([None, "", "hello there"]),
        speaker=rng.choice([None, "a", "b"]),
        split=rng.choice([None, None, "train", "valid", "test"]),
        words=rng.choice([None, (), (Word(word="hi", start=0.1, end=0.4),)]),
        extra=rng.choice([{}, {"take": 3}]),
    )
    return utterance, SpeechTokens(codes=codes, durations=rng.choice([None, durations]))


def write_shards(pairs: list, folder: Path, per_shard: int, facts: bool = True) -> Path:
    """Write shards as a tokenizing run would; without facts, as earlier versions did."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = [pairs[first : first + per_shard] for first in range(0, len(pairs), per_shard)]
    card = {"fingerprint": "f", "codebook_size": SIZE, "num_codebooks": 1, "frame_rate": 50.0}
    for number, group in enumerate(groups):
        schema = shards.make_schema(UNITS, {"run": "r", "card": card})
        rows = [shards.utterance_to_row(u, folder) | shards.tokens_to_row(tokens, UNITS) for u, tokens in group]
        if facts:
            counts = UnitCounts.of((tokens for _, tokens in group), SIZE)
            schema = schema.with_metadata(
                {**schema.metadata, FACTS_KEY: json.dumps({"units": counts.to_json()}).encode()}
            )
        else:
            schema = schema.remove(schema.get_field_index("levels"))
        path = folder / f"tokens-{number:05d}-of-{len(groups):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_rows_by_number_equal_the_plain_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int):
    rng = random.Random(seed)
    pairs = [random_pair(index, rng) for index in range(rng.randrange(1, 60))]
    monkeypatch.setattr(shard_columns, "BATCH_ROWS", rng.choice([1, 3, 7, 4096]))
    rows = TokenShards(write_shards(pairs, tmp_path, rng.randrange(1, 20), facts=bool(seed % 2)))
    assert list(rows) == pairs == [rows[index] for index in range(len(rows))] == list(rows[:])
    assert rows[-1] == pairs[-1] and list(rows[1:9:3]) == pairs[1:9:3]
    assert rows.num_frames.tolist() == [tokens.num_frames for _, tokens in pairs]
    assert list(rows.values("levels")) == [None] * len(pairs)
    assert list(rows.values("speaker")) == [utterance.speaker for utterance, _ in pairs]

    order = [rng.randrange(len(pairs)) for _ in range(10)]
    chosen = rows.select(np.array(order))
    expected = [pairs[index] for index in order]
    assert list(chosen) == expected and list(chosen.values("id")) == [utterance.id for utterance, _ in expected]
    assert chosen.num_frames.tolist() == [tokens.num_frames for _, tokens in expected]
    assert list(rows.select(np.arange(len(pairs)) % 2 == 1)) == pairs[1::2]

    both = chosen + TokenRows.of(pairs)
    assert list(both) == expected + pairs and len(both) == len(expected) + len(pairs)
    assert both.num_frames.tolist() == [tokens.num_frames for _, tokens in expected + pairs]
    assert list(pickle.loads(pickle.dumps(both))) == expected + pairs
    with pytest.raises(IndexError):
        rows[len(pairs)]


def test_the_copy_follows_its_shards_and_lies_elsewhere_where_the_folder_is_closed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "cache"))
    pairs = [random_pair(index, random.Random(index)) for index in range(9)]
    folder = write_shards(pairs, tmp_path / "shards", 4)
    assert TokenShards(folder)[8] == pairs[8]
    copy = folder / ".columns" / "tokens.arrow"
    made = copy.stat().st_mtime_ns
    assert TokenShards(folder)[3] == pairs[3] and copy.stat().st_mtime_ns == made  # used again
    write_shards(pairs[::-1], folder, 4)
    assert TokenShards(folder)[8] == pairs[0]
    copy.write_bytes(b"damaged")
    assert TokenShards(folder)[8] == pairs[0]
    copy.unlink()
    copy.parent.rmdir()
    copy.parent.write_text("no folder can be made here")
    assert TokenShards(folder)[8] == pairs[0]
    assert [path.suffix for path in (tmp_path / "cache" / "columns").iterdir()] == [".arrow"]


def test_counts_of_shards_add_up_and_old_shards_are_counted(tmp_path: Path):
    rng = random.Random(5)
    pairs = [random_pair(index, rng) for index in range(40)]
    new = TokenShards(write_shards(pairs, tmp_path / "new", 7))
    old = TokenShards(write_shards(pairs, tmp_path / "old", 7, facts=False))
    units = [unit for _, tokens in pairs for unit in tokens.units.tolist()]
    durations = [d for _, t in pairs for d in ([1] * len(t.units) if t.durations is None else t.durations.tolist())]
    seen = [[d for unit, d in zip(units, durations) if unit == wanted] for wanted in range(SIZE)]
    for counts in (new.unit_counts(), old.unit_counts()):
        assert counts.runs.tolist() == [len(found) for found in seen]
        assert counts.frames.tolist() == [sum(found) for found in seen]
    expected = [sum(found) / len(found) / 50 for found in seen]
    assert measure_units(new).unit_seconds == measure_units(old).unit_seconds == pytest.approx(expected, abs=6e-5)


def test_units_never_seen_last_as_long_as_the_mean():
    tokens = SpeechTokens(codes=torch.tensor([[0, 2, 0]]), durations=torch.tensor([2, 5, 4]))
    seconds = UnitCounts.of([tokens], 4).mean_seconds(frame_rate=50.0)
    torch.testing.assert_close(seconds, torch.tensor([3, 11 / 3, 5, 11 / 3]) / 50)
    assert UnitCounts.of([tokens], 4).to_json() == {"ids": [0, 2], "runs": [2, 1], "frames": [6, 5]}


@pytest.mark.parametrize("seed", range(8))
def test_documents_read_lazily_equal_the_plain_list(tmp_path: Path, seed: int):
    from vocable.systems import twist
    from vocable.training.data import PackedStream, describe_documents

    rng = random.Random(seed)
    pairs = [random_pair(index, rng) for index in range(50)]
    layout, limit = twist.build_layout(SIZE), rng.choice([None, 0.2, 0.7])
    plain = [layout.build(tokens if limit is None else twist.first_seconds(tokens, limit, 50.0)) for _, tokens in pairs]
    shards_of_pairs = TokenShards(write_shards(pairs, tmp_path, rng.randrange(1, 20)))
    lazy = twist.build_sequences(shards_of_pairs, layout, 50.0, limit)
    assert [ids.tolist() for ids in lazy.token_ids] == [ids.tolist() for ids in plain]
    frames = [tokens.num_frames for _, tokens in pairs]
    assert lazy.seconds == [min(count, round((limit or 1e9) * 50)) / 50 for count in frames]

    described = describe_documents(lazy.token_ids)
    assert described == describe_documents(plain)  # and as runs of earlier versions described them:
    text = repr(([len(ids) for ids in plain], [ids.tolist() for ids in plain[:8]]))
    assert described["sha256"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    streams = [PackedStream(ids, context_tokens=16, max_tokens=40, seed=seed) for ids in (lazy.token_ids, plain)]
    ours, theirs = (stream.next_rows(3 * len(stream.plan)) for stream in streams)
    assert [(row.token_ids.tolist(), row.labels.tolist()) for row in ours] == [
        (row.token_ids.tolist(), row.labels.tolist()) for row in theirs
    ]


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_divided_as_their_utterances_are(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    pairs = [random_pair(index, rng) for index in range(60)]
    if seed < 2:
        pairs = [(replace(utterance, split=None), tokens) for utterance, tokens in pairs]
    rows, utterances = TokenShards(write_shards(pairs, tmp_path, 13)), [utterance for utterance, _ in pairs]
    for by in BY.values():
        for ours, theirs in zip(rows.divide(0.2, by), divide(utterances, 0.2, by), strict=True):
            assert [utterance for utterance, _ in ours] == theirs
    assert [utterance for utterance, _ in rows.training_rows()] == training_items(utterances)
    assert [utterance for utterance, _ in rows.validation_rows()] == validation_items(utterances)
    held_out = [(replace(utterance, split="test"), tokens) for utterance, tokens in pairs]
    with pytest.raises(ManifestError, match="None of 60 utterances is left to train on; their splits: test"):
        TokenRows.of(held_out).divide(0.2)


def test_one_stream_of_several_is_read_by_number(tmp_path: Path):
    rng = random.Random(2)
    semantic = [random_pair(index, rng) for index in range(20)]
    acoustic = [SpeechTokens(codes=torch.randint(0, 9, (3, rng.randrange(12)))) for _ in semantic]
    both = [
        (utterance, SpeechTokens(streams={"semantic": tokens, "acoustic": other}))
        for (utterance, tokens), other in zip(semantic, acoustic, strict=True)
    ]
    streams = (
        Stream(name="semantic", codebook_sizes=(SIZE,), rate=50.0),
        Stream(name="acoustic", codebook_sizes=(9, 9, 9), rate=25.0),
    )
    card = {"fingerprint": "f", "name": "codec", **streams_to_card(streams)}
    rows = [shards.utterance_to_row(u, tmp_path) | shards.tokens_to_row(tokens, streams) for u, tokens in both]
    table = pa.Table.from_pylist(rows, schema=shards.make_schema(streams, {"run": "r", "card": card}))
    pq.write_table(table, tmp_path / "tokens-00000-of-00001.parquet")
    whole = TokenShards(tmp_path)
    assert [whole[index] for index in range(20)] == both == list(whole)
    with pytest.raises(ConfigError, match="has several streams"):
        _ = whole.num_frames
    for name, expected in (("semantic", [tokens for _, tokens in semantic]), ("acoustic", acoustic)):
        one = whole.stream(name)
        assert [one[index][1] for index in range(20)] == expected == [tokens for _, tokens in one[:]]
        assert one.num_frames.tolist() == [tokens.num_frames for tokens in expected]
    counts = UnitCounts.of((tokens for _, tokens in semantic), SIZE)
    assert whole.stream("semantic").unit_counts().to_json() == counts.to_json()
