"""Units and language models of one's own, in the minutes given: what `vocable quickstart --train` adds to the page.

Both language models read the same units; one starts from a text model (warm), the other from random weights (cold).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vocable.assets import resolve
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.errors import AssetError
from vocable.evaluation.judges import Judges
from vocable.evaluation.results import save_result
from vocable.evaluation.resynthesis import Resynthesis, ResynthesisConfig
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.units import UnitCounter
from vocable.features import EncoderConfig
from vocable.files import write_json
from vocable.lm.ngram import NgramCounts
from vocable.lm.spoken import SpokenLM, load_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.progress import progress
from vocable.quickstart.continuing import GENERATION, continue_prompts
from vocable.quickstart.data import PIECE_SECONDS, Splits, choose_recordings, load_splits
from vocable.quickstart.measure import HeldOutLoss, beats_table, held_out_losses, loss_table
from vocable.quickstart.page import Picture, Section, Table
from vocable.quickstart.plots import learning_curves, unit_usage
from vocable.quickstart.run import NUM_HEARD, RECOGNISER, Run
from vocable.synthesis.opening import attach_synthesizer
from vocable.systems import twist
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.language_model import LMTrainingConfig
from vocable.training.loop import TrainingResult

SPEECH_PER_MINUTE, LAST_MINUTES, NUM_JUDGED = 6, 1.5, 8
"""Minutes of speech that are trained on for each minute of the run; minutes kept for scoring and continuations; and
utterances that the recogniser hears, original and resynthesised."""
_ENCODER = EncoderConfig(name="openai/whisper-tiny.en", layer=2, positions="remove")
_UNITS = UnitTokenizerConfig(name="whisper-tiny.en-l2-km100", encoder=_ENCODER, kmeans=KMeansConfig(num_clusters=100))
_TRAINING = LMTrainingConfig(max_steps=120, learning_rate=3e-4, tokens_per_batch=1024, warmup_steps=10, log_every=5)
RECIPE = twist.TwistConfig(
    tokenizer=_UNITS,
    lm=UnitLMConfig(text_model="HuggingFaceTB/SmolLM2-135M", dropout=0.0),
    training=replace(_TRAINING, validate_every=10, checkpoint_every=50),
    generation=GENERATION,
    max_utterance_seconds=None,
)
"""recipes/twist/cpu.yaml, but for how often it reports; the minutes decide how many steps are made."""
COLD_LEARNING_RATE = 1e-3
"""Each start has its own rate, as in the paper; one rate for both would favour one of them."""


def check_training(run: Run) -> None:
    """Raise at once what would stop the training later: no text model, or too little speech to hold some out."""
    try:
        resolve(str(RECIPE.lm.text_model))
    except AssetError as error:
        raise AssetError(f"Training starts from a text model: vocable assets fetch training ({error})") from error
    load_splits(run.audio, SPEECH_PER_MINUTE * run.minutes, run.rejections)


def train_models(run: Run) -> Section:
    """Fit units, train language models warm and cold on them, and compare both with tables that count."""
    out, training, lms, rows = run.out / "training", dict[str, TrainingResult](), dict[str, SpokenLM](), []
    with run.step("Fitting units"):
        splits, tokenizer = _fit_units(run, out)
    with run.step("Tokenizing"):
        for name in Splits._fields:
            tokenize_manifest(out / f"{name}.jsonl", out / "tokens" / name, str(out / "tokenizer"))
        shards = {name: TokenShards(out / "tokens" / name) for name in Splits._fields}
    attach_synthesizer(tokenizer)
    judged = _judge_resynthesis(run, out, tokenizer, splits)
    minutes = _minutes_per_model(run, out)
    for start in ("warm start", "cold start"):
        with run.step(f"Training, {start}"):
            recipe, folder = _recipe(run.seed, minutes, training.get("warm start")), out / start.split()[0]
            training[start] = twist.train(recipe, shards["train"], folder, shards["valid"], tokenizer)
            lms[start] = load_lm(training[start].last, tokenizer=tokenizer)
    with run.step("Scoring held-out speech"):
        losses = _score(splits, shards, lms, run.seed)
    better = {name: lm for name, lm in lms.items() if beats_table(losses, name)}
    if better:
        with run.step("Continuing prompts with the new models"):
            rows = continue_prompts(run, better, tokenizer, choose_recordings(splits.test, NUM_HEARD, run.rejections))
    run.weights.append(str(RECIPE.lm.text_model))
    return Section(
        title="Trained here",
        text=_summary(run, splits, training["warm start"], [name for name in lms if name not in better]),
        rows=rows,
        tables=[loss_table(losses), judged],
        pictures=[_curves(training, losses), _usage(tokenizer, shards["train"], lms["warm start"].card.silence_units)],
    )


def _fit_units(run: Run, out: Path) -> tuple[Splits, UnitTokenizer]:
    """Write train.jsonl, valid.jsonl and test.jsonl, and fit a tokenizer on the first; or read what was written."""
    for name, part in load_splits(run.audio, SPEECH_PER_MINUTE * run.minutes, run.rejections)._asdict().items():
        if not (out / f"{name}.jsonl").is_file():
            write_manifest(part, out / f"{name}.jsonl")
    splits = Splits(*(read_manifest(out / f"{name}.jsonl") for name in Splits._fields))
    if not (out / "tokenizer" / "config.json").is_file():
        with progress("Features", len(splits.train)) as advance:
            fitted = twist.build_tokenizer(_recipe(run.seed), splits.train, on_utterance=lambda _: advance(1))
        fitted.save_pretrained(out / "tokenizer")
    return splits, UnitTokenizer.from_pretrained(out / "tokenizer")


def _minutes_per_model(run: Run, out: Path) -> float:
    """Divide what is left of the minutes; a run that goes on keeps what it settled."""
    path = out / "minutes.json"
    settled = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if settled.get("asked") != run.minutes:
        left = (run.minutes - run.elapsed_minutes - LAST_MINUTES) / 2
        settled = {"asked": run.minutes, "per_model": max(left, 0.1 * run.minutes)}
        write_json(settled, path)
    return settled["per_model"]


def _recipe(seed: int, minutes: float = 1.0, before: TrainingResult | None = None) -> twist.TwistConfig:
    """Bound the first run by time; the second, cold, makes as many steps, in the same precision."""
    units = replace(RECIPE.tokenizer, kmeans=replace(RECIPE.tokenizer.kmeans, seed=seed))
    training, lm = (
        replace(RECIPE.training, seed=seed, max_steps=None, max_minutes=minutes),
        replace(RECIPE.lm, seed=seed),
    )
    if before is not None:
        steps, rate = before.train_curve[-1]["step"], COLD_LEARNING_RATE
        lm, training = replace(lm, warm=False), replace(training, max_steps=steps, max_minutes=None, learning_rate=rate)
        training = replace(training, precision=before.precision)
    return replace(RECIPE, tokenizer=units, lm=lm, training=training)


def _judge_resynthesis(run: Run, out: Path, tokenizer: UnitTokenizer, splits: Splits) -> Table:
    """Judge speech made of the new units, where the recogniser was fetched."""
    title = "How much of the words the new units keep"
    if run.transcriber is None:
        note = f"Not measured, since the recogniser is missing: vocable assets fetch {RECOGNISER.rsplit('/')[-1]}"
        return Table(title=title, columns=(), rows=(), note=note)
    known = ResynthesisConfig(manifest=out / "test.jsonl", tokenizer=out / "tokenizer", num_examples=0)
    settings = replace(known, num_utterances=NUM_JUDGED, seed=run.seed)
    judges = Judges(run.transcriber, run.mos, run.speaker)
    opened = {"utterances": splits.test, "tokenizer": tokenizer, "judges": judges}
    with run.step("Judging the new units"), progress("Judging") as advance:
        result = run_benchmark(Resynthesis(settings, opened, lambda _, count, total: advance(count, total)))
    save_result(result, out / "resynthesis", overwrite=True)
    rows = [(key.replace("_", " "), str(one), one.meaning) for key, one in result.scores.items() if one.num_items]
    note = " ".join(("No language model over these units can be understood better.", *result.notes))
    return Table(title=title, columns=("score", "value [95 %] (items)", "what it is"), rows=rows, note=note)


def _score(
    splits: Splits, shards: Mapping[str, TokenShards], lms: Mapping[str, SpokenLM], seed: int
) -> list[HeldOutLoss]:
    """Score the test utterances of known and of new voices, where there are such."""
    frame_rate, size = shards["train"].card["frame_rate"], shards["train"].card["codebook_size"]
    layout, known, new = twist.build_layout(size), [], []
    counts = NgramCounts.of(
        twist.build_sequences(shards["train"], layout, frame_rate).token_ids, layout.vocabulary.size
    )
    for utterance, tokens in shards["test"]:
        short = twist.first_seconds(tokens, PIECE_SECONDS, frame_rate)
        (new if splits.is_new_voice(utterance) else known).append(short)
    groups = {"known voices" if new else "held-out recordings": known, "new voices": new}
    return held_out_losses(lms, counts, {name: group for name, group in groups.items() if group}, frame_rate, seed)


def _summary(run: Run, splits: Splits, warm: TrainingResult, beaten: Sequence[str]) -> list[str]:
    minutes, steps = sum(u.duration or 0 for u in splits.train) / 60, warm.train_curve[-1]["step"]
    text = [
        f"{minutes:.0f} minutes of speech became {RECIPE.tokenizer.kmeans.num_clusters} units, and two language models "
        f"were trained on them for {steps} steps each: one that starts from the text model {RECIPE.lm.text_model} with "
        "its vocabulary replaced (warm, the TWIST recipe), and one of the same shape from random weights (cold).",
        "Little speech makes babble with the sound of the language. What can be seen is which start learns faster. One "
        "run with one seed is an illustration, not evidence.",
    ]
    if beaten:
        text.append(
            f"After {steps} steps a table of pairs of units still predicts better than {' and '.join(beaten)}: "
            f"nothing of that is played. More time helps: with --minutes {2 * run.minutes:g} both go on from here."
        )
    return text


def _curves(training: Mapping[str, TrainingResult], losses: Sequence[HeldOutLoss]) -> Picture:
    curves = {name: [(line["step"], line["loss"]) for line in one.valid_curve] for name, one in training.items()}
    tables = {loss.model: loss.nats_per_unit.value or 0.0 for loss in losses if loss.model.endswith("table")}
    rate = training["warm start"].train_curve[-1]["tokens_per_second"]
    caption = (
        "Loss of both language models on validation speech, against training steps. Dashed: tables of unit counts, on "
        f"test speech. Trained at {rate:.0f} units a second on {torch.get_num_threads()} threads."
    )
    return Picture(learning_curves(curves, tables), caption)


def _usage(tokenizer: UnitTokenizer, shards: TokenShards, silence: Sequence[int]) -> Picture:
    counter = UnitCounter((tokenizer.codebook_size,))
    for _, tokens in shards:
        counter.add(tokens)
    known = counter.statistics(tokenizer.frame_rate)
    caption = (
        f"How often units are used: training frames of each. {known.used:.0%} of {tokenizer.codebook_size} are; a flat "
        f"curve wastes none (perplexity {known.frame_perplexity:.0f}). A second takes {known.positions_per_second:.1f} "
        f"runs, and {known.nominal_bits_per_second:.0f} bits. Silence: {', '.join(map(str, silence)) or 'none found'}. "
        f"Fingerprint: {tokenizer.fingerprint}."
    )
    return Picture(unit_usage(counter.by_frame[0].tolist()), caption)
