"""`vocable evaluate swuggy | sblimp | storycloze | salmon`: is the right one of two the more likely one?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

DESCRIPTIONS = {
    "swuggy": """Spoken words against pseudo-words (sWUGGY): accuracy over all, in-vocabulary, and by frequency.

    DATA is the unpacked ZeroSpeech 2021 benchmark (lexical/dev/gold.csv), or a set of your own, made with
    'vocable evaluate build words'.""",
    "sblimp": """Grammatical against ungrammatical sentences (sBLIMP): accuracy over pairs, and by phenomenon.

    DATA is the unpacked ZeroSpeech 2021 benchmark (syntactic/dev/gold.csv), or a set of your own, made with
    'vocable evaluate build sentences'.""",
    "storycloze": """Right against wrong endings of spoken stories (spoken and topic StoryCloze; cross-modal too).

    DATA is a folder of <id>_correct.wav and <id>_incorrect.wav (with <id>_mutual.wav and .txt files in the cross-modal
    archives), or a set of your own, made with 'vocable evaluate build stories'.""",
    "salmon": """Consistent against inconsistent recordings (SALMon): voice, room, background, mood; eight tasks.

    DATA is the unpacked benchmark (speaker_consistency/sample_0_0.wav, ...), or a set of your own, made with
    'vocable evaluate build consistency'.""",
}
ARGUMENTS = """

    The result holds both conventions, summed and mean log-likelihood, and every item; compare models with
    'vocable compare'. Speech is encoded once per tokenizer and kept in the cache for the next model.

    Args:
        data: Folder of the benchmark.
        model: Folder of a language model, or of its training run; or a control: unigram, bigram (counts of units),
            random, text (a text model on the written pairs), asr (a recogniser, then the text model).
        out: Folder for the result.
        tokenizer: Folder of the tokenizer; without it, the one beside the model.
        train_tokens: Token shards that unigram and bigram count.
        text_model: The text model of text and asr.
        transcriber: The recogniser of asr; it listens for the language that the set's manifest names, or English.
        boundary: Symbols around a row: none (the first token is not scored), bos, or bos_eos (the end is scored too).
        normalise: The headline: mean log-likelihood per token, or sum.
        scored: The whole of each half, or only its last segment (ending), given what comes before.
        modalities: Context and ending each as speech (S) or text (T): S, S->T, T->S or T.
        text_logits: For models of speech and text: probabilities among all ids (kept), or within a modality (masked).
        share_prefixes: Read what both halves begin with once.
        dtype: Type of the model's weights: float32 or bfloat16. Without it, as saved.
        max_tokens: Tokens in one forward pass.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        seed: Of the random control.
        cache: Folder for tokens and transcripts. Without it, that of the assets.
        overwrite: Replace an earlier result in the same folder.
    """


def _command(benchmark: str) -> Callable[..., None]:
    """The command of one benchmark."""

    def evaluate(
        data: Path,
        *,
        model: str,
        out: Path,
        tokenizer: Path | None = None,
        train_tokens: Path | None = None,
        text_model: str = "HuggingFaceTB/SmolLM2-135M",
        transcriber: str = "openai/whisper-base",
        boundary: Literal["none", "bos", "bos_eos"] = "bos",
        normalise: Literal["mean", "sum"] = "mean",
        scored: Literal["whole", "ending"] = "whole",
        modalities: Literal["S", "S->T", "T->S", "T"] | None = None,
        text_logits: Literal["kept", "masked"] = "kept",
        share_prefixes: bool = True,
        dtype: Literal["float32", "bfloat16"] | None = None,
        max_tokens: int = 4096,
        device: str | None = None,
        seed: int = 0,
        cache: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        from vocable.cli.showing import print_scores
        from vocable.devices import best_device
        from vocable.evaluation.pairs.benchmarks import run_pair_benchmark
        from vocable.evaluation.pairs.models import PairModelConfig, Watch
        from vocable.evaluation.pairs.scoring import PairScoringConfig
        from vocable.evaluation.results import check_output, save_result
        from vocable.progress import progress_bars
        from vocable.training.logs import quiet_transformers

        quiet_transformers()
        check_output(out, benchmark, overwrite)
        kept = {} if cache is None else {"cache": cache}
        loading = PairModelConfig(
            model=model,
            tokenizer=tokenizer,
            train_tokens=train_tokens,
            text_model=text_model,
            transcriber=transcriber,
            boundary=boundary,
            dtype=dtype,
            device=best_device(device),
            **kept,
        )
        scoring = PairScoringConfig(
            normalise=normalise,
            scored=scored,
            text_logits=text_logits,
            share_prefixes=share_prefixes,
            max_tokens=max_tokens,
            seed=seed,
        )
        with progress_bars("Encoding speech", "Scoring") as bars:
            result = run_pair_benchmark(benchmark, data, loading, scoring, modalities, Watch(*bars))
        path = save_result(result, out, overwrite=True)
        print_scores(result, items="pairs", speakers="voices")
        print(f"Results: {path}")

    evaluate.__doc__ = DESCRIPTIONS[benchmark] + ARGUMENTS
    return evaluate


COMMANDS = {f"evaluate {benchmark}": _command(benchmark) for benchmark in DESCRIPTIONS}
