"""What all tests share: shape checking, waveforms, and skipping of tests whose pretrained asset is not at hand."""

import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread a process: the models here are so small that threads wait for each other longer than they compute, and
# several test processes share the cores anyway. It is set before torch is imported, and child processes inherit it.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

# Shapes in signatures are checked while the tests run: in the stages, where tensors pass from one to the next.
install_import_hook(
    [
        f"vocable.{stage}"
        for stage in (
            "features",
            "tokens",
            "sequences",
            "lm",
            "synthesis",
            "types",
            "recognition.ctc",
            "recognition.words",
        )
    ],
    "beartype.beartype",
)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)  # where a plugin has imported torch before this file
# How long an example takes says something of the machine, not of the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip a test marked `asset("name")` when that asset is in no local folder and not in the cache."""
    for item in items:
        for marker in item.iter_markers("asset"):
            from vocable.assets import is_available

            (name,) = marker.args
            if not is_available(name):
                item.add_marker(pytest.mark.skip(reason=f"asset {name!r} is not cached: vocable assets fetch {name}"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_speechlike():
    """Return a maker of waveforms with pitch, syllables and noise: `make_speechlike(num_samples, seed=0)`."""

    def make(num_samples: int, seed: int = 0, sample_rate: int = 16_000) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        time = torch.arange(num_samples) / sample_rate
        pitch = 110 + 40 * seed % 120 + 20 * torch.sin(2 * math.pi * 0.7 * time)
        phase = 2 * math.pi * torch.cumsum(pitch, 0) / sample_rate
        voiced = sum(torch.sin(k * phase) / k for k in range(1, 12))
        syllables = 0.5 + 0.5 * torch.sin(2 * math.pi * (3.5 + 0.3 * seed) * time)
        noise = torch.randn(num_samples, generator=generator)
        return (0.08 * voiced * syllables + 0.02 * noise).float()

    return make
