"""TWIST from end to end on tiny models, and its own small functions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tiny import TINY_DECODER, TINY_FRONTEND, save_tiny_encoder, save_tiny_lm, write_speech
from vocable.cli import main
from vocable.config import load_config
from vocable.errors import ConfigError, FingerprintError, OutputError
from vocable.features import EncoderConfig, load_encoder
from vocable.lm.checkpoint import LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Segment, load_lm, open_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.systems import twist
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.language_model import LMTrainingConfig
from vocable.types import SpeechTokens

LOG_MEL_UNITS = UnitTokenizerConfig(
    encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=6, init_frames=100)
)


def runs(units: list[int], durations: list[int]) -> SpeechTokens:
    return SpeechTokens(codes=torch.tensor([units]), durations=torch.tensor(durations))


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory, make_speechlike):
    """A tokenizer of log-mel units, and shards of twelve clips."""
    from vocable.audio.manifest import read_manifest

    folder = tmp_path_factory.mktemp("twist")
    manifest = write_speech(folder / "speech", make_speechlike)
    tokenizer = UnitTokenizer.fit(read_manifest(manifest), LOG_MEL_UNITS)
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenize_manifest(manifest, folder / "tokens", str(folder / "tokenizer"))
    return tokenizer, TokenShards(folder / "tokens"), folder


@pytest.fixture
def config(tmp_path: Path) -> twist.TwistConfig:
    return twist.TwistConfig(
        tokenizer=LOG_MEL_UNITS,
        lm=UnitLMConfig(text_model=str(save_tiny_lm("opt", tmp_path / "text"))),
        training=LMTrainingConfig(
            max_steps=3, context_tokens=128, tokens_per_batch=512, warmup_steps=1, precision="fp32"
        ),
        valid_share=0.3,
    )


def test_first_seconds_cuts_runs_at_the_limit():
    tokens = runs([4, 2, 5], [3, 4, 2])
    assert twist.first_seconds(tokens, 0.10, frame_rate=50.0) == runs([4, 2], [3, 2])
    assert twist.first_seconds(tokens, 0.06, frame_rate=50.0) == runs([4], [3])
    assert twist.first_seconds(tokens, 9.0, frame_rate=50.0) == tokens
    frames = SpeechTokens(codes=torch.tensor([[1, 1, 2]]))
    assert twist.first_seconds(frames, 0.04, frame_rate=50.0) == SpeechTokens(codes=torch.tensor([[1, 1]]))


def test_sequences_are_units_between_end_symbols_with_their_seconds():
    from vocable.types import Utterance

    pairs = [(Utterance(id="a", audio=Path("a.wav")), runs([4, 2, 5], [3, 4, 2]))]
    documents = twist.build_sequences(pairs, twist.build_layout(6), frame_rate=50.0)
    assert documents.token_ids[0].tolist() == [1, 6, 4, 7, 1]
    assert documents.seconds == [pytest.approx(9 / 50)]


def test_train_then_generate(tokenized, config, tmp_path):
    tokenizer, shards, _ = tokenized
    result = twist.train(config, shards, tmp_path / "lm", tokenizer=tokenizer)
    assert result.finished
    lm = load_lm(result.last, tokenizer=tokenizer)
    assert lm.card.tokenizer_fingerprint == tokenizer.fingerprint
    # the mean durations on the card are those of the shards, by hand
    unit = int(next(iter(shards))[1].units[0])
    found = [d for _, t in shards for u, d in zip(t.units.tolist(), t.durations.tolist(), strict=True) if u == unit]
    assert lm.card.unit_seconds[unit] == pytest.approx(sum(found) / len(found) / tokenizer.frame_rate, abs=1e-4)
    prompts = [tokens for _, tokens in list(shards)[:2]]
    settings = GenerationConfig(min_seconds=0.5, max_seconds=1.0, temperature=1.0)
    first, again = (lm.continue_([[Segment(tokens=one)] for one in prompts], settings) for _ in range(2))
    assert all(c.seconds >= 0.5 for c in first)
    assert [c.tokens.units.tolist() for c in first] == [c.tokens.units.tolist() for c in again]


def test_a_frozen_network_learns_units(tokenized, config, tmp_path):
    """With lm.trained 'new_rows', all that differs from the text model is the table of units and the head."""
    from dataclasses import replace

    from transformers import AutoModelForCausalLM

    _, shards, _ = tokenized
    frozen = replace(config, lm=replace(config.lm, trained="new_rows"))
    lm = load_lm(twist.train(frozen, shards, tmp_path / "lm").last)
    text = AutoModelForCausalLM.from_pretrained(tmp_path / "text").state_dict()
    changed = {name for name, tensor in lm.model.state_dict().items() if not torch.equal(tensor, text[name])}
    assert changed == {"model.decoder.embed_tokens.weight", "lm_head.weight"}
    assert lm.card.training["trained"] == "new_rows"
    with pytest.raises(OutputError, match="holds another run"):
        twist.train(config, shards, tmp_path / "lm")


def test_tokens_of_another_tokenizer_are_refused(tokenized, config, tmp_path):
    _, shards, folder = tokenized
    from dataclasses import replace

    from vocable.audio.manifest import read_manifest

    other = UnitTokenizer.fit(
        read_manifest(folder / "speech" / "manifest.jsonl"),
        replace(LOG_MEL_UNITS, kmeans=KMeansConfig(num_clusters=6, init_frames=100, seed=7)),
    )
    with pytest.raises(FingerprintError, match=other.fingerprint):
        twist.train(config, shards, tmp_path / "lm", tokenizer=other)


def test_marks_of_the_manifest_decide_what_is_trained_on(tokenized, config, tmp_path):
    """Oracle: the same utterances given as two folders without marks, and the test ones left out."""
    from vocable.audio.manifest import read_manifest, write_manifest

    _, _, folder = tokenized
    marks = ["train", "train", "valid", "test"] * 3
    speech = read_manifest(folder / "speech" / "manifest.jsonl")
    groups = {
        "marked": [replace(u, split=mark) for u, mark in zip(speech, marks, strict=True)],
        "train": [u for u, mark in zip(speech, marks, strict=True) if mark == "train"],
        "valid": [u for u, mark in zip(speech, marks, strict=True) if mark == "valid"],
    }
    shards = {}
    for name, utterances in groups.items():
        write_manifest(utterances, tmp_path / f"{name}.jsonl")
        tokenize_manifest(tmp_path / f"{name}.jsonl", tmp_path / name, str(folder / "tokenizer"))
        shards[name] = TokenShards(tmp_path / name)
    marked = twist.train(config, shards["marked"], tmp_path / "lm-marked")
    apart = twist.train(config, shards["train"], tmp_path / "lm-apart", shards["valid"])
    for curve in ("train_curve", "valid_curve"):
        losses = [[line["loss"] for line in getattr(result, curve)] for result in (marked, apart)]
        assert losses[0] == losses[1] and losses[0]


def test_a_continuation_after_its_prompt_keeps_the_prompts_durations(tokenized, config, tmp_path):
    tokenizer, shards, _ = tokenized
    card = twist.build_card(config, twist.build_layout(6), shards)
    lm = open_lm(LoadedLM(None, card))
    both = lm.join(runs([4, 2], [3, 4]), SpeechTokens(codes=torch.tensor([[3, 1]])))
    assert both.units.tolist() == [4, 2, 3, 1]
    assert both.durations[:2].tolist() == [3, 4]
    expected = [max(1, round(card.unit_seconds[unit] * tokenizer.frame_rate)) for unit in (3, 1)]
    assert both.durations[2:].tolist() == expected
    assert lm.speakable(runs([4], [1])).durations is None  # the vocoder predicts them


def published_checkpoint(folder: Path, **settings) -> Path:
    config = AutoConfig.for_model(
        "opt",
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        word_embed_proj_dim=16,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **settings,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_published_checkpoint_is_read_with_its_offset(tokenized, tmp_path):
    tokenizer, shards, _ = tokenized
    lm = twist.load_published(published_checkpoint(tmp_path, offset=4), tokenizer)
    assert lm.card.vocabulary.unit_offset == 4
    layout = lm.card.build_layout()
    assert layout.build(runs([5, 0], [1, 1])).tolist() == [9, 4]  # no symbols around
    (continuation,) = lm.continue_([[Segment(tokens=next(iter(shards))[1])]], GenerationConfig(max_seconds=0.5))
    assert set(continuation.tokens.units.tolist()) <= set(range(6))


def test_checkpoints_that_are_not_twist_or_too_small_are_refused(tokenized, tmp_path):
    tokenizer, _, _ = tokenized
    with pytest.raises(ConfigError, match="no 'offset'"):
        twist.load_published(published_checkpoint(tmp_path / "a"), tokenizer)
    with pytest.raises(ConfigError, match="10 rows, of which units begin at 5"):
        twist.load_published(published_checkpoint(tmp_path / "b", offset=5), tokenizer)


def test_generate_command_writes_speech(tmp_path, make_speechlike, monkeypatch, capsys):
    from vocable.audio.io import read_audio
    from vocable.audio.manifest import read_manifest
    from vocable.cli import main
    from vocable.synthesis import opening
    from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
    from vocable.tokens.fingerprint import encoder_fingerprint

    manifest = write_speech(tmp_path / "speech", make_speechlike)
    units = UnitTokenizerConfig(  # 50 Hz, as the vocoder reads
        encoder=EncoderConfig(name=str(save_tiny_encoder("whisper", tmp_path / "encoder")), layer=2),
        kmeans=KMeansConfig(num_clusters=6, init_frames=100),
    )
    tokenizer = UnitTokenizer.fit(read_manifest(manifest), units)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenize_manifest(manifest, tmp_path / "tokens", str(tmp_path / "tokenizer"))
    config = twist.TwistConfig(
        tokenizer=units,
        lm=UnitLMConfig(text_model=str(save_tiny_lm("opt", tmp_path / "text"))),
        training=LMTrainingConfig(max_steps=1, context_tokens=128, tokens_per_batch=512, precision="fp32"),
        valid_share=0.3,
    )
    result = twist.train(config, TokenShards(tmp_path / "tokens"), tmp_path / "lm", tokenizer=tokenizer)
    vocoder = UnitVocoder(
        VocoderConfig(
            codebook_size=6,
            codebook_dim=tokenizer.encoder.dim,
            encoder_fingerprint=encoder_fingerprint(tokenizer.encoder.description()),
            frontend=TINY_FRONTEND,
            decoder=TINY_DECODER,
            prosody_dim=8,
        )
    )
    vocoder.save_pretrained(tmp_path / "vocoder")
    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "vocoder")
    out = tmp_path / "continued.wav"
    command = [
        "generate",
        "--model",
        str(result.last),
        "--audio",
        str(tmp_path / "speech" / "clip03.wav"),
        "--tokenizer",
    ]
    command += [str(tmp_path / "tokenizer"), "--out", str(out), "--num-samples", "2", "--prompt-seconds", "0.5"]
    assert main([*command, "min_seconds=0.4", "max_seconds=1"]) == 0, capsys.readouterr().err
    for number in (1, 2):
        speech = read_audio(tmp_path / f"continued-{number}.wav")
        assert 0.5 + 0.3 < len(speech.waveform) / speech.sample_rate < 0.5 + 1.6  # prompt, and what was asked for
    assert main([*command, "temprature=1"]) == 2
    assert "Did you mean 'temperature'?" in capsys.readouterr().err


def test_a_run_finds_the_tokenizer_that_it_was_given(tmp_path, make_speechlike, capsys):
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    units = tmp_path / "units"
    fitting = ["--encoder", "log-mel", "--layer", "0", "--clusters", "6", "--device", "cpu", "kmeans.init_frames=100"]
    assert main(["tokenizer", "fit", str(manifest), str(units), *fitting]) == 0, capsys.readouterr().err
    assert main(["tokenize", str(manifest), str(tmp_path / "tokens"), "--tokenizer", str(units)]) == 0
    settings = {
        "system": "twist",
        "lm": {"text_model": str(save_tiny_lm("opt", tmp_path / "text"))},
        "training": {"max_steps": 1, "context_tokens": 128, "tokens_per_batch": 512, "precision": "fp32"},
        "valid_share": 0.3,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))  # JSON is yaml
    run = tmp_path / "run"
    given = ["--tokens", str(tmp_path / "tokens"), "--tokenizer", str(units), "--out", str(run)]
    assert main(["train", str(tmp_path / "recipe.yaml"), *given]) == 0, capsys.readouterr().err
    lm = load_lm(run / "lm" / "last")
    assert lm.tokenizer.fingerprint == load_tokenizer(units).fingerprint
    units.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"which is not beside it. It was in {units}. Name its folder: --tokenizer"):
        assert load_lm(run / "lm" / "last").tokenizer


def test_a_published_codebook_gives_its_true_size_to_the_config(tmp_path, make_speechlike):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    (features,) = encoder.encode([make_speechlike(32_000)])
    fitted = cluster.KMeans(n_clusters=7, n_init=1, random_state=0).fit(features.numpy())
    joblib.dump(fitted, tmp_path / "km.bin")
    settings = {"kmeans_file": str(tmp_path / "km.bin"), "training": LMTrainingConfig(max_steps=1)}
    units = UnitTokenizerConfig(encoder=EncoderConfig(name="log-mel", layer=0))
    tokenizer = twist.build_tokenizer(twist.TwistConfig(tokenizer=units, **settings), [])
    assert tokenizer.codebook_size == 7 and tokenizer.config.kmeans.num_clusters == 7
    saved = UnitTokenizer.from_pretrained(tokenizer.save_pretrained(tmp_path / "tokenizer"))
    assert saved.config.kmeans.num_clusters == 7 and saved.fingerprint == tokenizer.fingerprint
    said = replace(units, kmeans=KMeansConfig(num_clusters=7))
    twist.build_tokenizer(twist.TwistConfig(tokenizer=said, **settings), [])
    wrong = replace(units, kmeans=KMeansConfig(num_clusters=100))
    message = r"num_clusters is 100, but .*km\.bin holds 7 clusters\. Set tokenizer\.kmeans\.num_clusters=7"
    with pytest.raises(ConfigError, match=message):
        twist.build_tokenizer(twist.TwistConfig(tokenizer=wrong, **settings), [])


def test_the_saved_recipe_names_the_codebook_that_was_used(tmp_path, make_speechlike, capsys):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    (features,) = load_encoder(EncoderConfig(name="log-mel", layer=0)).encode([make_speechlike(32_000)])
    joblib.dump(cluster.KMeans(n_clusters=7, n_init=1).fit(features.numpy()), tmp_path / "km.bin")
    text_model = save_tiny_lm("opt", tmp_path / "text")
    (tmp_path / "recipe.yaml").write_text(
        f"tokenizer: {{encoder: {{name: log-mel, layer: 0}}}}\nkmeans_file: {tmp_path / 'km.bin'}\n"
        f"lm: {{text_model: {text_model}}}\nvalid_share: 0.3\n"
        "training: {max_steps: 1, context_tokens: 128, tokens_per_batch: 512, precision: fp32}\n"
    )
    command = ["train", str(tmp_path / "recipe.yaml"), "--manifest", str(manifest), "--out", str(tmp_path / "run")]
    assert main(command) == 0, capsys.readouterr().err
    saved = load_config(twist.TwistConfig, tmp_path / "run" / "config.yaml")
    assert saved.tokenizer.kmeans.num_clusters == 7
    assert not (tmp_path / "run" / "config.yaml").read_text().startswith("#")
    from_tokens = [*command[:2], "--tokens", str(tmp_path / "run" / "tokens"), "--out", str(tmp_path / "unnamed")]
    assert main(from_tokens) == 0, capsys.readouterr().err
    fingerprint = TokenShards(tmp_path / "run" / "tokens").fingerprint
    assert fingerprint in (tmp_path / "unnamed" / "config.yaml").read_text().splitlines()[0]
    assert main([*command, "tokenizer.kmeans.num_clusters=9", f"--out={tmp_path / 'other'}"]) == 2
    assert "num_clusters is 9, but" in capsys.readouterr().err
