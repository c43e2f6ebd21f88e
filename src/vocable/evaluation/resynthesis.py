"""The resynthesis ceiling: what is lost between speech and speech when only tokens pass, before any language model.

    original ---------------------------> judge: words, quality     (topline)
        |                                                 |
        tokenizer -> tokens -> vocoder -> resynthesis -> judge: words, quality, voice

No language model on these tokens can speak more clearly than their resynthesis, so it is measured first. Each score
has a 95 % interval over utterances, and one over speakers. Source of the protocol: On Generative Spoken Language
Modeling from Raw Audio (Lakhotia et al., 2021, arXiv:2102.01192), section 4.2 (ASR on resynthesised speech).
"""

import dataclasses
import functools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from vocable.audio.io import Audio, read_audio, read_utterance
from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.judges import JUDGE_RATE, ListeningBenchmark, ListeningConfig, encoder_name
from vocable.evaluation.metrics.wer import LEVELS, NORMALISERS, align_texts, column_error_rate, error_columns
from vocable.evaluation.pages import page_template
from vocable.evaluation.results import EvaluationResult, Score, column_mean, ratio_score
from vocable.evaluation.runner import Item, Items
from vocable.evaluation.token_sources import encode_all
from vocable.evaluation.units import UnitCounter
from vocable.features.speaker import SpeakerEncoder
from vocable.registry import look_up
from vocable.synthesis.opening import attach_synthesizer
from vocable.tokens.tokenizer import SpeechTokenizer, load_tokenizer
from vocable.types import Clip, SpeechTokens, Utterance

OWN_VOICE = "own"
LONG_ENOUGH = 4.0
"""Seconds of a recording that a voice is rather taken from."""
BLOCK_UTTERANCES = 16
"""Read, encoded and judged together; what stays in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResynthesisConfig(ListeningConfig):
    """Which utterances are judged, and how."""

    manifest: Path
    """The utterances to judge (JSONL), with text where there is some."""
    tokenizer: Path
    """Folder of a saved tokenizer."""
    vocoder: Path | None = None
    """Folder of the vocoder trained for that tokenizer. Without it: the tokenizer's own decoder, or the small vocoder
    that comes with Vocable where that reads its units."""
    num_utterances: int | None = 100
    """How many utterances are drawn from the manifest, without replacement; null takes all."""
    normaliser: str = "english"
    """Normalisation of texts before they are compared: english, basic or none."""
    prosody: Literal["tokens", "recording"] = "tokens"
    """Source of pitch and energy: the tokens, or the recording, moved to the voice. The voice `own` is that of the
    speaker, from another recording of theirs in the manifest, or from the same one where there is no other."""
    voice_reference: Path | None = None
    """A recording of the voice that the resynthesis should have; adds a similarity to it."""
    durations: Literal["true", "predicted"] = "true"
    """Durations of runs: those of the recording, or the vocoder's prediction, as when a language model speaks."""
    mos: str | None = "distillmos"
    """The predictor of opinion scores; null leaves the score out."""
    speaker_encoder: str | None = "resemblyzer"
    """The judge of voices; null leaves the score out."""
    num_examples: int = 20
    """Utterances on the page."""

    def __post_init__(self) -> None:
        ListeningConfig.__post_init__(self)
        look_up("text normaliser", self.normaliser, NORMALISERS)
        if self.num_utterances is not None and self.num_utterances < 1:
            raise ConfigError(f"num_utterances is {self.num_utterances}; judge at least 1, or None for all.")


@dataclass(slots=True)
class Copied:
    """An utterance, and its copies by the name of the system that made them."""

    utterance: Utterance
    original: Tensor
    """At the judges' rate."""
    tokens: SpeechTokens
    copies: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """At the judges' rate."""
    sizes: dict[str, int | None] = dataclasses.field(default_factory=dict)
    """Bytes of a compressed file, for systems that write one."""


R = TypeVar("R", bound=ResynthesisConfig)


class Resynthesis(ListeningBenchmark[R], Generic[R]):
    """Measure the resynthesis ceiling: words, quality and voice that survive speech -> tokens -> speech.

    Writes resynthesis.json (scores with 95 % intervals), resynthesis.items.parquet (one row per utterance) and
    resynthesis.html (a page to listen to). Run it before any language model is trained on the tokens.

    The error rate is counted against the manifest's text. An utterance without text is counted against what the judge
    heard in the original, in a score of its own (wer_resynthesis_to_asr): the two are never pooled.

    vocable evaluate resynthesis --manifest dev.jsonl --tokenizer units --out results
    """

    name, Config = "resynthesis", ResynthesisConfig
    systems: Sequence[str] = ("resynthesis",)
    """Names of the ways to make copies; columns and scores carry them."""

    def items(self) -> Iterator[Item]:
        """Encode, decode and judge, some utterances at a time."""
        config, run = self.config, self.run
        self.tokenizer = run.open("tokenizer", self._load_tokenizer)
        self.open_judges(self.tokenizer, config.mos, config.speaker_encoder)
        self.target = self._voice_target()
        self.open_systems()
        self.chosen = choose_utterances(run.utterances(), config.num_utterances, config.seed)
        self.recordings: dict[str | None, list[Utterance]] = defaultdict(list)
        self.counters = {stream: UnitCounter(stream.codebook_sizes) for stream in self.tokenizer.streams}
        num_examples, step = 0, f"Judging {self.name}"
        run.advance(step, 0, len(self.chosen))
        for start in range(0, len(self.chosen), BLOCK_UTTERANCES):
            block = self.chosen[start : start + BLOCK_UTTERANCES]
            copied = list(self._copy(block))
            for one, item in zip(copied, self.judge(copied), strict=True):
                for stream, counter in self.counters.items():
                    counter.add(one.tokens.stream(stream.name))
                if num_examples < config.num_examples:
                    num_examples += 1
                    for name, waveform in {"original": one.original, **one.copies}.items():
                        item[f"_{name}"] = encode_audio(waveform, JUDGE_RATE, format="opus")
                yield item
            run.advance(step, len(block), len(self.chosen))

    def open_systems(self) -> None:
        """Open what else makes or judges copies, once the tokenizer and the judges are there."""

    def add_copies(self, copied: Sequence[Copied]) -> None:
        """Make the copies of some utterances, those of every system."""
        decoded = self.decode([one.utterance for one in copied], [one.tokens for one in copied])
        for one, waveform in zip(copied, decoded, strict=True):
            one.copies["resynthesis"] = waveform

    def label(self, score: str, system: str) -> str:
        """Name of the one score of its kind, or of a system's."""
        return score

    def _load_tokenizer(self) -> SpeechTokenizer:
        device = self.run.device
        return attach_synthesizer(load_tokenizer(self.config.tokenizer, device=device), self.config.vocoder, device)

    def _voice_target(self) -> Tensor | None:
        reference = self.config.voice_reference
        if reference is None:
            return None
        if self.judges.speaker is None:
            raise ConfigError(f"voice_reference is {reference}, but there is no speaker encoder to compare with.")
        return self.judges.speaker.embed(read_audio(reference, JUDGE_RATE).waveform)

    def _copy(self, block: Sequence[Utterance]) -> Iterator[Copied]:
        """Read, encode and copy; what cannot be used is counted."""
        config, tokenizer, excluded = self.config, self.tokenizer, self.run.excluded
        readable: list[tuple[Utterance, Tensor]] = []
        for utterance in block:
            if utterance.language is not None and not same_language(utterance.language, config.language):
                excluded[f"language is not {config.language}"] += 1
                continue
            try:
                readable.append((utterance, read_utterance(utterance, tokenizer.sample_rate)))
            except AudioFormatError:
                excluded["unreadable audio"] += 1
        with self.run.timed("encode"):
            encoded = encode_all(tokenizer, [Clip(sound, one.text, one.words) for one, sound in readable])
        copied: list[Copied] = []
        for (utterance, waveform), tokens in zip(readable, encoded, strict=True):
            if tokens is None:
                excluded["the tokenizer refuses the audio"] += 1
            elif not tokens.num_positions:
                excluded["no tokens: audio too short"] += 1
            else:
                original = waveform
                if tokenizer.sample_rate != JUDGE_RATE:  # not resampled twice
                    original = read_utterance(utterance, JUDGE_RATE)
                copied.append(Copied(utterance, original, tokens))
        if copied:
            self.add_copies(copied)
        for one in copied:
            broken = [name for name in self.systems if not _is_sound(one.copies[name])]
            if broken:
                excluded[f"{broken[0]} is empty or not finite"] += 1
            else:
                yield one

    def decode(self, utterances: Sequence[Utterance], tokens: Sequence[SpeechTokens]) -> list[Tensor]:
        """Speak at the judges' rate; in one voice, or each in that of its speaker; with the prosody of either side."""
        with self.run.timed("decode"):
            decoded = self._decode(utterances, tokens)
        rate = self.tokenizer.decode_rate
        return [resample(one.cpu(), rate, JUDGE_RATE) if _is_sound(one) else torch.zeros(0) for one in decoded]

    def _decode(self, utterances: Sequence[Utterance], tokens: Sequence[SpeechTokens]) -> list[Tensor]:
        config, tokenizer = self.config, self.tokenizer
        if config.durations == "predicted":
            tokens = [_without_durations(one) for one in tokens]
        if config.voice != OWN_VOICE and config.prosody == "tokens":
            return tokenizer.decode(tokens, voice=config.voice)
        decoded = []
        for utterance, item in zip(utterances, tokens, strict=True):
            voice = self._own_voice(utterance) if config.voice == OWN_VOICE else config.voice
            prosody = [_audio(utterance)] if config.prosody == "recording" else None
            try:
                decoded += tokenizer.decode([item], voice, prosody)
            except AudioFormatError:  # the recording is too short to take a voice from; counted as empty
                if config.voice != OWN_VOICE:
                    raise
                decoded.append(torch.zeros(0))
        return decoded

    def _own_voice(self, utterance: Utterance) -> Audio:
        """Another recording of the speaker."""
        if not self.recordings:
            for one in self.run.utterances():
                self.recordings[one.speaker].append(one)
        others = [one for one in self.recordings[utterance.speaker] if one.id != utterance.id and one.speaker]
        long_enough = [one for one in others if (one.duration or 0) >= LONG_ENOUGH] or others
        return _audio(long_enough[0] if long_enough else utterance)

    def judge(self, copied: Sequence[Copied]) -> Iterator[dict[str, Any]]:
        """One item per utterance: texts, counted errors, quality, similarity."""
        judges = self.judges
        sides: list[dict[str, Tensor]] = [{"original": one.original, **one.copies} for one in copied]
        order = [(name, index) for name in ("original", *self.systems) for index in range(len(copied))]
        sounds = [sides[index][name] for name, index in order]
        with self.run.timed("transcribe"):
            texts = dict(zip(order, judges.transcriber.transcribe(sounds) if sounds else [], strict=True))
        with self.run.timed("mos"):
            qualities = judges.mos.predict(sounds) if judges.mos is not None and sounds else []
        quality = dict(zip(order, qualities))
        for index, one in enumerate(copied):
            item = {
                "id": one.utterance.id,
                "speaker": one.utterance.speaker,
                "seconds": one.original.numel() / JUDGE_RATE,
                **{f"{name}_seconds": copy.numel() / JUDGE_RATE for name, copy in one.copies.items()},
                "num_frames": one.tokens.num_frames if one.tokens.has_frames else None,
                "num_positions": one.tokens.num_positions,
                **self._compare_texts(one.utterance.text, {name: texts[name, index] for name in sides[index]}),
                **{f"mos_{name}": quality[name, index] for name in sides[index] if quality},
            }
            if judges.speaker is not None:
                with self.run.timed("speaker"):
                    item |= self._compare_voices(one, judges.speaker)
            yield item

    def _compare_texts(self, text: str | None, transcripts: Mapping[str, str]) -> dict[str, Any]:
        """Texts and errors; the reference is the manifest's text, else what was heard in the original."""
        source = "manifest" if text is not None else "asr of the original"
        reference = transcripts["original"] if text is None else text
        usable = bool(NORMALISERS[self.config.normaliser](reference))
        if not usable:
            self.run.excluded[f"error rate: empty reference ({source})"] += 1
        item: dict[str, Any] = {
            "reference": reference,
            "reference_source": source if usable else "none",
            **{f"transcript_{name}": transcript for name, transcript in transcripts.items()},
        }
        for name, transcript in transcripts.items():
            item |= error_columns(name, reference if usable else None, transcript, self.config.normaliser)
        return item

    def _compare_voices(self, one: Copied, encoder: SpeakerEncoder) -> dict[str, Any]:
        kinds = ("speaker_similarity", "voice_similarity")
        columns = [self.label(kind, name) for name in self.systems for kind in kinds]
        item: dict[str, Any] = dict.fromkeys(columns)
        try:
            original = encoder.embed(one.original)
            for name, waveform in one.copies.items():
                copy = encoder.embed(waveform)
                item[self.label("speaker_similarity", name)] = float(original @ copy)
                if self.target is not None:
                    item[self.label("voice_similarity", name)] = float(self.target @ copy)
        except AudioFormatError:
            self.run.excluded["speaker similarity: silence"] += 1
            return dict.fromkeys(columns)
        return item

    def nothing(self, reasons: str) -> ManifestError:
        """Say how many utterances there were."""
        return ManifestError(f"None of {len(self.chosen)} utterances could be judged ({reasons}).")

    def scores(self, items: Items) -> dict[str, Score]:
        """Error rates of the topline, of the copies, and their difference; quality; voices."""
        scores: dict[str, Score] = {}
        rate = functools.partial(column_error_rate, **self.draws)
        with_text = [item for item in items if item["reference_source"] == "manifest"]
        without_text = [item for item in items if item["reference_source"] == "asr of the original"]
        for short, level in zip(("wer", "cer"), LEVELS):
            meaning = f"{level}s of the text not heard in the {{}}, share"
            scores[f"{short}_topline"] = rate(with_text, f"original_{level}", meaning=meaning.format("original"))
            for name in self.systems:
                scores[f"{short}_{name}"] = rate(with_text, f"{name}_{level}", meaning=meaning.format(name))
                scores[self.label(f"{short}_loss", name)] = self._rate_difference(with_text, name, level)
                if without_text:
                    meant = f"{level}s heard in the original but not in the {name}, share; utterances without text"
                    scores[f"{short}_{name}_to_asr"] = rate(without_text, f"{name}_{level}", meaning=meant)
        quality = "predicted opinion score of the {}, 1 to 5"
        columns = {"mos_topline": ("mos_original", quality.format("original"))}
        for name in self.systems:
            alike = {"speaker_similarity": "original voices", "voice_similarity": "the voice reference"}
            columns[f"mos_{name}"] = (f"mos_{name}", quality.format(name))
            for score, other in alike.items():
                column = self.label(score, name)
                columns[column] = (column, f"cosine similarity of {name} and {other}")
        for score, (column, meaning) in columns.items():
            if any(item.get(column) is not None for item in items):
                scores[score] = column_mean(items, column, better="higher", meaning=meaning, **self.draws)
        return scores

    def _rate_difference(self, items: Items, name: str, level: str) -> Score:
        """A copy minus the original, paired by utterance."""
        edits = ("substitutions", "deletions", "insertions")
        lost = [
            sum(item[f"{name}_{level}_{edit}"] - item[f"original_{level}_{edit}"] for edit in edits) for item in items
        ]
        return ratio_score(
            lost,
            [item[f"original_{level}_reference_length"] for item in items],
            [item["speaker"] for item in items],
            better="lower",
            meaning=f"error rate in {level}s, {name} minus topline, paired",
            **self.draws,
        )

    def conventions(self) -> dict[str, Any]:
        """Who judges, and how."""
        config, judges, reference = self.config, self.judges, self.config.voice_reference
        return {
            **self.judge_conventions(self.tokenizer),
            "normaliser": config.normaliser,
            "error_rate": "all edits / all reference words (characters with spaces)",
            "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over utterances and over speakers",
            "durations": config.durations,
            "prosody": config.prosody,
            "voice_reference": reference.name if reference is not None else None,
            "speaker_encoder": judges.speaker.name if judges.speaker else None,
            "num_utterances": config.num_utterances,
            "judge_sample_rate": JUDGE_RATE,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """Seconds of sound and of computing; how the codebook is used."""
        audio = sum(item["seconds"] for item in items)
        return {
            "audio_seconds": audio,
            **{f"{name}_seconds": sum(item[f"{name}_seconds"] for item in items) for name in self.systems},
            "compute_seconds": {name: round(value, 3) for name, value in self.run.seconds.items()},
            "real_time_factor": {name: value / audio for name, value in self.run.seconds.items()},
            "streams": {
                stream.name: dataclasses.asdict(counter.statistics(stream.rate, audio))
                for stream, counter in self.counters.items()
            },
        }

    def notes(self, items: Items) -> list[str]:
        """Warn of judges that are not independent, of missing texts, of silence, of few utterances."""
        judge, encoder = self.judges.transcriber.name, encoder_name(self.tokenizer)
        relations = {
            "same": "The recogniser is the tokenizer's own encoder: error rates of the copies are too good.",
            "same family": f"The recogniser {judge} and the tokenizer's encoder {encoder} are of one family: "
            "a judge of another family would be safer.",
            "unknown": "The tokenizer does not name its encoder, so nobody can say whether the judge is independent.",
        }
        notes = [relations[self.relation]] if self.relation in relations else []
        without_text = sum(item["reference_source"] == "asr of the original" for item in items)
        if without_text:
            notes.append(f"{without_text} utterances have no text; they are judged against the judge's own transcript.")
        for name in self.systems:
            silent = sum(not item[f"transcript_{name}"] for item in items)
            if silent:
                notes.append(f"In {silent} copies by {name} nothing was heard; every word of them counts as deleted.")
        if len(items) < 30:
            notes.append(f"Only {len(items)} utterances: intervals are rough.")
        return notes

    def page(self, result: EvaluationResult, items: Items) -> str:
        """Originals beside copies, with the words that were lost or made up marked; the sound is inside."""
        shown = [
            {
                "id": item["id"],
                "speaker": item["speaker"],
                "seconds": item["seconds"],
                "source": item["reference_source"],
                "sides": [
                    {
                        "title": whose.capitalize(),
                        "sound": item[f"_{whose}"],
                        "mos": item.get(f"mos_{whose}"),
                        "similarity": item.get(self.label("speaker_similarity", whose))
                        if whose != "original"
                        else None,
                        "parts": align_texts(item["reference"], item[f"transcript_{whose}"], self.config.normaliser),
                    }
                    for whose in ("original", *self.systems)
                ],
            }
            for item in items
            if "_original" in item
        ]
        return page_template("resynthesis.html.jinja").render(result=result, items=shown)


def choose_utterances(utterances: Sequence[Utterance], num_utterances: int | None, seed: int) -> list[Utterance]:
    """Draw utterances without replacement, kept in manifest order.

    Raises:
        ManifestError: there are none.
    """
    if not utterances:
        raise ManifestError("The manifest holds no utterance that can be read: there is nothing to evaluate.")
    if num_utterances is None or num_utterances >= len(utterances):
        return list(utterances)
    rows = random.Random(seed).sample(range(len(utterances)), num_utterances)
    return [utterances[row] for row in sorted(rows)]


def _is_sound(waveform: Tensor) -> bool:
    return bool(waveform.numel()) and bool(torch.isfinite(waveform).all())


def _audio(utterance: Utterance) -> Audio:
    return Audio(read_utterance(utterance, JUDGE_RATE), JUDGE_RATE)


def _without_durations(tokens: SpeechTokens) -> SpeechTokens:
    streams = [tokens] if tokens.streams is None else list(tokens.streams.values())
    if all(one.durations is None for one in streams):
        raise ConfigError("durations is 'predicted', but this tokenizer does not collapse runs: nothing to predict.")
    return tokens.without_durations()


def same_language(found: str, wanted: str) -> bool:
    """Whether two marks of a language mean the same; regions do not count: en-GB is en."""
    names = {"english": "en", "eng": "en"}
    found, wanted = (name.lower().replace("_", "-").split("-")[0] for name in (found, wanted))
    return names.get(found, found) == names.get(wanted, wanted)
