"""The quickstart on synthetic recordings, from small random models to the page."""

import base64
import html
import itertools
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jiwer
import pytest
import torch

from tiny import save_tiny_lm, save_tiny_recogniser, write_speech
from vocable.audio.io import read_audio
from vocable.audio.manifest import Rejections, read_manifest
from vocable.audio.writing import write_audio
from vocable.cli import find_commands, main
from vocable.config import config_to_dict, load_config
from vocable.evaluation.metrics.wer import normalise_english
from vocable.features import EncoderConfig
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.ngram import NgramCounts
from vocable.lm.surgery import UnitLMConfig, build_lm
from vocable.quickstart import hearing, plots, run, training
from vocable.quickstart.data import choose_recordings, in_turns, load_recordings, load_splits
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.synthesis.vocoder import UnitVocoder
from vocable.systems.twist import TwistConfig
from vocable.tokens.tokenizer import load_tokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer
from vocable.types import Utterance

HEARD = 2
"""Recordings that are listened to here, in place of six."""
TEXTS = ["the cat sat", "on mats by rivers", "hills far away and rivers"]


def quickstart(*words: object) -> str:
    """Run it; return the page."""
    assert main(["quickstart", *map(str, words)]) == 0
    out = words[words.index("--out") + 1] if "--out" in words else Path("runs") / Path(str(words[1])).stem
    return Path(str(out), "report.html").read_text(encoding="utf-8")


def sounds(page: str) -> list[bytes]:
    return [base64.b64decode(sound) for sound in re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', page)]


def text_of(page: str) -> str:
    """What a reader of the page sees."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Listen to few recordings, and draw nothing, unless asked to: both take long."""
    monkeypatch.setattr(run, "NUM_HEARD", HEARD)
    monkeypatch.setattr(hearing, "spectrogram_with_units", lambda *_: "")


@pytest.fixture
def speech(workplace, make_speechlike) -> Path:
    """Recordings of 1 to 3 s with texts, and their manifest."""
    return write_speech(workplace / "speech", make_speechlike, count=14, texts=TEXTS)


def write_clip(path: Path, waveform: torch.Tensor, sample_rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, waveform, sample_rate)
    return path


class TestFirstPart:
    def test_recordings_are_heard_three_times_and_judged(self, speech, speaker_encoder, workplace, monkeypatch):
        monkeypatch.setattr(hearing, "spectrogram_with_units", plots.spectrogram_with_units)
        save_tiny_recogniser(workplace / "openai" / "whisper-base")
        page = quickstart("--audio", speech, "--out", "run")
        assert len(sounds(page)) == HEARD * 3
        assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
        (picture,) = re.findall(r'<img alt="spectrogram with units" src="data:image/png;base64,([^"]+)">', page)
        assert base64.b64decode(picture).startswith(b"\x89PNG")
        records = [json.loads(path.read_text()) for path in sorted(Path("run/sound").glob("*/record.json"))]
        assert len(records) == HEARD and all(record["versions"] == ["original", "own", "other"] for record in records)
        for version, title in (("own", "in its own voice"), ("other", "in another voice")):
            texts = [normalise_english(record["made_of"]["utterance"][-1]) for record in records]
            transcripts = [normalise_english(record[f"{version}_transcript"]) for record in records]
            expected = 100 * jiwer.wer(texts, transcripts)
            assert re.search(rf"<td>{title}</td><td>{expected:.1f} \[", page)
        assert "vocable assets fetch distillmos" in text_of(page)  # the judge that is not there
        assert {record["other"] for record in records} <= {"anna", "ben"}

    def test_copies_last_as_long_as_recordings_and_voices_differ(self, speech, speaker_encoder, workplace):
        quickstart("--audio", speech, "--out", "run")
        for folder in Path("run/sound").iterdir():
            record = json.loads((folder / "record.json").read_text())
            seconds = record["made_of"]["utterance"][3]
            lengths = {name: len(read_audio(folder / f"{name}.mp3", 24_000).waveform) for name in record["versions"]}
            for length in lengths.values():  # MP3 frames pad both ends
                assert length / 24_000 == pytest.approx(seconds, abs=0.15)
            assert (folder / "own.mp3").read_bytes() != (folder / "other.mp3").read_bytes()

    def test_a_run_goes_on_where_it_was(self, speech, speaker_encoder, workplace, monkeypatch, capsys):
        before = quickstart("--audio", speech, "--out", "run")
        shutil.rmtree("run/sound/2")
        Path("run/report.html").unlink()
        decode, spoken = UnitTokenizer.decode, []

        def count(self, tokens, *rest):
            spoken.append(1)
            return decode(self, tokens, *rest)

        monkeypatch.setattr(UnitTokenizer, "decode", count)
        again = quickstart("--audio", speech, "--out", "run")
        assert len(spoken) == 2  # both voices of what was missing, and nothing else
        assert sounds(again) == sounds(before)
        capsys.readouterr()
        assert main(["quickstart", "--audio", str(speech), "--out", "run", "--seed", "1"]) == 2
        assert "seed: 0 -> 1" in capsys.readouterr().err
        assert main(["quickstart", "--out", "run"]) == 2
        assert "holds another run (audio:" in capsys.readouterr().err

    def test_another_vocoder_is_heard_anew(self, speech, workplace):
        before = quickstart("--audio", speech, "--out", "run")
        folder = workplace / "shipped" / "voices"
        vocoder = UnitVocoder.from_pretrained(folder)
        with torch.no_grad():
            vocoder.decoder.get_parameter(next(name for name, _ in vocoder.decoder.named_parameters())).mul_(-2)
        vocoder.save_pretrained(folder)
        assert sounds(quickstart("--audio", speech, "--out", "run")) != sounds(before)

    def test_without_judges_and_speaker_encoder_it_still_sounds(self, speech, workplace):
        page = quickstart("--audio", speech, "--out", "run")
        assert len(sounds(page)) == HEARD * 2  # the recording, and a named voice
        shown = text_of(page)
        assert "No voice was copied, which takes: vocable assets fetch resemblyzer" in shown
        assert "vocable assets fetch whisper-base distillmos resemblyzer" in shown
        assert "words wrong" not in shown

    def test_without_the_encoder_of_the_units_nothing_can_be_done(self, speech, workplace, capsys):
        path = workplace / "shipped" / "units-500" / "config.json"
        description = json.loads(path.read_text())
        description["config"]["units"]["encoder"]["name"] = "openai/whisper-tiny.en"
        path.write_text(json.dumps(description))
        assert main(["quickstart", "--audio", str(speech), "--out", "run"]) == 2
        assert "vocable assets fetch whisper-tiny.en" in capsys.readouterr().err

    def test_speech_without_text_shows_transcripts_and_no_errors(self, workplace, speaker_encoder, make_speechlike):
        save_tiny_recogniser(workplace / "openai" / "whisper-base")
        write_clip(workplace / "mine" / "a.wav", make_speechlike(32_000))
        page = quickstart("--audio", "mine")
        assert Path("runs/mine/report.html").is_file()
        shown, record = text_of(page), json.loads(Path("runs/mine/sound/1/record.json").read_text())
        assert "words wrong" not in shown and "compare the transcripts" in shown
        for version in record["versions"]:
            assert record[f"{version}_transcript"] in shown
        assert "<td>in its own voice</td><td>–</td>" in page

    def test_the_other_voice_can_be_chosen(self, speech, workplace, speaker_encoder, capsys):
        assert "in the voice ben" in quickstart("--audio", speech, "--out", "run", "--voice", "ben")
        recording = workplace / "speech" / "clip05.wav"
        assert "in the voice clip05" in quickstart("--audio", speech, "--out", "run", "--voice", recording)
        assert main(["quickstart", "--audio", str(speech), "--out", "run", "--voice", "bem"]) == 2
        assert "'ben'" in capsys.readouterr().err

    def test_what_is_suggested_next_can_be_typed(self, speech, workplace):
        for words in (["--audio", speech], ["--audio", speech.parent]):
            page = quickstart(*words, "--out", "run of mine" / Path(words[1].stem))
            commands = [shlex.split(html.unescape(line)) for line in re.findall(r"<pre>(.*?)</pre>", page)]
            assert len(commands) >= 2
            for program, *command in commands:
                known = find_commands(command[0])
                name = next(" ".join(command[:n]) for n in (2, 1) if " ".join(command[:n]) in known)
                assert program == "vocable" and known[name].parse(command[len(name.split()) :])[0]


class TestRecordings:
    def test_a_long_stereo_file_is_cut_where_it_is_quiet(self, workplace, make_speechlike):
        talk = torch.cat([torch.zeros(3 * 16_000), make_speechlike(40 * 16_000)])
        talk[10 * 16_000 : 11 * 16_000] = 0
        path = workplace / "talk.flac"
        import soundfile
        import soxr

        sound = soxr.resample(talk.numpy(), 16_000, 48_000)
        soundfile.write(path, torch.tensor(sound)[:, None].repeat(1, 2).numpy(), 48_000)
        page = quickstart("--audio", path)
        shown = text_of(page)
        places = [float(place) for place in re.findall(r"talk from ([\d.]+) s", shown)]
        assert places[:2] == [pytest.approx(2.8, abs=0.1), pytest.approx(10.5, abs=0.5)]
        assert "Of recordings over 12 s, pieces of the first 75 s with speech are taken" in shown
        records = [json.loads(path.read_text()) for path in sorted(Path("runs/talk/sound").glob("*/record.json"))]
        spans = [record["made_of"]["utterance"][2:4] for record in records]
        assert len(spans) == HEARD and all(1 <= duration <= 12 for _, duration in spans)
        for (start, duration), (following, _) in itertools.pairwise(spans):
            assert start + duration == pytest.approx(following, abs=1e-6)

    def test_half_an_hour_costs_no_more_than_its_beginning(self, workplace, make_speechlike):
        path = write_clip(workplace / "talk.wav", make_speechlike(20 * 16_000).repeat(90))
        (talk,) = load_recordings(path, Rejections(workplace))
        chosen = choose_recordings([talk], 24, Rejections(workplace))
        assert talk.duration == 1800 and sum(u.duration or 0 for u in chosen) == pytest.approx(75)

    @pytest.mark.parametrize(
        ("name", "waveform", "reason"),
        [
            ("silence", torch.zeros(32_000), "nothing is to be heard"),
            ("faint", 1e-4 * torch.randn(32_000), "nothing is to be heard"),
            ("blip", 0.1 * torch.randn(1_600), "lasts 0.10 s; it takes 1 s of speech at least"),
        ],
    )
    def test_what_holds_no_speech_is_named_and_skipped(
        self, workplace, make_speechlike, name, waveform, reason, capsys
    ):
        write_clip(workplace / "mine" / f"{name}.wav", waveform)
        assert main(["quickstart", "--audio", "mine"]) == 2
        assert "There is no speech in the recordings; " in capsys.readouterr().err
        write_clip(workplace / "mine" / "good.wav", make_speechlike(32_000))
        shown = text_of(quickstart("--audio", "mine"))
        assert "Recordings left out" in shown and f"{name} " in shown and reason in shown

    def test_unreadable_files_are_named_and_skipped(self, workplace, make_speechlike, capsys):
        (workplace / "mine").mkdir()
        (workplace / "mine" / "broken.wav").write_bytes(b"RIFF nonsense")
        (workplace / "mine" / "phone.m4a").write_bytes(b"something")
        assert main(["quickstart", "--audio", "mine"]) == 2
        assert "none of its recordings can be read" in capsys.readouterr().err
        write_clip(workplace / "mine" / "good.wav", make_speechlike(32_000))
        shown = text_of(quickstart("--audio", "mine"))
        assert "broken" in shown and "phone" in shown
        assert "FFmpeg cannot read it" in shown or "vocable[media]" in shown

    @pytest.mark.parametrize("name", ["empty", "nowhere", "notes.txt"])
    def test_where_there_is_no_audio(self, workplace, name, capsys):
        (workplace / "empty").mkdir()
        (workplace / "notes.txt").write_text("no sound")
        assert main(["quickstart", "--audio", name]) == 2
        assert re.search("no audio in it|no such folder", capsys.readouterr().err)

    def test_every_recording_gives_a_piece_before_any_gives_a_second(self, workplace, make_speechlike):
        for name, seconds in (("long", 30), ("short", 5)):
            write_clip(workplace / "mine" / f"{name}.wav", make_speechlike(seconds * 16_000))
        chosen = choose_recordings(load_recordings(workplace / "mine", Rejections(workplace)), 6, Rejections(workplace))
        assert [u.id.split()[0] for u in chosen] == ["long", "short", "long", "long"]

    def test_stories_are_heard_in_six_voices_and_with_six_texts(self, tmp_path):
        chosen = choose_recordings(load_recordings(None, Rejections(tmp_path)), 6, Rejections(tmp_path))
        assert len({u.speaker for u in chosen}) == len({u.text for u in chosen}) == 6
        assert all(u.split == "test" and (u.duration or 0) >= 4.5 for u in chosen)

    def test_long_ones_come_first_and_voices_take_turns(self):
        def utterance(number: int, speaker: str, duration: float, new: bool = False) -> Utterance:
            extra = {"held_out_voice": new}
            return Utterance(id=f"u{number}", audio=Path("x.wav"), speaker=speaker, duration=duration, extra=extra)

        utterances = [utterance(0, "a", 2.0), utterance(1, "a", 5.0), utterance(2, "a", 6.0), utterance(3, "b", 5.0),
                      utterance(4, "new", 5.0, new=True)]  # fmt: skip
        assert [u.id for u in in_turns(utterances)] == ["u1", "u4", "u3", "u2", "u0"]


def save_shipped_lm(folder: Path, tokenizer: UnitTokenizer, documents: list[torch.Tensor] | None) -> Path:
    """Write a random language model for the units, with counts of the rows that it is said to be trained on."""
    vocabulary = UnitVocabulary(codebook_size=tokenizer.codebook_size)
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary).card(),
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_card=tokenizer.card(),
        unit_seconds=(0.04,) * tokenizer.codebook_size,
    )
    text_model = save_tiny_lm("opt", folder.parent.parent / "text-model")
    save_lm(build_lm(UnitLMConfig(text_model=str(text_model)), vocabulary), folder, card)
    if documents is not None:
        NgramCounts.of(documents, vocabulary.size).save(folder)
    return folder


class TestShippedModels:
    @pytest.fixture
    def tokenizer(self, workplace) -> UnitTokenizer:
        tokenizer = load_tokenizer("vocable/units-500")
        assert isinstance(tokenizer, UnitTokenizer)
        return tokenizer

    @pytest.fixture
    def rows(self, speech, tokenizer) -> list[torch.Tensor]:
        """The recordings as a language model reads them."""
        layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=tokenizer.codebook_size))
        clips = [read_audio(u.audio, tokenizer.sample_rate).waveform for u in read_manifest(speech)]
        return [layout.build(tokens) for tokens in tokenizer.encode(clips)]

    def test_without_any_the_section_is_absent(self, speech):
        assert "What the models say next" not in quickstart("--audio", speech, "--out", "run")

    def test_one_that_a_bigram_table_beats_is_not_shown(self, speech, tokenizer, rows, workplace):
        save_shipped_lm(workplace / "shipped" / "twist", tokenizer, rows)  # the table knows the answers
        page = quickstart("--audio", speech, "--out", "run")
        assert "vocable/twist is not played: a table of pairs" in text_of(page)
        assert "trigram table of vocable/twist" in text_of(page)
        assert len(sounds(page)) == HEARD * 2

    def test_those_that_are_better_go_on_side_by_side(self, speech, tokenizer, rows, workplace):
        layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=tokenizer.codebook_size))
        first, second = layout.vocabulary.unit_offset, layout.vocabulary.unit_offset + 1
        misleading = [torch.tensor([first, second] * 500)]  # a table that is sure of what never comes
        for name in ("twist", "twist-large"):
            save_shipped_lm(workplace / "shipped" / name, tokenizer, misleading)
        page = quickstart("--audio", speech, "--out", "run")
        shown = text_of(page)
        assert "What the models say next" in shown and "is not played" not in shown
        assert len(sounds(page)) == HEARD * 2 + 3 * 4  # recording, resynthesis and two models, for three prompts
        assert "A recording continued by vocable/twist-large." in shown

    def test_losses_are_those_of_the_rows(self, speech, tokenizer, rows, workplace):
        from vocable.lm.ngram import NgramLM
        from vocable.lm.spoken import Segment, load_lm
        from vocable.quickstart.measure import beats_table, held_out_losses

        folder, counts = workplace / "shipped" / "twist", NgramCounts.of(rows, tokenizer.codebook_size + 2)
        lm = load_lm(save_shipped_lm(folder, tokenizer, rows), tokenizer=tokenizer)
        clips = [read_audio(u.audio, tokenizer.sample_rate).waveform for u in read_manifest(speech)]
        held_out = tokenizer.encode(clips)
        losses = {loss.model: loss for loss in held_out_losses({"it": lm}, counts, {"all": held_out}, 50.0, 0)}
        predicted = sum(len(row) - 1 for row in rows)
        by_hand = sum(float(NgramLM(counts, 2).nll(row).sum()) for row in rows) / predicted
        assert losses["bigram table"].nats_per_unit.value == pytest.approx(by_hand)
        model = sum(score.nll for score in lm.score(lm.rows([[Segment(tokens=one)] for one in held_out]))) / predicted
        assert losses["it"].nats_per_unit.value == pytest.approx(model)
        assert losses["it"].above_table.value == pytest.approx(model - by_hand) and model > by_hand
        unigram, trigram = (losses[f"{name} table"].nats_per_unit.value or 0.0 for name in ("unigram", "trigram"))
        assert 0 < trigram < by_hand < unigram
        assert not beats_table(list(losses.values()), "it")

    def test_one_without_counts_is_left_out_with_the_reason(self, speech, tokenizer, workplace):
        save_shipped_lm(workplace / "shipped" / "twist", tokenizer, None)
        page = quickstart("--audio", speech, "--out", "run")
        assert "vocable/twist is left out, since it cannot be compared" in text_of(page)
        assert len(sounds(page)) == HEARD * 2


class TestTraining:
    @pytest.fixture
    def recipe(self, small_models, workplace, monkeypatch) -> TwistConfig:
        """The recipe with small models and few steps, whatever the minutes."""
        text_model = save_tiny_lm("SmolLM2", workplace / "lm")
        known, encoder = training.RECIPE, EncoderConfig(name=str(small_models / "encoder"), layer=2)
        small = replace(
            known,
            tokenizer=replace(known.tokenizer, encoder=encoder, kmeans=replace(known.tokenizer.kmeans, num_clusters=8)),
            lm=replace(known.lm, text_model=str(text_model)),
            training=replace(known.training, precision="fp32", validate_every=4, log_every=2),
        )
        monkeypatch.setattr(training, "RECIPE", small)
        monkeypatch.setattr(training, "GENERATION", replace(training.GENERATION, min_seconds=0.1, max_seconds=0.4))
        monkeypatch.setattr(training, "_minutes_per_model", lambda run, out: 0.02)
        return small

    def test_adds_its_sections_to_the_same_page_and_goes_on(self, speech, recipe, workplace):
        first = quickstart("--audio", speech, "--out", "run")
        words = ["--audio", speech, "--out", "run", "--train", "--minutes", 1]
        page = quickstart(*words)
        assert sounds(page)[: HEARD * 2] == sounds(first)  # nothing of the first part is done again
        shown = text_of(page)
        for part in (
            "Trained here",
            "8 units",
            "more than the bigram table",
            "trigram table",
            "How often units are used",
        ):
            assert part in shown
        assert page.count("<svg") == 2 and "Not measured, since the recogniser is missing" in shown
        lines = {start: Path(f"run/training/{start}/metrics.jsonl").read_text() for start in ("warm", "cold")}
        steps = {start: max(json.loads(line)["step"] for line in text.splitlines()) for start, text in lines.items()}
        assert steps["warm"] >= 1 and steps["warm"] == steps["cold"]
        assert quickstart(*words).count("<svg") == 2
        assert {start: Path(f"run/training/{start}/metrics.jsonl").read_text() for start in lines} == lines

    @pytest.mark.parametrize("beaten", [True, False])
    def test_only_what_beats_the_bigram_table_is_played(self, speech, recipe, workplace, monkeypatch, beaten):
        monkeypatch.setattr(training, "beats_table", lambda losses, name: not beaten and name == "warm start")
        page = quickstart("--audio", speech, "--out", "run", "--train", "--minutes", 1)
        shown, heard = text_of(page), len(sounds(page)) - HEARD * 2
        losers = "warm start and cold start" if beaten else "cold start"
        assert f"a table of pairs of units still predicts better than {losers}: nothing of that is played" in shown
        assert heard == (0 if beaten else 2 * 3)  # recording, resynthesis, continuation of both test recordings

    def test_words_of_the_new_units_are_judged(self, speech, recipe, workplace):
        save_tiny_recogniser(workplace / "openai" / "whisper-base")
        page = quickstart("--audio", speech, "--out", "run", "--train", "--minutes", 1)
        record = json.loads(Path("run/training/resynthesis/resynthesis.json").read_text())
        assert f"{record['scores']['wer_resynthesis']['value']:.4g}" in page and "wer resynthesis" in page

    def test_models_share_the_minutes_that_are_left_and_keep_them(self, tmp_path):
        def minutes(asked: float, elapsed: float) -> float:
            run = SimpleNamespace(minutes=asked, elapsed_minutes=elapsed)
            return training._minutes_per_model(run, tmp_path)  # type: ignore[arg-type]  # all it looks at

        assert minutes(10, 2.5) == pytest.approx((10 - 2.5 - 1.5) / 2)
        assert minutes(10, 0.1) == pytest.approx(3)  # a run that goes on keeps what it settled
        assert minutes(20, 0.5) == pytest.approx(9)
        assert minutes(5, 30) == pytest.approx(0.5)  # late, but each makes some steps

    def test_a_missing_text_model_is_said_at_once(self, speech, workplace, capsys):
        assert main(["quickstart", "--audio", str(speech), "--out", "run", "--train"]) == 2
        assert "vocable assets fetch training" in capsys.readouterr().err
        assert not Path("run/sound").exists()

    def test_too_little_speech_is_said_at_once(self, workplace, recipe, make_speechlike, capsys):
        write_clip(workplace / "one.wav", make_speechlike(32_000))
        assert main(["quickstart", "--audio", "one.wav", "--train"]) == 2
        assert "1 readable recordings; training needs at least 10" in capsys.readouterr().err
        assert main(["quickstart", "--audio", "one.wav", "--train", "--minutes", "0.5"]) == 2
        assert "minutes is 0.5" in capsys.readouterr().err

    def test_held_out_recordings_are_not_trained_on(self, speech, tmp_path):
        splits = load_splits(speech, 60, Rejections(tmp_path))
        ids = [{u.id for u in part} for part in splits]
        assert [len(part) for part in ids] == [10, 2, 2] and len(set.union(*ids)) == 14
        assert all(u.split == name for name, part in splits._asdict().items() for u in part)

    def test_only_as_much_speech_as_the_minutes_allow(self, speech, tmp_path):
        part = load_splits(speech, 0.1, Rejections(tmp_path)).train
        assert 1 <= len(part) < 10 and sum(u.duration or 0 for u in part) <= 6

    def test_stories_hold_out_stories_and_voices(self, tmp_path):
        splits = load_splits(None, 1.0, Rejections(tmp_path))
        assert [len(part) for part in splits] == [326, 32, 66]
        stories = [{u.extra["story"] for u in part} for part in splits]
        assert not stories[0] & (stories[1] | stories[2])
        assert {splits.is_new_voice(u) for u in splits.test} == {True, False}
        assert not any(splits.is_new_voice(u) for u in splits.train)

    def test_it_trains_the_cpu_recipe(self):
        recipe = load_config(TwistConfig, Path(__file__).parents[2] / "recipes" / "twist" / "cpu.yaml")
        ours, theirs = config_to_dict(training.RECIPE), config_to_dict(recipe)
        reports = {"log_every", "validate_every", "checkpoint_every"}
        for settings in (ours, theirs):
            settings["training"] = {k: v for k, v in settings["training"].items() if k not in reports}
        assert ours == theirs
