"""The whole way with tiny random models: prompts in, transcripts out, and nothing is made twice."""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.continuation import (
    ANCHORS,
    ContinuationBenchmark,
    ContinuationConfig,
    choose_prompts,
    derangement,
    random_units,
    stable_seed,
)
from vocable.evaluation.judges import Judges
from vocable.evaluation.metrics.continuations import continuation_notes, measure_transcripts, vert_score
from vocable.evaluation.metrics.mos import DistillMOS
from vocable.evaluation.metrics.perplexity import text_nll
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import run_benchmark
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Reply, Segment
from vocable.lm.text_lm import load_text_lm
from vocable.lm.unit_lm import UnitLM
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.types import SpeechTokens, Utterance

PLACES = {"model": Path("none"), "manifest": Path("none")}
SHORT = ContinuationConfig(
    **PLACES,
    prompt_seconds=0.2,
    min_seconds=0.45,
    generation=GenerationConfig(max_seconds=0.4, batch_size=2),
    num_resamples=50,
    num_examples=2,
)


def evaluate_continuation(utterances, lm, judges, text_lm, folder, config, on_progress=None):
    opened = {"utterances": utterances, "lm": lm, "judges": judges, "text_lm": text_lm}
    return run_benchmark(ContinuationBenchmark(config, opened, on_progress), folder, overwrite=True)


class Parrot(UnitLM):
    """Continues with the first units of its prompt, turned by the seed; counts what it is asked."""

    fingerprint = "lm-1"

    def __init__(self, tokenizer) -> None:
        vocabulary = UnitVocabulary(codebook_size=8)
        layout = UnitsLayout(vocabulary=vocabulary).card()
        card = LMCard(vocabulary=vocabulary, layout=layout, tokenizer_fingerprint="", unit_seconds=(0.02,) * 8)
        super().__init__(LoadedLM(None, card), tokenizer=tokenizer, name="tiny")
        self.batches: list[int] = []

    def continue_(self, prompts, config, *, seeds, **_):
        self.batches.append(len(prompts))
        return [self.reply(prompt[0].tokens, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def reply(self, prompt, seed):
        units = torch.cat([prompt.units[:4], torch.tensor([seed % 8])]).long()
        return Reply((Segment(tokens=SpeechTokens(codes=units[None])),), 0.1, "eos", units, units)


class Buzzer:
    """A vocoder of 20 ms a unit, at a pitch of its own: the neural one takes seconds."""

    sample_rate = 16_000
    tokenizer_fingerprint = None
    voices = ()

    def synthesize(self, tokens, voice=None):
        time = torch.arange(320) / 16_000
        return [torch.cat([0.1 * torch.sin(600 * (1 + u) * time) for u in item.units]) for item in tokens]


@pytest.fixture
def lm(tiny_tokenizer) -> Parrot:
    tiny_tokenizer.synthesizer = Buzzer()
    return Parrot(tiny_tokenizer)


@pytest.fixture(scope="module")
def text_lm(tmp_path_factory):
    return load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("lm"))))


@pytest.fixture
def quick_mos(monkeypatch) -> DistillMOS:
    """A quality judge that only measures loudness: the network takes a second of CPU per window."""
    judge = DistillMOS().eval()
    monkeypatch.setattr(judge, "forward", lambda windows: 1 + windows.abs().mean(1))
    return judge


class CountingTranscriber:
    """Says how long a sound is."""

    name, sample_rate = "test/counter", 16_000
    conventions = {"transcriber": "test/counter"}  # noqa: RUF012
    weights = {"name": "test/counter"}  # noqa: RUF012

    def __init__(self) -> None:
        self.num_heard = 0

    def transcribe(self, waveforms):
        self.num_heard += len(waveforms)
        return [f"Well, {w.numel() // 160} and {w.numel() // 160}." for w in waveforms]


def test_the_whole_way_and_the_way_again(lm, text_lm, quick_mos, make_utterances, tmp_path):
    utterances = make_utterances([None] * 5)
    judges, steps = Judges(CountingTranscriber()), Counter()
    evaluate_continuation(
        utterances, lm, judges, text_lm, tmp_path, SHORT, lambda step, count, total: steps.update({step: count})
    )
    assert steps == {"Encoding prompts": 5, "Generating": 5, "Listening": 5} and lm.batches == [2, 2, 1]
    result = load_result(tmp_path / "continuation.json")
    assert len(result.items) == 5 and set(result.conventions["anchors"]) == set(ANCHORS)
    item = result.items[0]
    assert item["prompt_transcript"] == "Well, 20 and 20."  # 0.2 s
    assert item["true_transcript"] == f"Well, {(8000 - 3200) // 160} and 30."  # what is left of 0.5 s
    assert item["copy_copy_rate"] is not None and item["stopped"] == "eos" and item["num_units"] >= 2

    # each number of the summary is that of its items
    nlls = [item["nll_alone"] / item["tokens_alone"] for item in result.items if item["nll_alone"] is not None]
    assert result.scores["genppl_geometric"].value == pytest.approx(math.exp(sum(nlls) / len(nlls)))
    again = text_nll(text_lm, [item["true_transcript"] for item in result.items])
    weighted = sum(score.nll for score in again) / sum(score.num_tokens for score in again)
    assert result.scores["genppl_token_weighted/true"].value == pytest.approx(math.exp(weighted), rel=1e-5)
    for anchor in ANCHORS:
        assert (
            f"auto_bleu2_slam/{anchor}" in result.scores and f"genppl_with_prompt_geometric/{anchor}" in result.scores
        )
    assert result.fingerprints["lm"] == "lm-1" and result.weights["text_lm"]["sha256"]

    # the same again: nothing is generated or transcribed; other metrics are added to what was kept
    heard = judges.transcriber.num_heard
    more = evaluate_continuation(utterances, lm, judges._replace(mos=quick_mos), None, tmp_path, SHORT)
    assert lm.batches == [2, 2, 1] and judges.transcriber.num_heard == heard
    assert "genppl_geometric" not in more.scores and more.scores["mos"].num_items == 5
    assert [i["transcript"] for i in more.items] == [i["transcript"] for i in result.items]
    assert more.measurements["made_in_this_run"].get("continuations generated", 0) == 0

    # another language model: only its own continuations are made
    lm.fingerprint = "lm-2"
    other = evaluate_continuation(utterances, lm, judges, None, tmp_path, SHORT)
    assert lm.batches == [2, 2, 1] * 2
    assert other.measurements["made_in_this_run"]["sounds transcribed"] == 0  # the parrot said the same


def test_a_run_that_was_stopped_goes_on(lm, make_utterances, tmp_path):
    class Stops(Parrot):
        def continue_(self, prompts, config, **settings):
            if len(self.batches) == 1:
                raise KeyboardInterrupt
            return super().continue_(prompts, config, **settings)

    utterances, judges = make_utterances([None] * 5), Judges(CountingTranscriber())
    with pytest.raises(KeyboardInterrupt):
        evaluate_continuation(utterances, Stops(lm.tokenizer), judges, None, tmp_path, SHORT)
    evaluate_continuation(utterances, lm, judges, None, tmp_path, SHORT)
    assert lm.batches == [2, 1]


def test_a_prompt_has_its_own_seed_whatever_else_is_continued(lm, make_utterances, tmp_path):
    utterances, judges = make_utterances([None] * 4), Judges(CountingTranscriber())
    few = evaluate_continuation(utterances[2:3], lm, judges, None, tmp_path / "a", SHORT).items
    many = evaluate_continuation(utterances, lm, judges, None, tmp_path / "b", SHORT).items
    assert few[0]["id"] == many[2]["id"] and few[0]["transcript"] == many[2]["transcript"]
    assert stable_seed(0, "a") != stable_seed(1, "a") and stable_seed(0, "a") == stable_seed(0, "a")


def test_no_units_and_no_words_are_counted(lm, text_lm, make_utterances, tmp_path):
    class Silent(Parrot):
        def reply(self, prompt, seed):
            return Reply((), 0.0, "eos", prompt.units, prompt.units[:0])

    judges = Judges(CountingTranscriber())
    evaluate_continuation(make_utterances([None] * 3), Silent(lm.tokenizer), judges, text_lm, tmp_path, SHORT)
    result = load_result(tmp_path / "continuation.json")
    assert result.scores["empty"].value == 1 and result.scores["seconds"].value == 0
    assert result.excluded["model: no word heard"] == 3
    assert "genppl_geometric" not in result.scores and "genppl_geometric/true" in result.scores
    assert any("100%" in note for note in result.notes)


def test_one_prompt_through_a_neural_vocoder(lm, text_lm, tiny_vocoder, make_utterances, tmp_path):
    lm.tokenizer.synthesizer = tiny_vocoder
    result = evaluate_continuation(make_utterances([None]), lm, Judges(CountingTranscriber()), text_lm, tmp_path, SHORT)
    assert result.scores["genppl_geometric"].low is None  # no spread from one
    assert not any(name.startswith("self_bleu") or "shuffled" in name for name in result.scores)
    assert any("Only 1 prompts" in note for note in result.notes)
    assert len(result.fingerprints["vocoder"]) == 16


def test_the_page(lm, make_utterances, tmp_path):
    class Rude(CountingTranscriber):
        def transcribe(self, waveforms):
            return ["<script>alert(1)</script>" for _ in waveforms]

    evaluate_continuation(make_utterances([None] * 3), lm, Judges(Rude()), None, tmp_path, SHORT)
    page = (tmp_path / "continuation.html").read_text()
    assert page.count('<div class="item">') == 2 and "<script>" not in page and "&lt;script&gt;" in page
    assert page.count("data:audio/ogg;base64,") == 2 * 6
    assert "copy_rate" in page and "anchors, measured" in page


def test_prompts_that_do_not_fit_are_counted(tmp_path, make_speechlike):
    path = tmp_path / "a.wav"
    write_audio(path, make_speechlike(16_000), 16_000)
    broken = tmp_path / "b.wav"
    broken.write_bytes(b"no sound")
    utterances = [
        Utterance(id="long", audio=path),
        Utterance(id="short", audio=path, duration=0.5),
        Utterance(id="french", audio=path, language="fr"),
        Utterance(id="broken", audio=broken),
    ]
    chosen, left_out = choose_prompts(utterances, None, 0.6, "en", 0)
    assert [(u.id, u.duration) for u in chosen] == [("long", 1.0)]
    assert left_out == {"not longer than 0.6 s": 1, "language is not en": 1, "unreadable audio": 1}
    with pytest.raises(ManifestError, match=r"None of 1 utterances can be a prompt \(not longer than 6 s: 1\)"):
        choose_prompts(utterances[:1], None, 6.0, "en", 0)


def test_settings_are_checked(lm, tiny_transcriber, make_utterances, tmp_path):
    with pytest.raises(ConfigError, match="prompt must be above 0 and shorter"):
        ContinuationConfig(**PLACES, prompt_seconds=6.0)
    with pytest.raises(ValueError, match="Did you mean 'shuffled'"):
        ContinuationConfig(**PLACES, anchors=("shufled",))
    tiny_transcriber.name = "somebody/log-mel"
    with pytest.raises(ConfigError, match="judge its own features"):
        evaluate_continuation(make_utterances([None]), lm, Judges(tiny_transcriber), None, tmp_path, SHORT)


def test_every_place_gets_another():
    for count in (2, 3, 10):
        other = derangement(count, seed=0)
        assert sorted(other) == list(range(count)) and all(place != there for place, there in enumerate(other))
    assert derangement(1, 0) == []


def test_random_units_have_the_length_and_the_frequencies():
    counts = torch.tensor([0, 30, 60, 10])
    seconds = torch.tensor([1.0, 0.02, 0.05, 0.1])
    units = random_units(counts, seconds, 60.0, collapsed=False, generator=torch.Generator().manual_seed(0))
    assert 60 <= float(seconds[units].sum()) < 60.1
    found = torch.bincount(units, minlength=4) / len(units)
    torch.testing.assert_close(found, counts / 100, atol=0.04, rtol=0)
    collapsed = random_units(counts, seconds, 5.0, collapsed=True, generator=torch.Generator().manual_seed(0))
    assert (collapsed[1:] != collapsed[:-1]).all() and 5 <= float(seconds[collapsed].sum()) < 5.1
    one = random_units(torch.tensor([3, 0]), torch.tensor([0.1, 0.1]), 0.3, True, torch.Generator())
    assert one.tolist() == [0, 0, 0]


def test_measures_of_texts_by_hand():
    rows = measure_transcripts(["the cat sat", "he said"], ["The cat sat, the cat!", "..."], None)
    words = ["the", "cat", "sat", "the", "cat"]
    assert rows[0]["num_words"] == len(words) and rows[0]["empty"] == 0
    assert rows[0]["copy_rate"] == pytest.approx(3 / 5)
    assert rows[0]["auto_bleu2_arithmetic"] == pytest.approx((4 / 5 + 2 / 4) / 2)
    assert rows[0]["auto_bleu2_slam"] == 0  # The is not the, and a comma stands in between
    assert rows[0]["self_bleu2_geometric"] is None  # nobody to compare with
    assert rows[1]["empty"] == 1 and rows[1]["auto_bleu2_slam"] is None and rows[1]["copy_rate"] is None


def test_vert_of_means():
    score = vert_score([0.2, 0.4], [0.1, 0.5], num_resamples=200)
    assert score.value == pytest.approx(math.sqrt(0.3 * 0.3))
    assert score.low == pytest.approx(math.sqrt(0.02)) and score.high == pytest.approx(math.sqrt(0.2))
    assert vert_score([0.2], [0.2]).low is None


def test_notes_say_what_a_perplexity_rewards(lm, text_lm, make_utterances, tmp_path):
    result = evaluate_continuation(
        make_utterances([None] * 3), lm, Judges(CountingTranscriber()), text_lm, tmp_path, SHORT
    )
    name = "genppl_with_prompt_token_weighted"
    better = {f"{name}/copy": dataclasses.replace(result.scores[f"{name}/copy"], value=1.0)}
    notes = continuation_notes(result.items, ["model", "copy"], {**result.scores, **better})
    assert any("rewards copying" in note for note in notes)
