"""The stage `lm` of TASTE: a text-aligned language model of the tokens that the stages before it made (taslm.py)."""

from typing import Any

from vocable.config import config_to_dict, save_config
from vocable.systems.stage import Run, Stage
from vocable.systems.taste.taslm import train
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.training.logs import read_metrics


class TaslmStage(Stage):
    """Train a text-aligned language model on tokens; for configs with `taslm` and `valid_share`."""

    name = "lm"
    reads = ("tokens", "tokenizer")
    may_read = ("valid_tokens",)
    writes = ("lm",)
    shared = True

    def is_needed(self, config: Any) -> bool:
        """Whether the recipe has a language model."""
        return config.taslm is not None

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings of the model, and what decides who is held out."""
        return {"taslm": config_to_dict(config.taslm), "valid_share": config.valid_share}

    def progress(self, run: Run) -> str:
        """Say which step the log has reached."""
        steps = [line["step"] for line in read_metrics(run.path("lm"))]
        return f"step {steps[-1]}" if steps else "to do"

    def run(self, run: Run) -> str:
        """Train, and save the settings beside the model."""
        valid = run.find("valid_tokens")
        result = train(
            run.config.taslm,
            TokenShards(run.path("tokens")),
            load_tokenizer(run.path("tokenizer")),
            run.path("lm"),
            None if valid is None else TokenShards(valid),
            valid_share=run.config.valid_share,
        )
        save_config(run.config, run.out / "config.yaml")
        lines = []
        if result.valid_curve:
            best = min(result.valid_curve, key=lambda line: line["loss"])
            text, speech = best["text_loss"], best["speech_nll"]
            lines.append(f"Held out: {text:.3f} nats per text token, {speech:.2f} nats per word of speech")
        return "\n".join([*lines, f"Language model: {result.best} (best), {result.last} (last)"])
