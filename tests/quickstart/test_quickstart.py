"""The quickstart on a folder of synthetic recordings, from tiny random models to the page."""

import base64
import json
import re
from pathlib import Path

import pytest
import torch

from tiny import save_tiny_encoder, save_tiny_lm, save_tiny_recogniser, write_speech
from vocable.cli import main
from vocable.errors import AssetError, FingerprintError, ManifestError
from vocable.features import EncoderConfig, load_encoder
from vocable.quickstart import run
from vocable.quickstart.data import choose_prompts, load_own_speech, load_stories
from vocable.synthesis import opening
from vocable.synthesis.opening import load_synthesizer
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.kmeans import KMeans
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance

SMALL = {"dim": 16, "hidden_dim": 24, "num_layers": 2, "prosody_dim": 8, "pitch_layers": 1}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return save_tiny_encoder("openai/whisper-tiny.en", tmp_path / "encoder")


@pytest.fixture
def shipped(encoder, tmp_path, monkeypatch) -> Path:
    """A random vocoder for the tiny encoder, in place of the one that comes with Vocable."""
    loaded = load_encoder(EncoderConfig(name=str(encoder), layer=2))
    config = VocoderConfig(
        codebook_size=4, codebook_dim=loaded.dim, encoder_fingerprint=encoder_fingerprint(loaded.description()), **SMALL
    )
    UnitVocoder(config).save_pretrained(tmp_path / "shipped")
    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_quickstart_writes_one_page_with_sound(encoder, shipped, tmp_path, make_speechlike, capsys):
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=14)
    text_model = save_tiny_lm("SmolLM2", tmp_path / "lm")
    command = ["quickstart", "--audio", str(manifest.parent), "--out", str(tmp_path / "run"), f"encoder={encoder}",
               f"text_model={text_model}", "num_clusters=8", "steps=10", "num_prompts=2", "num_judged=0",
               "prompt_seconds=0.5", "max_seconds=1.0"]  # fmt: skip
    assert main(command) == 0, capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    sounds = re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', page)
    assert len(sounds) == 2 * 5  # prompt, original, resynthesis, two continuations
    from vocable.audio.io import read_audio

    (tmp_path / "one.mp3").write_bytes(base64.b64decode(sounds[0]))
    prompt = read_audio(tmp_path / "one.mp3")
    assert len(prompt.waveform) / prompt.sample_rate == pytest.approx(0.5, abs=0.15)  # MP3 frames pad both ends
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
    assert page.count("<svg") == 2
    (picture,) = re.findall(r'<img alt="spectrogram with units" src="data:image/png;base64,([^"]+)">', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "judging was skipped, as num_judged=0 asks" in page
    for words in ("warm minus cold", "bigram", "Times of this run", "Weights that were used"):
        assert words in page
    # the same command again finds every step done and says the same
    before = (tmp_path / "run" / "warm" / "metrics.jsonl").read_text()
    assert main(command) == 0
    assert (tmp_path / "run" / "warm" / "metrics.jsonl").read_text() == before
    # other settings in the same folder are refused, and named
    assert main([*command[:-1], "max_seconds=2.0"]) == 2
    assert "max_seconds: 1.0 -> 2.0" in capsys.readouterr().err


@pytest.fixture
def finish(encoder, shipped, tmp_path, make_speechlike, monkeypatch):
    """Run a small quickstart that judges two utterances, in a folder with no assets; return its page."""

    def run_to_the_end() -> str:
        manifest = write_speech(tmp_path / "speech", make_speechlike, count=14)
        monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "no-assets"))
        monkeypatch.chdir(tmp_path)
        command = ["quickstart", "--audio", str(manifest), "--out", "run", f"encoder={encoder}",
                   f"text_model={save_tiny_lm('SmolLM2', tmp_path / 'lm')}", "num_clusters=8", "steps=10",
                   "num_prompts=1", "num_judged=2", "prompt_seconds=0.5", "max_seconds=0.6"]  # fmt: skip
        assert main(command) == 0
        return (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

    return run_to_the_end


def test_resynthesis_is_judged_and_tabled(finish, tmp_path):
    save_tiny_recogniser(tmp_path / "openai" / "whisper-base")  # a local folder goes before the asset of that name
    page = finish()
    record = json.loads((tmp_path / "run" / "resynthesis" / "resynthesis.json").read_text())
    assert record["num_items"] == 2 and record["scores"]["wer_resynthesis"]["value"] > 0
    assert record["conventions"]["transcriber"] == "openai/whisper-base" and record["conventions"]["mos"] is None
    assert f"{record['scores']['wer_resynthesis']['value']:.4g}" in page and "wer resynthesis" in page
    assert "judging was skipped" not in page


def test_a_missing_recogniser_is_said_on_the_page(finish):
    assert "the recogniser openai/whisper-base is not at hand" in finish()


def test_held_out_recordings_are_not_trained_on(encoder, shipped, tmp_path, make_speechlike):
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=12)
    splits = load_own_speech(manifest, rejections=None)  # type: ignore[arg-type]  # nothing to reject here
    ids = [{u.id for u in part} for part in splits]
    assert [len(part) for part in ids] == [8, 2, 2]
    assert len(set.union(*ids)) == 12


def test_too_little_speech_is_refused(tmp_path, make_speechlike):
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=4)
    with pytest.raises(ManifestError, match="4 readable recordings; the quickstart needs at least 10"):
        load_own_speech(manifest, rejections=None)  # type: ignore[arg-type]  # nothing to reject here


def test_embedded_stories_hold_out_stories_and_voices():
    splits = load_stories()
    stories = [{u.extra["story"] for u in part} for part in splits]
    assert not stories[0] & (stories[1] | stories[2])
    assert any(splits.is_new_voice(u) for u in splits.test)
    assert not any(splits.is_new_voice(u) for u in splits.train)
    assert not {u.speaker for u in splits.train} & {u.speaker for u in splits.test if splits.is_new_voice(u)}


def test_prompts_are_long_enough_and_differ_in_voice():
    def utterance(number: int, speaker: str, duration: float) -> Utterance:
        return Utterance(id=f"u{number}", audio=Path("x.wav"), speaker=speaker, duration=duration)

    utterances = [utterance(0, "a", 2.0), utterance(1, "a", 5.0), utterance(2, "a", 6.0), utterance(3, "b", 5.0),
                  utterance(4, "new", 5.0)]  # fmt: skip
    chosen = choose_prompts(utterances, 3, 4.0, lambda u: u.speaker == "new")
    assert [u.id for u in chosen] == ["u1", "u4", "u3"]


def test_vocoder_of_another_encoder_is_refused(encoder, shipped, tmp_path):
    other = load_encoder(EncoderConfig(name=str(encoder), layer=1))
    tokenizer = UnitTokenizer(other, KMeans(torch.randn(5, other.dim)), UnitTokenizerConfig())
    with pytest.raises(FingerprintError, match=encoder_fingerprint(other.description())):
        load_synthesizer(tokenizer=tokenizer)


def test_any_codebook_of_the_encoder_gets_sound(encoder, shipped):
    loaded = load_encoder(EncoderConfig(name=str(encoder), layer=2))
    for size in (5, 11):
        tokenizer = UnitTokenizer(loaded, KMeans(torch.randn(size, loaded.dim)), UnitTokenizerConfig())
        tokenizer.synthesizer = load_synthesizer(tokenizer=tokenizer)
        (speech,) = tokenizer.decode(tokenizer.encode([torch.randn(16_000)]))
        assert len(speech) == 16_000


def test_a_folder_without_a_vocoder_is_refused(encoder, shipped, tmp_path):
    loaded = load_encoder(EncoderConfig(name=str(encoder), layer=2))
    tokenizer = UnitTokenizer(loaded, KMeans(torch.randn(5, loaded.dim)), UnitTokenizerConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match=r"no config\.json"):
        load_synthesizer(tmp_path / "empty", tokenizer)


def test_the_cpu_recipe_is_what_the_quickstart_trains():
    from vocable.config import config_to_dict, load_config
    from vocable.systems.twist import TwistConfig

    recipe = load_config(TwistConfig, Path(__file__).parents[2] / "recipes" / "twist" / "cpu.yaml")
    config = run.twist_config(run.QuickstartConfig(), "warm")
    ours, theirs = config_to_dict(config), config_to_dict(recipe)
    assert ours["tokenizer"] == theirs["tokenizer"]
    assert ours["lm"] == theirs["lm"]
    for key in ("learning_rate", "schedule", "warmup_steps", "tokens_per_batch", "context_tokens", "max_steps"):
        assert ours["training"][key] == theirs["training"][key]
    assert json.dumps(ours["generation"], sort_keys=True) == json.dumps(theirs["generation"], sort_keys=True)


def test_where_prompts_are_short_the_longest_are_taken():
    utterances = [Utterance(id=f"u{n}", audio=Path("x.wav"), duration=n / 2) for n in range(6)]
    assert {u.id for u in choose_prompts(utterances, 2, 4.0, lambda u: False)} == {"u4", "u5"}


def test_the_encoder_may_be_found_under_another_name(encoder, shipped, tmp_path):
    import shutil

    shutil.copytree(encoder, tmp_path / "moved")
    names = [
        load_synthesizer(
            tokenizer=UnitTokenizer(
                load_encoder(EncoderConfig(name=str(folder), layer=2)), KMeans(torch.ones(5, 32)), UnitTokenizerConfig()
            )
        ).tokenizer_fingerprint
        for folder in (encoder, tmp_path / "moved")
    ]
    assert names[0] == names[1]
