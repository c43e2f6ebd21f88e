"""One way to run every benchmark: open what it needs, take its items, score them, save, print.

    config  ->  Benchmark  ->  items  ->  scores  ->  <out>/<name>.json, <name>.items.parquet, <name>.html

A benchmark is a class. It says what its items are, how they are scored, and which conventions stand behind the numbers;
loading, timing, counting what was left out, checking, saving and printing are done here. A whole one:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class LengthConfig(BenchmarkConfig):
        manifest: Path
        \"\"\"Manifest of the utterances (JSONL).\"\"\"

    class Length(Benchmark[LengthConfig]):
        \"\"\"Measure how long utterances are.\"\"\"

        name, Config = "length", LengthConfig

        def items(self):
            for utterance in self.run.watch("Measuring", self.run.utterances()):
                if utterance.duration is None:
                    self.run.excluded["no duration in the manifest"] += 1
                else:
                    yield {"id": utterance.id, "speaker": utterance.speaker, "seconds": utterance.duration}

        def scores(self, items):
            return {"seconds": column_mean(items, "seconds", better=None, meaning="mean", **self.draws)}

        def conventions(self):
            return {}

Entered in `BENCHMARKS`, it is a command, `vocable evaluate length --manifest dev.jsonl --out results`: the fields of
the config are the flags, their docstrings and that of the class are the help. From Python, objects that are open
already can take the place of what the config names:

    run_benchmark(Phones(PhonesConfig(manifest=path), opened={"tokenizer": tokenizer}), out=folder)
"""

from __future__ import annotations

import importlib
import math
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vocable.config import config_from_dict
from vocable.devices import best_device
from vocable.errors import ConfigError, ManifestError, MissingDependencyError, NumericsError, VocableError
from vocable.evaluation.results import EvaluationResult, Score, check_output, save_result
from vocable.evaluation.unusable import reasons
from vocable.files import write_text
from vocable.registry import look_up

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vocable.evaluation.token_sources import TokenSource
    from vocable.tokens.tokenizer import SpeechTokenizer
    from vocable.types import Utterance

Item = Mapping[str, Any]
"""One flat row: `id`, optionally `speaker`, and columns. A column whose name begins with _ is for the scores and the
page alone, and is not saved."""
Items = Sequence[Item]
Progress = Callable[..., None]
"""Called with the name of a step, the number of items done since the last call, and their total where it is known."""

BENCHMARKS = {
    "continuation": "vocable.evaluation.continuation:ContinuationBenchmark",
    "retention": "vocable.evaluation.text_retention:Retention",
    "cra": "vocable.evaluation.context_retrieval:Retrieval",
    "abx": "vocable.evaluation.abx:Abx",
    "delivery": "vocable.evaluation.delivery:Delivery",
    "probe": "vocable.evaluation.probe:Probe",
    "pelm": "vocable.evaluation.pelm:Pelm",
    "judge": "vocable.evaluation.llm_judge:Judge",
    "phones": "vocable.evaluation.phones:Phones",
    "recognition": "vocable.evaluation.recognition:Recognition",
    "reconstruction": "vocable.evaluation.reconstruction:Reconstruction",
    "resynthesis": "vocable.evaluation.resynthesis:Resynthesis",
    "salmon": "vocable.evaluation.salmon:Salmon",
    "sblimp": "vocable.evaluation.sblimp:Sblimp",
    "signal": "vocable.evaluation.signal:Signal",
    "slue": "vocable.evaluation.slue.benchmark:Slue",
    "stt": "vocable.evaluation.stt:Stt",
    "tts": "vocable.evaluation.tts:Tts",
    "snmi": "vocable.evaluation.snmi:Snmi",
    "storycloze": "vocable.evaluation.storycloze:StoryCloze",
    "swuggy": "vocable.evaluation.swuggy:Swuggy",
    "units": "vocable.evaluation.units:Units",
}
"""Every benchmark by name: its module and class."""

C = TypeVar("C", bound="BenchmarkConfig")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig:
    """Settings that every benchmark has. A subclass adds all inputs and all switches of its benchmark."""

    seed: int = 0
    """Seed of every draw and of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledConfig(BenchmarkConfig):
    """The settings of a benchmark that resamples its items, and of whatever it computes on."""

    num_resamples: int = 2000
    """Resamples of the bootstrap."""
    device: str | None = None
    """Where to compute, such as cpu or cuda. Without it, a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise ConfigError(f"num_resamples is {self.num_resamples}; it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensConfig(SampledConfig):
    """The settings of a benchmark that reads the tokens of a manifest."""

    manifest: Path
    """The utterances (JSONL)."""
    tokens: Path | None = None
    """Folder of token shards, as 'vocable tokenize' writes them. Either this or a tokenizer."""
    tokenizer: Path | None = None
    """Folder of a saved tokenizer, which then encodes the utterances."""
    stream: str | None = None
    """Name of the stream to read, where the tokens have several."""


class Run:
    """Inputs of one run, and its reports beside the items."""

    def __init__(self, config: Any, opened: Mapping[str, Any], on_progress: Progress | None) -> None:
        self.excluded: Counter[str] = Counter()
        """Items left out, by reason."""
        self.fingerprints: dict[str, str] = {}
        """Fingerprints of whatever is evaluated: tokenizer, vocoder, language model."""
        self.weights: dict[str, Any] = {}
        """Which judge weights were used: name and hash each."""
        self.folder: Path | None = None
        """Where the result goes; what costs much to make may be kept there. None: nowhere."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Wall-clock time of the steps that were `timed`."""
        self._config, self._opened, self._on_progress = config, dict(opened), on_progress

    def open(self, name: str, load: Callable[[], T]) -> T:
        """Return what the caller opened under this name, or else what `load` returns; loaded once."""
        if name not in self._opened:
            self._opened[name] = load()
        return self._opened[name]

    def advance(self, step: str, count: int, total: int | None = None) -> None:
        """Report progress; see `Progress`."""
        if self._on_progress is not None:
            self._on_progress(step, count, total)

    def watch(self, step: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Pass items on, and report each once it is done with."""
        total = len(items) if total is None and isinstance(items, Sized) else total
        self.advance(step, 0, total)
        for item in items:
            yield item
            self.advance(step, 1, total)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time that the block takes to the `seconds` of a step."""
        started = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - started

    @property
    def device(self) -> str:
        """Where to compute: what the config says, or else a GPU if there is one."""
        return best_device(getattr(self._config, "device", None))

    def utterances(self) -> list[Utterance]:
        """The utterances of `config.manifest`."""
        return self.open("utterances", lambda: self.read_manifest(self._config.manifest))

    def read_manifest(self, path: Path) -> list[Utterance]:
        """Read a manifest; broken lines are counted, and noted in `rejected.jsonl` where the result has a folder."""
        from vocable.audio.manifest import Rejections, read_manifest

        rejections = None if self.folder is None else Rejections(self.folder)
        utterances = read_manifest(path, rejections=rejections)
        if rejections is not None and rejections.count:
            self.excluded["a broken line of the manifest"] += rejections.count
        return utterances

    def tokenizer(self) -> SpeechTokenizer | None:
        """The tokenizer in the folder `config.tokenizer`; None where none is named."""
        from vocable.tokens import load_tokenizer

        folder = self._config.tokenizer
        return self.open("tokenizer", lambda: None if folder is None else load_tokenizer(folder, device=self.device))

    def tokens(self, whole: bool = False) -> TokenSource:
        """Tokens of all utterances, from the shards in `config.tokens` or by the tokenizer; counts what has none.

        They are of the stream `config.stream`, or with `whole` of all streams.
        """
        from vocable.evaluation.token_sources import TokenSource

        stored = self._config.tokens
        source = self.open(
            "tokens", lambda: TokenSource(self.utterances(), stored, self.tokenizer(), self._config.stream, whole)
        )
        source.excluded = self.excluded
        self.fingerprints["tokenizer"] = source.card["fingerprint"]
        return source


class Benchmark(ABC, Generic[C]):
    """One benchmark, for one run. Its docstring is the help of its command; see the example above."""

    name: ClassVar[str]
    """Name of the command and of the files."""
    Config: ClassVar[type[BenchmarkConfig]]
    """Frozen, keyword-only, with a docstring at every field."""
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields of the config that the command takes without a flag, in order."""
    default_out: ClassVar[str | None] = None
    """Field of the config that names the folder for the result, where the command gets no other."""
    counted: ClassVar[str] = "utterances"
    """Name of the items that the first interval is over."""
    grouped: ClassVar[str] = "speakers"
    """Name of the groups that the second interval is over."""

    def __init__(self, config: C, opened: Mapping[str, Any] | None = None, on_progress: Progress | None = None) -> None:
        """Prepare one run.

        Args:
            config: a `Config` of this class.
            opened: objects to use in place of what the config names, by the names that `Run.open` is called with:
                utterances, tokenizer, tokens, ...
            on_progress: see `Progress`.
        """
        self.config = config
        self.run = Run(config, opened or {}, on_progress)

    @abstractmethod
    def items(self) -> Iterable[Item]:
        """Make one row per item; count what is left out in `self.run.excluded`."""

    @abstractmethod
    def scores(self, items: Items) -> dict[str, Score]:
        """Score the items, with intervals."""

    @abstractmethod
    def conventions(self) -> dict[str, Any]:
        """Every switch that changes a number. Asked after the items."""

    def measurements(self, items: Items) -> dict[str, Any]:
        """Numbers without an interval: rates, counts, real-time factors. Asked after the scores."""
        return {}

    def notes(self, items: Items) -> list[str]:
        """Warnings for whoever uses the numbers. Asked after the scores."""
        return []

    def page(self, result: EvaluationResult, items: Items) -> str | None:
        """An HTML page to look at or listen to; None where there is none. `items` have all columns."""
        return None

    def picture(self, result: EvaluationResult) -> str | None:
        """A picture of the scores, as SVG; None where there is none. Left out where matplotlib is not installed."""
        return None

    def table(self, result: EvaluationResult) -> Table | None:
        """The table to print; None: a line for each score."""
        return None

    def nothing(self, reasons: str) -> VocableError:
        """The error for a run without any item."""
        return ManifestError(f"Nothing could be scored ({reasons or 'there are no items'}).")

    @property
    def draws(self) -> dict[str, int]:
        """Seed and number of resamples, as the functions that score take them."""
        found = {"seed": self.config.seed}
        resamples = getattr(self.config, "num_resamples", None)
        return found if resamples is None else {**found, "num_resamples": resamples}


def find_benchmark(name: str) -> type[Benchmark]:
    """Return the class of a benchmark.

    Raises:
        UnknownNameError: there is no such benchmark; the message names the nearest one.
    """
    module, _, kind = look_up("benchmark", name, BENCHMARKS).partition(":")
    return getattr(importlib.import_module(module), kind)


def evaluate(
    name: str,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    opened: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Run a benchmark by name: `evaluate("phones", manifest="dev.jsonl", tokenizer="tokenizer", out="results")`.

    `settings` are fields of the benchmark's config; for the others see `run_benchmark` and `Benchmark`.

    Raises:
        UnknownNameError: there is no such benchmark.
        ConfigError: a setting is unknown, or its value does not fit.
        VocableError: see `run_benchmark`.
    """
    kind = find_benchmark(name)
    config = config_from_dict(kind.Config, settings, source=name)
    return run_benchmark(kind(config, opened, on_progress), out, overwrite)


def run_benchmark(benchmark: Benchmark, out: Path | None = None, overwrite: bool = False) -> EvaluationResult:
    """Run a benchmark, and save its result where there is a folder for it.

    Args:
        benchmark: made for this run.
        out: folder for `<name>.json`, `<name>.items.parquet` and, where the benchmark has a page, `<name>.html`.
        overwrite: replace an earlier result in the same folder.

    Raises:
        OutputError: there is an earlier result, or the folder cannot be written. Nothing has been computed yet.
        ManifestError: there is no item; the reasons are in the message.
        NumericsError: a score, or a column of an item, is not finite.
    """
    if out is not None:
        check_output(out, benchmark.name, overwrite)
    started, run = time.perf_counter(), benchmark.run
    run.folder = out
    items = list(benchmark.items())
    if not items:
        raise benchmark.nothing(reasons(run.excluded, ""))
    _check_finite(items, benchmark.name)
    scores = benchmark.scores(items)
    result = EvaluationResult(
        benchmark=benchmark.name,
        scores=scores,
        measurements=benchmark.measurements(items),
        notes=benchmark.notes(items),
        conventions=benchmark.conventions(),
        fingerprints=run.fingerprints,
        weights=run.weights,
        excluded=dict(run.excluded),
        seed=benchmark.config.seed,
        seconds=time.perf_counter() - started,
        items=[{name: value for name, value in item.items() if not name.startswith("_")} for item in items],
    )
    if out is not None:
        path = save_result(result, out, overwrite=True)
        page = benchmark.page(result, items)
        if page is not None:
            write_text(page, path.with_suffix(".html"))
        try:
            picture = benchmark.picture(result)
        except MissingDependencyError as error:
            picture = None
            print(f"No picture: {error}")
        if picture is not None:
            write_text(picture, path.with_suffix(".svg"))
    return result


def print_result(
    result: EvaluationResult,
    out: Path | None = None,
    counted: str = "utterances",
    grouped: str = "speakers",
    table: Table | None = None,
) -> None:
    """Print the scores of a result with their intervals, other numbers, notes, what was left out, and its file.

    `counted` and `grouped` are what the two intervals are over, and `table` takes the place of ours; see `Benchmark`.
    """
    from rich.console import Console

    beside_anchors = len(systems_of(result)) > 1
    wide = beside_anchors or table is not None
    if table is None:
        table = _table_beside_anchors(result, counted) if beside_anchors else _table(result, counted, grouped)
    console = Console(width=max(Console().width, 120) if wide else None)
    console.print(table)
    print_notes(console, result)
    for title, kind in (("Results", "json"), ("Page", "html"), ("Picture", "svg")):
        path = Path(out) / f"{result.benchmark}.{kind}" if out is not None else None
        if path is not None and path.exists():
            print(f"{title}: {path}")


def _table(result: EvaluationResult, counted: str, grouped: str) -> Table:
    from rich.table import Table

    table = Table(title=f"{result.benchmark}: 95 % intervals")
    for column in ("score", "value", f"over {counted}", f"over {grouped}", "n"):
        table.add_column(column)
    for name, score in result.scores.items():
        intervals = [(score.low, score.high), (score.speaker_low, score.speaker_high)]
        shown = ["-" if low is None else f"{low:.4g} to {high:.4g}" for low, high in intervals]
        value = "-" if score.value is None else f"{score.value:.4g}"
        table.add_row(name, value, *shown, str(score.num_items))
    for name, value in result.measurements.items():
        if isinstance(value, int | float) and name not in result.scores:
            table.add_row(name, str(value) if isinstance(value, int) else f"{value:.4g}")
    return table


def systems_of(result: EvaluationResult) -> list[str]:
    """Return the model and the anchors that a result has scores of: `copy_rate`, `copy_rate/true`."""
    beside = [name.split("/") for name in result.scores if "/" in name]
    return ["model", *dict.fromkeys(system for name, system in beside if name in result.scores)]


def score_table(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return one row per score: its name, the model's and each anchor's value, and what it means."""
    rows = []
    for name in dict.fromkeys(name.split("/")[0] for name in result.scores):
        names = [name if system == "model" else f"{name}/{system}" for system in systems_of(result)]
        scores = [result.scores.get(one) for one in names]
        rows.append({"name": name, "scores": scores, "meaning": next(s.meaning for s in scores if s is not None)})
    return rows


def _table_beside_anchors(result: EvaluationResult, counted: str) -> Table:
    """One line per score: the model's value with its interval, and the anchors' values."""
    from rich.table import Table

    systems = systems_of(result)
    table = Table(title=f"{result.benchmark}: the model with its 95 % interval over {counted}, and anchors")
    for name in ("score", "model", "interval", *systems[1:]):
        table.add_column(name, no_wrap=True)
    for row in score_table(result):
        model = row["scores"][0]
        values = ["-" if score is None or score.value is None else f"{score.value:.4g}" for score in row["scores"]]
        interval = "-" if model is None or model.low is None else f"{model.low:.3g} to {model.high:.3g}"
        table.add_row(row["name"], values[0], interval, *values[1:])
    return table


def print_notes(console: Console, result: EvaluationResult) -> None:
    """Print what a reader of the scores must know, and what was left out."""
    for note in result.notes:
        console.print(f"Note: {note}", markup=False)
    for reason, count in result.excluded.items():
        console.print(f"Left out: {count} ({reason})", markup=False)


def _check_finite(items: Items, benchmark: str) -> None:
    for item in items:
        for column, value in item.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NumericsError(
                    f"{benchmark}: {column} of item {item.get('id')!r} is {value}. A model whose weights or outputs "
                    "are not finite cannot be scored."
                )
