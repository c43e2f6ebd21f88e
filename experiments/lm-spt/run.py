"""Claims of LM-SPT at the size of a CPU: train variants of a small codec at equal steps, judge them, see what holds.

    python run.py train TRAIN.jsonl TEST.jsonl OUT [setting=value ...] [--variants a,b] [--seeds 0,1]
    python run.py judge TRAIN.jsonl TEST.jsonl OUT [--variants a,b] [--seeds 0,1] [--judges x,y]
    python run.py report OUT

Each command goes on where it was stopped. OUT/seed-S/VARIANT holds a run and, in judges/, its results; `report` writes
OUT/results.csv (every score) and OUT/verdicts.csv (every claim), and prints the table of README.md.
"""

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.config import load_config
from vocable.errors import VocableError
from vocable.evaluation.comparison.compare import CompareConfig, compare_results
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import evaluate
from vocable.splits import training_items
from vocable.systems.lm_spt.config import LmSptConfig
from vocable.systems.lm_spt.stages import train_codec
from vocable.types import Utterance

HERE = Path(__file__).parent
HOLDS, FAILS, OPEN, MISSING = "holds", "fails", "cannot tell", "not run yet"


class Gap(NamedTuple):
    """Score of the variant that should be lower, less that of the other, on the same items."""

    lower: float
    higher: float
    difference: float
    low: float
    high: float


def read_plan(path: Path = HERE / "plan.yaml") -> dict[str, Any]:
    """Read the plan; overrides of a variant that are lists in the file become one list."""
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, settings in plan["variants"].items():
        plan["variants"][name] = [one for part in settings for one in ([part] if isinstance(part, str) else part)]
    return plan


def recipe(plan: Mapping[str, Any], variant: str, seed: int, settings: Sequence[str] = ()) -> LmSptConfig:
    """Return the recipe of a variant; `settings` change all of them."""
    overrides = [*plan["variants"][variant], *settings, f"training.seed={seed}"]
    return load_config(LmSptConfig, HERE / "base.yaml", overrides)


def divide(utterances: Sequence[Utterance], plan: Mapping[str, Any]) -> dict[str, list[Utterance]]:
    """Choose by hashes what codecs learn on ("train"), what probes learn on ("probe"), and who is asked about later.

    "speakers" are recordings that neither has, of speakers whom the probes have.
    """
    ranked = sorted(utterances, key=lambda one: hashlib.sha256(one.id.encode()).hexdigest())
    count = round(plan["held_out_share"] * len(ranked))
    train, most = ranked[count:], plan["probe_recordings"]
    probe = train[:most]
    known = {one.speaker for one in probe}
    speakers = [one for one in ranked[:count] if one.speaker is not None and one.speaker in known][:most]
    return {"train": train, "probe": probe, "speakers": speakers}


def manifests(train: Path, test: Path, out: Path, plan: Mapping[str, Any]) -> dict[str, Path]:
    """Write the parts of the training manifest once; what is there must be the same."""
    parts = divide(training_items(read_manifest(train)), plan)
    paths = {name: out / "manifests" / f"{name}.jsonl" for name in parts}
    for name, utterances in parts.items():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        if not paths[name].exists():
            write_manifest(utterances, paths[name])
        elif [one.id for one in read_manifest(paths[name])] != [one.id for one in utterances]:
            raise SystemExit(f"{paths[name]} holds other recordings. Choose another folder.")
    return {**paths, "test": test}


def train(plan: Mapping[str, Any], paths: Mapping[str, Path], out: Path, options: argparse.Namespace) -> None:
    """Train every variant with every seed; measurements of the recordings are made once for all."""
    utterances, test = read_manifest(paths["train"]), read_manifest(paths["test"])
    (out / "measures").mkdir(parents=True, exist_ok=True)
    for seed, variant, folder in runs(plan, out, options):
        if (folder / "tokenizer").is_dir():
            continue
        print(f"seed {seed}, {variant}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "measures").exists():
            (folder / "measures").symlink_to((out / "measures").resolve(), target_is_directory=True)
        train_codec(recipe(plan, variant, seed, options.settings), utterances, folder, test)


def judge(plan: Mapping[str, Any], paths: Mapping[str, Path], out: Path, options: argparse.Namespace) -> None:
    """Judge every trained variant on recordings that it has not heard."""
    for _, variant, folder in runs(plan, out, options):
        for name in needed_judges(plan, variant):
            benchmark, on, settings = split_judge(plan["judges"][name])
            result = folder / "judges" / name / f"{benchmark}.json"
            if result.is_file() or not (folder / "tokenizer").is_dir() or name not in options.judges:
                continue
            print(f"{folder.name} ({folder.parent.name}): {name}", flush=True)
            given = {"manifest": paths[on]}
            if benchmark != "reconstruction":
                given = {"manifest": paths["probe"], "test_manifest": paths[on]}
            evaluate(benchmark, out=result.parent, tokenizer=folder / "tokenizer", **given, **settings)


def split_judge(judge: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return a judge's benchmark, the manifest that it is on, and the benchmark's settings."""
    settings = {key: value for key, value in judge.items() if key not in ("benchmark", "recordings")}
    return judge["benchmark"], judge["recordings"], settings


def needed_judges(plan: Mapping[str, Any], variant: str) -> list[str]:
    """Return the judges that some claim needs of a variant, in the order of the plan."""
    asked = {
        score.split("/")[0]
        for claim in plan["claims"]
        for name, score in ((claim["lower"], claim["score"]), (claim["higher"], other_score(claim)))
        if name == variant
    }
    return [name for name in plan["judges"] if name in asked]


def other_score(claim: Mapping[str, str]) -> str:
    """Return the score of the variant that should be higher: the same one, unless the claim names another."""
    return claim.get("against", claim["score"])


def runs(plan: Mapping[str, Any], out: Path, options: argparse.Namespace) -> Iterator[tuple[int, str, Path]]:
    """Go through the chosen seeds and variants; all variants of a seed come before the next seed."""
    for seed in options.seeds:
        for variant in options.variants:
            if variant not in plan["variants"]:
                raise SystemExit(f"Unknown variant {variant!r}. Known: {', '.join(plan['variants'])}.")
            yield seed, variant, out / f"seed-{seed}" / variant


def gap(plan: Mapping[str, Any], out: Path, claim: Mapping[str, str], seed: int) -> Gap | None:
    """Compare the two sides of a claim, paired over utterances; None where one of them is not judged yet."""
    results = {}
    for side, score in (("lower", claim["score"]), ("higher", other_score(claim))):
        judge = score.split("/")[0]
        benchmark, _, _ = split_judge(plan["judges"][judge])
        path = out / f"seed-{seed}" / claim[side] / "judges" / judge / f"{benchmark}.json"
        if not path.is_file():
            return None
        results[side] = load_result(path)
    name = claim["score"].split("/")[1]
    compared = compare_results(results, CompareConfig(scores=(name,), conventions="allow"))
    (found,) = [one for one in compared.differences if one.measure == name]
    if found.low is None or found.high is None:
        return None
    return Gap(*found.values, found.difference, found.low, found.high)


def verdict(gaps: Sequence[Gap | None]) -> str:
    """Say what the seeds show: all intervals on one side of 0, or not."""
    known = [one for one in gaps if one is not None]
    if not known or len(known) < len(gaps):
        return MISSING
    if all(one.high < 0 for one in known):
        return HOLDS
    return FAILS if all(one.low > 0 for one in known) else OPEN


def report(plan: Mapping[str, Any], out: Path) -> None:
    """Write every score and every verdict, and print the verdicts as a table."""
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "variant", "judge", "score", "value", "low", "high", "items"])
        for path in sorted(out.glob("seed-*/*/judges/*/*.json")):
            seed, variant, judge = path.parents[3].name, path.parents[2].name, path.parent.name
            for name, score in load_result(path).scores.items():
                row = [score.value, score.low, score.high, score.num_items]
                writer.writerow([seed.removeprefix("seed-"), variant, judge, name, *row])
    columns = ["question", "lower", "higher", "score", "verdict"]
    print(f"| {' | '.join([*columns[:4], 'differences by seed', 'verdict'])} |\n|{' --- |' * 6}")
    with (out / "verdicts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "seed", *Gap._fields])
        for claim in plan["claims"]:
            gaps = [gap(plan, out, claim, seed) for seed in plan["seeds"]]
            score = claim["score"] + (f" against {claim['against']}" if "against" in claim else "")
            shown = [claim["question"], claim["lower"], claim["higher"], score, verdict(gaps)]
            for seed, found in zip(plan["seeds"], gaps, strict=True):
                writer.writerow([*shown, seed, *([""] * len(Gap._fields) if found is None else found)])
            numbers = "; ".join(
                "-" if one is None else f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in gaps
            )
            print(f"| {' | '.join([*shown[:4], numbers, shown[4]])} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    plan = read_plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "judge", "report"):
        command = commands.add_parser(name)
        if name != "report":
            command.add_argument("train_manifest", type=Path)
            command.add_argument("test_manifest", type=Path)
        command.add_argument("out", type=Path)
        command.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=plan["seeds"])
        if name != "report":
            command.add_argument("--variants", type=lambda text: text.split(","), default=list(plan["variants"]))
        if name == "judge":
            command.add_argument("--judges", type=lambda text: text.split(","), default=list(plan["judges"]))
        if name == "train":
            command.add_argument("settings", nargs="*", help="of every variant, such as training.max_steps=300")
    options = parser.parse_args(arguments)
    plan["seeds"] = options.seeds
    if options.command == "report":
        return report(plan, options.out)
    paths = manifests(options.train_manifest, options.test_manifest, options.out, plan)
    {"train": train, "judge": judge}[options.command](plan, paths, options.out, options)


if __name__ == "__main__":
    try:
        main()
    except VocableError as error:
        sys.exit(str(error))
