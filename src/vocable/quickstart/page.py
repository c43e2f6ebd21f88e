"""From the results of a quickstart to the report: what is played, drawn and tabled."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from vocable import __version__
from vocable.assets import find_asset, is_available
from vocable.audio.io import read_utterance
from vocable.audio.writing import encode_audio
from vocable.errors import missing_extra
from vocable.evaluation.bootstrap import Interval
from vocable.evaluation.units import UnitCounter
from vocable.features.log_mel import LogMelConfig, log_mel
from vocable.files import write_text
from vocable.quickstart import plots
from vocable.quickstart.run import RECOGNISER, Heard, QuickstartConfig, QuickstartResult
from vocable.types import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A recording to listen to."""

    title: str
    audio: bytes
    """An MP3 file."""
    note: str = ""

    @property
    def source(self) -> str:
        """The recording as a data URI."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.audio).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """One row of the listening table: an utterance, and what was made of it."""

    title: str
    text: str
    players: Sequence[Player]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a sentence that says how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the page shows."""

    title: str
    summary: Sequence[str]
    listening: Sequence[Listening]
    pictures: Mapping[str, tuple[str, str]]
    """Per heading: the picture as HTML, and a sentence below it."""
    tables: Sequence[Table]
    command: str


def write_quickstart_report(result: QuickstartResult, command: str) -> Path:
    """Write report.html into the run's folder: one self-contained page, so that nothing on it is loaded from elsewhere.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "Writing the report") from error
    drawn = result.heard[0]
    report = Report(
        title="Vocable quickstart",
        summary=_summary(result),
        listening=[_listening(heard, result) for heard in result.heard],
        pictures={
            "Learning curves": (
                _curves(result),
                "Held-out loss of both language models on the same utterances, "
                "against training steps. Dashed: tables of unit counts, which need no training.",
            ),
            "How often units are used": (_usage(result), "Training frames of each unit. A flat curve wastes no units."),
            "An utterance and its units": (
                _spectrogram(drawn, result),
                f"{drawn.utterance.id}: log-mel spectrogram, "
                "words where their times are known, and runs of equal units below.",
            ),
        },
        tables=[
            _loss_table(result),
            *_resynthesis_tables(result),
            _unit_table(result),
            _time_table(result),
            _model_table(result),
        ],
        command=command,
    )
    source = resources.files("vocable.quickstart").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    path = Path(result.config.out) / "report.html"
    write_text(environment.from_string(source).render(report=report, version=__version__), path)
    return path


def _summary(result: QuickstartResult) -> list[str]:
    minutes = sum(u.duration or 0 for u in result.splits.train) / 60
    speech = "the stories that come with Vocable" if result.config.audio is None else str(result.config.audio)
    steps = result.training["warm"].train_curve[-1]["step"]
    return [
        f"{minutes:.0f} minutes of speech ({speech}) were turned into {result.tokenizer.codebook_size} units, and two "
        f"language models were trained on them for {steps} steps each: one that starts from the text model "
        f"{result.config.text_model} with its vocabulary replaced (warm, the TWIST recipe), and one of the same shape "
        "that starts from random weights (cold). Then both continued the first seconds of recordings they have not "
        "heard.",
        "So little speech makes babble with the sound of the language, not sense. What can be seen is the order: which "
        "start learns faster, and how much the units keep of the words. One run with one seed is an illustration, not "
        "evidence.",
    ]


def _listening(heard: Heard, result: QuickstartResult) -> Listening:
    """Prompt, original, resynthesis, and the continuations with the prompt resynthesised before them."""
    config, tokenizer, synthesizer = result.config, result.tokenizer, result.tokenizer.synthesizer
    known = [] if synthesizer is None else synthesizer.voices
    voice = config.voice or (heard.utterance.speaker if heard.utterance.speaker in known else None)
    original = read_utterance(heard.utterance, tokenizer.sample_rate)
    prompt = original[: round(config.prompt_seconds * tokenizer.sample_rate)]
    (again,) = tokenizer.decode([heard.whole], voice=voice)
    players = [
        Player(title="prompt", audio=_mp3(prompt, tokenizer.sample_rate), note="what the models hear"),
        Player(title="original", audio=_mp3(original, tokenizer.sample_rate), note="the whole recording"),
        Player(title="resynthesis", audio=_mp3(again, tokenizer.decode_rate), note="recording → units → speech"),
    ]
    for start, continuation in heard.continuations.items():
        tokens = result.lms[start].join(heard.prompt, continuation.tokens)
        (speech,) = tokenizer.decode([tokens], voice=voice)
        note = f"prompt, then {continuation.seconds:.1f} s of new units (stopped: {continuation.stopped})"
        players.append(
            Player(title=f"continuation, {start} start", audio=_mp3(speech, tokenizer.decode_rate), note=note)
        )
    who = f"{heard.utterance.speaker}, " if heard.utterance.speaker else ""
    new = "a voice not heard in training" if result.splits.is_new_voice(heard.utterance) else "a held-out recording"
    return Listening(title=f"{heard.utterance.id} ({who}{new})", text=heard.utterance.text or "", players=players)


def _mp3(waveform: torch.Tensor, sample_rate: int) -> bytes:
    return encode_audio(waveform.clamp(-1, 1), sample_rate, "mp3")


def _curves(result: QuickstartResult) -> str:
    curves = {
        f"{start} start": [(line["step"], line["loss"]) for line in outcome.valid_curve]
        for start, outcome in result.training.items()
    }
    baselines = {loss.model: loss.nats_per_unit for loss in result.losses if loss.model in ("unigram", "bigram")}
    return plots.learning_curves(curves, baselines)


def _usage(result: QuickstartResult) -> str:
    return plots.unit_usage(_count_units(result).by_frame[0].tolist())


def _count_units(result: QuickstartResult) -> UnitCounter:
    counter = UnitCounter((result.tokenizer.codebook_size,))
    for _, tokens in result.shards:
        counter.add(tokens)
    return counter


def _spectrogram(heard: Heard, result: QuickstartResult) -> str:
    config = LogMelConfig()
    waveform = read_utterance(heard.utterance, config.sample_rate)
    words: Iterable[Word] = heard.utterance.words or ()
    return plots.spectrogram_with_units(
        log_mel(waveform, config),
        heard.whole,
        result.tokenizer.encoder.frame_rate,
        len(waveform) / config.sample_rate,
        tuple(words),
    )


def _loss_table(result: QuickstartResult) -> Table:
    rows = []
    for loss in result.losses:
        difference = "" if loss.difference is None else f"{loss.difference:+.3f}{_brackets(loss.difference_interval)}"
        rows.append(
            (
                loss.speech,
                loss.model,
                f"{loss.nats_per_unit:.3f}{_brackets(loss.interval)}",
                f"{loss.nats_per_second:.1f}",
                difference,
                str(loss.num_utterances),
            )
        )
    return Table(
        title="Held-out loss",
        columns=("speech", "model", "nats per unit [95 %]", "nats per second", "warm minus cold [95 %]", "utterances"),
        rows=rows,
        note="Lower is better. Last checkpoints of both; intervals by bootstrap over utterances. The start symbol is "
        "given, the end symbol is scored. Only nats per second may be compared with other tokenizers.",
    )


def _brackets(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"


def _resynthesis_tables(result: QuickstartResult) -> list[Table]:
    if result.resynthesis is None:
        return [Table(title="The resynthesis ceiling", columns=(), rows=(), note=_why_not_judged(result.config))]
    outcome = result.resynthesis
    rows = [
        (name.replace("_", " "), str(score), score.meaning) for name, score in outcome.scores.items() if score.num_items
    ]
    return [
        Table(
            title="The resynthesis ceiling",
            columns=("score", "value [95 %] (items)", "what it is"),
            rows=rows,
            note=" ".join(("No language model over these units can be understood better.", *outcome.notes)),
        )
    ]


def _why_not_judged(config: QuickstartConfig) -> str:
    if config.num_judged == 0:
        why, remedy = "as num_judged=0 asks", "Set num_judged=8, and another --out, to measure it."
    else:
        why = f"as the recogniser {RECOGNISER} is not at hand"
        remedy = f"Fetch it with 'vocable assets fetch {RECOGNISER.rsplit('/', 1)[-1]}', and run again."
    return f"Not measured: judging was skipped, {why}. {remedy}"


def _unit_table(result: QuickstartResult) -> Table:
    seconds = sum(u.duration or 0 for u in result.splits.train)
    statistics = _count_units(result).statistics(result.tokenizer.frame_rate, seconds)
    rows = [
        ("units", str(result.tokenizer.codebook_size)),
        ("used at all", f"{statistics.used:.0%}"),
        ("perplexity over frames", f"{statistics.frame_perplexity:.1f}"),
        ("frames per second", f"{result.tokenizer.frame_rate:g}"),
        ("tokens per second, runs collapsed", f"{statistics.positions_per_second:.1f}"),
        ("bits per second, nominal", f"{statistics.nominal_bits_per_second:.0f}"),
        ("bits per second, entropy of runs without their durations", f"{statistics.empirical_bits_per_second:.0f}"),
        ("units of silence", ", ".join(map(str, result.lms["warm"].card.silence_units)) or "none found"),
        ("tokenizer fingerprint", result.tokenizer.fingerprint),
    ]
    return Table(title="Units", columns=("", ""), rows=rows)


def _time_table(result: QuickstartResult) -> Table:
    rows = [(name, f"{seconds:.1f} s") for name, seconds in result.seconds.items()]
    rows.append(("all", f"{sum(result.seconds.values()):.1f} s"))
    rates = [line["tokens_per_second"] for line in result.training["warm"].train_curve]
    note = f"Training ran at {sum(rates) / len(rates):.0f} units per second on {torch.get_num_threads()} threads."
    return Table(title="Times of this run", columns=("step", "wall time"), rows=rows, note=note)


def _model_table(result: QuickstartResult) -> Table:
    rows: list[tuple[Any, ...]] = []
    names = [result.config.encoder, result.config.text_model]
    if result.resynthesis is not None:
        names += [RECOGNISER, "distillmos", "resemblyzer"]
    for name in names:
        asset = find_asset(name)
        if asset is not None and is_available(name):
            rows.append((asset.name, asset.licence, "yes" if asset.commercial_use else "no", asset.what))
        else:
            rows.append((name, "see its card", "", ""))
    return Table(title="Weights that were used", columns=("name", "licence", "commercial use", "what it is"), rows=rows)
