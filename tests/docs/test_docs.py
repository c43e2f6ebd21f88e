"""Documents are true: paths in them exist, links lead somewhere, commands exist, and Python in them runs."""

import csv
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from vocable.errors import VocableError

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("recipes/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("experiments/**/*.md"),
    ]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
OUR_PATH = re.compile(r"`((?:src|docs|tests|recipes|benchmarks|experiments)/[\w./-]+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)")
EXPERIMENTS = [results.parent for results in sorted(ROOT.glob("experiments/**/results.csv"))]
SHELL = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_paths_and_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    missing = [path for path in OUR_PATH.findall(text) if not (ROOT / path).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


def command_lines(document: Path) -> list[list[str]]:
    """The words of every `vocable ...` line in the shell blocks of a document."""
    lines = []
    for block in SHELL.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["vocable"] and words[1:2] not in ([], ["--help"]):
                lines.append(words[1:])
    return lines


def check_command(words: list[str]) -> None:
    """Parse a command as the command line does, up to the configs that its function would be called with."""
    from vocable.cli import find_commands
    from vocable.config import load_config, system_of
    from vocable.systems import find_system

    commands = find_commands()
    name = next((n for n in (" ".join(words[:k]) for k in (3, 2, 1)) if n in commands), None)
    assert name is not None, "no such command"
    arguments = words[len(name.split()) :]
    if "--help" in arguments:
        return
    given, free = commands[name].parse(arguments)
    commands[name].configs(given, free)
    if name == "train":
        load_config(find_system(system_of(ROOT / given["recipe"])).config, ROOT / given["recipe"], free)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if command_lines(d)], ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_parse(document: Path):
    problems = []
    for words in command_lines(document):
        try:
            check_command(words)
        except (AssertionError, VocableError) as error:
            problems.append(f"{shlex.join(words)}: {error}")
    assert problems == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenise a b", "no such command"),
        ("tokenize a b --tokenizer t --proceses 2", "Unknown option '--proceses'. Did you mean '--processes'?"),
        ("tokenize a b --tokenizer t --processes many", "processes is 'many'"),
        ("tokenize a --tokenizer t", "OUT is missing"),
        ("tokenize a b c --tokenizer t", "'c' is one word too many"),
        ("train recipes/twist/cpu.yaml --tokens t --out o lm.wram=false", "Did you mean 'lm.warm'?"),
        ("tokenizer fit a b kmeans.num_clusters=1", "must be at least 2"),
    ],
)
def test_a_wrong_command_is_found(line: str, message: str):
    with pytest.raises((AssertionError, VocableError), match=re.escape(message)):
        check_command(shlex.split(line))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if PYTHON.search(d.read_text(encoding="utf-8"))], ids=str)
def test_python_in_documents_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_speechlike):
    """The blocks of a document run one after the other, beside `recipes` and a few short recordings in `speech/`."""
    from vocable.audio.writing import write_audio

    (tmp_path / "speech").mkdir()
    for index in range(4):
        write_audio(
            tmp_path / "speech" / f"clip{index}.wav", make_speechlike(24_000 + 3_000 * index, seed=index), 16_000
        )
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
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


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_an_experiment_asks_answers_shows_and_is_listed(folder: Path):
    question, _, answer = (folder / "README.md").read_text(encoding="utf-8").partition("\n\n")
    assert question.startswith("# ") and answer.startswith("**"), "a question, then the verdict"
    assert "](figure.svg)" in answer and (folder / "figure.svg").exists()
    listed = (ROOT / "docs" / "experiments.md", ROOT / "experiments" / "superseded" / "README.md")
    assert any(f"{folder.name})" in page.read_text(encoding="utf-8") for page in listed)


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_results_lie_within_their_intervals(folder: Path):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [(row["table"], row["system"], row.get("seed"), row.get("at"), row["score"]) for row in rows]
    assert rows and len(set(names)) == len(names)
    for row in rows:
        low, high = (float(row.get(side) or row["value"]) for side in ("low", "high"))
        assert low <= float(row["value"]) <= high, row


@pytest.mark.parametrize("script", [folder / "run.sh" for folder in EXPERIMENTS], ids=lambda script: script.parent.name)
def test_commands_of_an_experiment_are_those_of_today(script: Path, tmp_path: Path):
    """The script runs with programs that only note what they were asked to do; each request must parse."""
    for program in ("vocable", "python"):
        note = f'for word in {program} "$@" --end--; do echo "$word"; done >> "$NOTES"'
        (tmp_path / program).write_text(f"#!/bin/sh\n{note}\n")
        (tmp_path / program).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    given = [str(tmp_path / f"given{number}") for number in range(8)]
    subprocess.run(["bash", script, *given], cwd=ROOT, env=environment, check=True)
    requests = (tmp_path / "notes").read_text(encoding="utf-8").split("\n--end--\n")[:-1]
    assert requests
    for request in requests:
        program, *words = request.split("\n")
        if program == "vocable":
            check_command(words)
        elif words[0] != "-":
            source = (ROOT / words[0]).read_text(encoding="utf-8")
            timing = (ROOT / "benchmarks" / "timing.py").read_text(encoding="utf-8")
            assert [word for word in words if word.startswith("--") and word not in source + timing] == []
