"""LAST as stages: speech -> frozen features, cached -> tokenizer."""

from typing import Any

from vocable.audio.manifest import Rejections, read_manifest
from vocable.config import config_to_dict, save_config
from vocable.progress import progress
from vocable.systems.last.config import LastConfig
from vocable.systems.last.training import LastData, prepare_data, train_from_speech
from vocable.systems.stage import Run, Stage, System


class FeaturesStage(Stage):
    """Cache the features of the frozen encoder, unless the recipe streams them."""

    name = "features"
    reads = ("manifest",)
    may_read = ("valid_manifest",)
    writes = ("features",)
    shared = True

    def is_needed(self, config: LastConfig) -> bool:
        """Whether features are cached."""
        return config.cache_features

    def settings(self, config: LastConfig) -> dict[str, Any]:
        """Return the settings of the encoder, and what decides who is held out."""
        return {"encoder": config_to_dict(config.encoder), "valid_share": config.valid_share}

    def run(self, run: Run) -> str:
        """Write what is missing."""
        data = _prepare(run, Rejections(run.out))
        frames = sum(data.train.lengths) + sum(data.valid.lengths if data.valid else ())
        return f"Features of {frames} frames are in {run.path('features')}"


class LastStage(Stage):
    """Train the tokenizer on the features."""

    name = "tokenizer"
    reads = ("manifest",)
    may_read = ("valid_manifest", "features")
    writes = ("tokenizer",)
    shared = True

    def run(self, run: Run) -> str:
        """Train; the best tokenizer of the run is the result."""
        rejections = Rejections(run.out)
        result = train_from_speech(run.config, _prepare(run, rejections), run.out)
        save_config(run.config, run.out / "config.yaml")
        lines = []
        if rejections.count:
            lines.append(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
        if result.valid_curve:
            best = min(result.valid_curve, key=lambda line: line["loss"])
            lines.append(
                f"Held out, step {best['step']}: {best['nll']:.3f} nats per frame, reconstruction "
                f"{best['reconstruction']:.4g}, perplexity {best['perplexity']:.1f} of "
                f"{run.config.model.quantizer.codebook_size} units"
            )
        return "\n".join([*lines, f"Tokenizer: {run.path('tokenizer')}"])


def _prepare(run: Run, rejections: Rejections) -> LastData:
    """Read the manifests and load, or make, the features."""
    paths = run.path("manifest"), run.find("valid_manifest")
    utterances, valid = (
        None if path is None else read_manifest(path, strict=run.strict, rejections=rejections) for path in paths
    )
    assert utterances is not None
    with progress("features") as advance:
        return prepare_data(
            run.config, utterances, run.out, valid, run.device, rejections, run.strict, lambda: advance(1)
        )


SYSTEM = System(name="last", config=LastConfig, stages=(FeaturesStage(), LastStage()))
