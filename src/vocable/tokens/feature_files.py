"""Features on disk: frames that do not fit in memory, written once and read in every pass of k-means.

<folder>/features-00000.npy, features-00001.npy, ...   each (frames, dim), float32
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import OutputError

FRAMES_PER_FILE = 65_536


def write_feature_files(
    features: Iterable[Float[Tensor, "_frames dim"]], folder: Path, frames_per_file: int = FRAMES_PER_FILE
) -> list[Path]:
    """Write (frames, dim) tensors to numbered .npy files of at least `frames_per_file` frames (the last: what is left).

    Raises:
        OutputError: a file cannot be written, e.g. because the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for frames in _grouped(features, frames_per_file):
        path = folder / f"features-{len(paths):05d}.npy"
        try:
            np.save(path, frames.numpy())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OutputError(
                f"{path}: cannot write features ({error.strerror or error}). They take 4 bytes per value; free space, "
                "choose another work folder, or fit on fewer hours."
            ) from error
        paths.append(path)
    return paths


def read_feature_files(paths: Sequence[Path]) -> Callable[[], Iterator[Tensor]]:
    """Return a callable that goes over the files once per call; frames are mapped into memory, not loaded."""
    return lambda: (torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths)


def _grouped(features: Iterable[Tensor], least_frames: int) -> Iterator[Tensor]:
    group: list[Tensor] = []
    for frames in features:
        group.append(frames.detach().to("cpu", torch.float32))
        if sum(len(part) for part in group) >= least_frames:
            yield torch.cat(group)
            group = []
    if group:
        yield torch.cat(group)
