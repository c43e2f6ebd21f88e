"""Documents are true: paths in them exist, links lead somewhere, commands exist, and Python in them runs."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("recipes/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
OUR_PATH = re.compile(r"`((?:src|docs|tests|recipes|benchmarks)/[\w./-]+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)")
SHELL = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_paths_and_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    missing = [path for path in OUR_PATH.findall(text) if not (ROOT / path).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_commands_exist_with_their_options(document: Path):
    """Every `vocable ...` line in a shell block names a command, and only options that it has."""
    import inspect

    from vocable.cli import find_commands

    commands = find_commands()
    problems = []
    for block in SHELL.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["vocable"] or words[1:2] in ([], ["--help"]):
                continue
            name = next((n for n in (" ".join(words[1:k]) for k in (4, 3, 2)) if n in commands), None)
            if name is None:
                problems.append(f"no such command: {line}")
                continue
            known = inspect.signature(commands[name]).parameters
            options = [word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")]
            problems += [f"{line}: no option --{o}" for o in options if o.split(".")[0] not in known and o != "help"]
    assert problems == []


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if PYTHON.search(d.read_text(encoding="utf-8"))], ids=str)
def test_python_in_documents_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_speechlike):
    """The blocks of one document run one after the other, in a folder with a few short recordings in `speech/`."""
    from vocable.audio.io import write_audio

    (tmp_path / "speech").mkdir()
    for index in range(4):
        write_audio(
            tmp_path / "speech" / f"clip{index}.wav", make_speechlike(24_000 + 3_000 * index, seed=index), 16_000
        )
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "document"}
    for block in PYTHON.findall(document.read_text(encoding="utf-8")):
        exec(compile(block, str(document), "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_no_placeholder_was_left(document: Path):
    assert re.findall(r"@[A-Z]+@|TBD|lorem", document.read_text(encoding="utf-8")) == []


def test_benchmarks_of_the_makefile_exist_and_take_their_arguments():
    lines = re.findall(r"python (benchmarks/\S+\.py)(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(lines) >= 5
    for script, arguments in lines:
        source = (ROOT / script).read_text(encoding="utf-8")
        positionals = re.findall(r'add_argument\(\s*"(\w[^"]*)"', source)
        assert len(positionals) == len(arguments.split()), f"{script} takes {positionals}, given: {arguments}"
