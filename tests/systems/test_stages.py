"""Systems as chains of stages: what is skipped, what goes on, what is refused, and what is said about it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tiny import save_tiny_lm, write_speech
from vocable.audio.manifest import read_manifest
from vocable.cli import main
from vocable.errors import ConfigError, OutputError, UnknownNameError
from vocable.splits import assign_splits
from vocable.systems import BUILT_IN, Run, Stage, System, find_system, register_system, run_system, train
from vocable.tokens.shards import TokenShards
from vocable.training.logs import read_metrics


@dataclass(frozen=True)
class Settings:
    """Of a chain that counts and joins words."""

    system: str = "words"
    joined_by: str = " "


class Words(Stage):
    """Writes the words of a text as files, one at a time; stops when it meets `stop`."""

    name = "words"
    reads = ("text",)
    writes = ("words",)

    def settings(self, config: Settings) -> dict:
        return {}

    def progress(self, run: Run) -> str:
        return f"{len(list(run.path('words').glob('*')))} words"

    def run(self, run: Run) -> str:
        run.path("words").mkdir(parents=True, exist_ok=True)
        for index, word in enumerate(run.path("text").read_text().split()):
            if word == "stop":
                raise KeyboardInterrupt
            target = run.path("words") / f"{index}.json"
            if not target.exists():
                target.write_text(json.dumps(word))
        return "words are written"


class Line(Stage):
    """Joins the words, and the name of an author where one is given."""

    name = "line"
    reads = ("words",)
    may_read = ("author",)
    writes = ("line",)

    def run(self, run: Run) -> str:
        words = [json.loads(path.read_text()) for path in sorted(run.path("words").iterdir())]
        author = run.find("author")
        words += [author.read_text()] if author else []
        run.path("line").write_text(run.config.joined_by.join(words))
        return f"{len(words)} words joined"


CHAIN = System(name="words", config=Settings, stages=(Words(), Line()))


def go(out: Path, config: Settings | None = None, only=None, dry=False, **given: Path) -> list[str]:
    said: list[str] = []
    run = Run(out=out, config=config or Settings(), given=given)
    run_system(CHAIN, run, only=only, report=said.append, dry=dry)
    return said


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("one two")
    return tmp_path / "text.txt"


def test_the_last_line_says_what_to_run_next(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Line, "next", "vocable read {out}/line")
    assert go(tmp_path / "run", text=text)[-1] == f"Next: vocable read {tmp_path / 'run'}/line"
    assert go(tmp_path / "run", text=text)[-1].startswith("Next: ")  # also where all is done already
    assert not any("Next" in line for line in go(tmp_path / "run", text=text, dry=True))
    assert not any("Next" in line for line in go(tmp_path / "run", text=text, only="words"))


def test_what_our_own_stages_name_next_are_commands():
    from docs.test_docs import check_command

    for name in BUILT_IN:
        for stage in find_system(name).stages:
            if stage.next:
                check_command(stage.next.format(out="runs/mine").split()[1:])


def test_finished_stages_are_skipped_and_changed_ones_done_again(text, tmp_path):
    out = tmp_path / "run"
    assert go(out, text=text) == ["words: 0 words", "words are written", "line: to do", "2 words joined"]
    assert (out / "line").read_text() == "one two"
    done = [f"words: done ({out / 'words'})\nwords are written", f"line: done ({out / 'line'})\n2 words joined"]
    assert go(out, text=text) == done
    assert go(out, text=text, config=Settings(joined_by="-")) == [done[0], "line: begun", "2 words joined"]
    assert (out / "line").read_text() == "one-two"
    author = tmp_path / "author"
    author.write_text("me")
    assert go(out, text=text, config=Settings(joined_by="-"), author=author)[1:] == ["line: begun", "3 words joined"]
    text.write_text("one two three")  # what the first stage read has changed, so both are done again
    assert go(out, text=text, config=Settings(joined_by="-"))[0] == "words: 2 words"
    assert (out / "line").read_text() == "one-two-three"
    (out / "line").unlink()
    assert go(out, text=text, dry=True) == [f"words: done ({out / 'words'})", "line: to do"]


def test_a_stopped_stage_goes_on(text, tmp_path):
    out = tmp_path / "run"
    text.write_text("one two stop")
    with pytest.raises(KeyboardInterrupt):
        go(out, text=text)
    assert go(out, text=text, dry=True) == ["words: 2 words", "line: to do"]
    text.write_text("one two three")
    assert go(out, text=text) == ["words: 2 words", "words are written", "line: to do", "3 words joined"]


def test_what_is_given_takes_the_place_of_a_stage(text, tmp_path):
    go(tmp_path / "first", text=text)
    words = tmp_path / "first" / "words"
    assert go(tmp_path / "second", words=words) == ["line: to do", "2 words joined"]
    with pytest.raises(ConfigError, match="--text is given, but words does not read it beside --words"):
        go(tmp_path / "third", text=text, words=words)
    with pytest.raises(ConfigError, match="--line is given, but words does not read it; it reads --author, --text"):
        go(tmp_path / "third", text=text, line=words)


def test_one_stage_says_what_it_lacks(text, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(
        ConfigError, match=r"stage 'line' of words reads words \(.*run/words is not there\)\. .*--stage"
    ):
        go(out, only="line", text=text)
    with pytest.raises(ConfigError, match=r"stage 'words' of words reads text\. Give it: --text PATH; or .*: --words"):
        go(out)
    assert go(out, only="words", text=text) == ["words: 0 words", "words are written"]
    assert go(out, only="line") == ["line: to do", "2 words joined"]
    with pytest.raises(ConfigError, match="stage 'words' is no part of this run, as --words makes it needless"):
        go(out, only="words", words=out / "words")
    with pytest.raises(UnknownNameError, match=r"Unknown stage of words 'lines'\. Did you mean 'line'"):
        go(out, only="lines")


def test_several_processes_share_only_stages_that_can_be_shared(text, tmp_path, monkeypatch):
    out = tmp_path / "run"
    go(out, text=text, only="words")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"stage 'line' of words runs in one process\. .*: --stage line; then"):
        go(out, text=text)
    monkeypatch.setattr(Line, "shared", True)
    monkeypatch.setenv("RANK", "1")
    assert go(out, text=text) == []  # the second process works, and leaves reports and the record to the first
    assert (out / "line").read_text() == "one two" and "line" not in json.loads((out / "stages.json").read_text())


def test_systems_have_names():
    assert [stage.name for stage in find_system("twist").stages] == ["tokenizer", "tokens", "lm"]
    assert [stage.name for stage in find_system("last").stages] == ["features", "tokenizer"]
    with pytest.raises(UnknownNameError, match="Did you mean 'twist'"):
        find_system("twits")
    assert register_system(CHAIN) is find_system("words")


@pytest.fixture(scope="module")
def twist(tmp_path_factory, make_speechlike):
    """A recipe and speech for a tiny TWIST."""
    folder = tmp_path_factory.mktemp("stages")
    text_model = save_tiny_lm("opt", folder / "text")
    (folder / "recipe.yaml").write_text(
        "tokenizer: {encoder: {name: log-mel, layer: 0}, kmeans: {num_clusters: 6, init_frames: 100}}\n"
        f"lm: {{text_model: {text_model}}}\nvalid_share: 0.3\n"
        "training: {max_steps: 2, context_tokens: 128, tokens_per_batch: 512, warmup_steps: 1, precision: fp32}\n"
    )
    return folder / "recipe.yaml", write_speech(folder / "speech", make_speechlike)


def test_a_run_of_twist_stage_by_stage(twist, tmp_path, capsys):
    recipe, manifest = twist
    out = tmp_path / "run"
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(out)]
    assert main([*command, "--stage", "lm"]) == 2
    assert "reads tokens" in (said := capsys.readouterr().err) and "--stage tokens" in said
    assert main([*command, "--dry"]) == 0 and not out.exists()
    assert capsys.readouterr().out == "tokenizer: to do\ntokens: to do\nlm: to do\n"
    assert main([*command, "--stage", "tokenizer"]) == 0
    assert main([*command, "--stage", "tokens"]) == 0
    # shards say who is held out: by the hash, as the language model would have decided
    marked = [utterance for utterance, _ in TokenShards(out / "tokens")]
    assert [u.split for u in marked] == assign_splits(read_manifest(manifest), 0.3) and marked[0].extra == {}
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"tokenizer: done ({out / 'tokenizer'})" in said and f"tokens: done ({out / 'tokens'})" in said
    lines = read_metrics(out / "lm")
    assert main(command) == 0
    num_valid = [utterance.split for utterance in marked].count("valid")
    said = capsys.readouterr().out
    assert f"lm: done ({out / 'lm'})\nHeld-out loss: " in said and f"on {num_valid} utterances that the shards" in said
    assert read_metrics(out / "lm") == lines
    next((out / "tokens").glob("*.parquet")).unlink()
    (out / "stages.json").write_text(json.dumps({k: v for k, v in json.loads((out / "stages.json").read_text()).items()
                                                 if k != "tokens"}))  # fmt: skip
    assert main([*command, "--dry"]) == 0
    assert "tokens: to do" in capsys.readouterr().out
    # the same from Python, and what it refuses
    assert train(recipe, out, manifest=manifest, report=lambda line: None) == out
    with pytest.raises(OutputError, match=r"run/tokenizer holds a tokenizer that was made with other settings"):
        train(recipe, out, manifest=manifest, overrides=["tokenizer.kmeans.num_clusters=7"])
    with pytest.raises(ConfigError, match="--manifest is given, but twist does not read it beside --tokens"):
        train(recipe, tmp_path / "other", manifest=manifest, tokens=out / "tokens")


def test_marked_shards_train_as_unmarked_ones_do(twist, tmp_path):
    """Oracle: tokens of the same speech without marks, which the language model divides by itself."""
    from vocable.systems.from_speech import tokenize_manifest

    recipe, manifest = twist
    quiet = {"report": lambda line: None}
    train(recipe, tmp_path / "run", manifest=manifest, **quiet)
    tokenize_manifest(manifest, tmp_path / "plain", str(tmp_path / "run" / "tokenizer"))
    assert {utterance.split for utterance, _ in TokenShards(tmp_path / "plain")} == {None}
    train(recipe, tmp_path / "alone", tokens=tmp_path / "plain", tokenizer=tmp_path / "run" / "tokenizer", **quiet)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name / "lm")] for name in ("run", "alone")]
    assert losses[0] == losses[1] and len(losses[0]) >= 2


def test_a_system_of_another_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "outside_words.py").write_text(
        "from dataclasses import dataclass\nfrom vocable.systems import System\n"
        "@dataclass(frozen=True)\nclass Config:\n    system: str = 'outside'\n"
        "SYSTEM = System(name='outside', config=Config, stages=())\n"
    )
    (tmp_path / "outside_words-1.0.dist-info").mkdir()
    (tmp_path / "outside_words-1.0.dist-info" / "METADATA").write_text("Name: outside-words\nVersion: 1.0\n")
    entries = tmp_path / "outside_words-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[vocable.systems]\noutside = outside_words:SYSTEM\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_system("outside").config.__module__ == "outside_words"
