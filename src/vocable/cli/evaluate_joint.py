"""`vocable evaluate pelm`: do speech and text share their meaning in a language model that reads both?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vocable.evaluation.halves import HalfModel
    from vocable.evaluation.units_to_text import UnitsToText


def evaluate_pelm_command(
    manifest: Path,
    *,
    model: str,
    out: Path,
    tokenizer: Path | None = None,
    text_model: str = "HuggingFaceTB/SmolLM2-135M",
    control_model: str = "HuggingFaceTB/SmolLM2-135M",
    text_opening: Literal["bos", "none"] = "bos",
    units_to_text: str = "own",
    vocoder: Path | None = None,
    voice: str | None = None,
    transcriber: str = "openai/whisper-base",
    language: str = "en",
    same_judge: Literal["refuse", "allow"] = "refuse",
    num_prompts: int | None = 100,
    directions: list[Literal["u2u", "t2t", "u2t", "t2u"]] | None = None,
    share: float = 0.5,
    min_words: int = 2,
    pause: Literal["middle", "before", "after"] = "middle",
    max_text_tokens: int = 64,
    prompt_text: Literal["transcribed", "true"] = "transcribed",
    empty: Literal["excluded", "prompt_alone"] = "excluded",
    dtype: Literal["float32", "bfloat16"] | None = None,
    device: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    overwrite: bool = False,
    overrides: tuple[str, ...] = (),
) -> None:
    """Measure the perplexity of continuations under another language model (PELM), in and across modalities.

    True first halves of utterances -> sampled continuations -> text -> perplexity of prompt and continuation together
    (the paper's PELM), and of the continuation given the prompt. Beside it: copy rate, auto-BLEU, and the same numbers
    for the true sentence, its transcript, another's continuation, the prompt again, and random words.

    Writes pelm.json and pelm.items.parquet (every text and its likelihoods). What was generated, transcribed and
    measured is kept in OUT/kept: a run that was stopped goes on from there, and one with another external model only
    measures. Sampling is set behind the command, for example: temperature=0.8 top_k=50 max_seconds=10

    Args:
        manifest: Recordings with texts and word times (JSONL); see 'vocable align'.
        model: Folder of a language model, or of its training run; or a control: text (a text model, t2t), random.
        out: Folder for the result.
        tokenizer: Folder of the speech tokenizer; without it, the one beside the model.
        text_model: The external text model that gives perplexities.
        control_model: The text model of the control text; another than the external one, or it judges itself.
        text_opening: Open texts with its start symbol (bos), or leave their first token unscored (none).
        units_to_text: How units become text: own (the model's own transcription), asr (vocoder and recogniser), or the
            folder of another joint model that reads the same units.
        vocoder: Folder of the vocoder of asr. Without it, the small one that comes with Vocable, where it fits.
        voice: Voice of the vocoder; without it, its first.
        transcriber: The recogniser of asr.
        language: What is spoken, for the recogniser.
        same_judge: refuse or allow a recogniser that is the tokenizer's own encoder.
        num_prompts: How many to draw; null takes all.
        directions: Which of u2u, t2t, u2t, t2u; without it, all that the model can read.
        share: Share of the words that the prompt gets.
        min_words: Fewest words of each half; shorter utterances are left out.
        pause: Whose units the pause at the cut is: halved, or all the prompt's (before) or the continuation's (after).
        max_text_tokens: Longest written continuation.
        prompt_text: Spoken prompts before the external model: as transcribed (the paper's), or as written (true).
        empty: Continuations without a word: left out, or scored as the prompt alone.
        dtype: Type of the model's weights: float32 or bfloat16. Without it, as saved.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        seed: Of the draw of prompts, of sampling and of the bootstrap.
        cache: Folder for tokens. Without it, that of the assets.
        overwrite: Replace an earlier result in the same folder.
    """
    from collections import Counter

    from vocable.audio.manifest import read_manifest
    from vocable.config import load_config
    from vocable.devices import best_device
    from vocable.evaluation.halves import CutConfig, cut_for, load_half_model
    from vocable.evaluation.once import default_cache
    from vocable.evaluation.pelm import PelmConfig, directions_of, evaluate_pelm, pelm_steps
    from vocable.evaluation.results import check_output, save_result
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.text_lm import load_text_lm
    from vocable.progress import progress_bars
    from vocable.training.logs import quiet_transformers

    quiet_transformers()
    config = PelmConfig(
        num_prompts=num_prompts,
        directions=None if directions is None else tuple(directions),
        cut=CutConfig(share=share, min_words=min_words, pause=pause),
        generation=load_config(GenerationConfig, None, overrides),
        max_text_tokens=max_text_tokens,
        prompt_text=prompt_text,
        empty=empty,
        seed=seed,
    )
    check_output(out, "pelm", overwrite)
    device = best_device(device)
    utterances = read_manifest(manifest)
    loaded = load_half_model(model, tokenizer=tokenizer, text_model=control_model, dtype=dtype, device=device)
    mapping = None
    if any("u" in direction for direction in directions_of(loaded, config)):
        mapping = _units_to_text(units_to_text, loaded, vocoder, voice, transcriber, language, same_judge, device)
    scorer = load_text_lm(text_model, opening=text_opening, device=device)
    steps = pelm_steps(directions_of(loaded, config))
    with progress_bars("Encoding speech", *steps) as (encoding, *bars):
        shown = dict(zip(steps, bars))
        left_out = Counter[str]()
        cut = cut_for(loaded, utterances, config.cut, cache or default_cache(), left_out, encoding)
        result = evaluate_pelm(
            loaded, cut, left_out, scorer, mapping, out, config, lambda step, count, total: shown[step](count, total)
        )
    path = save_result(result, out, overwrite=True)
    _print_beside_anchors(result)
    print(f"Results: {path}")


def _units_to_text(
    how: str,
    loaded: HalfModel,
    vocoder: Path | None,
    voice: str | None,
    transcriber: str,
    language: str,
    same_judge: Literal["refuse", "allow"],
    device: str,
) -> UnitsToText:
    from vocable.evaluation.units_to_text import SpokenUnitsToText, load_joint_units_to_text
    from vocable.recognition.transcribe_ctc import load_transcriber
    from vocable.synthesis.opening import load_synthesizer

    if how != "asr":
        return load_joint_units_to_text(how, loaded, device=device)
    lm: Any = loaded.lm
    tokenizer = lm.tokenizer
    tokenizer.synthesizer = load_synthesizer(vocoder, tokenizer, device)
    recogniser = load_transcriber(transcriber, language=language, device=device)
    return SpokenUnitsToText(tokenizer, recogniser, lm.collapsed, voice, same_judge)


def _print_beside_anchors(result: Any) -> None:
    """One line per score and direction, the model's value with its interval, then the anchors'."""
    from rich.console import Console
    from rich.table import Table

    from vocable.cli.showing import print_notes
    from vocable.evaluation.runner import score_table, systems_of

    systems = systems_of(result)
    table = Table(title="pelm: the model with its 95 % interval over prompts, and anchors")
    for name in ("score", "model", "interval", *systems[1:]):
        table.add_column(name, no_wrap=True)
    shown = ("pelm_u", "pelm_t", "pelm_continuation_u", "pelm_continuation_t", "copy_rate", "auto_bleu2_slam", "empty")
    for row in score_table(result):
        if not row["name"].startswith(shown):
            continue
        model = row["scores"][0]
        values = ["-" if score is None or score.value is None else f"{score.value:.4g}" for score in row["scores"]]
        interval = "-" if model is None or model.low is None else f"{model.low:.3g} to {model.high:.3g}"
        table.add_row(row["name"], values[0], interval, *values[1:])
    console = Console(width=max(Console().width, 120))
    console.print(table)
    print_notes(console, result)


COMMANDS = {"evaluate pelm": evaluate_pelm_command}
