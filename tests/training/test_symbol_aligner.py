"""Phonemes of recordings by a front end: the best path against every path, and targets in their places."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import make_tiny_tokenizer
from vocable.errors import AlignmentError, ConfigError
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.phonemes import open_phonemizer
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.training.phone_targets import PhoneTargets
from vocable.training.symbol_aligner import SymbolAligner, best_path
from vocable.types import Utterance, Word

SYMBOLS = {symbol: number + 1 for number, symbol in enumerate("abdefiklmnost ˈ,.")}


@pytest.fixture
def model() -> TextToSpeech:
    torch.manual_seed(0)
    decoder = SourceFilterConfig(content_dim=8, dim=8, hidden_dim=16, num_layers=1)
    return TextToSpeech(TextToSpeechConfig(num_symbols=20, prosody_dim=8, decoder=decoder), SYMBOLS).eval()


def every_path(log_probabilities: np.ndarray, costs: list[float | None]) -> tuple[float, list[tuple[int, ...]]]:
    """Score of the best path and the frames of each state in it, by trying every division of the frames."""
    num_frames, num_states = log_probabilities.shape
    best, ways = -np.inf, []
    for counts in itertools.product(range(num_frames + 1), repeat=num_states):
        if sum(counts) != num_frames or any(not n and cost is None for n, cost in zip(counts, costs)):
            continue
        path = [state for state, n in enumerate(counts) for _ in range(n)]
        score = sum(log_probabilities[frame, state] for frame, state in enumerate(path))
        score -= sum(cost for n, cost in zip(counts, costs) if not n and cost is not None)
        if score > best + 1e-9:
            best, ways = score, []
        if abs(score - best) <= 1e-9:
            ways.append(counts)
    return best, ways


@pytest.mark.parametrize("seed", range(12))
def test_the_best_path_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    num_states = int(rng.integers(3, 6))
    costs: list[float | None] = [
        None,
        *(None if rng.random() < 0.5 else float(rng.random()) for _ in range(num_states - 2)),
        None,
    ]
    scores = np.log(rng.dirichlet(np.ones(num_states), size=6))
    found = best_path(scores, costs)
    assert found is not None
    frames, mean = found
    best, ways = every_path(scores, costs)
    assert mean * 6 == pytest.approx(best) and tuple(frames) in ways


def test_too_few_frames_have_no_path():
    assert best_path(np.zeros((2, 3)), [None, None, None]) is None
    assert best_path(np.zeros((2, 3)), [None, 0.1, None]) is not None


def make_utterance(make_speechlike, tmp_path: Path, text: str) -> Utterance:
    import soundfile

    path = tmp_path / "spoken.wav"
    soundfile.write(path, make_speechlike(32_000).numpy() * 0.3, 16_000)
    return Utterance(id="spoken", audio=path, duration=2.0, text=text)


def make_aligner(model: TextToSpeech, **settings) -> SymbolAligner:
    tokenizer = make_tiny_tokenizer()
    config = VocoderConfig(
        codebook_size=8,
        token_frame_rate=tokenizer.frame_rate or 50.0,
        frontend=FrontendConfig(dim=8, hidden_dim=16, token_layers=1, frame_layers=1, num_symbols=20)
        if not settings
        else FrontendConfig(**settings),
        decoder=SourceFilterConfig(content_dim=8, dim=8, hidden_dim=16, num_layers=1),
        collapsed=False,
    )
    torch.manual_seed(1)
    return SymbolAligner(UnitVocoder(config).eval(), tokenizer, model, open_phonemizer("given"))


def test_aligned_speech_has_words_phones_and_symbols(model, make_speechlike, tmp_path):
    utterance = make_utterance(make_speechlike, tmp_path, "tˈadi bˈena, sˈo.")
    aligned, score = make_aligner(model).align(utterance)
    assert aligned.words is not None
    symbols = aligned.extra["symbols"]
    assert [word.word for word in aligned.words] == ["tˈadi", "bˈena", "sˈo"]
    written = symbols["text"].replace(",", "")
    assert written == "tˈadi bˈena sˈo." and symbols["text"].count(",") in (1, 2)  # a pause may have been found
    assert len(symbols["frames"]) == len(symbols["text"]) + 2 and sum(symbols["frames"]) == 80  # 2 s at 40 Hz
    assert score < 0
    edges = [edge for word in aligned.words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[-1] <= 2.0
    assert "".join(p["phone"] for p in aligned.extra["phones"] if p["phone"] != "sil") == "tadibenaso"
    content = PhoneTargets(model)(aligned, 160)
    assert content is not None and len(content.places) == 160
    for index, frames in enumerate(symbols["frames"]):
        assert int((content.places == index).sum()) == 2 * frames
    assert content.ids.tolist() == model.ids(symbols["text"]).tolist()
    torch.testing.assert_close(content.vectors, model.content(content.ids[None])[0])


def test_what_cannot_be_aligned_is_refused(model, make_speechlike, tmp_path):
    aligner = make_aligner(model)
    with pytest.raises(AlignmentError, match="holds no word"):
        aligner.align(make_utterance(make_speechlike, tmp_path, "..."))
    with pytest.raises(AlignmentError, match="too short for the 302 symbols"):
        aligner.align(make_utterance(make_speechlike, tmp_path, "ta" * 149 + "t"))
    with pytest.raises(ConfigError, match="tells no symbols apart"):
        make_aligner(model, dim=8, hidden_dim=16, token_layers=1, frame_layers=1)


def test_phones_with_times_give_the_content_of_their_frames(model):
    phones = [("sil", 0.0, 0.2), ("t", 0.2, 0.3), ("ˈa", 0.3, 0.5), ("d", 0.7, 0.8), ("i", 0.8, 0.9)]
    words = (Word(word="ta", start=0.2, end=0.5), Word(word="di", start=0.7, end=0.9))
    extra = {"phones": [{"phone": phone, "start": start, "end": end} for phone, start, end in phones]}
    utterance = Utterance(id="x", audio=Path("x"), words=words, extra=extra)
    content = PhoneTargets(model)(utterance, 80)
    assert content is not None
    ids = {value: key for key, value in SYMBOLS.items()} | {0: "|"}
    text = "".join(ids[int(number)] for number in content.ids)
    assert text == "|, tˈa, di.|"
    # a frame holds what sounded 50 ms before its middle
    heard = [text[int(place)] for place in content.places]
    for second, symbol in (
        (0.03, "|"),
        (0.1, ","),
        (0.3, "t"),
        (0.4, "a"),
        (0.65, ","),
        (0.8, "d"),
        (0.9, "i"),
        (0.99, "|"),
    ):
        assert heard[int(second * 80)] == symbol, second


def test_speech_without_phones_or_of_another_alphabet_has_no_content(model):
    assert PhoneTargets(model)(Utterance(id="x", audio=Path("x")), 10) is None
    foreign = {"phones": [{"phone": "ʘ", "start": 0.0, "end": 1.0}]}
    assert PhoneTargets(model)(Utterance(id="x", audio=Path("x"), extra=foreign), 10) is None
