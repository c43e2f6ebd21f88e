"""How far the training of a codec is, to be heard and seen: examples in TensorBoard, and a page in the run's folder.

    held-out recordings -> speech of all levels, and of the semantic code alone -> sound, spectrograms
    metrics.jsonl -> curves of the losses, usage and perplexity of each codebook

    RUN/training/progress.html
    RUN/training/progress/curves.png, 0-original.opus, step-00001000/0-all.opus, ...

The page is made anew from these files at each validation, so a run that was resumed shows no step twice.
"""

import functools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.errors import MissingDependencyError
from vocable.evaluation.figures import ACCENT, INK, load_pyplot
from vocable.evaluation.pages import page_template
from vocable.features.log_mel import LogMelConfig, log_mel
from vocable.files import replace_file, replace_folder, write_text
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.training.logs import RunLog, read_metrics

logger = logging.getLogger(__name__)

PAGE, FOLDER = "progress.html", "progress"
KEPT_STEPS = 5
"""Newest validations that stay on the page, beside the first one. TensorBoard keeps all."""
NOT_LOSSES = ("step", "split", "learning_rate", "gradient_norm", "tokens_per_second", "tokens", "seconds")
USAGE = ("usage", "perplexity", "normalised_entropy", "top_share")
"""Endings of the names under which the usage of a codebook is logged, in the order of the page's table."""


class Example(NamedTuple):
    """A held-out recording."""

    name: str
    waveform: Float[Tensor, " samples"]
    """At the codec's rate."""


class Spoken(NamedTuple):
    """One example after the codec, both at the codec's rate and as long as the recording."""

    all_levels: Float[Tensor, " samples"]
    """Speech of the main decoder from all levels."""
    semantic: Float[Tensor, " samples"]
    """Speech of the auxiliary decoder from the semantic code alone."""
    is_quantized: bool
    """False while the codec has no codebooks yet: then vectors are decoded."""


@torch.no_grad()
def speak(codec: LmSptCodec, waveform: Float[Tensor, " samples"]) -> Spoken:
    """Pass a recording through both decoders; what is random in them is the same every time."""
    rate, count = codec.config.sample_rate, len(waveform)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        semantic, acoustic = codec.features(waveform[None])
        together = semantic + acoustic
        if codec.has_codebooks:
            quantized = codec.quantizer(semantic, acoustic)
            semantic, together = quantized.semantic.quantized, quantized.quantized
        all_levels, alone = codec.decoder(together)[0], codec.auxiliary(semantic)[0]
    alone = resample(alone.float().cpu(), codec.auxiliary.sample_rate, rate)
    return Spoken(all_levels.float().cpu()[:count], alone[:count], codec.has_codebooks)


def show_progress(codec: LmSptCodec, examples: Sequence[Example], log: RunLog, step: int) -> None:
    """Add examples to TensorBoard, and write the page anew.

    Without matplotlib and jinja2 there is sound in TensorBoard, and a warning.
    """
    rate = codec.config.sample_rate
    device = next(codec.parameters()).device
    spoken = [speak(codec, example.waveform.to(device)) for example in examples]
    folder = log.folder / FOLDER
    for index, (example, made) in enumerate(zip(examples, spoken, strict=True)):
        original = folder / f"{index}-original.opus"
        if not original.is_file():
            log.add_sound(0, f"{example.name}/original", example.waveform, rate)
            _write_sound(original, example.waveform, rate)
        log.add_sound(step, f"{example.name}/all levels", made.all_levels, rate)
        log.add_sound(step, f"{example.name}/semantic only", made.semantic, rate)
    try:
        _write_step(examples, spoken, log, step, rate)
        _write_page([example.name for example in examples], log.folder)
    except MissingDependencyError as error:
        _warn_once(f"No progress page and no pictures: {error} training.validation_examples=0 does without.")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _write_step(examples: Sequence[Example], spoken: Sequence[Spoken], log: RunLog, step: int, rate: int) -> None:
    """Write sounds and spectrograms of one validation; what a run that was cut off wrote of later ones goes."""
    pyplot = load_pyplot()
    for path, _ in _steps(log.folder, later_than=step):
        shutil.rmtree(path)
    with replace_folder(log.folder / FOLDER / _step_name(step)) as folder:
        for index, (example, made) in enumerate(zip(examples, spoken, strict=True)):
            _write_sound(folder / f"{index}-all.opus", made.all_levels, rate)
            _write_sound(folder / f"{index}-semantic.opus", made.semantic, rate)
            how = "all levels" if made.is_quantized else "vectors, not quantized yet"
            panels = {"recording": example.waveform, how: made.all_levels, "semantic only": made.semantic}
            figure = spectrograms(panels, rate)
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
            pyplot.close(figure)
            log.add_picture(step, example.name, pixels)
            pyplot.imsave(folder / f"{index}.png", pixels)
    drop_old_steps(log.folder)


def drop_old_steps(folder: Path) -> None:
    """Remove the files of all validations but the first one and the newest ones."""
    for path, _ in _steps(folder)[1:-KEPT_STEPS]:
        shutil.rmtree(path)


def _write_page(names: Sequence[str], folder: Path) -> None:
    """Write the curves, and the page around everything that the folder holds."""
    lines = read_metrics(folder)
    pyplot = load_pyplot()
    figure = learning_curves(lines)
    with replace_file(folder / FOLDER / "curves.png") as file:
        figure.savefig(file, format="png", dpi=90)
    pyplot.close(figure)
    trained = [line for line in lines if line["split"] == "train"]
    validated = [line for line in lines if line["split"] == "valid"]
    usage = usage_table(trained[-1]) if trained else []
    last = validated[-1] if validated else {}
    numbers = {key: value for key, value in last.items() if key not in NOT_LOSSES and _usage_kind(key) is None}
    examples = [
        (name, [(path.name, step) for path, step in reversed(_steps(folder)) if (path / f"{index}.png").is_file()])
        for index, name in enumerate(names)
    ]
    page = page_template("progress.html.jinja", Path(__file__).parent).render(
        examples=examples, usage=usage, validation=numbers, folder=FOLDER, last=trained[-1] if trained else {}
    )
    write_text(page, folder / PAGE)


def _steps(folder: Path, later_than: int = -1) -> list[tuple[Path, int]]:
    """Return the folders of validations after a step, in their order."""
    paths = sorted((folder / FOLDER).glob("step-*"))
    found = [(path, int(path.name.removeprefix("step-"))) for path in paths]
    return [(path, step) for path, step in found if step > later_than]


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def _write_sound(path: Path, waveform: Tensor, rate: int) -> None:
    with replace_file(path) as file:
        file.write(encode_audio(waveform.clamp(-1, 1), rate))


def spectrograms(panels: Mapping[str, Float[Tensor, " samples"]], sample_rate: int) -> Any:
    """Draw log-mel spectrograms below each other, on one scale of time and level; returns a figure.

    The scale is that of the first one: 80 dB below its loudest value.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    settings = LogMelConfig(
        sample_rate=sample_rate,
        hop_length=sample_rate // 100,
        n_fft=sample_rate // 25,
        max_frequency=min(8000.0, sample_rate / 2),
    )
    mels = [10 * log_mel(waveform, settings) for waveform in panels.values()]  # dB
    top = float(mels[0].max())
    figure, axes = plt.subplots(len(mels), 1, figsize=(9, 1.5 * len(mels) + 0.6), sharex=True, squeeze=False, dpi=80)
    for axis, title, mel in zip(axes[:, 0], panels, mels, strict=True):
        extent = (0, len(mel) / 100, 0, settings.num_mels)
        axis.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top - 80, vmax=top)
        axis.set_title(title, loc="left", fontsize=9, color=INK)
        axis.set_yticks([])
    axes[-1, 0].set_xlabel("seconds")
    figure.subplots_adjust(left=0.02, right=0.98, top=0.95, bottom=0.1, hspace=0.35)
    return figure


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Sort lines of metrics.jsonl into curves: name -> split -> steps and values.

    The curves of codebooks, which are counted in training, stand under "usage" and "perplexity", one for each codebook
    in place of the split.
    """
    curves: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for line in lines:
        for key, value in line.items():
            kind = _usage_kind(key)
            is_drawn = kind is None or (kind in ("usage", "perplexity") and line["split"] == "train")
            if key in NOT_LOSSES or not is_drawn:
                continue
            name, label = (key, line["split"]) if kind is None else (kind, key.removesuffix(f"_{kind}"))
            steps, values = curves.setdefault(name, {}).setdefault(label, ([], []))
            steps.append(line["step"])
            values.append(value)
    return curves


def _usage_kind(key: str) -> str | None:
    """Return what of a codebook's usage a value of the log is; None: it is something else."""
    return next((kind for kind in (*USAGE, "revived", "collapsed") if key.endswith(f"_{kind}")), None)


def learning_curves(lines: Sequence[Mapping[str, Any]], columns: int = 4) -> Any:
    """Draw a small panel for each loss, of training and of validation, and for the codebooks; returns a figure.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    curves = curves_of(lines)
    names = sorted(curves, key=("usage", "perplexity").__contains__)  # codebooks last
    rows = max(1, -(-len(names) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.0 * rows), squeeze=False)
    levels = plt.get_cmap("viridis")
    for axis, name in zip(axes.flat, names):
        for index, (label, (steps, values)) in enumerate(curves[name].items()):
            if name in ("usage", "perplexity"):
                axis.plot(steps, values, color=levels(index / len(curves[name])), linewidth=1, label=label)
            else:
                style = {"color": ACCENT, "linewidth": 1} if label == "train" else {"color": INK, "marker": "o"}
                axis.plot(steps, values, markersize=3, **style)
        axis.set_title(name.replace("_", " "), loc="left", fontsize=8, color=INK)
        axis.tick_params(labelsize=7)
        if name == "perplexity":
            axis.set_yscale("log")
            axis.legend(fontsize=5, frameon=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    figure.subplots_adjust(left=0.05, right=0.98, top=0.95, bottom=0.06, hspace=0.5, wspace=0.3)
    return figure


def usage_table(line: Mapping[str, float]) -> list[tuple[str, list[float]]]:
    """Return each codebook with its usage, perplexity, normalised entropy and largest share, from a line of the log."""
    names = [key.removesuffix("_usage") for key in line if key.endswith("_usage")]
    return [(name, [line[f"{name}_{kind}"] for kind in USAGE]) for name in names]
