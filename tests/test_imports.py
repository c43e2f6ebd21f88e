"""The code has the shape of the data: a stage imports the shared modules and the stages to its left, nothing else."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "vocable"
SHARED = {"types", "config", "errors", "registry", "assets", "files", "splits", "devices", "printing", "progress"}
STAGES = ["audio", "features", "recognition", "tokens", "sequences", "lm", "synthesis"]

SHARED_BY_SYSTEMS = {"stage", "shared", "joint", "from_speech"}
"""What systems have in common; these import no system."""

ALLOWED: dict[str, set[str]] = {stage: SHARED | set(STAGES[: index + 1]) for index, stage in enumerate(STAGES)}
ALLOWED |= {
    **dict.fromkeys(SHARED, SHARED),
    "engine": SHARED | {"engine"},
    "corpora": SHARED | {"audio", "corpora"},
    "training": SHARED | set(STAGES) | {"training", "engine"},
    "evaluation": SHARED | set(STAGES) | {"evaluation", "training", "engine", "corpora"},
    # pairs are made in the form in which evaluation reads them
    "testsets": SHARED | set(STAGES) | {"testsets", "evaluation", "engine", "corpora"},
    "systems": SHARED | set(STAGES) | {"training", "engine", "corpora", "evaluation"},
}


def imports_of(source: str) -> set[str]:
    """The names after `vocable.` that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("vocable.") for name in found if name.startswith("vocable.")}


def violations(path: Path, source: str) -> list[str]:
    """Say which imports of this file go against the order."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    folder = parts[0]
    if folder in {"cli", "serving", "quickstart", "__init__", "__main__"}:
        return []
    problems = []
    for name in imports_of(source):
        target = name.split(".")[0]
        if not (PACKAGE / target).exists() and not (PACKAGE / f"{target}.py").exists():
            continue  # `from vocable import __version__`
        if folder == "systems" and target == "systems":
            other = name.split(".")[1] if "." in name else ""
            own = parts[1] if len(parts) > 1 else ""
            if other not in {own, *SHARED_BY_SYSTEMS} and own not in {"__init__"}:
                problems.append(f"{path}: a system imports another one: vocable.{name}")
        elif target not in ALLOWED[folder]:
            problems.append(f"{path}: {folder}/ must not import vocable.{name}")
    return problems


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_from_right_to_left(path: Path):
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("audio/io.py", "from vocable.features import load_encoder"),
        ("tokens/a.py", "def f():\n    import vocable.lm.scoring"),
        ("systems/twist.py", "from vocable.systems.last import LastConfig"),
        ("systems/twist.py", "from vocable.cli import main"),
        ("training/loop.py", "from vocable.systems import twist"),
        ("recognition/stamps.py", "from vocable.evaluation.results import Score"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str):
    assert len(violations(PACKAGE / file, source)) == 1


def test_right_imports_pass():
    assert violations(PACKAGE / "tokens/a.py", "from vocable.features import x\nfrom vocable import __version__") == []
