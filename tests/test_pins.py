"""Numbers of small fixed runs, pinned: fingerprints, units, losses, scores and generated units stay what they were.

`pins.json` was written by `VOCABLE_PINS_OUT=tests/pins.json pytest tests/test_pins.py` at commit e8d7b92, before
tokenizers, training loops and benchmarks were rebuilt; the vocoder's are of the day when the vocoder was replaced.
Whole numbers, words and units must be equal. Losses and scores may differ by 1e-4 of their value: another machine's
BLAS sums in another order, about 1e-7 in a product, and a few optimiser steps make that larger; on one machine they
are equal. A fingerprint hashes trained weights to the bit, so it is compared where the weights have the pinned hash,
and for a codebook rounded to eighths everywhere.

Write new pins only with a reason that the commit states.
"""

import hashlib
import json
import math
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tiny import save_tiny_encoder, save_tiny_lm, write_speech
from vocable.audio.io import read_audio
from vocable.audio.manifest import read_manifest
from vocable.cli import main
from vocable.evaluation.pairs import PairItem, PairSet, Segment, write_pair_set
from vocable.lm import spoken as spoken_lm
from vocable.lm.generation import GenerationConfig
from vocable.tokens.shards import TokenShards

PINS = Path(__file__).with_name("pins.json")
RTOL = 1e-4
TEXTS = ["Anna saw a cat", "the cat sat by rivers", "a dog ran home", "we went up hills", "it was late", "birds sing"]
TRAINING = "max_steps: 6, warmup_steps: 1, precision: fp32, log_every: 1, validate_every: 3"
SMALL = "num_layers: 1, width: 16, num_heads: 2, feedforward_dim: 32"
RECIPES = {
    "twist": f"""
        tokenizer: {{encoder: {{name: log-mel, layer: 0}}, kmeans: {{num_clusters: 8}}}}
        lm: {{text_model: @opt}}
        valid_share: 0.3
        training: {{{TRAINING}, learning_rate: 5.0e-3, context_tokens: 128, tokens_per_batch: 256}}""",
    "sutlm": f"""
        system: sutlm
        text: {{vocabulary_size: 300}}
        subwords: {{vocabulary_size: 40}}
        lm: {{text_model: tiny, warm: false}}
        sources: {{unit-only: {{}}, text-only: {{}}, cst: {{}}, ast: {{}}}}
        valid_share: 0.3
        training: {{{TRAINING}, learning_rate: 5.0e-3, context_tokens: 512, tokens_per_batch: 512}}""",
    "last": f"""
        system: last
        name: pinned
        encoder: {{name: @encoder, layer: 2}}
        lm: {{text_model: @opt}}
        model:
          encoder: {{{SMALL}}}
          decoder: {{{SMALL}}}
          quantizer: {{dim: 8, codebook_size: 12, window_frames: 500}}
          loss: {{nll_start_step: 1, nll_ramp_steps: 0, reconstruction_weight: 1.0}}
        valid_share: 0.3
        training: {{{TRAINING}, learning_rate: 1.0e-3, crop_frames: 60, batch_frames: 240}}""",
    "vocoder": """
        init: random
        vocoder:
          prosody_dim: 8
          frontend: {dim: 16, hidden_dim: 16, token_layers: 1, frame_layers: 1}
          decoder:
            {dim: 16, hidden_dim: 16, num_layers: 1, content_dim: 8, sample_rate: 16000, hop_length: 200, n_fft: 400}
        training:
          {max_steps: 3, batch_size: 2, segment_seconds: 0.2, adversarial_segment_seconds: null, adversarial_from: 0.5,
          precision: fp32, num_workers: 0, validation_utterances: 0, log_every: 1,
          discriminators: {periods: [3], period_channels: [4], n_ffts: [256], spectrogram_channels: 4}}""",
}


class World:
    """A folder with twelve recordings, a tokenizer of eight log-mel units and its shards; and the command line."""

    def __init__(self, folder: Path, make_speechlike: Callable[..., torch.Tensor]) -> None:
        self.folder = folder
        write_speech(folder / "speech", make_speechlike, texts=TEXTS)
        encoder = "--encoder log-mel --layer 0"
        small = "kmeans.init_frames=100 kmeans.max_iterations=5"
        self.run(f"tokenizer fit @speech/manifest.jsonl @fitted {encoder} --clusters 8 --device cpu {small}")
        self.centroids = next(v for v in load_file(folder / "fitted" / "model.safetensors").values() if v.ndim == 2)
        np.save(folder / "rounded.npy", np.round(self.centroids * 8) / 8)
        self.run(f"tokenizer import-kmeans @rounded.npy @tokenizer {encoder}")
        for name, recipe in RECIPES.items():
            self.write(f"{name}.yaml", textwrap.dedent(recipe))
        self.run("tokenize @speech/manifest.jsonl @tokens --tokenizer @tokenizer --device cpu --utterances-per-shard 7")

    def run(self, words: str) -> None:
        """Run a command; @ stands for the folder."""
        assert main(words.replace("@", f"{self.folder}/").split()) == 0, words

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text.replace("@", f"{self.folder}/"))

    def log(self, name: str) -> dict[str, list[float]]:
        """Every value in the log of a run, by split and name, but for what a clock says."""
        found: dict[str, list[float]] = {}
        for line in (self.folder / name / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            for key in values.keys() - {"split", "step", "tokens_per_second", "minutes", "seconds"}:
                found.setdefault(f"{values['split']} {key}", []).append(values[key])
        return dict(sorted(found.items()))

    def scores(self, name: str) -> dict[str, Any]:
        """The scores of a result file."""
        result = json.loads((self.folder / name).read_text())
        return {key: [score["value"], score["num_items"]] for key, score in result["scores"].items()}

    def identity(self, name: str) -> list[str]:
        """The hash of a tokenizer's weights, and its fingerprint."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / name).glob("*.safetensors")):
            for key, value in sorted(load_file(path).items()):
                digest.update(key.encode() + value.tobytes())
        return [digest.hexdigest(), json.loads((self.folder / name / "config.json").read_text())["fingerprint"]]


def tokens_run(world: World) -> dict[str, Any]:
    lines = []
    for number, line in enumerate((world.folder / "speech" / "manifest.jsonl").read_text().splitlines()):
        names = ["abc"[(step * step + number // 3) % 3] for step in range(8)]
        phones = [{"phone": name, "start": step / 8, "end": (step + 1) / 8} for step, name in enumerate(names)]
        lines.append(json.dumps({**json.loads(line), "phones": phones}) + "\n")
    world.write("speech/phones.jsonl", "".join(lines))
    judged = "--manifest @speech/phones.jsonl --out @results --device cpu"
    world.run("evaluate units @tokens --out @results")
    world.run(f"evaluate phones --tokens @tokens {judged}")
    world.run(f"evaluate abx --encoder log-mel --layer 0 --span phone --context any --kernel torch {judged}")
    usage = json.loads((world.folder / "results" / "units.json").read_text())["measurements"]
    utterances = []
    for utterance, spoken in TokenShards(world.folder / "tokens"):
        assert spoken.durations is not None
        utterances.append([utterance.id, spoken.codes.tolist(), spoken.durations.tolist()])
    return {
        "fitted": [*world.centroids.mean(1).tolist(), *world.centroids.std(1).tolist()],
        "fitted_identity": world.identity("fitted"),
        "fingerprint": world.identity("tokenizer")[1],
        "utterances": utterances,
        "usage": {key: value for key, value in usage.items() if isinstance(value, int | float)},
        "phones": world.scores("results/phones.json"),
        "abx": world.scores("results/abx.json"),
    }


def twist_run(world: World) -> dict[str, Any]:
    save_tiny_lm("opt", world.folder / "opt")
    world.run("train @twist.yaml --tokens @tokens --tokenizer @tokenizer --out @twist")
    lm = spoken_lm.load_lm(world.folder / "twist" / "lm" / "last")
    prompts = [[spoken_lm.Segment(tokens=spoken)] for _, spoken in TokenShards(world.folder / "tokens")][:3]
    sampled = lm.continue_(prompts, GenerationConfig(min_seconds=0.5, max_seconds=1.5))
    likeliest = lm.continue_(prompts, GenerationConfig(max_seconds=0.5, temperature=0.0))
    ids = {utterance.id: utterance for utterance in read_manifest(world.folder / "speech" / "manifest.jsonl")}
    items = [
        PairItem(
            id=f"p{i}",
            positive=(Segment(speech=f"clip{i:02}"), Segment(speech=f"clip{i + 1:02}")),
            negative=(Segment(speech=f"clip{i:02}"), Segment(speech=f"clip{11 - i:02}")),
            voice=f"s{i % 2}",
            group={"version": "spoken", "story": str(i)},
        )
        for i in range(5)
    ]
    write_pair_set(PairSet(benchmark="storycloze", items=items, utterances=ids), world.folder / "pairs")
    pairs: dict[str, Any] = {}
    for model in ("@twist/lm/last", "bigram"):
        out = f"results-{model[-4:]}"
        words = f"--model {model} --tokenizer @tokenizer --train-tokens @tokens --cache @cache --device cpu"
        world.run(f"evaluate storycloze @pairs {words} --out @{out}")
        pairs[model] = {**world.scores(f"{out}/storycloze.json"), **rows(world.folder / out / "storycloze")}
    return {
        "log": world.log("twist/lm"),
        "sampled": [c.tokens.units.tolist() for c in sampled],
        "likeliest": [c.tokens.units.tolist() for c in likeliest],
        "pairs": pairs,
    }


def rows(result: Path) -> dict[str, list[float]]:
    """The likelihoods of a pair result, item by item."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(result.with_suffix(".items.parquet")).to_pydict()
    return {name: table[name] for name in ("nll_positive", "nll_negative", "tokens_positive", "tokens_negative")}


def sutlm_run(world: World) -> dict[str, Any]:
    world.run("train @sutlm.yaml --tokens @tokens --tokenizer @tokenizer --out @sutlm")
    for logits in ("kept", "masked"):
        words = f"--pool-size 3 --min-words 1 --logits {logits} --cache @cache --device cpu --out @cra-{logits}"
        world.run(f"evaluate cra @speech/manifest.jsonl --model @sutlm/lm/last --tokenizer @tokenizer {words}")
    lm = spoken_lm.load_lm(world.folder / "sutlm" / "lm" / "last")
    utterances = list(TokenShards(world.folder / "tokens"))[:2]
    prompts = {
        "speech": [[spoken_lm.Segment(tokens=tokens)] for _, tokens in utterances],
        "text": [[spoken_lm.Segment(text=utterance.text)] for utterance, _ in utterances],
    }
    generated = {}
    directions: list[tuple[Any, Any]] = [("speech", "speech"), ("text", "speech"), ("speech", "text"), ("text", "both")]
    for prompt, to in directions:
        replies = lm.continue_(prompts[prompt], GenerationConfig(max_seconds=0.5), to=to)
        generated[f"{prompt} to {to}"] = [reply.token_ids.tolist()[:64] for reply in replies]
    return {
        "log": world.log("sutlm/lm"),
        "cra": {logits: world.scores(f"cra-{logits}/cra.json") for logits in ("kept", "masked")},
        "generated": generated,
    }


def last_run(world: World) -> dict[str, Any]:
    save_tiny_encoder("whisper", world.folder / "encoder")
    save_tiny_lm("opt", world.folder / "opt")
    world.run("train @last.yaml --manifest @speech/manifest.jsonl --out @last --device cpu")
    world.run("tokenize @speech/manifest.jsonl @last-tokens --tokenizer @last/tokenizer --device cpu")
    return {
        "log": world.log("last/training"),
        "identity": world.identity("last/tokenizer"),
        "units": [t.codes.tolist() for _, t in TokenShards(world.folder / "last-tokens")],
    }


def vocoder_run(world: World) -> dict[str, Any]:
    world.run("vocoder train @tokens @vocoder --tokenizer @tokenizer --config @vocoder.yaml")
    world.run("vocoder synthesize @tokens @made --vocoder @vocoder/vocoder --limit 3")
    made = read_manifest(world.folder / "made" / "manifest.jsonl")
    waveforms = [read_audio(utterance.audio).waveform for utterance in made]
    return {
        "log": world.log("vocoder"),
        "made": [[u.id, u.speaker, len(w)] for u, w in zip(made, waveforms, strict=True)],
        "loudness": [waveform.square().mean().sqrt().item() for waveform in waveforms],
    }


def probe_run(world: World) -> dict[str, Any]:
    lines = (world.folder / "speech" / "manifest.jsonl").read_text().splitlines(keepends=True)
    for name, some in (("train", lines[:8]), ("test", lines[8:])):
        world.write(f"speech/{name}.jsonl", "".join(some))
    speech = "--manifest @speech/train.jsonl --test-manifest @speech/test.jsonl --tokens @tokens --device cpu"
    small = "--epochs 40 --batch-utterances 4 --learning-rate 0.02 --hidden-dim 16 --num-layers 1"
    world.run(f"evaluate recognition {speech} {small} --out @probe")
    result = json.loads((world.folder / "probe" / "recognition.json").read_text())
    return {"losses": result["measurements"]["train_loss"], "scores": world.scores("probe/recognition.json")}


RUNS = {
    "tokens": tokens_run,
    "twist": twist_run,
    "sutlm": sutlm_run,
    "last": last_run,
    "vocoder": vocoder_run,
    "probe": probe_run,
}


def differences(found: Any, pinned: Any, place: str) -> list[str]:
    """Say where two records differ, by the rules at the top."""
    if place.endswith("identity") and found[0] != pinned[0]:
        return []  # other weights, by other sums
    if isinstance(pinned, dict) and isinstance(found, dict) and found.keys() >= pinned.keys():
        return [line for key in pinned for line in differences(found[key], pinned[key], f"{place}.{key}")]
    if isinstance(pinned, list) and isinstance(found, list) and len(found) == len(pinned):
        pairs = enumerate(zip(found, pinned, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{place}.{index}")]
    if isinstance(pinned, float) and isinstance(found, float) and math.isclose(found, pinned, rel_tol=RTOL):
        return []
    return [] if found == pinned else [f"{place}: {found} was {pinned}"]


def record(path: Path, name: str, found: dict[str, Any]) -> None:
    """Put what a run gave into a file of pins, one list of numbers a line."""
    pins = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps({**pins, name: found}, indent=1)
    path.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_speechlike) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("pins"), make_speechlike)


@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_what_they_were(name: str, world: World) -> None:
    found = json.loads(json.dumps(RUNS[name](world)))
    if recorded := os.environ.get("VOCABLE_PINS_OUT"):
        record(Path(recorded), name, found)
    assert differences(found, json.loads(PINS.read_text())[name], name) == []
