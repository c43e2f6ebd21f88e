"""Training a tokenizer by word with its speech decoder: what is kept, what learns, that a run goes on exactly."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from systems.taste.plain_decoder import PlainDecoder, PlainDecoderConfig
from tiny import save_tiny_whisper, write_speech
from vocable.audio.io import read_clip, read_utterance
from vocable.audio.manifest import Rejections, read_manifest
from vocable.audio.writing import write_audio
from vocable.errors import AlignmentError, AssetError, ConfigError, ManifestError, NumericsError, OutputError
from vocable.features import EncoderConfig, load_encoder
from vocable.features.speaker import SpeakerEncoder
from vocable.systems.taste import stages
from vocable.systems.taste.config import AggregatorConfig, GridConfig, TasteConfig
from vocable.systems.taste.data import Pieces, PieceStream, group_pieces
from vocable.systems.taste.model import load_reader
from vocable.systems.taste.quantizer import build_quantizer
from vocable.systems.taste.recipe import PartConfig, TasteRecipe, TasteTrainingConfig
from vocable.systems.taste.records import Record, RecordFile
from vocable.systems.taste.stages import build_trainee, train_tokenizer
from vocable.systems.taste.task import TasteTask, start_part
from vocable.tokens import load_tokenizer
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from vocable.types import Utterance, Word

TEXTS = ["the cat sat on mats", "rivers and hills far away", "by the cat", "mats and hills, and rivers."]
PART = PartConfig(
    max_steps=4,
    batch_seconds=8.0,
    learning_rate=1e-3,
    warmup_steps=2,
    precision="fp32",
    log_every=1,
    validate_every=2,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_speechlike):
    """Twelve short recordings, a tiny Whisper, and a tiny encoder of speakers."""
    folder = tmp_path_factory.mktemp("taste")
    manifest = write_speech(folder / "speech", make_speechlike, texts=TEXTS)
    torch.manual_seed(0)
    return read_manifest(manifest), save_tiny_whisper(folder / "whisper"), SpeakerEncoder(16, 12).eval()


@pytest.fixture
def config(world) -> TasteRecipe:
    level = VectorQuantizerConfig(dim=8, codebook_size=6, window_frames=40, commitment_weight=1.0, dead_share=None)
    return TasteRecipe(
        tokenizer=TasteConfig(
            encoder=EncoderConfig(name=str(world[1]), layer=3),
            shallow_layer=1,
            quantizer=ResidualQuantizerConfig(level=level, num_levels=3, dropout=1.0),
        ),
        decoder=PlainDecoderConfig(),
        training=TasteTrainingConfig(text_only=PART, continuous=PART, quantized=PART),
        valid_share=0.3,
    )


@pytest.fixture
def run(world, config, tmp_path):
    def start(name: str, settings: TasteRecipe = config, **rest):
        rest = {"speaker_encoder": world[2], "device": "cpu", "show": False, **rest}
        return train_tokenizer(settings, rest.pop("utterances", world[0]), tmp_path / name, **rest)

    return start


@pytest.fixture
def make_pieces(world, config, tmp_path):
    def make(utterances=None, settings: TasteRecipe = config, store="pieces", **rest):
        encoder, reader = load_encoder(settings.tokenizer.encoder), load_reader(str(world[1]))
        trainee = build_trainee(settings, reader)
        parts = (settings.tokenizer, reader, encoder, trainee.words.aggregator, world[2], trainee.decoder)
        return Pieces(world[0] if utterances is None else utterances, *parts, tmp_path / store, **rest)

    return make


def curve(lines):
    return [{key: value for key, value in line.items() if "second" not in key or "error" in key} for line in lines]


def test_three_parts_one_after_another(run, world, tmp_path):
    results = run("run")
    assert list(results) == ["text_only", "continuous", "quantized"]
    for part, result in results.items():
        assert [line["step"] for line in result.train_curve] == [1, 2, 3, 4]
        assert [line["step"] for line in result.valid_curve] == [2, 4]
        last = result.valid_curve[-1]
        assert last["seconds_error"] > 0 and last["loss"] > 0
        assert ("commitment" in last) == ("loss_without_codes" in last) == (part == "quantized")
    text, smooth, coded = (load_file(results[part].best / "model.safetensors") for part in results)
    value = "aggregator.layers.1.encoder_attn.v_proj.weight"
    assert torch.equal(text[value], torch.eye(32)) and not torch.equal(smooth[value], torch.eye(32))
    assert not torch.equal(coded[value], smooth[value])
    assert "aggregator.layers.0.encoder_attn.v_proj.weight" not in text  # Whisper's own, which nothing changes
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    clip = read_clip(world[0][0], tokenizer.sample_rate)
    (tokens,) = tokenizer.encode([clip])
    assert tokens.codes.shape == (3, 5)
    (sound,) = tokenizer.decode([tokens])
    assert tokenizer.decode_rate == 8_000 and 0.2 * 8_000 < len(sound) < 10 * 8_000
    assert not torch.equal(tokenizer.decode([tokens], voice=torch.eye(12)[0])[0], sound)
    again = load_tokenizer(tokenizer.save_pretrained(tmp_path / "again"))
    assert torch.equal(again.decode([tokens])[0], sound) and again.fingerprint == tokenizer.fingerprint


def test_a_stopped_run_goes_on_exactly(run, tmp_path):
    whole = run("whole")
    for stop in (("text_only", 1), ("continuous", 3), ("quantized", 1), ("quantized", 3)):
        assert not run("parts", stop=stop)[stop[0]].finished
        assert not (tmp_path / "parts" / "tokenizer").exists()
    parts = run("parts")
    for name in whole:
        assert curve(parts[name].train_curve) == curve(whole[name].train_curve)
        assert curve(parts[name].valid_curve) == curve(whole[name].valid_curve)
    found = [load_file(tmp_path / name / "tokenizer" / "model.safetensors") for name in ("whole", "parts")]
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_parts_may_be_left_out_and_come_from_another_run(run, config, tmp_path):
    results = run("first")
    without = replace(config.training, text_only=None)
    assert list(run("two", replace(config, training=without))) == ["continuous", "quantized"]
    alone = replace(config.training, text_only=None, continuous=None)
    start = str(results["continuous"].best)
    later = run("three", replace(config, training=alone, start=start))["quantized"]
    assert curve(later.train_curve) == curve(results["quantized"].train_curve)
    narrow = replace(config, training=alone, start=start, decoder=PlainDecoderConfig(width=4))
    with pytest.raises(AssetError, match="weights are those of other networks"):
        run("four", narrow)
    with pytest.raises(AssetError, match="no weights to start from"):
        run("five", replace(config, start=str(tmp_path / "nowhere")))


def test_another_run_is_refused(run, config):
    run("run", stop=("text_only", 1))
    with pytest.raises(OutputError, match=r"decoder.width: 8 -> 4"):
        run("run", replace(config, decoder=PlainDecoderConfig(width=4)))


@pytest.mark.parametrize("part", ["text_only", "continuous", "quantized"])
def test_what_learns_in_a_part(config, world, make_pieces, part):
    trainee = build_trainee(config, load_reader(str(world[1])))
    pieces = make_pieces()
    if part == "quantized":
        start_part(trainee, "quantized", pieces, PART, config.training)
    task = TasteTask(trainee, part, PART, pieces, None, {}, lambda model, folder: None)
    before = {name: value.clone() for name, value in trainee.state_dict().items()}
    (batch,) = task.next_batches(1, 0, 1)
    trainee.train()
    total = task.loss_sum(trainee, batch)
    total.total.backward()
    reached = {name for name, value in trainee.named_parameters() if value.grad is not None and value.grad.any()}
    assert {name.split(".")[0] for name in reached} == {"decoder"} | ({"words"} if part != "text_only" else set())
    owners = {".".join(name.split(".")[1:4]) for name in reached if name.startswith("words")}
    wanted = {"text_only": set(), "continuous": {"aggregator.layers.1", "aggregator.layer_norm.weight"}}
    wanted["quantized"] = wanted["continuous"] | {"quantizer.project_in.weight", "quantizer.project_out.weight"}
    assert wanted[part] <= owners and not any("layers.0" in name or "embed" in name for name in owners)
    if part != "quantized":
        assert not any("quantizer" in name for name in owners)
    task.learners["model"].optimizer.step()
    changed = {name for name, value in trainee.state_dict().items() if not torch.equal(value, before[name])}
    buffers = {name for name in changed if "quantizer.residual" in name}  # averages move by themselves
    assert changed - buffers <= reached | {name for name, value in trainee.named_parameters() if value.requires_grad}


def test_loss_is_that_of_the_steps_by_hand(config, world, make_pieces):
    trainee = build_trainee(config, load_reader(str(world[1]))).eval()
    pieces = make_pieces()
    task = TasteTask(trainee, "continuous", PART, pieces, None, {}, lambda model, folder: None)
    batch = pieces.batch([0, 3, 5])
    total, parts = task.loss_sum(trainee, batch)
    errors = []
    for number in (0, 3, 5):
        alone = pieces.batch([number])
        found = trainee.words(alone.ids, alone.word_ids, alone.last, alone.shallow, quantize=False)
        errors.append(trainee.decoder.predict(alone.words(found.words))[0] - alone.targets[0]["seconds"])
    error = torch.cat(errors).detach()
    assert task.num_targets(batch) == len(error) == sum(len(world[0][n].text.split()) for n in (0, 3, 5))
    assert float(total.detach()) == pytest.approx(float(error.square().sum()), rel=1e-4)
    assert parts["seconds_error"] == (pytest.approx(float(error.abs().sum()), rel=1e-4), len(error))


def test_pieces_are_those_of_the_tokenizer(config, world, make_pieces):
    """States rounded to 16 bits, words and tokens of each recording; and its speaker vector."""
    pieces, encoder = make_pieces(), load_encoder(config.tokenizer.encoder)
    assert len(pieces) == 12
    batch = pieces.batch([2, 7])
    for row, number in enumerate((2, 7)):
        utterance = world[0][number]
        waveform = read_utterance(utterance, 16_000)
        last, shallow = encoder.encode_layers(waveform, (3, 1))
        size = len(last)
        assert int(batch.frame_mask[row].sum()) == size and batch.texts[row] == tuple(utterance.text.split())
        assert torch.equal(batch.last[row, :size], last.half().float()) and not batch.last[row, size:].any()
        assert torch.equal(batch.shallow[row, :size], shallow.half().float())
        tokens = load_reader(str(world[1])).encode(utterance.text.split())
        assert batch.ids[row][batch.ids[row] >= 0].tolist() == tokens.ids.tolist()
        assert torch.equal(batch.speaker[row], world[2].embed(waveform))
        assert batch.targets[row]["seconds"].tolist() == pytest.approx([w.end - w.start for w in utterance.words])


def test_everything_is_computed_once(world, config, make_pieces):
    PlainDecoder.measured = 0
    first = make_pieces()
    assert PlainDecoder.measured == 12
    again = make_pieces()
    assert PlainDecoder.measured == 12 and again.describe() == first.describe()
    for one, other in zip(first.batch([0, 4]).targets, again.batch([0, 4]).targets, strict=True):
        assert torch.equal(one["seconds"], other["seconds"])
    deeper = replace(config, tokenizer=replace(config.tokenizer, shallow_layer=2))
    make_pieces(settings=deeper)  # other states, the same targets
    assert PlainDecoder.measured == 12
    marked = [replace(one, extra={"phones": []}) for one in world[0]]  # a decoder may read them
    make_pieces(marked)
    assert PlainDecoder.measured == 24


def test_work_that_was_cut_off_goes_on(world, make_pieces, tmp_path):
    whole = make_pieces(store="whole")

    class Cut(Exception):
        pass

    def stop(after=[5]):  # noqa: B006
        after[0] -= 1
        if not after[0]:
            raise Cut

    with pytest.raises(Cut):
        make_pieces(store="cut", on_utterance=stop)
    for path in (tmp_path / "cut").iterdir():  # and half a record more
        path.write_bytes(path.read_bytes() + b"half a record"[: 7 if path.suffix == ".index" else 13])
    PlainDecoder.measured = 0
    pieces = make_pieces(store="cut")
    assert PlainDecoder.measured == 7
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()
    assert pieces.describe() == whole.describe()


def test_what_cannot_be_used_is_noted_or_stops_the_run(world, make_pieces, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    silent = tmp_path / "silent.wav"
    write_audio(silent, torch.zeros(16_000), 16_000)
    times = (Word(word="word", start=0.0, end=0.5),)
    cases = {
        "textless": replace(world[0][0], id="textless", text=None),
        "broken": Utterance(id="broken", audio=bad, text="a word"),
        "fast": replace(world[0][0], id="fast", text="word " * 60, words=None),
        "untimed": replace(world[0][1], id="untimed", words=None),
        "silent": Utterance(id="silent", audio=silent, text="word", words=times),
        "other words": replace(world[0][1], id="other words", words=times),
    }
    reasons = ("no text", "bad.wav", "lasts", "no words with times", "silence has no speaker", "words with times are")
    for _ in range(2):  # the second time nothing is computed, and the reasons are told again
        rejections = Rejections(tmp_path / "out")
        pieces = make_pieces([*cases.values(), *world[0][:3]], rejections=rejections)
        assert len(pieces) == 3 and rejections.count == 6
        assert pieces.batch([0, 1, 2]).names == tuple(one.id for one in world[0][:3])
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    found = {row["id"]: row["reason"] for row in rows}
    assert list(found) != [] and found.keys() == cases.keys()
    for (name, reason), wanted in zip(((name, found[name]) for name in cases), reasons, strict=True):
        assert wanted in reason, name
    for utterance in cases.values():
        with pytest.raises((ManifestError, AlignmentError, ConfigError, ValueError)):
            make_pieces([utterance], strict=True)
    with pytest.raises(ManifestError, match=r"None of 2 recordings .* the first for this reason: .*no text"):
        make_pieces([cases["silent"], cases["textless"]])


def test_long_recordings_are_cut(world, make_pieces, make_speechlike, tmp_path):
    """Words and targets of each piece, with times from its start on."""
    sound = make_speechlike(16_000 * 62, seed=5)
    write_audio(tmp_path / "long.wav", sound, 16_000)
    texts = ["the", "cat", "sat", "on", "mats"] * 12
    words = tuple(Word(word=word, start=float(i), end=i + 0.5 + 0.005 * i) for i, word in enumerate(texts))
    long = Utterance(id="long", audio=tmp_path / "long.wav", text=" ".join(texts), words=words, duration=62.0)
    pieces = make_pieces([long, world[0][0]])
    assert len(pieces) == 4 and pieces.seconds.max() <= 30.0
    batch = pieces.batch([0, 1, 2, 3])
    assert batch.names == ("long", "long", "long", world[0][0].id)
    assert [word for text in batch.texts[:3] for word in text] == texts
    seconds = torch.cat([one["seconds"] for one in batch.targets[:3]])
    assert seconds.tolist() == pytest.approx([one.end - one.start for one in words])


def test_batches_follow_seed_and_place(make_pieces):
    pieces = make_pieces()
    stream = PieceStream(pieces, 8.0, 3, "same")
    epoch = len(stream.plan)
    first = stream.next_batches(epoch)
    assert sorted(name for batch in first for name in batch.names) == sorted(pieces.batch(range(12)).names)
    state = stream.state_dict()
    second = stream.next_batches(epoch)
    assert [batch.names for batch in second] != [batch.names for batch in first]
    stream.load_state_dict(state)
    assert [batch.names for batch in stream.next_batches(epoch)] == [batch.names for batch in second]
    stream.load_state_dict(state)
    shares = stream.next_batches(epoch, 0, 2)
    assert [batch.names for batch in shares] == [batch.names for batch in second[::2]]
    assert PieceStream(pieces, 8.0, 4, "same").plan != PieceStream(pieces, 8.0, 3, "same").plan
    seconds = np.array([3.0, 40.0, 1.0, 2.0, 2.5, 1.0])
    plan = list(group_pieces(seconds, np.arange(6), 6.0))
    assert sorted(number for batch in plan for number in batch) == list(range(6)) and [1] in plan
    assert all(len(batch) * seconds[batch].max() <= 6.0 for batch in plan if len(batch) > 1)


def test_the_voice_may_be_that_of_another_recording(make_pieces):
    pieces = make_pieces()
    own, other = (PieceStream(pieces, 8.0, 3, speaker) for speaker in ("same", "other"))
    vectors = {name: pieces.batch([n]).speaker[0] for n, name in enumerate(pieces.batch(range(12)).names)}
    groups = {name: n % 3 for n, name in enumerate(vectors)}  # write_speech has three speakers
    for batch, moved in zip(own.next_batches(4), other.next_batches(4), strict=True):
        assert batch.names == moved.names
        for name, vector, found in zip(batch.names, batch.speaker, moved.speaker, strict=True):
            assert torch.equal(vector, vectors[name])
            sources = [one for one in vectors if torch.equal(vectors[one], found)]
            assert sources != [name] and {groups[one] for one in sources} == {groups[name]}


def test_quantizer_starts_at_the_words():
    """A common part of norm 207 and 52 that differ, as in whisper-base: words pass, but for what codes lose."""
    torch.manual_seed(0)
    level = VectorQuantizerConfig(dim=16, codebook_size=64, commitment_weight=1.0, dead_share=None)
    scales = 0.8 ** torch.arange(32)
    words = 207 * torch.nn.functional.normalize(torch.randn(32), dim=0)
    words = words + 52 * torch.nn.functional.normalize(torch.randn(3000, 32) * scales, dim=1)
    quantizer = build_quantizer(ResidualQuantizerConfig(level=level, num_levels=4, dropout=1.0), 32)
    quantizer.requires_grad_(False).start_from(words)
    projected = quantizer.project_in(words)
    assert projected.mean(0).abs().max() < 1e-3 and projected.var(0, correction=0).mean() == pytest.approx(1, rel=1e-3)
    variance = (words - words.mean(0)).square().mean()
    kept = (quantizer.project_out(projected) - words).square().mean()
    directions = torch.linalg.eigvalsh((words - words.mean(0)).T.cov(correction=0))
    assert kept / variance == pytest.approx(float(directions[:16].sum() / directions.sum()), rel=1e-2)
    quantizer.eval()
    output = quantizer(words[None])
    levels, rest = [], projected
    for index, one in enumerate(quantizer.residual.levels):
        rest = rest - one.codebook[output.codes[0, index]]
        levels.append(float(rest.square().mean()))  # share of the variance that is left over
    assert levels == sorted(levels, reverse=True) and levels[0] < 0.7 and levels[-1] < 0.2
    assert float(output.commitment_loss) == pytest.approx(sum(levels), rel=1e-3)
    lost = (output.quantized[0] - words).square().mean() / variance
    assert float(lost) == pytest.approx(levels[-1] * float(1 - kept / variance) + float(kept / variance), rel=0.05)
    drawn = build_quantizer(ResidualQuantizerConfig(level=level, num_levels=4, dropout=1.0), 32)
    before = drawn.project_in.weight.clone()
    drawn.start_from(words, principal=False)
    assert torch.equal(drawn.project_in.weight, before) and all(one.initialised for one in drawn.residual.levels)


def test_other_quantizers_and_aggregators_train(run, config, tmp_path):
    grid = replace(config.tokenizer, quantizer=GridConfig(levels=(4, 4), num_groups=3))
    short = replace(config.training, text_only=None)
    run("grid", replace(config, tokenizer=grid, training=short))
    assert load_tokenizer(tmp_path / "grid" / "tokenizer").streams[0].codebook_sizes == (16, 16, 16)
    whole = replace(config.tokenizer, aggregator=AggregatorConfig(trained="all"))
    result = run("all", replace(config, tokenizer=whole, training=short))["quantized"]
    assert "aggregator.embed_tokens.weight" in load_file(result.best / "model.safetensors")


def test_nan_stops_with_the_step_named(run, world, monkeypatch):
    loss = PlainDecoder.loss
    calls = []

    def broken(self, batch, targets):
        found = loss(self, batch, targets)
        calls.append(1)
        return found._replace(total=found.total * float("nan")) if len(calls) == 2 else found

    monkeypatch.setattr(PlainDecoder, "loss", broken)
    with pytest.raises(NumericsError, match="loss is nan at step 2"):
        run("run")


def test_records_are_whole_or_not_there(tmp_path):
    file = RecordFile(tmp_path, "things", {"a": 1})
    file.extend(0, [Record({"x": torch.arange(3)}, frames=3), Record({}, reason="why not")])
    file.extend(1, [Record({"x": torch.ones(2, 2).half()})])
    again = RecordFile(tmp_path, "things", {"a": 1})
    assert again.num_owners == 2 and again.left_out() == [(0, "why not")]
    assert again.read(0)["x"].tolist() == [0, 1, 2] and again.read(2)["x"].dtype == torch.float16
    assert RecordFile(tmp_path, "things", {"a": 2}).num_owners == 0
    shutil.copytree(tmp_path, tmp_path / "short")
    (path,) = (tmp_path / "short").glob("*.bin")
    path.write_bytes(path.read_bytes()[:-1])
    assert RecordFile(tmp_path / "short", "things", {"a": 1}).num_owners == 1


def test_the_command_line_knows_the_system():
    from vocable.systems import find_system

    assert find_system("taste") is stages.SYSTEM
