"""Peak memory of training on 1, 4 and 16 times the same token shards: it should not grow with the corpus.

    python benchmarks/memory.py --out memory.json
    python benchmarks/memory.py --speech corpus.jsonl --times 1 4 16

Speech (that which comes with Vocable, or a manifest) is tokenized once, by log-mel frames and 100 clusters; the larger
corpora hold the same rows again, under new ids. Then `vocable train` (TWIST) and `vocable vocoder train` take a few
steps on each, in child processes of their own. Models are tiny, so that the data are what memory is spent on; batches
of the vocoder are large, so that it hears many recordings.

`resident` is the peak of a process, mapped files included; `anonymous` leaves out what is mapped from files, which the
system takes back when memory is short. The first run on a corpus also makes the mapped copy of its shards.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from timing import benchmark_parser, machine, peak_megabytes, read_options, run_child, write_results

STEPS = {"twist": 5, "vocoder": 12}


def main() -> None:
    """Make the corpora, train on each in a child process, print a table."""
    parser = benchmark_parser(__doc__, rounds=1)
    parser.add_argument("--speech", type=Path, help="a manifest; without it, the speech that comes with Vocable")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--once", nargs=3, metavar=("KIND", "FOLDER", "TIMES"), help=argparse.SUPPRESS)
    options = read_options(parser)
    if options.once:
        kind, folder, times = options.once
        print(json.dumps(measure(kind, Path(folder), int(times))))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = [
            run_child(Path(__file__), ["--once", kind, folder, str(times), "--threads", str(options.threads)])
            for times in prepare(Path(folder), options.speech, options.times)
            for kind in STEPS
        ]
    print_table(results)
    write_results({"machine": machine(), "results": results}, options.out)


def prepare(folder: Path, speech: Path | None, all_times: list[int]) -> list[int]:
    """Tokenize the speech, write the corpora and the two recipes; return how often each corpus holds the speech."""
    from vocable.audio.manifest import read_manifest, write_manifest
    from vocable.features import EncoderConfig
    from vocable.quickstart.data import STORIES
    from vocable.systems.from_speech import tokenize_manifest
    from vocable.tokens.kmeans import KMeansConfig
    from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig

    utterances = read_manifest(speech or STORIES)
    write_manifest(utterances, folder / "speech.jsonl")
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=100, seed=0)
    )
    UnitTokenizer.fit(utterances[:: max(1, len(utterances) // 100)], config).save_pretrained(folder / "units")
    tokenize_manifest(folder / "speech.jsonl", folder / "x1", str(folder / "units"), progress=False)
    for times in all_times:
        if times != 1:
            repeat_shards(folder / "x1", folder / f"x{times}", times)
    write_recipes(folder)
    return all_times


def repeat_shards(source: Path, target: Path, times: int) -> None:
    """Write the rows of all shards several times, under new ids."""
    target.mkdir()
    paths = sorted(source.glob("tokens-*.parquet"))
    for copy in range(times):
        for index, path in enumerate(paths):
            table = pq.read_table(path)
            ids = pc.binary_join_element_wise(table.column("id"), pa.scalar(str(copy)), "-")
            table = table.set_column(0, table.schema.field(0), ids)
            name = f"tokens-{copy * len(paths) + index:05d}-of-{times * len(paths):05d}.parquet"
            pq.write_table(table, target / name, compression="zstd")


def write_recipes(folder: Path) -> None:
    """Write a tiny language model to start from, and the recipes of both trainings."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 2}
    shape = OPTConfig(vocab_size=300, num_attention_heads=2, max_position_embeddings=1024, **sizes)
    OPTForCausalLM(shape).save_pretrained(folder / "lm")
    twist = {
        "system": "twist",
        "lm": {"text_model": str(folder / "lm"), "warm": False},
        "training": {
            "max_steps": STEPS["twist"],
            "context_tokens": 1024,
            "tokens_per_batch": 1024,
            "precision": "fp32",  # in bf16, oneDNN keeps up to 1,024 prepared products of other shapes, 0.2 GB
        },
    }
    vocoder = {
        "vocoder": {"dim": 16, "hidden_dim": 32, "num_layers": 1, "prosody_dim": 16, "pitch_layers": 1},
        "training": {
            "max_steps": STEPS["vocoder"],
            "batch_size": 64,
            "segment_seconds": 0.2,
            "adversarial_from": None,
            "validation_utterances": 2,
        },
    }
    for name, values in (("twist", twist), ("vocoder", vocoder)):
        (folder / f"{name}.yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is yaml


def measure(kind: str, folder: Path, times: int) -> dict[str, object]:
    """Train in this process, and return what it took."""
    from vocable.cli import main as vocable

    shards, units, out = str(folder / f"x{times}"), str(folder / "units"), folder / f"{kind}-{times}"
    arguments = {
        "twist": ["train", f"{folder}/twist.yaml", "--tokens", shards, "--tokenizer", units, "--out", str(out)],
        "vocoder": ["vocoder", "train", shards, str(out), "--tokenizer", units, "--config", f"{folder}/vocoder.yaml"],
    }[kind]
    peak = Anonymous()
    started = time.perf_counter()
    sys.stdout, shown = sys.stderr, sys.stdout
    code = vocable(arguments)
    sys.stdout = shown
    assert not code, f"vocable {' '.join(arguments)} failed"
    resident, anonymous = peak_megabytes(), peak.stop()
    shutil.rmtree(out)
    return {
        "training": kind,
        "times": times,
        "hours": round(hours_of(Path(shards)), 1),
        "resident_mb": round(resident),
        "anonymous_mb": round(anonymous),
        "seconds": round(time.perf_counter() - started, 1),
    }


def hours_of(shards: Path) -> float:
    """Add up the frames, of 10 ms, of all shards."""
    frames = [
        pc.sum(pc.list_flatten(pq.read_table(path, columns=["durations"]).column(0))).as_py()
        for path in shards.glob("tokens-*.parquet")
    ]
    return sum(frames) / 100 / 3600


class Anonymous(threading.Thread):
    """Watches the memory of this process that is not mapped from files (Linux; elsewhere 0)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look 50 times a second."""
        status = Path("/proc/self/status")
        while status.is_file() and not self.ended.wait(0.02):
            line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(line.split()[1]) * 1024 / 1e6)

    def stop(self) -> float:
        """Return the peak, in MB."""
        self.ended.set()
        self.join()
        return self.peak


def print_table(results: list[dict[str, object]]) -> None:
    """Print one line a run."""
    names = ("training", "times", "hours", "resident_mb", "anonymous_mb", "seconds")
    print("| " + " | ".join(names) + " |\n" + "| --- " * len(names) + "|")
    for result in sorted(results, key=lambda result: str(result["training"])):
        print("| " + " | ".join(str(result[name]) for name in names) + " |")


if __name__ == "__main__":
    main()
