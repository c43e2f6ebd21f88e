"""The table of SUTLM: a head trained on speech or on text, tested on either, beside its baselines.

                     tested on speech   tested on text        majority          the commonest sentiment, or no entity
    trained: speech  speech->speech     speech->text          asr pipeline      a recogniser's text into text's head
    trained: text    text->speech       text->text            random weights    the same table, the model untrained

Zero-shot transfer between modalities: SUTLM (Chou et al., 2023, arXiv:2310.08715). Entities found in speech have the
words of the reference text, since a head tags words and does not recognise them; those of the pipeline have the words
that were heard.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.slue.examples import SlueExamples, Speech, Split, make_examples
from vocable.evaluation.slue.finetune import Example, FineTuneConfig, FineTuned, fine_tune, predict
from vocable.evaluation.slue.heads import EntityTask, SentimentTask, Task, frozen_features
from vocable.evaluation.slue.labelled_set import LabelledSet
from vocable.evaluation.slue.labels import TASKS
from vocable.evaluation.slue.metrics import macro_recall, micro_f1, resampled_score, tag_counts
from vocable.evaluation.slue.rows import Modality, RowMaker, TaskRow, TextCase
from vocable.evaluation.unusable import UnusableError
from vocable.lm.spoken import SpokenLM

PIPELINE = "asr_pipeline"
RANDOM = "random_weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlueConfig:
    """What is trained and tested."""

    task: Literal["sentiment", "entities"]
    """What is recognised: sentiment, or entities."""
    tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    """How heads are trained."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of fine-tuning; one table each."""
    random_control: bool = True
    """Also make the table with a model of the same shape that was never trained."""
    text_case: TextCase = "as_is"
    """Case of texts; lower: write all texts in lower case, so that capitals do not give names away."""
    max_train: int | None = None
    """Most train utterances. Without it, all."""
    language: str = "en"
    """en: phrases are compared with English numbers in digits; others: in lower case without punctuation."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; it is one of {', '.join(TASKS)}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds are {list(self.seeds)}; name at least one, each once.")
        if self.text_case not in ("as_is", "lower"):
            raise ConfigError(f"text_case is {self.text_case!r}; it is as_is or lower.")
        if self.max_train is not None and self.max_train < 2:
            raise ConfigError(f"max_train is {self.max_train}; it must be at least 2.")


class Cell(NamedTuple):
    """One system of the table: what it said about every test utterance, for each seed."""

    name: str
    """Such as "speech->text", "majority", "random_weights.text->text"."""
    found: list[list[Any]]
    """By seed, then utterance; baselines that nothing is drawn for have one row."""


Progress = Callable[[int, int], None]


def run_slue(
    labelled: LabelledSet,
    lm: SpokenLM,
    speech: Speech,
    config: SlueConfig,
    *,
    transcripts: Mapping[str, str] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    weights: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Fine-tune on each modality that the model reads, test on each, and score everything.

    Args:
        labelled: the data.
        lm: the language model; one of units only makes a table of one cell.
        speech: tokens of the utterances.
        config: see there.
        transcripts: what a recogniser heard in the test utterances, by id; None leaves the pipeline out. It needs a
            model that reads text.
        fingerprints: of what the tokens were made with, for the result.
        weights: of the model and the recogniser, for the result.
        on_progress: called with the number of fine-tuning runs done since the last call, and with their total.

    Raises:
        ConfigError: a split has no usable utterance, or train has one class only.
    """
    started = time.monotonic()
    task: Task = TASK_MAKERS[config.task](config)
    maker = RowMaker(lm, config.text_case)
    context = lm.context_tokens
    examples = make_examples(
        labelled, config.task, maker, speech, context_tokens=context, max_train=config.max_train, seed=config.seeds[0]
    )
    heard = _heard_rows(examples.splits["test"], maker, transcripts)
    excluded = Counter(examples.excluded)
    if heard is not None:
        excluded["the recogniser heard nothing: pipeline finds nothing"] += sum(row is None for row in heard)
    models = [("", lm.model)] + (
        [(f"{RANDOM}.", untrained(lm.model, config.seeds[0]))] if config.random_control else []
    )
    total = len(models) * len(maker.modalities) * len(config.seeds)
    watch = None if on_progress is None else (lambda: on_progress(1, total))
    cells, runs = [_majority(task, examples.splits)], {}
    for prefix, model in models:
        found, notes = _table(model, task, maker, examples, config, None if prefix else heard, watch)
        cells += [Cell(prefix + cell.name, cell.found) for cell in found]
        runs |= {prefix + name: note for name, note in notes.items()}
    test = next(iter(examples.splits["test"].values()))
    return EvaluationResult(
        benchmark=f"slue-{config.task}",
        scores=cell_scores(task, test, cells),
        conventions=_conventions(config, maker),
        fingerprints={"labelled_set": labelled.fingerprint, **(fingerprints or {})},
        weights=weights or {},
        seed=config.seeds[0],
        seconds=time.monotonic() - started,
        excluded=examples.excluded,
        notes=_notes(task, examples.splits, heard),
        measurements={
            "utterances": {split: len(next(iter(found.values()))) for split, found in examples.splits.items()},
            "fine_tuning": runs,
            "by_group": _by_group(task, test, cells),
        },
        items=_items(task, labelled, test, cells),
    )


def untrained(model: Any, seed: int) -> Any:
    """Return a model of the same shape with random weights, drawn by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = type(model)(copy.deepcopy(model.config))
    return twin.to(device=next(model.parameters()).device, dtype=next(model.parameters()).dtype).eval()


def cell_scores(task: Task, test: Sequence[Example], cells: Sequence[Cell]) -> dict[str, Score]:
    """Return the scores of every cell: over all seeds, and for each."""
    gold = [task.gold(example.labels) for example in test]
    scores: dict[str, Score] = {}
    for metric, counts, statistic, meaning in METRICS[task.name](task):
        for cell in cells:
            runs = [[counts(right, guess) for right, guess in zip(gold, run, strict=True)] for run in cell.found]
            name = f"{metric}.{cell.name}"
            scores[name] = resampled_score(runs, statistic, meaning)
            if len(runs) > 1:
                for index, run in enumerate(runs):
                    scores[f"{name}.run{index}"] = resampled_score([run], statistic, meaning)
    return scores


def _table(
    model: nn.Module,
    task: Task,
    maker: RowMaker,
    examples: SlueExamples,
    config: SlueConfig,
    heard: Sequence[TaskRow | None] | None,
    watch: Callable[[], None] | None,
) -> tuple[list[Cell], dict[str, Any]]:
    """Train on each modality with each seed, test on each; with `heard`, the pipeline too."""
    frozen = config.tune.train == "head"
    splits = examples.splits

    def features(modality: Modality, split: str) -> list[Tensor] | None:
        rows = [example.row for example in splits[split][modality]]
        return frozen_features(model, task, rows, config.tune.max_tokens) if frozen else None

    tests = {modality: features(modality, "test") for modality in maker.modalities}
    cells: dict[str, list[list[Any]]] = {}
    notes: dict[str, Any] = {}
    for trained_on in maker.modalities:
        train, dev = features(trained_on, "train"), features(trained_on, "dev")
        known = None if train is None or dev is None else (train, dev)
        for seed in config.seeds:
            learnt = fine_tune(
                model, task, splits["train"][trained_on], splits["dev"][trained_on], config.tune, seed, known
            )
            run = {"seed": seed, "best_epoch": learnt.best_epoch, "dev": round(max(learnt.dev_scores), 4)}
            notes.setdefault(trained_on, []).append(run)
            for tested_on in maker.modalities:
                rows = [example.row for example in splits["test"][tested_on]]
                found = predict(learnt.model, learnt.head, task, rows, config.tune, tests[tested_on])
                cells.setdefault(f"{trained_on}->{tested_on}", []).append(found)
            if heard is not None and trained_on == "text":
                cells.setdefault(PIPELINE, []).append(_predict_heard(learnt, task, heard, config, splits))
            if watch is not None:
                watch()
    return [Cell(name, found) for name, found in cells.items()], notes


def _heard_rows(test: Split, maker: RowMaker, transcripts: Mapping[str, str] | None) -> list[TaskRow | None] | None:
    if transcripts is None or "text" not in maker.modalities:
        return None
    rows: list[TaskRow | None] = []
    for example in test["text"]:
        try:
            rows.append(maker.written(transcripts.get(example.labels.id, "")))
        except UnusableError:
            rows.append(None)
    return rows


def _predict_heard(
    learnt: FineTuned, task: Task, heard: Sequence[TaskRow | None], config: SlueConfig, splits: Mapping[str, Split]
) -> list[Any]:
    """Predictions on transcripts; where nothing was heard, those of the majority baseline."""
    rows = [row for row in heard if row is not None]
    found = iter(predict(learnt.model, learnt.head, task, rows, config.tune))
    nothing = _majority(task, splits).found[0][0]
    return [nothing if row is None else next(found) for row in heard]


def _majority(task: Task, splits: Mapping[str, Split]) -> Cell:
    """The commonest sentiment of train for every test utterance; no entity at all."""
    train, test = (next(iter(splits[split].values())) for split in ("train", "test"))
    if task.name == "entities":
        return Cell("no_entities", [[[] for _ in test]])
    commonest = Counter(task.gold(example.labels) for example in train).most_common(1)[0][0]
    return Cell("majority", [[commonest for _ in test]])


def _sentiment_metrics(task: Task) -> list[tuple[str, Any, Any, str]]:
    return [
        ("macro_f1", task.counts, task.score, "mean F1 of the three sentiments"),
        ("macro_recall", task.counts, macro_recall, "mean recall of the three sentiments"),
    ]


def _entity_metrics(task: Task) -> list[tuple[str, Any, Any, str]]:
    return [
        ("f1", task.counts, task.score, "micro F1 of entities, combined tag and phrase"),
        ("label_f1", tag_counts, micro_f1, "micro F1 of entities, combined tag only"),
    ]


METRICS: dict[str, Callable[[Task], list[tuple[str, Any, Any, str]]]] = {
    "sentiment": _sentiment_metrics,
    "entities": _entity_metrics,
}
"""The headline first."""

TASK_MAKERS: dict[str, Callable[[SlueConfig], Task]] = {
    "sentiment": lambda config: SentimentTask(config.tune.pooling),
    "entities": lambda config: EntityTask(config.language),
}


def _by_group(task: Task, test: Sequence[Example], cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """The headline of each cell within each kind of test utterance, where labels say a kind."""
    kinds = sorted({f"{key}={value}" for example in test for key, value in example.labels.group.items()})
    table: dict[str, dict[str, float]] = {}
    for kind in kinds:
        key, _, value = kind.partition("=")
        places = [index for index, example in enumerate(test) if example.labels.group.get(key) == value]
        part = [test[index] for index in places]
        chosen = [Cell(cell.name, [[run[index] for index in places] for run in cell.found]) for cell in cells]
        gold = [task.gold(example.labels) for example in part]
        for cell in chosen:
            runs = [[task.counts(right, guess) for right, guess in zip(gold, run, strict=True)] for run in cell.found]
            values = torch.tensor(runs, dtype=torch.float64).sum(dim=1).numpy()
            table.setdefault(cell.name, {})[kind] = round(float(task.score(values).mean()), 4)
    return table


def _items(task: Task, labelled: LabelledSet, test: Sequence[Example], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each test utterance: what is right, and what every cell said in its first run."""
    items = []
    for index, example in enumerate(test):
        gold = task.gold(example.labels)
        item = {"id": example.labels.id, "speaker": labelled.utterances[example.labels.id].speaker}
        item |= {"text": example.labels.text, "gold": _shown(gold), **dict(example.labels.group)}
        for cell in cells:
            for number, run in enumerate(cell.found):
                name = cell.name if len(cell.found) == 1 else f"{cell.name}.run{number}"
                item[name] = _shown(run[index])
                item[f"right.{name}"] = _shown(run[index]) == _shown(gold)
        items.append(item)
    return items


def _shown(found: Any) -> str:
    return found if isinstance(found, str) else "; ".join(f"{entity.tag}: {entity.phrase}" for entity in found)


def _conventions(config: SlueConfig, maker: RowMaker) -> dict[str, Any]:
    settings = asdict(config)
    settings["seeds"] = list(config.seeds)
    return {
        **settings,
        "modalities": list(maker.modalities),
        "interval": "percentile bootstrap over test utterances, the same draws for all seeds",
        "entities_in_speech": "words of the reference text, by word times; majority vote of the units of a word",
        "phrases": "lower case, English numbers in digits, no punctuation, no final 's",
        "units_of_a_word": "most frames, pauses cut in their middle",
    }


def _notes(task: Task, splits: Mapping[str, Split], heard: Sequence[TaskRow | None] | None) -> list[str]:
    notes = []
    test = next(iter(splits["test"].values()))
    if task.name == "entities":
        notes.append(
            "In speech->speech and text->speech the head tags words whose times and spelling are given; the pipeline "
            "must also hear them. label_f1 is the fairer comparison of the two."
        )
    else:
        missing = set(task.classes) - {task.gold(example.labels) for example in test}
        if missing:
            notes.append(f"The test split has no {', '.join(sorted(missing))}: these count 0 in the means.")
    silent = sum(row is None for row in heard or ())
    if silent:
        notes.append(f"The recogniser heard nothing in {silent} test utterances: the pipeline says there what the ")
        notes[-1] += "majority baseline says."
    return notes
