"""Speech-text models from end to end: what the loss counts, exact resuming, commands, a stream of a codec, refusals."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny import make_tiny_recogniser, make_tiny_tokenizer, make_tiny_vocoder, save_tiny_lm, write_speech
from tokens.example_tokenizers import SineCodec
from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.cli import main
from vocable.errors import ConfigError, FingerprintError, ManifestError
from vocable.evaluation.judges import Judges
from vocable.evaluation.runner import evaluate
from vocable.lm.checkpoint import read_lm
from vocable.lm.generation import GenerationConfig
from vocable.lm.lora import LoraConfig
from vocable.lm.spoken import Segment, load_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.recognition.transcribe import WhisperTranscriber
from vocable.sequences.speech_text import Instructions
from vocable.sequences.text_tokenizers import fit_text_tokenizer
from vocable.systems import System, register_system
from vocable.systems.from_speech import tokenize_manifest
from vocable.systems.joint import TextConfig
from vocable.systems.lm_spt import speech_text
from vocable.systems.lm_spt.speech_text import SpeechTextConfig, SpeechTextStage
from vocable.systems.shared import TokensStage
from vocable.tokens.shards import TokenShards
from vocable.training.language_model import LMTrainingConfig
from vocable.training.logs import read_metrics

TEXTS = ["Anna saw a cat", "the cat sat", "a dog ran home", "we went up", "it was late", "birds sing at noon"]
TRAINING = LMTrainingConfig(
    max_steps=4, context_tokens=512, tokens_per_batch=1024, warmup_steps=1, precision="fp32", log_every=1,
    validate_every=2, checkpoint_every=2,
)  # fmt: skip
CONFIG = SpeechTextConfig(
    stream=None,
    instructions=Instructions(transcribe="Write: "),
    text=TextConfig(vocabulary_size=300),
    lm=UnitLMConfig(text_model="tiny", warm=False, dropout=0.0),
    training=TRAINING,
)
SAMPLING = GenerationConfig(max_seconds=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """A chain of the stages that stand behind any tokenizer."""

    system: str = "speech-text-test"
    speech_text: SpeechTextConfig | None = None
    valid_share: float = 0.3
    unread: Mapping[str, int] = field(default_factory=dict)


register_system(System(name="speech-text-test", config=ChainConfig, stages=(TokensStage(by="text"), SpeechTextStage())))


@pytest.fixture(scope="module")
def speech(tmp_path_factory, make_speechlike):
    """Twelve clips, each text twice; a tokenizer of units and one of two streams, and the tokens of each."""
    folder = tmp_path_factory.mktemp("speech-text")
    manifest = write_speech(folder / "speech", make_speechlike, texts=TEXTS)
    for name, tokenizer in (("units", make_tiny_tokenizer()), ("sines", SineCodec.make())):
        tokenizer.save_pretrained(folder / name / "tokenizer")
        tokenize_manifest(manifest, folder / name / "tokens", str(folder / name / "tokenizer"))
    return folder


def train(config, speech, out, kind="units", **more):
    shards = TokenShards(speech / kind / "tokens")
    return speech_text.train(config, shards, out, valid_share=0.3, report=lambda line: None, show=False, **more)


def test_the_loss_is_that_of_answers_alone(speech, tmp_path):
    """Log-probabilities of the saved model, added up by hand over the held-out rows, which are written out here."""
    said = []
    result = speech_text.train(
        CONFIG, TokenShards(speech / "units" / "tokens"), tmp_path, valid_share=0.3, report=said.append, show=False
    )
    loaded = read_lm(result.last)
    vocabulary, tokenizer = loaded.card.vocabulary, loaded.text_tokenizer
    U, T, U2T, T2U, E = vocabulary.special_ids
    shards = TokenShards(speech / "units" / "tokens")
    _, held_out = speech_text.divide_examples(shards, None, 0.3)
    sums = {"transcribe": [], "speak": []}
    assert len(held_out) >= 2 and said == [f"{task}: {12 - len(held_out)} examples" for task in sums]
    for example in held_out:
        units = [vocabulary.speech_offset + unit for unit in frames_of(example.tokens)]
        text = tokenizer.encode(example.text, add_special_tokens=False)
        written_first = tokenizer.encode("Write: ", add_special_tokens=False)
        rows = {
            "transcribe": ([*written_first, U, *units, U2T], [*text, E]),
            "speak": ([T, *text, T2U], [*units, E]),
        }
        for task, (prompt, answer) in rows.items():
            with torch.no_grad():
                logs = loaded.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            sums[task] += [-float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)]
    line = result.valid_curve[-1]
    for task, losses in sums.items():
        # float32 logits of packed rows and of single rows differ in rounding
        assert line[f"{task}_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    everything = [loss for losses in sums.values() for loss in losses]
    assert line["loss"] == pytest.approx(sum(everything) / len(everything), rel=1e-5)


def frames_of(tokens):
    durations = [1] * len(tokens.units) if tokens.durations is None else tokens.durations.tolist()
    return [unit for unit, count in zip(tokens.units.tolist(), durations) for _ in range(count)]


def test_a_resumed_run_equals_an_uninterrupted_one(speech, tmp_path):
    whole = train(CONFIG, speech, tmp_path / "whole")
    train(CONFIG, speech, tmp_path / "parts", stop_at_step=2)
    parts = train(CONFIG, speech, tmp_path / "parts")
    a, b = (read_lm(result.last).model.state_dict() for result in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)
    kept = ("step", "loss", "tokens")
    curves = [[[line[name] for name in kept] for line in result.train_curve] for result in (whole, parts)]
    assert curves[0] == curves[1] and [step for step, *_ in curves[0]] == [1, 2, 3, 4]


def test_shares_of_the_tasks(speech, tmp_path):
    shards = TokenShards(speech / "units" / "tokens")
    config = replace(CONFIG, tasks={"transcribe": 1.0, "speak": 3.0})
    examples, _ = speech_text.divide_examples(shards, None, 0.3)
    readers = speech_text.build_readers(config, shards, examples, tmp_path)
    sources = speech_text.build_sources(config, speech_text.build_layout(config, readers), examples)
    mixture = speech_text.build_mixture(config, sources)
    drawn = [draw.source for epoch in range(10) for draw in mixture.draws(epoch)]
    assert drawn.count("speak") == pytest.approx(3 * drawn.count("transcribe"), abs=2)
    row = mixture.epoch(0)[0]
    assert len(row.token_ids) > int(row.mask.sum()) > 0


@pytest.mark.parametrize("task", ["transcribe", "speak"])
def test_one_model_for_one_task(speech, tmp_path, task):
    result = train(replace(CONFIG, tasks={task: 1.0}), speech, tmp_path)
    assert set(result.valid_curve[-1]) >= {"loss", f"{task}_loss"}
    lm = load_lm(result.last)
    assert lm.card.layout["tasks"] == [task] and lm.card.training["tasks"] == {task: 1.0}
    example = speech_text.divide_examples(TokenShards(speech / "units" / "tokens"), None, 0.3)[0][0]
    asked = {"transcribe": (Segment(tokens=example.tokens), "text"), "speak": (Segment(text="the cat"), "speech")}
    for name, (segment, to) in asked.items():
        if name == task:
            (reply,) = lm.continue_([[segment]], SAMPLING, to=to, task=name)
            assert {one.modality for one in reply.segments} <= {to}
        else:
            with pytest.raises(ConfigError, match=f"this model was not trained to {name}"):
                lm.continue_([[segment]], SAMPLING, to=to, task=name)


def test_a_warm_start_keeps_the_text_model_and_learns_pairs(speech, tmp_path):
    """From a text model with adapters: text rows stay; the loss on the rows that are trained falls."""
    pytest.importorskip("peft")
    text_model = save_tiny_lm("SmolLM", tmp_path / "text")
    fit_text_tokenizer(TEXTS, 300).save_pretrained(text_model)
    training = replace(TRAINING, max_steps=8, learning_rate=1e-2, validate_every=None)
    config = replace(CONFIG, text=TextConfig(), lm=UnitLMConfig(text_model=str(text_model)), training=training)
    curve = [line["loss"] for line in train(config, speech, tmp_path / "all").train_curve]
    assert curve[-1] < 0.8 * curve[0]
    result = train(replace(config, lora=LoraConfig(rank=2)), speech, tmp_path / "lora")
    before = AutoModelForCausalLM.from_pretrained(text_model).get_input_embeddings().weight
    after = load_lm(result.last)
    assert torch.equal(after.model.get_input_embeddings().weight[:600], before)
    assert after.card.training["system"] == "lm-spt" and after.card.training["lora"] == 2


def test_the_command_trains_generates_and_skips(speech, tmp_path, capsys):
    """A recipe of two stages, from a manifest and a tokenizer to a transcript and a spoken sentence."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(
        "system: speech-text-test\nvalid_share: 0.3\nspeech_text:\n  stream: null\n  text: {vocabulary_size: 300}\n"
        "  lm: {text_model: tiny, warm: false}\n  collapsed: true\n  subwords: {vocabulary_size: 40}\n"
        "  training: {max_steps: 2, context_tokens: 512, tokens_per_batch: 1024, precision: fp32, log_every: 1}\n"
    )
    command = ["train", str(recipe), "--manifest", str(speech / "speech" / "manifest.jsonl"), "--out", str(run)]
    command += ["--tokenizer", str(speech / "units" / "tokenizer"), "--device", "cpu"]
    assert main(command) == 0, capsys.readouterr().err
    lines = read_metrics(run / "lm")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    assert "Held-out loss" in capsys.readouterr().out
    assert "the settings of the tokenizer were not used" in (run / "config.yaml").read_text()
    assert main([*command, "unread={a: 1}"]) == 0  # settings of others do not make it train again
    assert "lm: done" in capsys.readouterr().out and read_metrics(run / "lm") == lines
    make_tiny_vocoder(make_tiny_tokenizer()).save_pretrained(tmp_path / "vocoder")
    generate = ["generate", "--model", str(run), "--tokenizer", str(speech / "units" / "tokenizer")]
    generate += ["--vocoder", str(tmp_path / "vocoder"), "--out", str(tmp_path / "a.wav"), "--device", "cpu"]
    limits = ["min_seconds=0.3", "max_seconds=0.3"]
    assert main([*generate, "--text", "the cat", "--task", "speak", *limits]) == 0, capsys.readouterr().err
    assert (tmp_path / "a.wav").is_file()
    clip = str(read_manifest(speech / "speech" / "manifest.jsonl")[0].audio)
    transcribe = ["--audio", clip, "--task", "transcribe", "--max-text-tokens", "5"]
    assert main([*generate, *transcribe]) == 0, capsys.readouterr().err
    assert (tmp_path / "a.txt").is_file() or "nothing was generated" in capsys.readouterr().out
    recipe.write_text("system: speech-text-test\n")
    assert main([*command, "--dry"]) == 0  # without a model in the recipe, tokens are what the chain makes
    shown = capsys.readouterr().out
    assert "tokens: done" in shown and "lm:" not in shown


def test_one_stream_of_a_codec(speech, tmp_path, capsys):
    """The semantic stream is read and written, a code a frame, and heard without the acoustic one."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(
        "system: speech-text-test\nvalid_share: 0.3\nspeech_text:\n  text: {vocabulary_size: 300}\n"
        "  lm: {text_model: tiny, warm: false}\n"
        "  training: {max_steps: 2, context_tokens: 512, tokens_per_batch: 1024, precision: fp32, log_every: 1}\n"
    )
    command = ["train", str(recipe), "--manifest", str(speech / "speech" / "manifest.jsonl"), "--out", str(run)]
    command += ["--tokenizer", str(speech / "sines" / "tokenizer"), "--device", "cpu"]
    assert main(command) == 0, capsys.readouterr().err
    shards = TokenShards(run / "tokens")
    assert {stream.name for stream in shards.streams} == {"semantic", "acoustic"}  # the tokens stage keeps all
    lm = load_lm(run, tokenizer=speech / "sines" / "tokenizer")
    semantic = shards.stream("semantic")
    assert lm.card.tokenizer_fingerprint == semantic.fingerprint == lm.tokenizer.fingerprint
    assert lm.card.vocabulary.codebook_size == 64
    assert json.loads((run / "lm" / "last" / "vocable.json").read_text())["layout"]["collapsed"] is False
    settings = GenerationConfig(max_seconds=0.39, min_seconds=0.39)
    (reply,) = lm.continue_([[Segment(text="the cat")]], settings, to="speech", task="speak")
    assert len(reply.token_ids) == 20  # at 50 Hz
    (waveform,) = lm.tokenizer.decode([reply.tokens])
    assert len(waveform) == 20 * 160 and float(waveform.abs().max()) > 0.05
    out = tmp_path / "a.wav"
    generate = ["generate", "--model", str(run), "--tokenizer", str(speech / "sines" / "tokenizer"), "--out", str(out)]
    limits = ["min_seconds=0.3", "max_seconds=0.3", "--device", "cpu"]
    assert main([*generate, "--text", "the cat", "--task", "speak", *limits]) == 0, capsys.readouterr().err
    assert out.is_file()
    with pytest.raises(ConfigError, match=r"several streams \(semantic, acoustic\).*set stream to one of them"):
        train(CONFIG, speech, tmp_path / "none", "sines")
    with pytest.raises(ConfigError, match=r"has no stream 'semantic'; it has units"):
        train(replace(CONFIG, stream="semantic"), speech, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"the acoustic|3 codebooks"):
        train(replace(CONFIG, stream="acoustic"), speech, tmp_path / "none", "sines")


def test_what_cannot_be_used_is_left_out_or_refused(speech, tmp_path):
    utterances = read_manifest(speech / "speech" / "manifest.jsonl")
    bare = [replace(utterance, text=None, words=None) for utterance in utterances]
    for name, chosen in (("some", [*bare[:2], *utterances[2:]]), ("none", bare)):
        write_manifest(chosen, tmp_path / f"{name}.jsonl")
        tokenize_manifest(tmp_path / f"{name}.jsonl", tmp_path / name, str(speech / "units" / "tokenizer"))
    said = []
    some, settings = TokenShards(tmp_path / "some"), {"valid_share": 0.3, "show": False}
    speech_text.train(CONFIG, some, tmp_path / "run", report=said.append, **settings)
    assert any("left out, e.g.: Utterance 'clip0" in line and "has no text" in line for line in said)
    config = replace(CONFIG, text=TextConfig(tokenizer=str(tmp_path / "run" / "text-tokenizer")))
    with pytest.raises(ConfigError, match=r"The task 'transcribe' has no example\. Utterance 'clip\d+' has no text"):
        speech_text.train(config, TokenShards(tmp_path / "none"), tmp_path / "no", **settings)
    short = replace(CONFIG, training=replace(TRAINING, context_tokens=40, tokens_per_batch=40))
    with pytest.raises(ConfigError, match=r"makes a row of \d+ tokens; training.context_tokens is 40"):
        train(short, speech, tmp_path / "no")


def test_what_does_not_fit_is_refused(speech, tmp_path):
    with pytest.raises(FingerprintError):
        train(CONFIG, speech, tmp_path, tokenizer=SineCodec.make().stream("semantic"))
    shards = TokenShards(speech / "units" / "tokens")
    with pytest.raises(ManifestError, match="have a text that is trained on"):
        train(CONFIG, speech, tmp_path, valid_shards=shards)
    for wrong, message in (
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"speak": 0.0}}, r"tasks\.speak is 0\.0; a share is above 0"),
        ({"lora": LoraConfig()}, "lora adapts a text model's weights"),
        ({"lm": UnitLMConfig()}, "lm.warm keeps the text model's vocabulary"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **wrong)


def test_a_misspelt_task_is_named(tmp_path, speech, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("system: speech-text-test\nspeech_text: {tasks: {transcibe: 1}}\n")
    command = ["train", str(recipe), "--tokens", str(Path(speech) / "units" / "tokens"), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "'transcribe'" in capsys.readouterr().err


def test_a_trained_model_is_measured_by_the_benchmarks(speech, tmp_path):
    """On the stream of a codec: it transcribes and speaks through `evaluate stt` and `evaluate tts`."""
    config = replace(CONFIG, stream="semantic")
    run = train(config, speech, tmp_path, kind="sines").last
    manifest, places = speech / "speech" / "manifest.jsonl", {"tokenizer": speech / "sines" / "tokenizer"}
    few = {"model": run, "num_resamples": 20, "num_utterances": 3, "device": "cpu", **places}
    stt = evaluate("stt", manifest=manifest, max_text_tokens=8, **few)
    lm = load_lm(run, tokenizer=places["tokenizer"])
    for item in stt.items:
        (utterance,) = (one for one in read_manifest(manifest) if one.id == item["id"])
        (tokens,) = lm.tokenizer.encode([read_utterance(utterance, lm.tokenizer.sample_rate)])
        greedy = GenerationConfig(temperature=0.0)
        prompt = [[Segment(tokens=tokens)]]
        (reply,) = lm.continue_(prompt, greedy, to="text", task="transcribe", max_text_tokens=8)
        assert item["hypothesis"] == reply.text.strip()
    judges = {"judges": Judges(WhisperTranscriber(*make_tiny_recogniser(), "test/tiny-whisper"))}
    tts = evaluate("tts", texts=manifest, generation=SAMPLING, opened=judges, **few)
    assert len(tts.items) == 3 and {"wer_tts", "wer_topline", "duration_ratio"} <= set(tts.scores)
    assert all(item["seconds"] > 0 or item["stopped"] == "eos" for item in tts.items)
