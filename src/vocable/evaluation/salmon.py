"""SALMon: does the model notice when a voice, a room, a background or a mood changes, or does not fit the words?

Source: SALMon (Maimon et al., 2024, arXiv:2409.07437): eight tasks of 200 pairs each; six ask for acoustic consistency
within a recording, two for agreement between sound and words. The headline of each task is its accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.errors import ManifestError
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.evaluation.pairs.benchmark import PairBenchmark, PairsConfig
from vocable.evaluation.pairs.gold_csv import WAVE
from vocable.evaluation.pairs.tables import accuracy, accuracy_by, grouped, macro_accuracy, mean_over_voices
from vocable.evaluation.results import Score
from vocable.types import Utterance

TASKS = {
    "sentiment_consistency": "consistency",
    "speaker_consistency": "consistency",
    "gender_consistency": "consistency",
    "bg_domain_consistency": "consistency",
    "bg_all_consistency": "consistency",
    "rir_consistency": "consistency",
    "sentiment_alignment": "alignment",
    "bg_alignment": "alignment",
}
"""Published folders, and what each asks for."""


def read_salmon(folder: Path) -> PairSet:
    """Read the published layout: <task>/sample_<n>_<k>.wav; of the files of one sample, the first by name is right.

    Raises:
        ManifestError: none of the task folders is there, or none holds a whole pair.
    """
    folder = Path(folder)
    tasks = [task for task in TASKS if (folder / task).is_dir()]
    if not tasks:
        raise ManifestError(f"{folder}: none of the folders {', '.join(TASKS)} is here. Unpack the benchmark first.")
    items, utterances, excluded = [], dict[str, Utterance](), Counter[str]()
    for task in tasks:
        samples: dict[str, list[Path]] = {}
        for path in sorted((folder / task).iterdir()):
            parts = path.stem.split("_")
            if path.suffix.lower() in WAVE and len(parts) > 2:
                samples.setdefault(parts[1], []).append(path)
        for number, files in sorted(samples.items(), key=lambda sample: (len(sample[0]), sample[0])):
            if len(files) != 2:
                reason = "one half is missing" if len(files) < 2 else "more than one file for a half"
                excluded[reason] += 1
                continue
            names = [f"{task}/{path.stem}" for path in files]
            utterances |= {name: Utterance(id=name, audio=path) for name, path in zip(names, files)}
            items.append(
                PairItem(
                    id=f"{task}/{number}",
                    positive=(Segment(speech=names[0]),),
                    negative=(Segment(speech=names[1]),),
                    group={"task": task, "kind": TASKS[task]},
                )
            )
    card = {"layout": "SALMon", "source": str(folder)}
    return PairSet(benchmark="salmon", items=items, utterances=utterances, card=card, excluded=excluded)


def salmon_scores(items: Sequence[Mapping[str, Any]], column: str) -> dict[str, Score]:
    """Return the accuracy of each task, and the mean over tasks.

    Pairs of one recording, as 'vocable evaluate build consistency' cuts them (the same halves, right once and wrong
    once), are averaged first and count as one; published pairs count by themselves.
    """
    pairs = mean_over_voices(items, column, ("task", "recording"))
    tasks = {key: str(key[0]) for key in pairs}
    by_task = accuracy_by(pairs, tasks, "pairs preferred")
    if len(by_task) < 2:
        return by_task or {"all": accuracy(pairs.values(), "pairs preferred")}
    return {"mean": macro_accuracy(grouped(pairs, 0), "mean over tasks of their accuracies"), **by_task}


class Salmon(PairBenchmark):
    """Consistent against inconsistent recordings (SALMon): voice, room, background, mood; eight tasks.

    DATA is the unpacked benchmark (speaker_consistency/sample_0_0.wav, ...), or a set of your own, made with
    'vocable evaluate build consistency'.

    vocable evaluate salmon data/salmon --model runs/twist --out results
    """

    name, Config = "salmon", PairsConfig
    read, score_items = staticmethod(read_salmon), staticmethod(salmon_scores)
