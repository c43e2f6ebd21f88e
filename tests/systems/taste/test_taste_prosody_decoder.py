"""The decoder by prosody: its start, its loss by hand, and what it says. Tiny random networks; no quality."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from sequences.joint_examples import text_tokenizer
from systems.taste.prosody_examples import (
    SPEAKER_DIM,
    WORD_DIM,
    WORDS,
    make_batch,
    make_targets,
    speaker,
    tiny_decoder,
    tiny_model,
    tiny_voice,
)
from vocable.errors import AssetError, ConfigError
from vocable.features.pitch import Prosody
from vocable.features.voice import Speaker
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.synthesis.phonemes import read_given
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.systems.taste.prosody_decoder import ENERGY_PER_DECIBEL, ProsodyDecoder, ProsodyDecoderConfig
from vocable.systems.taste.prosody_losses import PART_NAMES
from vocable.systems.taste.prosody_network import ProsodyNetworkConfig, whole_frames
from vocable.systems.taste.speech_decoder import WordChange, restore_decoder
from vocable.systems.taste.word_symbols import read_words

TEXTS = [WORDS, ["sˈo", "tˈadi"], ["bˈena,", "lˈi", "sˈo."]]


def vectors_of(count: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, WORD_DIM, generator=torch.Generator().manual_seed(seed))


def all_targets() -> list[dict[str, torch.Tensor]]:
    return [make_targets(TEXTS[0], 1, commas=[2]), make_targets(TEXTS[1], 2), make_targets(TEXTS[2], 3, commas=[1])]


def parts_of(decoder: ProsodyDecoder, words, vectors=None, who=0):
    """Log durations and delivery, step by step, with the durations that the decoder would choose."""
    read = read_words(words, read_given)
    ids = decoder._ids(read.text)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    owners = torch.tensor([read.symbol_owners()])
    features = decoder.network.features(
        ids, owners, mask, None if vectors is None else vectors[None], speaker(who).vector[None]
    )
    logs = decoder.network.log_durations(features, mask)[0]
    frames = whole_frames(logs, decoder.sounds[ids[0]])
    return logs, frames, decoder.network.delivery(features, frames[None])[0]


@pytest.mark.parametrize("seed", [0, 4])
def test_it_begins_as_the_pretrained_voice(seed):
    """Whoever speaks, with weights as they are drawn: durations, F0 and energy are those of TextToSpeech."""
    model, decoder = tiny_model(), tiny_decoder(trained=False)
    logs, frames, delivery = parts_of(decoder, WORDS, who=seed)
    ids = model.ids("tˈadi bˈena, sˈo lˈi.")
    with torch.no_grad():
        features = model.prosody.text(ids[None])
        torch.testing.assert_close(logs, model.prosody.log_durations(features)[0])
        published = model.predict_prosody(ids, frames)
    voiced = published.f0 > 40
    assert voiced.any() and not voiced.all()
    assert torch.equal(delivery.voiced[0] > 0, voiced)
    f0 = model.config.median_hz * 2 ** (delivery.semitones[0] / 12)
    torch.testing.assert_close(f0[voiced], published.f0[voiced])
    torch.testing.assert_close(delivery.energy[0], published.energy)
    by_itself = model.predict_prosody(ids).durations
    assert int((frames - by_itself).abs().max()) <= 1


def test_vectors_begin_with_little_and_text_alone_is_none():
    decoder = tiny_decoder(trained=False)
    without = parts_of(decoder, WORDS)[0]
    assert decoder.network.balance.tolist() == [1, 1]
    assert 0 < (parts_of(decoder, WORDS, vectors_of(4))[0] - without).abs().max() < 0.05
    torch.nn.init.zeros_(decoder.network.from_vector.weight)
    torch.nn.init.zeros_(decoder.network.from_vector.bias)
    assert torch.equal(parts_of(decoder, WORDS, vectors_of(4))[0], without)


def test_a_vector_is_added_to_the_symbols_of_its_word():
    """The published sum, divided by the weight of the text; without ConvNeXt blocks nothing else mixes symbols."""
    decoder = tiny_decoder()
    decoder.network.blocks = torch.nn.ModuleList()
    read = read_words(WORDS, read_given)
    ids, owners = decoder._ids(read.text)[None], read.symbol_owners()
    mask, who, vectors = torch.ones_like(ids, dtype=torch.bool), speaker().vector[None], vectors_of(4)
    network = decoder.network
    found = network.features(ids, torch.tensor([owners]), mask, vectors[None], who)[0]
    audio, text = functional.softmax(network.balance, 0)
    spoken = network.predictor.text(ids)[0] + network.from_speaker(who)
    for place, owner in enumerate(owners):
        vector = (vectors[owner] - vectors[owner].mean()) / (vectors[owner].var(correction=0) + 1e-5).sqrt()
        expected = (text * spoken[place] + audio * network.from_vector(vector)) / text
        torch.testing.assert_close(found[place], expected)
    plain = tiny_decoder(normalize=False)
    plain.network.blocks = torch.nn.ModuleList()
    found = plain.network.features(ids, torch.tensor([owners]), mask, vectors[None], who)[0]
    torch.testing.assert_close(found[3], spoken[3] + audio / text * plain.network.from_vector(vectors[0]))


def test_whole_frames_keep_sums():
    logs = torch.tensor([1.4, 1.4, 1.4, 0.3, 0.3, 0.3, 0.3]).log1p()
    sounds = torch.tensor([True, True, True, False, False, False, True])
    # ends at 1.4, 2.8, 4.2, 4.5, 4.8, 5.1, 5.4; the last is a sound, so it gets a frame
    assert whole_frames(logs, sounds).tolist() == [1, 2, 1, 0, 1, 0, 1]


def test_the_loss_is_that_of_its_parts_by_hand():
    decoder = tiny_decoder()
    words, target = TEXTS[0], all_targets()[0]
    batch = make_batch([words])
    found = decoder.loss(batch, [target])
    assert set(found.parts) == set(PART_NAMES) == set(decoder.part_names)
    network, mask = decoder.network, torch.ones_like(target["ids"], dtype=torch.bool)[None]
    features = network.features(target["ids"][None], target["owners"][None], mask, batch.vectors, batch.speaker)
    logs = network.log_durations(features, mask)[0].tolist()
    text = "tˈadi bˈena, sˈo, lˈi."  # the comma after the third word was heard, not written
    frames = target["frames"].tolist()
    learned = [min(frames[0], 14), *frames[1:-2], min(frames[-2], 14), min(frames[-1], 14)]
    assert len(text) + 2 == len(learned) and frames[0] == 20
    duration = [(log - math.log(1 + wanted)) ** 2 for log, wanted in zip(logs, learned)]
    sound = [i + 1 for i, symbol in enumerate(text) if symbol not in " ˈ,."]
    milliseconds = [25 * abs(math.exp(logs[i]) - 1 - learned[i]) for i in sound]
    word, word_ms = [], []
    for first, last in ((0, 5), (6, 11), (13, 16), (18, 21)):
        spoken = sum(math.exp(logs[i + 1]) - 1 for i in range(first, last))
        wanted = sum(learned[i + 1] for i in range(first, last))
        word.append((math.log(1 + spoken) - math.log(1 + wanted)) ** 2)
        word_ms.append(25 * abs(spoken - wanted))
    delivery = network.delivery(features, target["frames"][None])[0]
    known, voiced = target["known"], target["voiced"].double()
    off = (delivery.semitones[0] - target["semitones"])[known].abs()
    pitch = sum(min(one, 12.0) / 3 for one in off.tolist())
    chance = delivery.voiced[0].double().sigmoid()
    voicing = -(voiced * chance.log() + (1 - voiced) * (1 - chance).log()).sum()
    louder = (delivery.energy[0] - target["energy"]).abs()
    energy = (louder / 5.8).square().sum()
    plain = read_words(words, read_given)
    ids = decoder._ids(plain.text)[None]
    plain_mask = torch.ones_like(ids, dtype=torch.bool)
    at_ends = network.features(ids, torch.tensor([plain.symbol_owners()]), plain_mask, batch.vectors, batch.speaker)[0]
    # the first word has no pause, the second a mark, the third a pause; the last ends the text. Places: i, then o
    logits = network.pauses(at_ends[[5, 16]])
    pause = (1 + logits[0].exp()).log() + (1 + (-logits[1]).exp()).log()
    by_hand = {
        "duration_loss": (sum(duration), len(text) + 2),
        "duration_ms": (sum(milliseconds), len(sound)),
        "word_loss": (sum(word), 4),
        "word_ms": (sum(word_ms), 4),
        "words_within_50_ms": (sum(one <= 50 for one in word_ms), 4),
        "pitch_loss": (pitch, int(known.sum())),
        "pitch_semitones": (off.sum().item(), int(known.sum())),
        "voiced_loss": (voicing.item(), len(voiced)),
        "energy_loss": (energy.item(), len(louder)),
        "energy_decibels": (louder.sum().item() / 2 * 20 / math.log(10), len(louder)),
        "pause_loss": (pause.item(), 2),
        "pauses_found": (float(logits[1] > 0), 1),
        "pauses_invented": (float(logits[0] > 0), 1),
    }
    for name, expected in by_hand.items():
        assert found.parts[name] == pytest.approx(expected, rel=1e-4), name
    total = sum(duration) + 2 * sum(word) + (pitch + voicing.item() + energy.item()) / 4 + pause.item()
    assert found.total.item() == pytest.approx(total, rel=1e-4) and found.count == len(text) + 2
    pair = torch.stack([delivery.energy[0], target["energy"]])
    assert found.parts["energy_correlation"] == (pytest.approx(float(pair.corrcoef()[0, 1]), abs=1e-5), 1)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_a_batch_is_its_items_alone(with_vectors):
    decoder, targets = tiny_decoder(), all_targets()
    together = decoder.loss(make_batch(TEXTS, with_vectors), targets)
    alone = [decoder.loss(make_batch([text], with_vectors), [one]) for text, one in zip(TEXTS, targets)]
    torch.testing.assert_close(together.total, torch.stack([one.total for one in alone]).sum())
    assert together.count == sum(one.count for one in alone)
    for name, (value, count) in together.parts.items():
        assert value == pytest.approx(sum(one.parts[name][0] for one in alone), rel=1e-4, abs=1e-4), name
        assert count == sum(one.parts[name][1] for one in alone)


def test_gradients_reach_vectors_and_what_learns_alone():
    decoder = tiny_decoder(trained=False).train()
    batch = make_batch(TEXTS)
    assert batch.vectors is not None
    vectors = batch.vectors.requires_grad_()
    decoder.loss(batch._replace(vectors=vectors), all_targets()).total.backward()
    assert vectors.grad is not None and torch.equal((vectors.grad.abs().sum(-1) > 0), batch.mask)
    for part in (decoder.network.balance, decoder.network.from_speaker.weight, decoder.network.predictor.head.weight):
        assert part.grad is not None and bool(part.grad.any())
    assert not any(name.startswith("text.") for name, one in decoder.named_parameters() if one.requires_grad)
    assert all(one.grad is None for one in decoder.voice.parameters())


def test_training_teaches_what_the_vectors_say():
    """One word is long or short, high or low, by its vector alone; text and speaker are the same."""
    decoder = tiny_decoder(trained=False, dropout=0.0).train()
    words = ["tˈadi", "bˈena", "sˈo"]
    targets, vectors = [], []
    for sign in (1, -1):
        target = make_targets(words, 7)
        own = target["owners"] == 1
        target["frames"] = torch.where(own, 4 + 2 * sign, 4)
        size = 2 * int(target["frames"].sum())
        place = own.repeat_interleave(2 * target["frames"])
        target |= {key: torch.ones(size, dtype=torch.bool) for key in ("known", "voiced")}
        target |= {"semitones": 4.0 * sign * place, "energy": torch.full((size,), 3.0)}
        targets.append(target)
        vectors.append(
            torch.stack([torch.zeros(WORD_DIM), sign * torch.linspace(-1, 1, WORD_DIM), torch.zeros(WORD_DIM)])
        )
    batch = make_batch([words, words])._replace(vectors=torch.stack(vectors))
    adam = torch.optim.Adam([one for one in decoder.parameters() if one.requires_grad], lr=0.02)
    for _ in range(100):
        adam.zero_grad()
        found = decoder.loss(batch, targets)
        (found.total / found.count).backward()
        adam.step()
    means = {name: value / max(count, 1) for name, (value, count) in found.parts.items()}
    assert means["duration_ms"] < 15 and means["pitch_semitones"] < 0.8
    text_only = decoder.loss(batch._replace(vectors=None), targets).parts["duration_ms"]
    assert text_only[0] / text_only[1] > 20


def test_words_are_spoken_with_their_times():
    decoder = tiny_decoder()
    words = [*WORDS, "—", "dˈa"]
    decoder.network.pause.bias.data.fill_(-100)
    spoken = decoder.speak(words, vectors_of(6), speaker(pitch=4.8))
    assert [word.word for word in spoken.words] == words
    assert len(spoken.waveform) % 100 == 0 and spoken.waveform.abs().max() <= 1
    edges = [edge for word in spoken.words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[-1] <= len(spoken.waveform) / decoder.sample_rate + 1e-6
    assert spoken.words[4].start == spoken.words[4].end == spoken.words[3].end
    again = decoder.speak(words, vectors_of(6), speaker(pitch=4.8), seed=9)
    assert torch.equal(again.waveform, spoken.waveform) and again.words == spoken.words
    other = decoder.speak(words, vectors_of(6, seed=8), speaker(pitch=4.8))
    assert other.words != spoken.words


def test_what_is_spoken_is_the_plan_through_the_voice():
    """Frames of content, F0 by the speaker's median, energy and speaker vector: by the vocoder's own function."""
    decoder = tiny_decoder()
    decoder.network.pause.bias.data.fill_(-100)
    vectors, who = vectors_of(4), speaker(pitch=4.8)
    _, frames, delivery = parts_of(decoder, WORDS, vectors)
    f0 = (math.exp(4.8) * 2 ** (delivery.semitones.clamp(-24, 24) / 12)).clamp(60, 500) * (delivery.voiced > 0)
    content = decoder.text(decoder._ids(read_words(WORDS, read_given).text)[None])
    repeated, prosody = content.repeat_interleave(2 * frames, 1), Prosody(f0, delivery.energy)
    expected = tiny_voice().waveform(repeated, prosody, who.vector[None])[0].clamp(-1, 1)
    torch.testing.assert_close(decoder.speak(WORDS, vectors, who).waveform, expected, atol=1e-4, rtol=1e-3)


def test_a_speaker_without_pitch_has_that_of_the_vector():
    decoder, voice = tiny_decoder(), tiny_voice()
    vector = speaker().vector
    usual = voice.pitch_of_vector(vector)
    found = decoder.speak(WORDS, None, Speaker(vector, None)).waveform
    assert torch.equal(found, decoder.speak(WORDS, None, Speaker(vector, usual.detach())).waveform)
    higher = decoder.speak(WORDS, None, Speaker(vector, usual.detach() + 0.5)).waveform
    assert len(higher) == len(found) and not torch.equal(higher, found)


def test_its_own_voice_ignores_the_speaker():
    decoder = tiny_decoder(own_voice=True, trained=False)
    assert decoder.sample_rate == 24_000
    assert torch.equal(
        decoder.speak(WORDS, None, speaker(1, 4.8)).waveform, decoder.speak(WORDS, None, speaker(2, 5.5)).waveform
    )


def test_pauses_are_put_where_the_vectors_ask_for_them():
    decoder = tiny_decoder()
    decoder.network.pause.bias.data.fill_(-100)
    without = decoder.speak(WORDS, vectors_of(4), speaker(pitch=4.8))
    decoder.network.pause.bias.data.fill_(100)
    with_pauses = decoder.speak(WORDS, vectors_of(4), speaker(pitch=4.8))
    read = read_words(WORDS, read_given)
    expected = parts_of(decoder, [f"{word.strip(',')}," for word in WORDS[:-1]] + WORDS[-1:], vectors_of(4))[1]
    assert len(read.spoken) == 4
    assert len(with_pauses.waveform) == 2 * 100 * int(expected.sum()) != len(without.waveform)


def test_changes_act_on_their_word():
    decoder = tiny_decoder()
    decoder.network.pause.bias.data.fill_(-100)
    who, vectors = speaker(pitch=4.8), vectors_of(4)
    plain = decoder.speak(WORDS, vectors, who)
    longer = decoder.speak(WORDS, vectors, who, {1: WordChange(stretch=2.0)})
    lengths = [[word.end - word.start for word in spoken.words] for spoken in (plain, longer)]
    assert lengths[1][1] == pytest.approx(2 * lengths[0][1], abs=0.03)
    assert [round(one, 6) for one in lengths[1][:1] + lengths[1][2:]] == [
        round(one, 6) for one in lengths[0][:1] + lengths[0][2:]
    ]
    grown = (len(longer.waveform) - len(plain.waveform)) / decoder.sample_rate
    assert grown == pytest.approx(lengths[1][1] - lengths[0][1])
    for change in (WordChange(semitones=5.0), WordChange(decibels=6.0)):
        moved = decoder.speak(WORDS, vectors, who, {1: change})
        assert moved.words == plain.words
        differs = torch.nonzero((moved.waveform - plain.waveform).abs() > 1e-6)[:, 0] / decoder.sample_rate
        assert plain.words[1].start - 0.15 < float(differs.min()) < plain.words[1].end
    unchanged = decoder.speak(WORDS, vectors, who, {1: WordChange()})
    assert torch.equal(unchanged.waveform, plain.waveform)


def test_semitones_and_decibels_reach_the_voice(monkeypatch):
    decoder = tiny_decoder()
    given = []
    forward = type(decoder.voice.decoder).forward

    def listen(module, content, f0, energy, speaker):
        given.append((f0[0], energy[0]))
        return forward(module, content, f0, energy, speaker)

    monkeypatch.setattr(type(decoder.voice.decoder), "forward", listen)
    plain = decoder.speak(WORDS, vectors_of(4), speaker(pitch=4.8))
    decoder.speak(WORDS, vectors_of(4), speaker(pitch=4.8), {2: WordChange(semitones=3.0, decibels=6.0)})
    (f0, energy), (moved_f0, moved_energy) = given
    word = plain.words[2]
    inside = slice(round(80 * word.start) + 2, round(80 * word.end) - 2)
    away = [*range(round(80 * word.start) - 2), *range(round(80 * word.end) + 2, len(f0))]
    assert inside.stop - inside.start > 2
    free = (f0[inside] > 60) & (moved_f0[inside] < 500)
    torch.testing.assert_close(moved_f0[inside][free], f0[inside][free] * 2 ** (3 / 12))
    torch.testing.assert_close(moved_energy[inside], energy[inside] + 6 * ENERGY_PER_DECIBEL)
    assert torch.equal(moved_f0[away], f0[away]) and torch.equal(moved_energy[away], energy[away])


def test_long_texts_are_spoken_in_parts():
    decoder = tiny_decoder()
    words = ["tˈadi", "bˈena,"] * 50
    spoken = decoder.speak(words, vectors_of(100), speaker(pitch=4.8))
    edges = [edge for word in spoken.words for edge in (word.start, word.end)]
    assert len(spoken.words) == 100 and edges == sorted(edges)
    assert edges[-1] <= len(spoken.waveform) / decoder.sample_rate + 1e-6


def test_a_saved_decoder_speaks_as_before(tmp_path):
    tiny_voice().save_pretrained(tmp_path / "voice")
    decoder = tiny_decoder()
    decoder.config = replace(decoder.config, voice=str(tmp_path / "voice"))
    assert not any(name.startswith("voice") for name in decoder.state_dict())
    other = restore_decoder(
        "prosody", decoder.saved_config(), {name: one.clone() for name, one in decoder.state_dict().items()}
    )
    spoken, again = (one.speak(WORDS, vectors_of(4), speaker()) for one in (decoder, other))
    assert torch.equal(spoken.waveform, again.waveform) and spoken.words == again.words
    assert other.targets_key() == decoder.targets_key()
    with pytest.raises(AssetError, match="not the weights of this prosody decoder"):
        restore_decoder("prosody", decoder.saved_config(), {})


def test_a_recipe_builds_it_from_pretrained_weights(tmp_path, monkeypatch):
    tiny_voice().save_pretrained(tmp_path / "voice")
    monkeypatch.setattr(TextToSpeech, "from_pretrained", classmethod(lambda cls: tiny_model()))
    network = ProsodyNetworkConfig(speaker_dim=SPEAKER_DIM)
    reader = WordTextTokenizer(text_tokenizer())
    config = ProsodyDecoderConfig(phonemizer="given", voice=str(tmp_path / "voice"), network=network)
    assert len(config.build(WORD_DIM, reader).speak(WORDS, None, speaker()).words) == 4
    with pytest.raises(ConfigError, match="reads speaker vectors of length 6, but"):
        replace(config, network=ProsodyNetworkConfig()).build(WORD_DIM, reader)


def test_what_does_not_fit_is_refused():
    decoder = tiny_decoder()
    with pytest.raises(ConfigError, match=r"shape \(3, 10\) for 4 words"):
        decoder.speak(WORDS, vectors_of(3), speaker())
    with pytest.raises(ConfigError, match="this decoder reads 6 numbers"):
        decoder.speak(WORDS, None, Speaker(torch.zeros(5), None))
    with pytest.raises(ConfigError, match="names word 4, but there are 4 words"):
        decoder.speak(WORDS, None, speaker(), {4: WordChange(stretch=2)})
    with pytest.raises(ConfigError, match="holds no word"):
        decoder.speak(["...", "—"], None, speaker())
