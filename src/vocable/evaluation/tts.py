"""Text to speech by a spoken language model: it says what is written, and judges listen.

    texts -> prompt, task speak -> tokens -> waveform  -->  words, quality, voice, length
    recordings of the same texts, where there are some -->  words, quality           (topline)

Source of the protocol: LM-SPT (Jo et al., 2025, arXiv:2506.16738): word errors of a recogniser and opinion scores.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vocable.audio.io import Audio, read_audio, read_utterance
from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.judges import JUDGE_RATE, ListeningBenchmark, ListeningConfig, transcribe_audible
from vocable.evaluation.metrics.wer import LEVELS, NORMALISERS, align_texts, column_error_rate, error_columns
from vocable.evaluation.pages import page_template
from vocable.evaluation.results import EvaluationResult, Score, column_mean, column_ratio
from vocable.evaluation.resynthesis import OWN_VOICE, choose_utterances
from vocable.evaluation.runner import Item, Items
from vocable.files import read_text, split_lines
from vocable.lm.generation import GenerationConfig
from vocable.lm.model import UNITS_ONLY
from vocable.lm.spoken import Reply, Segment, SpokenLM, load_lm
from vocable.registry import look_up
from vocable.synthesis.opening import load_synthesizer
from vocable.types import Utterance

BLOCK_TEXTS = 16
"""Spoken and judged together; what stays in memory."""
NOWHERE = Path()
"""The recording of a text that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TtsConfig(ListeningConfig):
    """Who says what, and who listens."""

    texts: Path
    """A manifest (JSONL), whose recordings are then judged too; or a file that ends in .txt, with a text a line."""
    model: Path
    """Folder of a language model of speech and text, or of its training run."""
    tokenizer: Path | None = None
    """Folder of the speech tokenizer; without it, the one beside the model."""
    vocoder: Path | None = None
    """Folder of a synthesizer for its tokens. Without it: the tokenizer's own decoder, or the small vocoder that comes
    with Vocable, where it fits."""
    voice: str | Path | None = None
    """Voice of the synthesizer; a recording of one to copy; or `own`, that of the text's recording. To the latter two,
    similarity is measured."""
    num_utterances: int | None = 100
    """How many texts are drawn, without replacement; null takes all."""
    normaliser: str = "english"
    """Normalisation of texts before they are compared: english, basic or none."""
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(max_seconds=30.0))
    """Sampling. Its seed is not used: see `seed`."""
    mos: str | None = "distillmos"
    """The predictor of opinion scores; null leaves the score out."""
    speaker_encoder: str | None = "resemblyzer"
    """The judge of voices; null leaves the score out."""

    def __post_init__(self) -> None:
        ListeningConfig.__post_init__(self)
        look_up("text normaliser", self.normaliser, NORMALISERS)


class _Spoken(NamedTuple):
    """A text, what was said, and the recording of it; waveforms at the judges' rate, empty where there is none."""

    utterance: Utterance
    reply: Reply
    speech: Tensor
    recording: Tensor


class Tts(ListeningBenchmark[TtsConfig]):
    """Let a spoken language model say texts, and judge its speech: words, quality, voice, length.

    Writes tts.json (wer_tts, cer_tts, mos_tts, ... with 95 % intervals; wer_topline and mos_topline of the recordings,
    where there are some), tts.items.parquet (one row per text) and tts.html (a page to listen to). A text of which
    nothing is said counts as not heard.

    vocable evaluate tts --model runs/lm-spt --texts test.jsonl --out results
    """

    name, Config = "tts", TtsConfig

    def items(self) -> Iterator[Item]:
        """Speak and listen, some texts at a time."""
        config, run = self.config, self.run
        self.lm: SpokenLM = run.open("model", self._load_lm)
        if "text" not in self.lm.modalities:
            raise ConfigError(UNITS_ONLY)
        self.open_judges(self.lm.tokenizer, config.mos, config.speaker_encoder)
        run.fingerprints |= self.lm.fingerprints
        run.weights |= {"model": self.lm.record()}
        chosen = choose_utterances(self._read_texts(), config.num_utterances, config.seed)
        run.advance("Speaking", 0, len(chosen))
        num_examples = 0
        for start in range(0, len(chosen), BLOCK_TEXTS):
            block = chosen[start : start + BLOCK_TEXTS]
            spoken = list(self._speak(block))
            for one, item in zip(spoken, self._judge(spoken), strict=True):
                if num_examples < config.num_examples:
                    num_examples += 1
                    sounds = {"recording": one.recording, "tts": one.speech}
                    item["_sounds"] = {
                        name: encode_audio(sound, JUDGE_RATE, format="opus") if sound.numel() else b""
                        for name, sound in sounds.items()
                        if name == "tts" or sound.numel()
                    }
                yield item
            run.advance("Speaking", len(block), len(chosen))

    def _load_lm(self) -> SpokenLM:
        config = self.config
        lm = load_lm(config.model, tokenizer=config.tokenizer, device=self.run.device)
        lm.tokenizer.synthesizer = load_synthesizer(config.vocoder, lm.tokenizer, self.run.device)
        return lm

    def _read_texts(self) -> list[Utterance]:
        """Utterances with something to say.

        Raises:
            ManifestError: there is none.
        """
        path, normalise = self.config.texts, NORMALISERS[self.config.normaliser]
        if path.suffix.lower() == ".txt":
            lines = enumerate(split_lines(read_text(path)), start=1)
            found = [Utterance(id=f"line-{number}", audio=NOWHERE, text=line.strip()) for number, line in lines]
        else:
            found = self.run.open("utterances", lambda: self.run.read_manifest(path))
        kept = [one for one in found if normalise(one.text or "")]
        if len(kept) < len(found):
            self.run.excluded["no text"] = len(found) - len(kept)
        if not kept:
            raise ManifestError(f"{path}: none of {len(found)} lines has a text to say.")
        return kept

    def _speak(self, block: Sequence[Utterance]) -> Iterator[_Spoken]:
        """Generate and decode; what is no sound is counted."""
        config, lm, excluded = self.config, self.lm, self.run.excluded
        recordings: list[Tensor] = []
        for utterance in block:
            try:
                recordings.append(
                    torch.zeros(0) if utterance.audio == NOWHERE else read_utterance(utterance, JUDGE_RATE)
                )
            except AudioFormatError:
                excluded["topline: unreadable audio"] += 1
                recordings.append(torch.zeros(0))
        with self.run.timed("generate"):
            replies = lm.continue_(
                [[Segment(text=utterance.text)] for utterance in block],
                config.generation,
                to="speech",
                task="speak",
                seeds=[stable_seed(config.seed, utterance.id) for utterance in block],
            )
        own = config.voice == OWN_VOICE
        for utterance, reply, recording in zip(block, replies, recordings, strict=True):
            speech = torch.zeros(0)
            try:
                if own and not recording.numel():
                    raise AudioFormatError("there is no recording of it")
                if reply.tokens.num_positions:
                    voice = Audio(recording, JUDGE_RATE) if own else config.voice
                    with self.run.timed("decode"):
                        (speech,) = lm.tokenizer.decode([reply.tokens], voice=voice)
            except AudioFormatError:
                if not own:
                    raise
                excluded["no recording, or one too short to copy the voice of"] += 1
                continue
            if not torch.isfinite(speech).all():
                excluded["speech is not finite"] += 1
                continue
            speech = resample(speech.cpu(), lm.tokenizer.decode_rate, JUDGE_RATE) if speech.numel() else speech
            yield _Spoken(utterance, reply, speech, recording)

    def _judge(self, spoken: Sequence[_Spoken]) -> Iterator[dict[str, Any]]:
        judges, config = self.judges, self.config
        sides = {"tts": [one.speech for one in spoken], "recording": [one.recording for one in spoken]}
        with self.run.timed("transcribe"):
            heard = {name: transcribe_audible(judges.transcriber, sounds) for name, sounds in sides.items()}
        for place, one in enumerate(spoken):
            text = one.utterance.text or ""
            item: dict[str, Any] = {
                "id": one.utterance.id,
                "speaker": one.utterance.speaker,
                "seconds": one.speech.numel() / JUDGE_RATE,
                "recorded_seconds": one.recording.numel() / JUDGE_RATE or None,
                "num_positions": one.reply.tokens.num_positions,
                "stopped": one.reply.stopped,
                "reference": text,
                "reference_source": "manifest",
            }
            for name, sounds in sides.items():
                sound, there = sounds[place], name == "tts" or bool(sounds[place].numel())
                item[f"transcript_{name}"] = heard[name][place] if there else None
                item |= error_columns(name, text if there else None, heard[name][place], config.normaliser)
                if judges.mos is not None:
                    with self.run.timed("mos"):
                        item[f"mos_{name}"] = judges.mos.predict([sound])[0] if sound.numel() else None
            yield item | self._compare_voices(one)

    def _compare_voices(self, one: _Spoken) -> dict[str, float | None]:
        """How alike the speech is to the voice that was asked for; nothing where that has no recording."""
        encoder, voice = self.judges.speaker, self.config.voice
        if encoder is None or not (voice == OWN_VOICE or isinstance(voice, Path)):
            return {}
        try:
            asked = one.recording if voice == OWN_VOICE else read_audio(voice, JUDGE_RATE).waveform
            return {"voice_similarity": float(encoder.embed(asked) @ encoder.embed(one.speech))}
        except AudioFormatError:
            self.run.excluded["voice similarity: silence"] += 1
            return {"voice_similarity": None}

    def scores(self, items: Items) -> dict[str, Score]:
        """Errors, opinions and voices of the speech, and of the recordings where there are some; lengths."""
        scores: dict[str, Score] = {}
        recorded = [item for item in items if item["recorded_seconds"]]
        for name, whose, rows in (("tts", "speech", items), ("recording", "recordings", recorded)):
            label = "topline" if name == "recording" else name
            for short, level in zip(("wer", "cer"), LEVELS) if rows else ():
                meaning = f"{level}s of the text not heard in the {whose}, share"
                scores[f"{short}_{label}"] = column_error_rate(rows, f"{name}_{level}", meaning=meaning, **self.draws)
            if rows and self.judges.mos is not None:
                meaning = f"predicted opinion score of the {whose}, 1 to 5"
                found = column_mean(rows, f"mos_{name}", better="higher", meaning=meaning, **self.draws)
                scores[f"mos_{label}"] = found
        if any("voice_similarity" in item for item in items):
            meaning = "cosine similarity of the speech and the voice that was asked for"
            found = column_mean(items, "voice_similarity", better="higher", meaning=meaning, **self.draws)
            scores["voice_similarity"] = found
        if recorded:
            meaning = "seconds of speech over seconds of the recordings"
            columns = ("seconds", "recorded_seconds")
            scores["duration_ratio"] = column_ratio(recorded, *columns, better=None, meaning=meaning, **self.draws)
        return scores

    def conventions(self) -> dict[str, Any]:
        """How speech is generated, and who listens."""
        return {
            **self.judge_conventions(self.lm.tokenizer),
            "prompt": self.lm.prompt_form,
            "task": "speak",
            **self.config.generation.sampling(),
            "normaliser": self.config.normaliser,
            "error_rate": "all edits / all reference words (characters with spaces)",
            "speaker_encoder": self.judges.speaker.name if self.judges.speaker else None,
            "num_utterances": self.config.num_utterances,
            "judge_sample_rate": JUDGE_RATE,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """Seconds of sound and of computing, and why speech ended."""
        seconds = sum(item["seconds"] for item in items)
        return {
            "speech_seconds": seconds,
            "compute_seconds": {name: round(value, 3) for name, value in self.run.seconds.items()},
            "tokens_per_second": sum(item["num_positions"] for item in items) / self.run.seconds["generate"],
            "stopped": dict(Counter(item["stopped"] for item in items)),
            "nothing_said": sum(not item["seconds"] for item in items),
        }

    def notes(self, items: Items) -> list[str]:
        """Warn of a judge that is not independent, of silence and of few texts."""
        notes = []
        if self.relation in ("same", "same family"):
            notes.append(
                f"The recogniser and the tokenizer's encoder are {self.relation}: another judge would be safer."
            )
        silent = sum(not item["transcript_tts"] for item in items)
        if silent:
            notes.append(f"Of {silent} texts nothing was heard; every word of them counts as deleted.")
        if len(items) < 30:
            notes.append(f"Only {len(items)} texts: intervals are rough.")
        return notes

    def page(self, result: EvaluationResult, items: Items) -> str:
        """The speech, beside recordings where there are some, with the words that were lost or made up marked."""
        shown = [
            {
                "id": item["id"],
                "speaker": item["speaker"],
                "seconds": item["seconds"],
                "source": "text",
                "sides": [
                    {
                        "title": {"tts": "Speech", "recording": "Recording"}[name],
                        "sound": sound,
                        "mos": item.get(f"mos_{name}"),
                        "similarity": item.get("voice_similarity") if name == "tts" else None,
                        "parts": align_texts(item["reference"], item[f"transcript_{name}"], self.config.normaliser),
                    }
                    for name, sound in item["_sounds"].items()
                ],
            }
            for item in items
            if "_sounds" in item
        ]
        return page_template("resynthesis.html.jinja").render(result=result, items=shown)
