"""Stages that several systems have: fit units, tokenize, train a language model on tokens.

manifest --UnitsStage--> tokenizer --TokensStage--> tokens, valid_tokens --LanguageModelStage--> lm
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from vocable.config import config_to_dict, save_config
from vocable.devices import best_device
from vocable.errors import OutputError
from vocable.lm.checkpoint import LMCard
from vocable.lm.model import record_tokenizer
from vocable.lm.unit_facts import measure_units
from vocable.splits import By, assign_splits
from vocable.systems.from_speech import fit_units, tokenize_manifest
from vocable.systems.stage import Run, Stage, read_record
from vocable.tokens.shards import ShardsConfig, TokenShards
from vocable.tokens.tokenizer import CONFIG_FILE, SpeechTokenizer, load_tokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.logs import read_metrics
from vocable.training.loop import TrainingResult
from vocable.types import Split, Utterance

_SHARD_NAME = re.compile(r"tokens-\d+-of-(\d+)\.parquet")


class UnitsStage(Stage):
    """Fit units on speech, or take a published codebook; for configs with `tokenizer` and `kmeans_file`."""

    name = "tokenizer"
    next = "vocable tokenizer card {out}/tokenizer"
    reads = ("manifest",)
    writes = ("tokenizer",)

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings of the units."""
        return {"tokenizer": config_to_dict(config.tokenizer), "kmeans_file": config.kmeans_file}

    def is_complete(self, run: Run) -> bool:
        """Whether there is a tokenizer, whoever put it there."""
        return (run.path("tokenizer") / CONFIG_FILE).is_file()

    def run(self, run: Run) -> str:
        """Fit, unless a tokenizer that was made from something else is in the way.

        Raises:
            OutputError: there is one.
        """
        folder, config = run.path("tokenizer"), run.config
        if self.is_complete(run) and self.name in read_record(run.out):
            raise OutputError(
                f"{folder} holds a tokenizer that was made with other settings or from other speech. Choose another "
                f"--out, or say that it is to be used: --tokenizer {folder}"
            )
        if config.kmeans_file is None:
            tokenizer = fit_units(run.path("manifest"), folder, config.tokenizer, run.device, run.strict)
        else:
            tokenizer = UnitTokenizer.from_kmeans_file(config.tokenizer, config.kmeans_file, best_device(run.device))
            tokenizer.save_pretrained(folder)
        return f"Tokenizer {tokenizer.fingerprint} is in {folder}"


class TokensStage(Stage):
    """Tokenize speech, and note in the shards who is held out; for configs with `valid_share`."""

    name = "tokens"
    next = "vocable evaluate units --tokens {out}/tokens"
    reads = ("manifest", "tokenizer")
    may_read = ("valid_manifest",)
    writes = ("tokens", "valid_tokens")

    def __init__(self, by: By = "id") -> None:
        self.by: By = by
        """Key that keeps utterances on one side, where the manifest does not say who is held out."""

    def settings(self, config: Any) -> dict[str, Any]:
        """Return what decides who is held out."""
        return {"valid_share": config.valid_share, "by": self.by}

    def progress(self, run: Run) -> str:
        """Count shards."""
        names = [path.name for path in run.path("tokens").glob("tokens-*.parquet")]
        totals = [match[1] for name in names if (match := _SHARD_NAME.fullmatch(name))]
        return f"{len(totals)} of {int(totals[0])} shards" if totals else "to do"

    def run(self, run: Run) -> str:
        """Write the shards that are missing."""
        valid = run.find("valid_manifest") or run.find("valid_tokens")
        lines = [self._tokenize(run, "manifest", "tokens", "train" if valid else None)]
        if run.find("valid_manifest"):
            lines.append(self._tokenize(run, "valid_manifest", "valid_tokens", "valid"))
        return "\n".join(lines)

    def _tokenize(self, run: Run, manifest: str, tokens: str, split: Split | None) -> str:
        def mark(utterances: Sequence[Utterance]) -> list[Utterance]:
            if split is not None:
                return [replace(item, split=item.split or split) for item in utterances]
            splits = assign_splits(utterances, run.config.valid_share, by=self.by)
            return [replace(item, split=found) for item, found in zip(utterances, splits, strict=True)]

        folder, tokenizer = run.path(tokens), str(run.path("tokenizer"))
        config = ShardsConfig(strict=run.strict)
        options = {"processes": run.processes, "device": run.device, "mark": mark}
        summary = tokenize_manifest(run.path(manifest), folder, tokenizer, config, **options)
        left_out = f"; {summary.num_rejected} left out: {folder}/rejected.jsonl" if summary.num_rejected else ""
        return f"Tokens of {summary.num_utterances} utterances are in {folder}{left_out}"


class LMTraining(Protocol):
    """How a system trains its language model."""

    def __call__(
        self, run: Run, shards: TokenShards, valid_shards: TokenShards | None, tokenizer: SpeechTokenizer | None
    ) -> TrainingResult:
        """Train with `run.config` and write into `run.path("lm")`."""
        ...


class LanguageModelStage(Stage):
    """Train a language model on token shards."""

    name = "lm"
    next = "vocable generate --model {out} --audio RECORDING --out continuation.wav"
    reads = ("tokens",)
    writes = ("lm",)
    shared = True

    def __init__(self, train: LMTraining, may_read: tuple[str, ...] = ()) -> None:
        self.train = train
        self.may_read = ("valid_tokens", "tokenizer", *may_read)

    def progress(self, run: Run) -> str:
        """Say which step the log has reached."""
        steps = [line["step"] for line in read_metrics(run.path("lm"))]
        return f"step {steps[-1]}" if steps else "to do"

    def run(self, run: Run) -> str:
        """Train, and save the settings beside the model."""
        shards = TokenShards(run.path("tokens"))
        valid_tokens, folder = run.find("valid_tokens"), run.find("tokenizer")
        tokenizer = None if folder is None else load_tokenizer(folder)
        if folder is not None and "tokenizer" in run.given:
            record_tokenizer(run.out, folder)
        note = "" if "tokenizer" in run.made else _units_note(shards.card)
        fitted = getattr(run.config, "tokenizer", None)  # a system that fits units says how
        if isinstance(tokenizer, UnitTokenizer) and isinstance(fitted, UnitTokenizerConfig):
            run = replace(run, config=replace(run.config, tokenizer=tokenizer.config))  # names the units that are used
            note = ""
        result = self.train(run, shards, None if valid_tokens is None else TokenShards(valid_tokens), tokenizer)
        save_config(run.config, run.out / "config.yaml", note)
        marked = 0 if valid_tokens else sum(split == "valid" for split in shards.values("split"))
        by = f", on {marked} utterances that the shards mark" if marked else ""
        losses = [line["loss"] for line in result.valid_curve]
        held_out = [f"Held-out loss: {min(losses):.3f} nats per token{by}"] if losses else []
        return "\n".join([*held_out, f"Language model: {result.best} (best), {result.last} (last)"])


def lm_card(layout: Any, shards: TokenShards, tokenizer: SpeechTokenizer | None, training: dict[str, Any]) -> LMCard:
    """Describe a language model: vocabulary, tokenizer, how long units last, and which of them are silence."""
    return LMCard(
        vocabulary=layout.vocabulary,
        layout=layout.card(),
        tokenizer_fingerprint=shards.fingerprint,
        tokenizer_card=shards.card,
        training=training,
        **measure_units(shards, tokenizer)._asdict(),
    )


def _units_note(card: dict[str, Any]) -> str:
    """Tell a reader of the saved config that its settings of the tokenizer do not name the units."""
    return (
        f"The units are those of the {card['tokenizer_type']} tokenizer {card['name']}, {card['fingerprint']};\n"
        "the settings of the tokenizer were not used."
    )
