"""The unit decoder: sizes, causality, batches, bounds, seeds, text alone, shards, saving, and that it learns."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import make_tiny_tokenizer, make_tiny_vocoder, save_tiny_whisper
from vocable.audio.writing import write_audio
from vocable.config import config_to_dict
from vocable.errors import AssetError, AudioFormatError, ConfigError
from vocable.features.voice import Speaker
from vocable.systems.taste.model import load_reader, pad_words
from vocable.systems.taste.relative_transformer import BlockConfig
from vocable.systems.taste.speech_decoder import WordBatch, WordChange, restore_decoder
from vocable.systems.taste.unit_decoder import MORE_TOKENS, UnitDecoder, UnitDecoderConfig
from vocable.systems.taste.unit_network import UnitNetwork, UnitNetworkConfig
from vocable.tokens.runs import collapse_runs, frames_of
from vocable.tokens.shards import plan_shards, write_token_shard
from vocable.types import Utterance

WORD_DIM = 5
BLOCKS = BlockConfig(num_blocks=1, width=16, num_heads=2, feedforward_dim=32, dropout=0.1)
NETWORK = UnitNetworkConfig(
    text_encoder=BLOCKS, word_encoder=BLOCKS, language_model=replace(BLOCKS, num_blocks=2), embedding_dim=8,
    speaker_dim=4,
)  # fmt: skip
TEXTS = (("The", "cat", "sat."), ("By", "rivers"), ("Hills", "were", "far", "away,", "and", "then", "mats"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    units = make_tiny_tokenizer()
    units.save_pretrained(folder / "units")
    make_tiny_vocoder(units).save_pretrained(folder / "vocoder")
    return {"units": folder / "units", "vocoder": folder / "vocoder", "whisper": save_tiny_whisper(folder / "whisper")}


@pytest.fixture(scope="module")
def reader(folders):
    return load_reader(str(folders["whisper"]))


@pytest.fixture
def make(folders, reader):
    def make(seed=0, **settings):
        torch.manual_seed(seed)
        settings = {"network": NETWORK, "voice": "default", **settings}
        config = UnitDecoderConfig(units=str(folders["units"]), synthesizer=str(folders["vocoder"]), **settings)
        return config.build(WORD_DIM, reader).eval()

    return make


def batch_of(reader, texts=TEXTS, seed=1, without_vectors=False):
    generator = torch.Generator().manual_seed(seed)
    tokens = [reader.encode(words) for words in texts]
    counts = torch.tensor([len(words) for words in texts])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    vectors = torch.randn(*mask.shape, WORD_DIM, generator=generator) * mask[..., None]
    speaker = torch.nn.functional.normalize(torch.randn(len(texts), 4, generator=generator), dim=1)
    ids, word_ids = pad_words([one.ids for one in tokens]), pad_words([one.word_ids for one in tokens])
    return WordBatch(texts, ids, word_ids, None if without_vectors else vectors, mask, speaker)


def targets_of(texts=TEXTS, seed=2):
    generator = torch.Generator().manual_seed(seed)
    counts = [7 * len(words) + 2 for words in texts]
    return [{"units": torch.randint(8, (count,), generator=generator).int()} for count in counts]


def one_of(batch, row):
    """A row of a batch, alone and without padding."""
    size, words = int((batch.word_ids[row] >= 0).sum()), len(batch.texts[row])
    vectors = None if batch.vectors is None else batch.vectors[row : row + 1, :words]
    ids, word_ids = batch.ids[row : row + 1, :size], batch.word_ids[row : row + 1, :size]
    speaker = batch.speaker[row : row + 1]
    return WordBatch(batch.texts[row : row + 1], ids, word_ids, vectors, batch.mask[row : row + 1, :words], speaker)


def test_published_sizes():
    """Numbers of the paper's code, which print 28.3, 18.9, 66.1, 26.6, 8.4 and 0.2 M (cut, not rounded)."""
    with torch.device("meta"):
        network = UnitNetwork(UnitNetworkConfig(speaker_dim=192), 1280, 51_866, 4096)

    def size(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    block = 5 * 1024**2 + 4 * 1024 + 2 * 1024 + 2 * 1024 * 2048 + 2048 + 1024 + 4 * 1024
    assert size(network.text_encoder.blocks) == 3 * block == 28_351_488
    assert size(network.word_encoder.blocks) == 2 * block == 18_900_992
    assert size(network.language_model.blocks) == 7 * block == 66_153_472
    assert size(network.text_embedding) == 26_555_392
    assert size(network.unit_embedding, network.head) == 4096 * 1024 + 4097 * 1025 == 8_393_729
    assert size(network.speaker) == 193 * 1024
    assert network.word_in.weight.shape == (512, 1280) and network.word_out.weight.shape == (1024, 1024)
    assert network.balance.shape == (2,)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("without_vectors", [False, True])
def test_padding_and_company_change_nothing(make, reader, normalise, without_vectors):
    decoder = make(network=replace(NETWORK, normalise=normalise))
    batch, targets = batch_of(reader, without_vectors=without_vectors), targets_of()
    with torch.no_grad():
        together = decoder.loss(batch, targets)
        alone = [decoder.loss(one_of(batch, row), targets[row : row + 1]) for row in range(3)]
    assert together.count == sum(one.count for one in alone) == sum(len(one["units"]) + 1 for one in targets)
    total = torch.stack([one.total for one in alone]).sum()
    torch.testing.assert_close(together.total, total, atol=1e-3, rtol=1e-5)  # float32, other shapes
    for name in decoder.part_names:
        assert together.parts[name] == (sum(one.parts[name][0] for one in alone), together.count)


def test_loss_is_that_of_rows_written_out(make, reader):
    """Row [SOS] [speaker] joint [TASK] units, and one class after [TASK] and after each unit."""
    decoder = make()
    network, batch, targets = decoder.network, one_of(batch_of(reader), 2), targets_of()[2:]
    units = targets[0]["units"].long()
    with torch.no_grad():
        text = network.text_out(network.text_encoder(network.text_embedding(batch.ids)))[0]
        spread = torch.stack([batch.vectors[0, word] for word in batch.word_ids[0].tolist()])
        words = network.word_out(network.word_encoder(network.word_in(spread)[None]))[0]
        network.balance.copy_(torch.tensor([0.3, -0.5]))
        weight = float(torch.sigmoid(torch.tensor(0.8)))  # softmax of two
        joint = weight * words + (1 - weight) * text
        sos, task = network.symbols.weight
        row = torch.stack([sos, network.speaker(batch.speaker[0]), *joint, task, *network.unit_embedding(units)])
        logits = network.head(network.language_model(row[None]))[0, len(joint) + 2 :]
        wanted = [*units.tolist(), 8]
        expected = -sum(line.log_softmax(0)[unit] for line, unit in zip(logits, wanted, strict=True))
        ranks = [int((line > line[unit]).sum()) for line, unit in zip(logits, wanted, strict=True)]
        found = decoder.loss(batch, targets)
    torch.testing.assert_close(found.total, expected, atol=1e-4, rtol=1e-5)
    assert found.parts["accuracy_top1"] == (sum(rank == 0 for rank in ranks), len(wanted))
    assert found.parts["accuracy_top5"] == (sum(rank < 5 for rank in ranks), len(wanted))


@pytest.mark.parametrize("normalise", [False, True])
def test_text_and_words_are_read_causally(make, reader, normalise):
    network = make(network=replace(NETWORK, normalise=normalise)).network
    batch = one_of(batch_of(reader), 2)
    ids, vectors, word_ids = batch.ids.clone(), batch.vectors.clone(), batch.word_ids
    first = int((word_ids[0] < 4).sum())  # tokens of the first four words
    with torch.no_grad():
        before = network.encode(ids, word_ids, vectors)
        vectors[:, 4:] += 2
        by_words = network.encode(ids, word_ids, vectors)
        ids[:, first:] = (ids[:, first:] + 7) % 100
        by_both = network.encode(ids, word_ids, vectors)
    for after in (by_words, by_both):
        torch.testing.assert_close(after[:, :first], before[:, :first], atol=1e-5, rtol=1e-5)
    assert ((by_words - before)[0, first:].abs().amax(-1) > 1e-4).all()
    assert ((by_both - by_words)[0, first:].abs().amax(-1) > 1e-4).all()


def test_later_units_change_no_score(make, reader):
    network, batch = make().network, one_of(batch_of(reader), 0)
    units = torch.arange(12) % 8
    with torch.no_grad():
        joint = network.encode(batch.ids, batch.word_ids, batch.vectors)
        before = network.scores(joint, batch.word_ids >= 0, batch.speaker, [units]).logits
        changed = torch.cat([units[:6], (units[6:] + 3) % 8])
        after = network.scores(joint, batch.word_ids >= 0, batch.speaker, [changed]).logits
    torch.testing.assert_close(after[:7], before[:7], atol=1e-5, rtol=1e-5)  # six units and the first
    assert ((after - before)[7:].abs().amax(-1) > 1e-5).all()


def test_with_a_cache_as_without(make, reader):
    network, batch = make().network, one_of(batch_of(reader), 1)
    units = [3, 1, 4, 1, 5, 2, 6]
    with torch.no_grad():
        joint = network.encode(batch.ids, batch.word_ids, batch.vectors)
        expected = network.scores(joint, batch.word_ids >= 0, batch.speaker, [torch.tensor(units)]).logits
        steps = network.step(network.prefix(joint[0], batch.speaker[0]), most=len(units))
        found = [next(steps), *(steps.send(unit) for unit in units)]
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-5, rtol=1e-5)


def test_without_vectors_nothing_of_the_words_path_matters(make, reader):
    """To the bit: as the published first stage, which has no such path."""
    decoder, batch, targets = make(), batch_of(reader, without_vectors=True), targets_of()
    with torch.no_grad():
        network = decoder.network
        text = network.text_out(network.text_encoder(network.text_embedding(batch.ids.clamp(min=0))))
        assert torch.equal(network.encode(batch.ids, batch.word_ids, None), text)
        before = decoder.loss(batch, targets).total
        for part in (network.word_in, network.word_encoder, network.word_out):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)
        network.balance.fill_(torch.nan)
        assert torch.equal(decoder.loss(batch, targets).total, before)
        assert torch.equal(make(network=replace(NETWORK, normalise=True)).loss(batch, targets).total, before)
    decoder.loss(batch, targets).total.backward()
    assert all(p.grad is None for part in (network.word_in, network.word_encoder) for p in part.parameters())


def test_gradients_reach_the_words_and_every_weight(make, reader):
    decoder, batch = make(), batch_of(reader)
    vectors = batch.vectors.clone().requires_grad_(True)
    decoder.loss(batch._replace(vectors=vectors), targets_of()).total.backward()
    assert vectors.grad is not None
    assert (vectors.grad[batch.mask].abs().amax(-1) > 0).all() and not vectors.grad[~batch.mask].any()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_numbers_of_units_keep_their_bounds(make, reader):
    speaker, words = Speaker(torch.ones(4), None), TEXTS[0]
    size = len(reader.encode(words).ids) + MORE_TOKENS
    for end_bias, expected in ((1e4, int(1.5 * size)), (-1e4, 4 * size)):
        decoder = make(least_units=1.5, most_units=4.0)
        with torch.no_grad():
            decoder.network.head.bias[-1] = end_bias
        units = decoder.write(words, None, speaker)
        assert len(units) == expected and set(units.tolist()) <= set(range(8))
    waveform, times = decoder.speak(words, None, speaker)
    assert decoder.sample_rate == 16_000 and times == ()
    assert len(waveform) == 4 * size * 160  # units of 10 ms


def test_draws_follow_the_seed_and_top_1_does_not(make):
    decoder, speaker = make(), Speaker(torch.ones(4), None)
    vectors = torch.randn(3, WORD_DIM, generator=torch.Generator().manual_seed(0))
    drawn = [decoder.write(TEXTS[0], vectors, speaker, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert decoder.write(TEXTS[0], -vectors, speaker, 0).tolist() != drawn[0]
    likeliest = make(top_k=1)
    assert torch.equal(likeliest.write(TEXTS[0], vectors, speaker, 0), likeliest.write(TEXTS[0], vectors, speaker, 1))


def test_top_1_is_the_likeliest_unit_at_every_step(make, reader):
    decoder, batch = make(top_k=1, least_units=1.0, most_units=1.0), one_of(batch_of(reader), 1)
    units = decoder.write(TEXTS[1], batch.vectors[0], Speaker(batch.speaker[0], None))
    with torch.no_grad():
        joint = decoder.network.encode(batch.ids, batch.word_ids, batch.vectors)
        logits = decoder.network.scores(joint, batch.word_ids >= 0, batch.speaker, [units]).logits
    assert len(units) > 5 and torch.equal(logits[:-1, :8].argmax(1), units)


def test_long_texts_are_spoken_in_parts(make, reader):
    words = [*TEXTS[2], *TEXTS[0], *TEXTS[1]] * 3
    decoder = make(most_tokens=20)
    parts = decoder._parts(words)
    sizes = [len(tokens.ids) for _, tokens in parts]
    assert max(sizes) <= 20 and torch.equal(torch.cat([tokens.ids for _, tokens in parts]), reader.encode(words).ids)
    firsts = [first for first, _ in parts]
    for first, after in itertools.pairwise([*firsts, len(words)]):
        own = reader.encode(words[first:after])
        assert torch.equal(own.word_ids, parts[firsts.index(first)][1].word_ids)
        marks = [word[-1] in ".," for word in words[first:after]]
        assert after == len(words) or marks[-1] or not any(marks)
    assert sum(words[first - 1][-1] in ".," for first in firsts[1:]) >= 3
    vectors, speaker = torch.randn(len(words), WORD_DIM), Speaker(torch.ones(4), None)
    units = decoder.write(words, vectors, speaker)
    assert len(units) >= 2 * (len(reader.encode(words).ids) + MORE_TOKENS)
    assert len(make(most_tokens=1)._parts(TEXTS[0])) == 3  # a word is never cut
    assert not len(decoder.write([], None, speaker))


def test_what_cannot_be_spoken_is_refused(make):
    decoder, speaker = make(), Speaker(torch.ones(4), None)
    with pytest.raises(ConfigError, match=r"shape \(2, 5\) for 3 words"):
        decoder.speak(TEXTS[0], torch.zeros(2, WORD_DIM), speaker)
    with pytest.raises(ConfigError, match=r"shape \(6,\); this decoder reads 4"):
        decoder.speak(TEXTS[0], None, Speaker(torch.ones(6), None))
    with pytest.raises(ConfigError, match="kind 'prosody'"):
        decoder.speak(TEXTS[0], None, speaker, {0: WordChange(stretch=2.0)})
    with pytest.raises(ConfigError, match="has one voice"):
        make(voice="speaker").speak(TEXTS[0], None, speaker)
    for values in ({"top_k": 0}, {"least_units": 3.0, "most_units": 2.0}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            UnitDecoderConfig(**values)


def test_units_are_those_of_the_tokenizer(make, folders, make_speechlike, tmp_path):
    waveform = torch.as_tensor(make_speechlike(16_000, seed=3))
    utterance = Utterance(id="a", audio=tmp_path / "a.wav")
    decoder = make()
    expected = frames_of(decoder.source.tokenizer.encode([waveform])[0])[0]
    found = decoder.targets(utterance, waveform, ["word"])["units"]
    assert torch.equal(found.long(), expected) and len(expected) == 100
    collapsed = make(collapse=True)
    runs = collapsed.targets(utterance, waveform, ["word"])["units"]
    assert torch.equal(runs.long(), collapse_runs(expected).units) and len(runs) < 100
    assert collapsed.targets_key() != decoder.targets_key()
    (heard,) = decoder.source.synthesizer.synthesize(decoder.source.tokenizer.encode([waveform]))
    assert torch.equal(decoder.source.speak(expected, None), heard)


def test_units_of_shards_are_found_by_id(make, folders, make_speechlike, tmp_path):
    """As for tokens of a tokenizer that does not run here; a part of an utterance has its part of the units."""
    waveforms = {name: torch.as_tensor(make_speechlike(16_000, seed=seed)) for seed, name in enumerate("ab")}
    utterances = []
    for name, waveform in waveforms.items():
        write_audio(tmp_path / f"{name}.wav", waveform, 16_000)
        utterances.append(Utterance(id=name, audio=tmp_path / f"{name}.wav"))
    tokenizer = make().source.tokenizer
    for job in plan_shards(utterances, tmp_path / "shards", tokenizer.card()):
        write_token_shard(job, tokenizer)
    config = UnitDecoderConfig(units=str(tmp_path / "shards"), network=NETWORK)
    decoder = config.build(WORD_DIM, make().reader)
    found = decoder.targets(utterances[1], waveforms["b"], ["word"])["units"]
    assert torch.equal(found, make().targets(utterances[1], waveforms["b"], ["word"])["units"])
    part = replace(utterances[1], start=0.3, duration=0.5)
    assert torch.equal(decoder.targets(part, waveforms["b"][4800:12800], ["word"])["units"], found[30:80])
    assert decoder.targets_key() == make().targets_key()
    with pytest.raises(AudioFormatError, match="have no such utterance"):
        decoder.targets(replace(part, id="c"), waveforms["b"], ["word"])
    with pytest.raises(ConfigError, match="nothing is known to speak them"):
        decoder.speak(["word"], None, Speaker(torch.ones(4), None))
    spoken = replace(config, synthesizer=str(folders["vocoder"]), voice="default").build(WORD_DIM, decoder.reader)
    assert len(spoken.speak(["word"], None, Speaker(torch.ones(4), None)).waveform)


def test_saved_and_restored_it_says_the_same(make, folders, reader, tmp_path):
    decoder = make(seed=3)
    save_file(decoder.state_dict(), tmp_path / "decoder.safetensors")
    assert all(name.startswith("network.") for name in decoder.state_dict())
    again = restore_decoder("units", decoder.saved_config(), load_file(tmp_path / "decoder.safetensors"))
    assert isinstance(again, UnitDecoder) and again.config == decoder.config and not again.training
    vectors, speaker = torch.randn(3, WORD_DIM), Speaker(torch.ones(4), None)
    assert torch.equal(
        again.speak(TEXTS[0], vectors, speaker).waveform, decoder.speak(TEXTS[0], vectors, speaker).waveform
    )
    with pytest.raises(AssetError, match="do not fit"):
        restore_decoder("units", decoder.saved_config(), {})
    other = {**decoder.saved_config(), "units_fingerprint": "0" * 16}
    with pytest.raises(AssetError, match="units fingerprint 0000"):
        restore_decoder("units", other, decoder.state_dict())
    gone = {**decoder.saved_config(), "config": config_to_dict(replace(decoder.config, units="/nowhere/units"))}
    with pytest.raises(AssetError):
        restore_decoder("units", gone, decoder.state_dict())


def test_it_learns_units_that_only_the_words_tell(make, reader):
    """Two readings of one text: with the words' vectors each is learned by heart, without them it must be a guess."""
    texts = (TEXTS[0], TEXTS[0])
    batch = batch_of(reader, texts)
    batch = batch._replace(speaker=batch.speaker[:1].expand(2, -1))
    targets = [{"units": torch.tensor([1, 1, 2, 2, 3, 3, 1, 4])}, {"units": torch.tensor([5, 6, 6, 6, 0, 0])}]
    blocks = replace(BLOCKS, dropout=0.0)
    network = replace(NETWORK, text_encoder=blocks, word_encoder=blocks, language_model=blocks, normalise=True)
    losses = {}
    for name, vectors in (("words", batch.vectors), ("text", None)):
        decoder = make(seed=0, least_units=0.0, top_k=1, network=network)
        optimizer = torch.optim.AdamW(decoder.parameters(), 1e-2)
        for _ in range(80):
            loss = decoder.loss(batch._replace(vectors=vectors), targets)
            optimizer.zero_grad()
            (loss.total / loss.count).backward()
            optimizer.step()
        losses[name] = float(loss.total.detach()) / loss.count
        if vectors is not None:
            written = [decoder.write(TEXTS[0], one, Speaker(batch.speaker[0], None)) for one in vectors]
            assert [units.tolist() for units in written] == [one["units"].tolist() for one in targets]
    assert loss.count == 16 and losses["words"] < 0.05
    assert losses["text"] > 0.9 * 2 * math.log(2) / 16  # the first unit of each stays a guess
