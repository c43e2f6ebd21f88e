"""Training a LAST tokenizer through a frozen text language model: what each part of a step costs, in one run.

    python benchmarks/last_training.py --threads 1 --cpu-seconds --out last_training.json

One step reads 600 frames in crops of 3 s, passes encoder, quantizer (100 units), language model and decoder, goes back
and updates, with the sizes of recipes/last/cpu.yaml. Features come from the cache, or from the frozen encoder in every
step; the language model is there, or is not (what reconstruction alone costs), in bfloat16 or float32, with attention
'eager' or 'sdpa'. Frozen encoder (Whisper tiny, cut behind layer 2) and language model (SmolLM2-135M) have their true
shapes and random weights, which changes no time. Clips are noise of 9 s, so that streamed crops have context to hear.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from timing import (
    benchmark_parser,
    conditions,
    peak_megabytes,
    ratio,
    read_options,
    run_child,
    run_in_turn,
    write_results,
)
from transformers import AutoModelForCausalLM, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from vocable.audio.writing import write_audio
from vocable.config import config_from_dict
from vocable.features import load_encoder
from vocable.lm.shapes import shape_config
from vocable.lm.surgery import DTYPES
from vocable.systems.last import LastConfig, LastData, build_model, prepare_data
from vocable.systems.last.batches import Crop, cut_clips, read_batch
from vocable.systems.last.clips import cache_clips
from vocable.training.logs import quiet_transformers
from vocable.training.task import make_optimizer
from vocable.types import Utterance

CROP_FRAMES, CROPS = 150, 4
CLIPS, CLIP_SECONDS, SAMPLE_RATE = 12, 9, 16_000
LM_SHAPE = "HuggingFaceTB/SmolLM2-135M"
NEVER = 2**31


class Variant(NamedTuple):
    """How a step is done; the defaults are those of the CPU recipe."""

    cached: bool = True
    lm: Literal["bfloat16", "float32"] | None = "bfloat16"
    """Type of the language model's weights; None: there is none."""
    attention: Literal["eager", "sdpa"] = "eager"
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the arithmetic in training."""


BASE = "cached, bfloat16 LM, eager"
VARIANTS = {
    BASE: Variant(),
    "streamed, bfloat16 LM, eager": Variant(cached=False),
    "cached, no LM": Variant(lm=None),
    "streamed, no LM": Variant(cached=False, lm=None),
    "cached, bfloat16 LM, sdpa": Variant(attention="sdpa"),
    "cached, float32 LM, eager": Variant(lm="float32"),
    "cached, float32 LM, sdpa": Variant(lm="float32", attention="sdpa"),
    "cached, float32 LM, eager, fp32 training": Variant(lm="float32", precision="fp32"),
}
COMPARISONS = {
    "caching": ("streamed, bfloat16 LM, eager", BASE),
    "caching, without LM": ("streamed, no LM", "cached, no LM"),
    "leaving out the LM": (BASE, "cached, no LM"),
    "eager instead of sdpa": ("cached, bfloat16 LM, sdpa", BASE),
    "eager instead of sdpa, float32 LM": ("cached, float32 LM, sdpa", "cached, float32 LM, eager"),
    "bfloat16 LM instead of float32": ("cached, float32 LM, eager", BASE),
    "bf16 training, float32 LM": ("cached, float32 LM, eager, fp32 training", "cached, float32 LM, eager"),
}


def main() -> None:
    """Make the files, measure memory in child processes, time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--once", nargs=2, metavar=("FOLDER", "VARIANT"), help=argparse.SUPPRESS)
    options = read_options(parser)
    warnings.filterwarnings("ignore")
    quiet_transformers()
    if options.once:
        folder, name = options.once
        before = peak_megabytes()
        step = make_step(VARIANTS[name], Path(folder))
        loaded = peak_megabytes()
        for _ in range(2):  # the optimiser's averages are made in the first
            step()
        print(json.dumps({"imports": before, "loaded": loaded, "peak": peak_megabytes()}))
        return
    with tempfile.TemporaryDirectory(prefix="vocable-benchmark-") as folder:
        results = compare(options, Path(folder))
    show(results)
    write_results(results, options.out)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything in `folder`; return numbers only."""
    write_models(folder)
    utterances = write_clips(folder)
    caching = time_caching(utterances, folder, options.cpu_seconds)
    words = ["--threads", str(options.threads), "--once", str(folder)]
    memory = {name: run_child(Path(__file__), [*words, name]) for name in VARIANTS}
    steps = {name: make_step(variant, folder) for name, variant in VARIANTS.items()}
    seconds = run_in_turn(steps, options.rounds, warmup=1, cpu_seconds=options.cpu_seconds)
    frames = CROPS * CROP_FRAMES
    return {
        "benchmark": "last_training",
        "lm_shape": LM_SHAPE,
        "frames": frames,
        **conditions(options),
        "caching": caching,
        "variants": {
            name: {
                "seconds": [round(value, 3) for value in times],
                "frames_per_second": frames / sorted(times)[len(times) // 2],
                "peak_megabytes": memory[name],
            }
            for name, times in seconds.items()
        },
        "times_faster": {
            what: ratio(seconds[slow], seconds[fast])._asdict() for what, (slow, fast) in COMPARISONS.items()
        },
    }


def write_models(folder: Path) -> None:
    """Write the frozen encoder, and the language model in both number types and as a tiny one."""
    torch.manual_seed(0)
    sizes = {"layers": 4, "attention_heads": 6, "ffn_dim": 1536}
    both: dict[str, Any] = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    WhisperModel(WhisperConfig(d_model=384, **both)).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper")
    lm = AutoModelForCausalLM.from_config(shape_config(LM_SHAPE))
    for name in ("float32", "bfloat16"):
        lm.to(DTYPES[name]).save_pretrained(folder / f"lm-{name}")
    AutoModelForCausalLM.from_config(shape_config("tiny")).save_pretrained(folder / "lm-none")


def write_clips(folder: Path) -> list[Utterance]:
    """Write noise as FLAC."""
    (folder / "audio").mkdir()
    utterances = []
    for index in range(CLIPS):
        path = folder / "audio" / f"clip{index:02d}.flac"
        generator = torch.Generator().manual_seed(index)
        write_audio(path, 0.1 * torch.randn(CLIP_SECONDS * SAMPLE_RATE, generator=generator), SAMPLE_RATE)
        utterances.append(Utterance(id=path.stem, audio=path, duration=float(CLIP_SECONDS)))
    return utterances


def read_clips(folder: Path) -> list[Utterance]:
    """Find the clips that `write_clips` wrote."""
    paths = sorted((folder / "audio").glob("*.flac"))
    return [Utterance(id=path.stem, audio=path, duration=float(CLIP_SECONDS)) for path in paths]


def time_caching(utterances: list[Utterance], folder: Path, cpu_seconds: bool) -> dict[str, float]:
    """Fill the cache that the variants then find; return what that took, in all and for the frames of a step."""
    clock = time.process_time if cpu_seconds else time.perf_counter
    encoder = load_encoder(config_of(Variant(), folder).encoder)
    encoder.encode([torch.zeros(SAMPLE_RATE)])  # first calls cost more
    start = clock()
    clips = cache_clips(utterances, encoder, folder / "features" / "train")
    seconds = clock() - start
    frames = sum(clips.lengths)
    return {"frames": frames, "seconds": seconds, "seconds_for_a_step": seconds * CROPS * CROP_FRAMES / frames}


def config_of(variant: Variant, folder: Path) -> LastConfig:
    """Write a variant down as a recipe."""
    transformer = {"width": 256, "num_heads": 4, "feedforward_dim": 1024}
    with_lm = variant.lm is not None
    values = {
        "encoder": {"name": str(folder / "whisper"), "layer": 2, "padding": "none"},
        "model": {
            "encoder": transformer,
            "decoder": transformer,
            "quantizer": {"codebook_size": 100},
            "loss": {"nll_start_step": 0 if with_lm else NEVER, "nll_ramp_steps": 0},
        },
        "lm": {
            "text_model": str(folder / f"lm-{variant.lm if with_lm else 'none'}"),
            "dtype": variant.lm or "bfloat16",
            "attention": variant.attention,
        },
        "cache_features": variant.cached,
        "training": {
            "max_steps": 1000,
            "crop_frames": CROP_FRAMES,
            "batch_frames": CROPS * CROP_FRAMES,
            "learning_rate": 3e-4,
            "precision": variant.precision,
        },
    }
    return config_from_dict(LastConfig, values)


def make_step(variant: Variant, folder: Path) -> Callable[[], None]:
    """Load what a variant needs; the function that comes back takes one optimiser step, on the next crops."""
    config = config_of(variant, folder)
    data = prepare_data(config, read_clips(folder), folder, valid_utterances=[])
    model = build_model(config, data.encoder.dim).train()
    optimizer = make_optimizer(model, config.training)
    batches = itertools.cycle(plan_batches(data))

    def step() -> None:
        batch = read_batch(data.train, next(batches))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.training.precision == "bf16"):
            output = model(batch.features, batch.mask)
        if output.num_frames != CROPS * CROP_FRAMES or output.lm_was_run != (variant.lm is not None):
            raise RuntimeError(f"{variant}: {output.num_frames} frames, language model run: {output.lm_was_run}.")
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plan_batches(data: LastData) -> list[list[Crop]]:
    """Batches of whole crops from all over the clips, the same for every variant."""
    crops = [crop for crop in cut_clips(data.train.lengths, CROP_FRAMES) if crop.length == CROP_FRAMES]
    order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(0)).tolist()
    return [[crops[place] for place in order[start : start + CROPS]] for start in range(0, len(order), CROPS)]


def show(results: dict[str, Any]) -> None:
    """Print both tables."""
    machine, caching = results["machine"], results["caching"]
    print(f"{LM_SHAPE}, {results['frames']} frames a step, {machine['processor']}, {results['clock']}")
    print(f"{'':42s}{'s a step':>10s}{'frames/s':>10s}{'peak MB':>9s}{'loaded MB':>11s}")
    for name, row in results["variants"].items():
        median, memory = results["frames"] / row["frames_per_second"], row["peak_megabytes"]
        rates = f"{median:10.2f}{row['frames_per_second']:10.0f}"
        print(f"  {name:40s}{rates}{memory['peak']:9.0f}{memory['loaded']:11.0f}")
    for what, faster in results["times_faster"].items():
        print(f"  {what:40s}{faster['median']:8.2f}x ({faster['low']:.2f}-{faster['high']:.2f})")
    print(f"  Filling the cache once takes {caching['seconds_for_a_step']:.2f} s for the frames of a step.")


if __name__ == "__main__":
    sys.exit(main())
