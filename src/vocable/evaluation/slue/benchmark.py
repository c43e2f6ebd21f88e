"""The table of SUTLM: a head trained on speech or on text, tested on either, beside its baselines.

                     tested on speech   tested on text        majority          the commonest sentiment, or no entity
    trained: speech  speech->speech     speech->text          asr pipeline      a recogniser's text into text's head
    trained: text    text->speech       text->text            random weights    the same table, the model untrained

Zero-shot transfer between modalities: SUTLM (Chou et al., 2023, arXiv:2310.08715). Entities found in speech have the
words of the reference text, since a head tags words and does not recognise them; those of the pipeline have the words
that were heard.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vocable.assets.cache import cache_folder
from vocable.errors import ConfigError
from vocable.evaluation.once import encode_once, transcribe_once
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.runner import Benchmark, BenchmarkConfig, Item, Items
from vocable.evaluation.slue.heads import (
    EntityTask,
    FineTuneConfig,
    FineTuned,
    SentimentTask,
    Task,
    fine_tune,
    frozen_features,
    predict,
)
from vocable.evaluation.slue.labelled_set import SPLITS, TASKS, LabelledSet, read_labelled_set
from vocable.evaluation.slue.metrics import resampled_score, run_counts
from vocable.evaluation.slue.rows import Modality, RowMaker, Speech, TaskRow, TextCase, make_examples
from vocable.evaluation.unusable import UnusableError
from vocable.lm.spoken import SpokenLM, load_lm
from vocable.recognition.transcribe import load_transcriber
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shards import TokenShards
from vocable.types import Utterance

if TYPE_CHECKING:
    from rich.table import Table

PIPELINE = "asr_pipeline"
RANDOM = "random_weights"
SETTINGS = ("task", "tune", "seeds", "random_control", "text_case", "max_train", "language")
"""Fields of the config that change a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlueConfig(BenchmarkConfig):
    """Settings of training and test."""

    data: Path
    """A labelled set: of 'evaluate build labelled', 'evaluate build slue', or in the same layout."""
    model: Path
    """Folder of a language model, or of its training run. A model of units only is tested on speech alone."""
    task: Literal["sentiment", "entities"]
    """Labels to recognise: sentiment, or entities."""
    tokenizer: Path | None = None
    """Folder of the tokenizer. Without it, the one beside the model."""
    manifest: Path | None = None
    """Another manifest of the set's utterances, such as one with word times from 'vocable align'."""
    tokens: Path | None = None
    """Token shards of the set's manifest, instead of encoding it now."""
    transcriber: str = "openai/whisper-base"
    """Recogniser of the pipeline."""
    pipeline: bool = True
    """Run the pipeline: what the recogniser hears goes into the head trained on text."""
    undecided: Literal["neutral", "drop"] = "neutral"
    """Treatment of mixed sentiment and of disagreement: made Neutral, or left out."""
    tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    """How heads are trained."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of fine-tuning; one table each. The first also draws train utterances and random weights."""
    random_control: bool = True
    """Also make the table with a model of the same shape that was never trained."""
    text_case: TextCase = "as_is"
    """Case of texts; lower: write all texts in lower case, so that capitals do not give names away."""
    max_train: int | None = None
    """Most train utterances. Without it, all."""
    language: str = "en"
    """en: phrases are compared with English numbers in digits; others: in lower case without punctuation."""
    dtype: str | None = None
    """Type of the language model's weights. Without it, as saved."""
    device: str | None = None
    """Where to compute, such as cpu or cuda. Without it, a GPU if there is one."""
    cache: Path = field(default_factory=cache_folder)
    """Folder where tokens and transcripts are kept for the next model. Without it, that of the assets."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; it is one of {', '.join(TASKS)}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds are {list(self.seeds)}; name at least one, each once.")
        if self.text_case not in ("as_is", "lower"):
            raise ConfigError(f"text_case is {self.text_case!r}; it is as_is or lower.")
        if self.max_train is not None and self.max_train < 2:
            raise ConfigError(f"max_train is {self.max_train}; it must be at least 2.")


class Slue(Benchmark[SlueConfig]):
    """Fine-tune a model of speech and text on labels of one modality, and test it on both (SLUE-SA, SLUE-NER).

    Baselines beside it: the commonest sentiment or no entities, a recogniser whose text goes into the head trained on
    text, and a model of the same shape with random weights. The result holds every test utterance.

    vocable evaluate slue sets/labelled --model runs/sutlm --task sentiment --out results/slue
    """

    name, Config, positional, counted = "slue", SlueConfig, ("data",), "test utterances"

    def __init__(self, config: SlueConfig, *args: Any, **kwargs: Any) -> None:
        """See `Benchmark`; each task has a result of its own, slue-sentiment.json or slue-entities.json."""
        super().__init__(config, *args, **kwargs)
        self.name = f"slue-{config.task}"  # type: ignore[misc]
        self.task: Task = (
            EntityTask(config.language) if config.task == "entities" else SentimentTask(config.tune.pooling)
        )

    def items(self) -> Items:
        """Fine-tune on each modality that the model reads, with each seed, and test on each."""
        config, run = self.config, self.run
        self.labelled: LabelledSet = run.open(
            "labelled", lambda: read_labelled_set(config.data, config.undecided, config.manifest)
        )
        self.lm: SpokenLM = run.open("lm", self._load_lm)
        run.fingerprints |= {"labelled_set": self.labelled.fingerprint, "tokenizer": self.lm.card.tokenizer_fingerprint}
        run.weights["model"] = self.lm.record()
        speech = run.open("speech", self._encode)
        transcripts = run.open("transcripts", self._transcribe)
        self.maker = RowMaker(self.lm, config.text_case)
        limits = {"context_tokens": self.lm.context_tokens, "max_train": config.max_train, "seed": config.seeds[0]}
        examples = make_examples(self.labelled, config.task, self.maker, speech, **limits)
        run.excluded.update(examples.excluded)
        self.splits = examples.splits
        self.test = next(iter(self.splits["test"].values()))
        self.gold = [self.task.gold(example.labels) for example in self.test]
        self.heard = self._rows_heard(transcripts)
        name, self.default = self.task.baseline([e.labels for e in next(iter(self.splits["train"].values()))])
        self.cells: dict[str, list[list[Any]]] = {name: [[self.default for _ in self.test]]}
        self.fine_tuning: dict[str, list[dict[str, Any]]] = {}
        self._fill_table("", self.lm.model)
        if config.random_control:
            self._fill_table(f"{RANDOM}.", untrained(self.lm.model, config.seeds[0]))
        return [self._item(place) for place in range(len(self.test))]

    def _load_lm(self) -> SpokenLM:
        config = self.config
        return load_lm(config.model, tokenizer=config.tokenizer, dtype=config.dtype, device=self.run.device)

    def _utterances(self, splits: Sequence[str]) -> list[Utterance]:
        """The utterances of some splits that are labelled for the task."""
        ids = {label.id for split in splits for label in self.labelled.split(split, self.config.task)}
        return [utterance for name, utterance in self.labelled.utterances.items() if name in ids]

    def _encode(self) -> Speech:
        """Read the tokens of all utterances, or make them."""
        config, utterances = self.config, self._utterances(SPLITS)
        if config.tokens is None:
            tokenizer = self.lm.tokenizer
            watch = functools.partial(self.run.advance, "Encoding speech")
            return Speech(encode_once(utterances, tokenizer, config.cache, on_progress=watch), tokenizer.frame_rate)
        shards = TokenShards(config.tokens)
        owner = f"The language model {self.lm.folder}"
        expected = self.lm.card.tokenizer_fingerprint
        check_fingerprint(expected, shards.fingerprint, owner, f"the set of token shards {config.tokens}")
        ids = {utterance.id for utterance in utterances}
        rate = shards.card.get("frame_rate")
        tokens = {utterance.id: found for utterance, found in shards if utterance.id in ids}
        return Speech(tokens, None if rate is None else float(rate))

    def _transcribe(self) -> Mapping[str, str] | None:
        """Let the recogniser of the pipeline hear the test utterances; None where there is no pipeline."""
        config = self.config
        if not config.pipeline or "text" not in self.lm.modalities:
            return None
        recogniser = load_transcriber(config.transcriber, device=self.run.device)
        self.run.weights["transcriber"] = dict(recogniser.weights)  # part of the pipeline here, not a judge
        watch = functools.partial(self.run.advance, "Transcribing")
        return transcribe_once(self._utterances(["test"]), recogniser, config.cache, watch)

    def _rows_heard(self, transcripts: Mapping[str, str] | None) -> list[TaskRow | None] | None:
        """The rows of the pipeline: None for an utterance in which nothing was heard."""
        if transcripts is None or "text" not in self.maker.modalities:
            return None
        rows: list[TaskRow | None] = []
        for example in self.splits["test"]["text"]:
            try:
                rows.append(self.maker.written(transcripts.get(example.labels.id, "")))
            except UnusableError:
                rows.append(None)
        return rows

    def _fill_table(self, prefix: str, model: Any) -> None:
        """Train on each modality with each seed, and test on each; the model itself on what was heard, too."""
        config, modalities = self.config, self.maker.modalities
        total = (1 + config.random_control) * len(modalities) * len(config.seeds)
        tests = {modality: self._features(model, modality, "test") for modality in modalities}
        for trained_on in modalities:
            train, dev = (self._features(model, trained_on, split) for split in ("train", "dev"))
            known = None if train is None or dev is None else (train, dev)
            examples = self.splits["train"][trained_on], self.splits["dev"][trained_on]
            for seed in config.seeds:
                learnt = fine_tune(model, self.task, *examples, config.tune, seed, known)
                note = {"seed": seed, "best_epoch": learnt.best_epoch, "dev": round(max(learnt.dev_scores), 4)}
                self.fine_tuning.setdefault(prefix + trained_on, []).append(note)
                for tested_on in modalities:
                    found = self._predict(learnt, self._rows(tested_on, "test"), tests[tested_on])
                    self.cells.setdefault(f"{prefix}{trained_on}->{tested_on}", []).append(found)
                if self.heard is not None and trained_on == "text" and not prefix:
                    self.cells.setdefault(PIPELINE, []).append(self._predict_heard(learnt, self.heard))
                self.run.advance("Fine-tuning", 1, total)

    def _rows(self, modality: Modality, split: str) -> list[TaskRow]:
        return [example.row for example in self.splits[split][modality]]

    def _features(self, model: Any, modality: Modality, split: str) -> list[Tensor] | None:
        """Features that a head reads, where the model is not trained itself."""
        if self.config.tune.train != "head":
            return None
        return frozen_features(model, self.task, self._rows(modality, split), self.config.tune.max_tokens)

    def _predict(self, learnt: FineTuned, rows: Sequence[TaskRow], features: list[Tensor] | None = None) -> list[Any]:
        return predict(learnt.model, learnt.head, self.task, rows, self.config.tune, features)

    def _predict_heard(self, learnt: FineTuned, heard: Sequence[TaskRow | None]) -> list[Any]:
        """Predictions on transcripts; where nothing was heard, those of the baseline."""
        found = iter(self._predict(learnt, [row for row in heard if row is not None]))
        return [self.default if row is None else next(found) for row in heard]

    def _item(self, place: int) -> Item:
        """The row of a test utterance: what is right, and what every cell said in each run."""
        labels, gold = self.test[place].labels, _shown(self.gold[place])
        item = {"id": labels.id, "speaker": self.labelled.utterances[labels.id].speaker}
        item |= {"text": labels.text, "gold": gold, **dict(labels.group)}
        for cell, runs in self.cells.items():
            for number, run in enumerate(runs):
                name = cell if len(runs) == 1 else f"{cell}.run{number}"
                item[name] = _shown(run[place])
                item[f"right.{name}"] = item[name] == gold
        return item

    def scores(self, items: Items) -> dict[str, Score]:
        """Score every cell: over all seeds, and for each."""
        scores: dict[str, Score] = {}
        for metric in self.task.metrics:
            for cell, found in self.cells.items():
                runs = run_counts(metric, self.gold, found)
                name = f"{metric.name}.{cell}"
                scores[name] = resampled_score(runs, metric.score, metric.meaning, self.config.seed)
                for index, run in enumerate(runs if len(runs) > 1 else ()):
                    one = resampled_score([run], metric.score, metric.meaning, self.config.seed)
                    scores[f"{name}.run{index}"] = one
        return scores

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        settings = asdict(self.config)
        return {
            **{name: settings[name] for name in SETTINGS},
            "seeds": list(self.config.seeds),
            "modalities": list(self.maker.modalities),
            "interval": "percentile bootstrap over test utterances, the same draws for all seeds",
            "entities_in_speech": "words of the reference text, by word times; majority vote of the units of a word",
            "phrases": "lower case, English numbers in digits, no punctuation, no final 's",
            "units_of_a_word": "most frames, pauses cut in their middle",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        return {
            "utterances": {split: len(next(iter(found.values()))) for split, found in self.splits.items()},
            "fine_tuning": self.fine_tuning,
            "by_group": self._by_group(),
        }

    def _by_group(self) -> dict[str, dict[str, float]]:
        """The headline of each cell within each kind of test utterance, where labels say a kind."""
        headline = self.task.metrics[0]
        table: dict[str, dict[str, float]] = {}
        for key, value in sorted({pair for example in self.test for pair in example.labels.group.items()}):
            places = [place for place, example in enumerate(self.test) if example.labels.group.get(key) == value]
            gold = [self.gold[place] for place in places]
            for cell, found in self.cells.items():
                runs = run_counts(headline, gold, [[run[place] for place in places] for run in found])
                score = float(headline.score(runs.sum(axis=1)).mean())
                table.setdefault(cell, {})[f"{key}={value}"] = round(score, 4)
        return table

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        notes = []
        if self.config.task == "entities":
            notes.append(
                "In speech->speech and text->speech the head tags words whose times and spelling are given; the "
                "pipeline must also hear them. label_f1 is the fairer comparison of the two."
            )
        elif missing := set(self.task.classes) - set(self.gold):
            notes.append(f"The test split has no {', '.join(sorted(missing))}: these count 0 in the means.")
        if silent := sum(row is None for row in self.heard or ()):
            notes.append(
                f"The recogniser heard nothing in {silent} test utterances: the pipeline says there what the "
                "majority baseline says."
            )
        return notes

    def table(self, result: EvaluationResult) -> Table:
        """Show all scores of each cell in a line, as means over seeds with their intervals."""
        from rich.table import Table

        title = f"{result.benchmark}: mean of seeds, 95 % intervals over {len(self.test)} test utterances"
        table = Table(title=title)
        metrics = [metric.name for metric in self.task.metrics]
        for column in ("trained on", "tested on", *metrics):
            table.add_column(column, no_wrap=True)
        for cell in self.cells:
            scores = [result.scores[f"{metric}.{cell}"] for metric in metrics]
            table.add_row(*_trained_and_tested(cell), *(_with_interval(score) for score in scores))
        return table


def untrained(model: Any, seed: int) -> Any:
    """Return a model of the same shape with random weights, drawn by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = type(model)(copy.deepcopy(model.config))
    return twin.to(device=next(model.parameters()).device, dtype=next(model.parameters()).dtype).eval()


def _shown(found: Any) -> str:
    return found if isinstance(found, str) else "; ".join(f"{entity.tag}: {entity.phrase}" for entity in found)


def _trained_and_tested(cell: str) -> tuple[str, str]:
    """The name of a cell, in words."""
    if cell == PIPELINE:
        return "text", "speech, as a recogniser heard it"
    if "->" not in cell:
        return cell.replace("_", " "), "both"
    trained, tested = cell.removeprefix(f"{RANDOM}.").split("->")
    return f"{trained}, random weights" if cell.startswith(RANDOM) else trained, tested


def _with_interval(score: Score) -> str:
    value = "-" if score.value is None else f"{score.value:.3f}"
    return value if score.low is None else f"{value} [{score.low:.3f}, {score.high:.3f}]"
