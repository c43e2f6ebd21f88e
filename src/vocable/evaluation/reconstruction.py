"""What a codec keeps of speech: the same tokens decoded in several ways, and other codecs, judged beside the originals.

    original --> tokens --> all levels | the first n | one stream  -->  words, quality, voice, signal; bits a second
        `------> Opus, or a command line ------------------------>     the same

Every way is judged on the same utterances, which are read whole. Source of the protocol: LM-SPT (Jo et al., 2025,
arXiv:2506.16738) for words, opinion scores and voices; STOI, PESQ and mel distance as codec papers give them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vocable.errors import AudioFormatError, ConfigError
from vocable.evaluation.codecs import parse_codec
from vocable.evaluation.judges import JUDGE_RATE
from vocable.evaluation.metrics import signal
from vocable.evaluation.metrics.mos import load_mos
from vocable.evaluation.results import EvaluationResult, Score, column_mean
from vocable.evaluation.resynthesis import Copied, Resynthesis, ResynthesisConfig
from vocable.evaluation.runner import Items
from vocable.evaluation.signal import METRICS, SCORES, compare_waveforms
from vocable.registry import look_up
from vocable.tokens.streams import choose_stream
from vocable.types import SpeechTokens, Stream

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "wer": ("WER, %", 1, 100),
    "mos": ("MOS", 2, 1),
    "speaker_similarity": ("voice", 2, 1),
    "stoi": ("STOI", 2, 1),
    "pesq": ("PESQ", 2, 1),
}
"""Scores in the printed table: heading, decimals, factor. The others are in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionConfig(ResynthesisConfig):
    """Which utterances are judged, how their tokens are decoded, and what stands beside them."""

    num_utterances: int | None = None
    """How many utterances are drawn from the manifest, without replacement. Without it, all are judged."""
    levels: tuple[int | str, ...] = ("all",)
    """Ways to decode the same tokens: all, a number n (the first n levels of each stream that has several), or the
    name of the stream that is decoded alone, such as semantic."""
    codecs: tuple[str, ...] = ()
    """Other codecs: opus (of libsndfile, at its lowest rate), or NAME = COMMAND; COMMAND with the places {input},
    {coded} and {output}."""
    metrics: tuple[str, ...] = ("stoi", "pesq", "mel")
    """Comparisons with the original signal: stoi, pesq, mel, prosody (pitch, voicing, energy)."""
    opinions: tuple[str, ...] = ()
    """Predictors of opinion scores beside `mos`: distillmos, dnsmos, utmos:FOLDER."""

    def __post_init__(self) -> None:
        ResynthesisConfig.__post_init__(self)
        for name in self.metrics:
            look_up("signal metric", name, {one: scores for one, scores in METRICS.items() if scores})
        if not self.levels:
            raise ConfigError("levels is empty; name at least one way to decode, such as all.")


@dataclass(frozen=True, slots=True)
class Decoding:
    """A way to decode tokens: all of them, those of one stream, or the first levels of each stream of several."""

    name: str
    streams: tuple[Stream, ...]
    """Levels of the tokenizer's streams that are decoded."""

    @classmethod
    def of(cls, streams: Sequence[Stream], level: int | str, owner: str) -> "Decoding":
        """Read an entry of `ReconstructionConfig.levels`.

        Raises:
            ConfigError: there is no such stream, or no stream has several levels, and as many.
        """
        if level == "all":
            return cls("all", tuple(streams))
        if not str(level).lstrip("-").isdigit():
            stream = choose_stream(streams, str(level), owner)
            return cls(stream.name, (stream,))
        count, most = int(level), max(stream.num_levels for stream in streams)
        if not 1 <= count <= most or most == 1:
            raise ConfigError(f"levels has {count}; {owner} has {most} to decode from, and the first one is 1.")
        return cls(
            f"first_{count}",
            tuple(dataclasses.replace(one, codebook_sizes=one.codebook_sizes[:count]) for one in streams),
        )

    @property
    def bits_per_second(self) -> float | None:
        """Nominal bits a second of what is decoded; None where tokens follow words."""
        rates = [stream.bits_per_second for stream in self.streams]
        return None if None in rates else sum(rate for rate in rates if rate is not None)

    def of_tokens(self, tokens: SpeechTokens) -> SpeechTokens:
        """Return the part of the tokens that is decoded."""
        if tokens.streams is None:
            return _first_levels(tokens, self.streams[0].num_levels)
        kept = {one.name: _first_levels(tokens.stream(one.name), one.num_levels) for one in self.streams}
        return SpeechTokens(streams=kept)


def _first_levels(tokens: SpeechTokens, count: int) -> SpeechTokens:
    parts = {"durations": tokens.durations, "words": tokens.words, "spans": tokens.spans}
    return SpeechTokens(codes=tokens.codes[:count], **parts)


class Reconstruction(Resynthesis[ReconstructionConfig]):
    """Measure what a codec keeps: words, quality, voice and signal, with all levels, the first n, or one stream alone.

    Writes reconstruction.json (scores with 95 % intervals: wer_all, wer_first_1, wer_semantic, wer_opus, ...),
    reconstruction.items.parquet (one row per utterance) and reconstruction.html (a page to listen to). Originals are
    judged too (wer_topline), other codecs where they are named; bits a second stand beside each.

    vocable evaluate reconstruction --manifest test.jsonl --tokenizer codec --levels all,1,semantic --out results
    """

    name, Config = "reconstruction", ReconstructionConfig

    def open_systems(self) -> None:
        """Find out how to decode, and try every other codec on a second of noise before the long run."""
        config, owner = self.config, f"The tokenizer {self.tokenizer.name!r}"
        self.decodings = [Decoding.of(self.tokenizer.streams, level, owner) for level in config.levels]
        self.codecs = [parse_codec(text) for text in config.codecs]
        self.systems = [one.name for one in (*self.decodings, *self.codecs)]
        if len(set(self.systems)) < len(self.systems) or "original" in self.systems:
            raise ConfigError(f"Each way to decode has a name of its own; here they are {', '.join(self.systems)}.")
        for codec in self.codecs:
            codec(0.1 * torch.randn(JUDGE_RATE, generator=torch.Generator().manual_seed(0)), JUDGE_RATE)
        self.opinions = self.run.open("opinions", lambda: [load_mos(one, self.run.device) for one in config.opinions])
        self.run.weights |= {f"opinion {one.name}": dict(one.weights) for one in self.opinions}

    def label(self, score: str, system: str) -> str:
        """Every system has scores of its own."""
        return f"{score}_{system}"

    def add_copies(self, copied: Sequence[Copied]) -> None:
        """Decode in every way, cut to the length of the original, and send the original through the other codecs."""
        utterances = [one.utterance for one in copied]
        for decoding in self.decodings:
            decoded = self.decode(utterances, [decoding.of_tokens(one.tokens) for one in copied])
            for one, waveform in zip(copied, decoded, strict=True):
                length = None if self.config.durations == "predicted" else one.original.numel()
                one.copies[decoding.name] = waveform[:length]
        for codec in self.codecs:
            for one in copied:
                with self.run.timed(codec.name):
                    try:
                        waveform, one.sizes[codec.name] = codec(one.original, JUDGE_RATE)
                    except ConfigError:
                        waveform = torch.zeros(0)  # counted as empty
                one.copies[codec.name] = waveform[: one.original.numel()]

    def judge(self, copied: Sequence[Copied]) -> Iterator[dict[str, Any]]:
        """See `Resynthesis`; adds signal metrics, further opinions, and sizes."""
        for one, item in zip(copied, super().judge(copied), strict=True):
            for system, copy in one.copies.items():
                found = self._compare_signals(one.original, copy)
                item |= {self.label(name, system): value for name, value in found.items()}
                if system in one.sizes:
                    item[f"{system}_bytes"] = one.sizes[system]
            for opinion in self.opinions:
                for system, sound in {"original": one.original, **one.copies}.items():
                    (item[self.label(opinion.name, system)],) = opinion.predict([sound])
            yield item

    def _compare_signals(self, original: Tensor, copy: Tensor) -> dict[str, float | None]:
        metrics, excluded = self.config.metrics, self.run.excluded
        try:
            signal.check_pair(original, copy)
        except AudioFormatError as error:
            excluded[f"signal metrics: {error}"] += 1
            return dict.fromkeys(name for metric in metrics for name in METRICS[metric])
        return compare_waveforms(signal.align(original, copy), metrics, excluded)

    def scores(self, items: Items) -> dict[str, Score]:
        """See `Resynthesis`; adds signal metrics and further opinions."""
        scores = super().scores(items)
        for metric in (name for group in self.config.metrics for name in METRICS[group]):
            better, meaning = SCORES[metric]
            for system in self.systems:
                label = self.label(metric, system)
                scores[label] = column_mean(items, label, better=better, meaning=f"{meaning}: {system}", **self.draws)
        for opinion in self.opinions:
            for system in ("original", *self.systems):
                label, meaning = self.label(opinion.name, system), f"opinion score of the {system} by {opinion.name}"
                scores[label] = column_mean(items, label, better="higher", meaning=meaning, **self.draws)
        return scores

    def conventions(self) -> dict[str, Any]:
        """See `Resynthesis`; adds how signals are compared."""
        return {
            **super().conventions(),
            "codec_input": f"wav, {JUDGE_RATE} Hz, 16 bits",
            "metrics": list(self.config.metrics),
            "opinions": [one.name for one in self.opinions],
            "length": "cut to that of the original" if self.config.durations == "true" else "as decoded",
            "alignment": "as in 'evaluate signal', within 0.1 s",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Resynthesis`; adds bits a second: nominal ones of tokens, measured ones of files."""
        rates = {one.name: one.bits_per_second for one in self.decodings}
        for codec in self.codecs:
            sizes = [(item[f"{codec.name}_bytes"], item["seconds"]) for item in items]
            known = None not in [size for size, _ in sizes]
            rates[codec.name] = 8 * sum(s for s, _ in sizes) / sum(t for _, t in sizes) if known else None
        return {**super().measurements(items), "bits_per_second": rates, "codecs": list(self.config.codecs)}

    def notes(self, items: Items) -> list[str]:
        """See `Resynthesis`; says what bit rates are of."""
        notes = super().notes(items)
        if self.codecs:
            notes.append("Bits a second of other codecs are those of whole files: headers weigh more in short ones.")
        return notes

    def table(self, result: EvaluationResult) -> "Table":
        """One line per system."""
        from rich.table import Table

        table = Table(title=f"{self.name}: 95 % intervals over {len(result.items)} utterances")
        shown = {one: how for one, how in COLUMNS.items() if any(name.startswith(one) for name in result.scores)}
        for head in ("system", "bits/s", *(head for head, *_ in shown.values())):
            table.add_column(head, no_wrap=True)
        rates = result.measurements["bits_per_second"]
        for system in ("topline", *self.systems):
            scores = [(result.scores.get(f"{stem}_{system}"), how) for stem, (_, *how) in shown.items()]
            written = ["-" if score is None else score.rounded(*how) for score, how in scores]
            table.add_row(system, "-" if rates.get(system) is None else f"{rates[system]:.0f}", *written)
        return table
