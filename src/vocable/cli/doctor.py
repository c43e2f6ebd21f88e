"""`vocable doctor`: what is installed, what is missing or broken, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from packaging.requirements import Requirement

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
LOW_DISK_GB = 5
IMPORT_SECONDS = 60


class Finding(NamedTuple):
    """One line of the report."""

    status: Literal["ok", "note", "problem"]
    what: str
    text: str


def doctor() -> None:
    """Check this installation: versions, audio, disk, assets, optional packages. Problems are marked; exit code 0.

    vocable doctor
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    colours = {"ok": "green", "note": "yellow", "problem": "bold red"}
    num_problems = 0
    for check in CHECKS:
        for finding in _safely(check):
            num_problems += finding.status == "problem"
            label = f"[{colours[finding.status]}]{finding.status:8s}[/]"
            console.print(f"{label}{escape(f'{finding.what:22s} {finding.text}')}")
    console.print(f"\n{num_problems} problem(s) found." if num_problems else "\nNo problems found.")


def check_python() -> Iterator[Finding]:
    """Python's version against what the package asks for."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata("vocable")["Requires-Python"]
    found = f"{platform.python_version()} ({sys.executable})"
    if wanted is None or SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield Finding("ok", "python", found)
    else:
        yield Finding("problem", "python", f"{found}; supported: {wanted}")


def check_requirements(requirements: Iterable[Requirement] | None = None) -> Iterator[Finding]:
    """Base packages: installed, and within the supported versions."""
    all_fit = True
    for requirement in requirements if requirements is not None else _requirements(None):
        name, supported, found = requirement.name, requirement.specifier, _version(requirement.name)
        if found is not None and supported.contains(found, prereleases=True):
            if name in {"torch", "transformers"}:
                yield Finding("ok", name, f"{found} (supported: {supported})")
            continue
        all_fit = False
        wrong = "not installed. Install it" if found is None else f"{found}, but {supported} is supported"
        yield Finding("problem", name, f"{wrong}: pip install '{requirement}'")
    if all_fit:
        yield Finding("ok", "base packages", "all installed, versions supported")


def check_compute() -> Iterator[Finding]:
    """Threads, accelerators, and whether the CPU multiplies bf16 in hardware."""
    import torch

    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if name in cpu_flags()]
    capability = torch.backends.cpu.get_cpu_capability()
    speed = f"bf16 in hardware ({', '.join(bf16)})" if bf16 else "no bf16 in hardware: train and run in float32"
    yield Finding("ok", "cpu", f"{torch.get_num_threads()} threads, {capability}, {speed}")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB")
    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "none: everything runs on the CPU")


def check_breakers(names: Iterable[str] = ("torchaudio", "torchcodec")) -> Iterator[Finding]:
    """Packages that we do not need, and that break others when they do not fit the installed torch."""
    harms = {"torchaudio": "its presence alone breaks imports in transformers"}
    for name in names:
        if importlib.util.find_spec(name) is None:
            yield Finding("ok", name, "not installed (and not needed)")
        elif (error := _import_error(name)) is None:
            yield Finding("ok", name, "installed and works; Vocable does not use it")
        else:
            harm = f"({error}): {harms.get(name, 'datasets cannot decode audio with it')}"
            advice = f"Vocable does not need it: pip uninstall {name}"
            yield Finding("problem", name, f"installed, but cannot be imported {harm}. {advice}")


def check_audio() -> Iterator[Finding]:
    """Which audio formats can be read and written, and whether resampling works."""
    import numpy as np
    import soundfile
    import soxr

    missing = [name for name in FORMATS if name not in soundfile.available_formats()]
    missing += [] if "OPUS" in soundfile.available_subtypes("OGG") else ["OPUS"]
    library = f"soundfile {soundfile.__version__} with libsndfile {soundfile.__libsndfile_version__}"
    if missing:
        advice = "Install a newer libsndfile: pip install -U soundfile"
        yield Finding("problem", "audio files", f"{library} cannot read {', '.join(missing)}. {advice}")
    else:
        yield Finding("ok", "audio files", f"{library}: {', '.join((*FORMATS, 'OPUS'))}")
    length = len(soxr.resample(np.zeros(1600, dtype=np.float32), 16000, 8000))
    wrong = "" if length == 800 else f" gave {length} samples for 800"
    yield Finding("problem" if wrong else "ok", "resampling", f"soxr {soxr.__version__}{wrong}")


def check_disk() -> Iterator[Finding]:
    """Room where assets and temporary files go."""
    import tempfile

    from vocable.assets import cache_folder

    for what, folder in (("cache folder", cache_folder()), ("temporary files", Path(tempfile.gettempdir()))):
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if not os.access(existing, os.W_OK):
            advice = "Set VOCABLE_CACHE or TMPDIR to another folder"
            yield Finding("problem", what, f"{folder} cannot be written. {advice}")
        elif free < LOW_DISK_GB:
            yield Finding("problem", what, f"{folder}, {free:.0f} GB free: little")
        else:
            yield Finding("ok", what, f"{folder}, {free:.0f} GB free")


def check_assets() -> Iterator[Finding]:
    """Which assets are cached, and under which licence."""
    from vocable.assets import cached_path, list_assets

    for asset in list_assets():
        use = "commercial use allowed" if asset.commercial_use else "NO commercial use"
        path = cached_path(asset)
        place = path or f"not cached: vocable assets fetch {asset.name}"
        yield Finding("ok" if path else "note", f"asset {asset.name}", f"{asset.licence}, {use}; {place}")


def check_network_settings() -> Iterator[Finding]:
    """Settings and programs that decide where weights can come from."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in {"0", ""}:
        yield Finding("note", "HF_HUB_OFFLINE", "set: nothing is downloaded from the Hugging Face hub")
    programs = {"npm": "fetching the asset kokoro", "espeak-ng": "phonemes of text without the extra [voice]"}
    for program, purpose in programs.items():
        path = shutil.which(program)
        yield Finding("ok" if path else "note", program, path or f"not found; needed only for {purpose}")
    if importlib.util.find_spec("pip") is None:
        advice = "`vocable assets fetch` needs it: python -m ensurepip"
        yield Finding("note", "pip", f"not in this environment; {advice}")


def check_extras() -> Iterator[Finding]:
    """Optional packages, by the extra that brings them."""
    for extra in metadata.metadata("vocable").get_all("Provides-Extra") or []:
        names = [requirement.name for requirement in _requirements(extra) if requirement.name != "vocable"]
        missing = [name for name in names if _version(name) is None]
        if missing:
            text = f"{', '.join(missing)} missing. Install: pip install 'vocable[{extra}]'"
            yield Finding("note", f"extra [{extra}]", text)
        elif names:
            yield Finding("ok", f"extra [{extra}]", "installed")


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags, as Linux lists them; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_python,
    check_requirements,
    check_compute,
    check_breakers,
    check_audio,
    check_disk,
    check_network_settings,
    check_assets,
    check_extras,
)


def _safely(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check; one that fails is itself a finding, and the others still run."""
    try:
        return list(check())
    except Exception as error:
        what = check.__name__.removeprefix("check_")
        return [Finding("problem", what, f"the check failed: {type(error).__name__}: {error}")]


def _requirements(extra: str | None) -> list[Requirement]:
    """The package's own requirements that apply here: the base ones, or those that one extra adds."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, metadata.requires("vocable") or []):
        marker, requirement.marker = requirement.marker, None
        in_base = marker is None or marker.evaluate({"extra": ""})
        if in_base if extra is None else not in_base and marker is not None and marker.evaluate({"extra": extra}):
            found.append(requirement)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _import_error(name: str) -> str | None:
    """Import in another process, where a crash does no harm; return the last line of what went wrong."""
    import subprocess

    command = [sys.executable, "-c", f"import {name}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {IMPORT_SECONDS} s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {result.returncode}"


COMMANDS = {"doctor": doctor}
