"""The linear probe: it reads what is in the open and no more, and equals counting where counting is the best map."""

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
from vocable.errors import ConfigError
from vocable.evaluation.comparison.compare import CompareConfig, compare_results
from vocable.evaluation.probe import LinearProbe, one_hot_places
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import evaluate
from vocable.types import SpeechTokens, Stream, Utterance, Word

PHONES = ["AA", "B", "K", "sil"]
SIZES = (12, 5)
STREAM = Stream(name="semantic", codebook_sizes=SIZES, rate=50.0)
QUICK: dict[str, Any] = {"manifest": Path("a"), "test_manifest": Path("b"), "num_resamples": 20, "device": "cpu"}


def spoken(first: int, count: int, told: str, noise: float = 0.2):
    """Utterances of 40 frames, phones of 5; the first level follows phone or speaker, the second says nothing."""
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        draw = lambda size, *shape: torch.randint(0, size, shape, generator=generator)  # noqa: B023, E731
        phones, speaker = draw(4, 8), number % 3
        truth = phones.repeat_interleave(5) if told == "phone" else torch.full((40,), speaker)
        codes = 3 * truth + draw(3, 40)  # three codes each
        codes = torch.where(torch.rand(40, generator=generator) < noise, draw(12, 40), codes)
        rows = [{"phone": PHONES[p], "start": 0.1 * i, "end": 0.1 * (i + 1)} for i, p in enumerate(phones.tolist())]
        yield said(number, f"s{speaker}", phones=rows), SpeechTokens(codes=torch.stack([codes, draw(5, 40)]))


def probe(train, test, *streams: Stream, **settings: Any):
    sources = {
        name: TokenList(list(part), *(streams or (STREAM,))) for name, part in (("train", train), ("test", test))
    }
    return evaluate("probe", opened=sources, **(QUICK | settings))


def test_one_level_without_neighbours_is_counting():
    """The best linear map of one code calls each by its commonest phone in training."""
    first = Stream(name="semantic", codebook_sizes=SIZES[:1], rate=50.0)
    train, test = (
        [(u, SpeechTokens(codes=tokens.codes[:1])) for u, tokens in spoken(*numbers, "phone", 0.4)]
        for numbers in ((0, 60), (60, 10))
    )
    settings = {"target": "phone", "context_frames": 0, "ignore": ("sil",), "epochs": 60, "weight_decay": 0.0}
    result = probe(train, test, first, **settings)
    counts: dict[int, Counter[str]] = {}
    labels = [[row["phone"] for row in u.extra["phones"] for _ in range(5)] for u, _ in train]
    for (_, tokens), phones in zip(train, labels, strict=True):
        for code, phone in zip(tokens.units.tolist(), phones, strict=True):
            if phone != "sil":
                counts.setdefault(code, Counter())[phone] += 1
    everything = sum(counts.values(), Counter())
    right = frames = majority = 0
    for (u, tokens), item in zip(test, result.items, strict=True):
        phones = [row["phone"] for row in u.extra["phones"] for _ in range(5)]
        pairs = [(code, phone) for code, phone in zip(tokens.units.tolist(), phones, strict=True) if phone != "sil"]
        expected = sum(counts[code].most_common(1)[0][0] == phone for code, phone in pairs)
        assert item["frames_right"] == expected and item["num_frames"] == len(pairs)
        right, frames = right + expected, frames + len(pairs)
        majority += sum(phone == everything.most_common(1)[0][0] for _, phone in pairs)
    assert result.scores["phone_accuracy"].value == pytest.approx(right / frames)
    assert result.measurements["majority_accuracy"] == pytest.approx(majority / frames)
    assert result.measurements["num_phones"] == 3
    assert majority < right < frames


def test_content_and_voice_are_told_apart():
    told = {what: (list(spoken(0, 60, what)), list(spoken(60, 12, what))) for what in ("phone", "speaker")}
    found = {}
    for target in ("phone", "speaker"):
        for what, parts in told.items():
            found[target, what] = probe(*parts, target=target)
    phone, speaker = found["phone", "phone"], found["speaker", "speaker"]
    assert phone.scores["phone_accuracy"].value > 0.85  # type: ignore[operator]
    assert found["phone", "speaker"].scores["phone_accuracy"].value < 0.4  # type: ignore[operator]  # one in four
    assert speaker.scores["speaker_accuracy"].value == 1 and speaker.scores["speaker_accuracy"].num_speakers == 3
    assert speaker.scores["speaker_frame_accuracy"].value > 0.85  # type: ignore[operator]
    assert found["speaker", "phone"].scores["speaker_frame_accuracy"].value < 0.5  # type: ignore[operator]  # one in three
    assert {item["heard"] for item in speaker.items} == {"s0", "s1", "s2"}
    assert any(note.endswith("Leave it out: --ignore sil") for note in phone.notes)
    assert not any("ilence" in note for note in speaker.notes)
    assert speaker.measurements["train_loss"][-1] < speaker.measurements["train_loss"][0]
    settings = CompareConfig(num_resamples=50, num_permutations=50)
    compared = compare_results({"a": phone, "b": found["phone", "speaker"]}, settings)
    assert [one.measure for one in compared.differences] == ["phone_accuracy"]
    compared = compare_results({"a": speaker, "b": found["speaker", "phone"]}, settings)
    assert {one.measure for one in compared.differences} == {"speaker_accuracy", "speaker_frame_accuracy"}
    again = probe(*told["speaker"], target="speaker")
    assert again.items == speaker.items and again.measurements["train_loss"] == speaker.measurements["train_loss"]


WORDS = Stream(name="words", codebook_sizes=(8, 6), rate=None)


def worded(first: int, count: int, leak: bool):
    """Texts of ten words, whose second code is drawn; the first is the number of the word with `leak`, else drawn."""
    names = ["The", "cat,", "sat", "on", "mats!", "—"]
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randint(0, 6, (10,), generator=generator)
        codes = chosen if leak else torch.randint(0, 8, (10,), generator=generator)
        drawn = torch.randint(0, 6, (10,), generator=generator)
        words = tuple(Word(word=names[i], start=0.0, end=1.0) for i in chosen.tolist())
        spans = torch.arange(10)[:, None] + torch.tensor([0, 1])
        yield said(number, "s"), SpeechTokens(codes=torch.stack([codes, drawn]), words=words, spans=spans)


def test_words_that_leak_into_their_codes_are_read():
    settings = {"target": "word", "context_frames": 0, "ignore": ("the",)}
    leaking = probe(worded(0, 60, True), worded(60, 10, True), WORDS, **settings)
    silent = probe(worded(0, 60, False), worded(60, 10, False), WORDS, **settings)
    assert leaking.scores["word_accuracy"].value == 1
    assert silent.scores["word_accuracy"].value < 0.45  # type: ignore[operator]  # one in four
    counted = sum(word.word not in ("The", "—") for _, tokens in worded(60, 10, True) for word in tokens.words or ())
    assert leaking.measurements["num_words"] == 4 and leaking.measurements["num_test_frames"] == counted
    with pytest.raises(ConfigError, match="do not say which word each is of"):
        probe(spoken(0, 6, "phone"), spoken(6, 2, "phone"), target="word")


def test_neighbours_are_read_too():
    """The code of a phone comes five frames late: only a probe that sees that far can know."""

    def pairs(first: int, count: int):
        for utterance, tokens in spoken(first, count, "phone", 0.0):
            runs = tokens.codes[0] // 3  # the phone itself
            shifted = SpeechTokens(codes=torch.stack([torch.roll(runs, 5), tokens.codes[1]]))
            yield utterance, shifted

    near, far = (probe(pairs(0, 40), pairs(40, 8), target="phone", context_frames=c) for c in (0, 5))
    assert far.scores["phone_accuracy"].value > 0.85  # type: ignore[operator]  # the first phone follows the last one
    assert near.scores["phone_accuracy"].value < 0.5  # type: ignore[operator]


def test_places_by_hand():
    codes = torch.tensor([[0, 2, 1], [1, 0, 1]])  # of 3 and 2 codes: places 0 to 4, and 5 where there is no frame
    assert one_hot_places(codes, (3, 2), 0).T.tolist() == [[0, 4], [2, 3], [1, 4]]
    before_at_after = [[5, 0, 2, 5, 4, 3], [0, 2, 1, 4, 3, 4], [2, 1, 5, 3, 4, 5]]
    expected = [[place + 6 * (i % 3) for i, place in enumerate(row)] for row in before_at_after]
    assert one_hot_places(codes, (3, 2), 1).T.tolist() == expected


def test_the_map_is_linear_in_one_hot_vectors():
    model = LinearProbe(20, 3)
    torch.nn.init.normal_(model.rows.weight)
    torch.nn.init.normal_(model.bias)
    places = torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(places.T, 20).sum(1).float()
    torch.testing.assert_close(model(places), one_hot @ model.rows.weight + model.bias)


def test_what_cannot_be_asked_is_counted():
    train, test = list(spoken(0, 9, "speaker")), list(spoken(9, 3, "speaker"))
    tokens = test[0][1]
    odd = [(said(50, "stranger"), tokens), (said(51, None), tokens)]
    result = probe(train, [*test, *odd])
    assert len(result.items) == 3
    assert result.excluded == {"test: speaker not in training": 1, "test: no speaker": 1}
    with pytest.raises(
        ConfigError, match=r"9 utterances to train on name 3 speakers, and 0 are there.*not in training: 1"
    ):
        probe(train, odd[:1])
    with pytest.raises(ConfigError, match=r"0 utterances to train on name 0 phones.*train: no phone: 1"):
        probe(odd[:1], test, target="phone")
    with pytest.raises(ConfigError, match="1 utterances are in both manifests"):
        probe(train, train[:1])
    words = Stream(name="words", codebook_sizes=SIZES, rate=None)
    with pytest.raises(ConfigError, match="context_frames is -1"):
        probe(train, test, context_frames=-1)
    assert probe(train, test, words).items  # speakers need no frames


def test_phones_that_training_does_not_have_are_wrong():
    train, test = list(spoken(0, 20, "phone")), list(spoken(20, 2, "phone"))
    for utterance, _ in test:
        for row in utterance.extra["phones"]:
            row["phone"] = "new"
    assert probe(train, test, target="phone").scores["phone_accuracy"].value == 0


def test_streams_of_recordings_by_the_command(tmp_path, capsys):
    """Two speakers as loud as each other, at two pitches: the tones say who it is, their loudness does not."""
    utterances = []
    for number in range(12):
        time, generator = torch.arange(16_000) / 16_000, torch.Generator().manual_seed(number)
        pitch = (200, 400)[number % 2] * (1 + 0.1 * torch.rand(1, generator=generator))
        loudness = 0.1 + 0.4 * torch.rand(25, generator=generator).repeat_interleave(640)
        write_audio(tmp_path / f"{number}.wav", loudness * torch.sin(2 * torch.pi * pitch * time), 16_000)
        utterances.append(Utterance(id=f"u{number}", audio=tmp_path / f"{number}.wav", speaker=f"s{number % 2}"))
    write_manifest(utterances[:8], tmp_path / "train.jsonl")
    write_manifest(utterances[8:], tmp_path / "test.jsonl")
    SineCodec.make().save_pretrained(tmp_path / "codec")
    places = {
        "manifest": tmp_path / "train.jsonl",
        "test-manifest": tmp_path / "test.jsonl",
        "tokenizer": tmp_path / "codec",
    }
    words = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    words = ["evaluate", "probe", *words, "--num-resamples", "20"]
    value = {}
    for stream in ("semantic", "acoustic"):
        out = tmp_path / stream
        assert main([*words, "--stream", stream, "--out", str(out)]) == 0
        result = load_result(out / "probe.json")
        value[stream] = result.scores["speaker_frame_accuracy"].value
        assert result.fingerprints["tokenizer"].endswith(f"-{stream}")
    assert value["semantic"] == 1 and value["acoustic"] < 0.8  # type: ignore[operator]
    assert main([*words, "--out", str(tmp_path / "none")]) != 0
    assert "has several streams (semantic, acoustic)" in capsys.readouterr().err
