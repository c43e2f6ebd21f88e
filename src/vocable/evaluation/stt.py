"""Speech to text by a spoken language model: it writes what it hears, and its errors are counted.

    manifest -> tokens -> prompt, task transcribe -> text  -->  corpus WER and CER against the manifest's text

Source of the task: LM-SPT (Jo et al., 2025, arXiv:2506.16738) and its greedy decoding; the prompt is the model's own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vocable.errors import ConfigError
from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.metrics.wer import NORMALISERS, column_error_rate, error_columns
from vocable.evaluation.results import Score
from vocable.evaluation.resynthesis import choose_utterances
from vocable.evaluation.runner import Benchmark, Item, Items, TokensConfig
from vocable.lm.generation import GenerationConfig
from vocable.lm.model import UNITS_ONLY
from vocable.lm.spoken import Segment, SpokenLM, load_lm
from vocable.registry import look_up
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import SpeechTokens, Utterance

BLOCK_UTTERANCES = 64
"""Transcribed together, in batches of like length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SttConfig(TokensConfig):
    """Who transcribes what, and how texts are compared."""

    manifest: Path
    """The utterances to transcribe (JSONL), with text."""
    model: Path
    """Folder of a language model of speech and text, or of its training run."""
    tokenizer: Path | None = None
    """Folder of the speech tokenizer. Without it, and without tokens, the one beside the model."""
    num_utterances: int | None = None
    """How many utterances are drawn from the manifest, without replacement. Without it, all are transcribed."""
    normaliser: str = "english"
    """Normalisation of texts before they are compared: english, basic or none."""
    max_text_tokens: int = 256
    """Longest transcript, in tokens."""
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(temperature=0.0))
    """Decoding, greedy by default. Its seed is not used: see `seed`."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the model's weights. Without it, as saved."""

    def __post_init__(self) -> None:
        TokensConfig.__post_init__(self)
        look_up("text normaliser", self.normaliser, NORMALISERS)
        if self.num_utterances is not None and self.num_utterances < 1:
            raise ConfigError(f"num_utterances is {self.num_utterances}; transcribe at least 1, or None for all.")


class Stt(Benchmark[SttConfig]):
    """Let a spoken language model transcribe recordings, and count its word and character errors.

    Writes stt.json (wer_stt and cer_stt with 95 % intervals) and stt.items.parquet (reference, hypothesis and errors of
    every utterance). Every utterance with text counts: one that the model cannot read to its end counts as not heard.

    vocable evaluate stt --model runs/lm-spt --manifest test.jsonl --out results
    """

    name, Config = "stt", SttConfig

    def items(self) -> Iterator[Item]:
        """Encode and transcribe, some utterances at a time."""
        config, run = self.config, self.run
        names = {"tokenizer": config.tokenizer, "dtype": config.dtype, "device": run.device}
        self.lm: SpokenLM = run.open("model", lambda: load_lm(config.model, **names))
        if "text" not in self.lm.modalities:
            raise ConfigError(UNITS_ONLY)
        run.fingerprints |= self.lm.fingerprints
        run.weights |= {"model": self.lm.record()}
        if config.tokens is None:
            run.open("tokenizer", lambda: self.lm.tokenizer)
        source = run.tokens()
        source.utterances = choose_utterances(source.utterances, config.num_utterances, config.seed)
        self.rate = source.stream.rate
        made_for = run.fingerprints["tokenizer"]
        check_fingerprint(
            self.lm.card.tokenizer_fingerprint, made_for, f"The language model {config.model}", "the tokens"
        )
        block: list[tuple[Utterance, SpeechTokens]] = []
        for utterance, tokens in run.watch("Transcribing", source, len(source.utterances)):
            if not NORMALISERS[config.normaliser](utterance.text or ""):
                run.excluded["no text"] += 1
                continue
            block.append((utterance, tokens))
            if len(block) == BLOCK_UTTERANCES:
                yield from self._transcribe(block)
                block = []
        yield from self._transcribe(block)

    def _transcribe(self, block: Sequence[tuple[Utterance, SpeechTokens]]) -> Iterator[dict[str, Any]]:
        config, lm = self.config, self.lm
        prompts = [[Segment(tokens=tokens)] for _, tokens in block]
        lengths = [len(lm.prompt(prompt, to="text", task="transcribe")) for prompt in prompts]
        fits = [lm.context_tokens is None or length < lm.context_tokens for length in lengths]
        asked = [place for place, fit in enumerate(fits) if fit]
        with self.run.timed("generate"):
            replies = lm.continue_(
                [prompts[place] for place in asked],
                config.generation,
                to="text",
                task="transcribe",
                max_text_tokens=config.max_text_tokens,
                seeds=[stable_seed(config.seed, block[place][0].id) for place in asked],
            )
        found = dict(zip(asked, replies, strict=True))
        for place, (utterance, tokens) in enumerate(block):
            reply, reference = found.get(place), utterance.text or ""
            heard = "" if reply is None else reply.text.strip()
            yield {
                "id": utterance.id,
                "speaker": utterance.speaker,
                "seconds": tokens.num_frames / self.rate if self.rate else utterance.duration,
                "prompt_tokens": lengths[place],
                "text_tokens": 0 if reply is None else len(reply.token_ids),
                "stopped": "does not fit" if reply is None else reply.stopped,
                "reference": reference,
                "reference_source": "manifest",
                "hypothesis": heard,
                **error_columns("stt", reference, heard, config.normaliser),
            }

    def scores(self, items: Items) -> dict[str, Score]:
        """Error rates in words and in characters."""
        meaning = "{0} errors of the language model's transcript, over the {0}s of the text"
        return {
            f"{short}_stt": column_error_rate(items, f"stt_{level}", meaning=meaning.format(level), **self.draws)
            for short, level in (("wer", "word"), ("cer", "character"))
        }

    def conventions(self) -> dict[str, Any]:
        """How texts are generated and compared."""
        return {
            "prompt": self.lm.prompt_form,
            "task": "transcribe",
            **self.config.generation.sampling(),
            "max_text_tokens": self.config.max_text_tokens,
            "normaliser": self.config.normaliser,
            "error_rate": "all edits / all reference words (characters with spaces)",
            "num_utterances": self.config.num_utterances,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """Hours of speech, tokens a second, and why texts ended."""
        seconds, spent = sum(item["seconds"] or 0 for item in items), self.run.seconds["generate"]
        return {
            "audio_hours": seconds / 3600,
            "text_tokens_per_second": sum(item["text_tokens"] for item in items) / spent,
            "prompt_tokens_per_second": sum(item["prompt_tokens"] for item in items) / spent,
            "real_time_factor": spent / seconds if seconds else None,
            "stopped": dict(Counter(item["stopped"] for item in items)),
            "empty": sum(not item["hypothesis"] for item in items) / len(items),
        }

    def notes(self, items: Items) -> list[str]:
        """Say which texts were cut short, and that few utterances say little."""
        notes, ends = [], Counter(item["stopped"] for item in items)
        for why, count in ends.items():
            if why != "eos":
                notes.append(
                    f"{count} transcripts did not end by themselves ({why}); what is missing counts as errors."
                )
        if len(items) < 30:
            notes.append(f"Only {len(items)} utterances: intervals are rough.")
        return notes
