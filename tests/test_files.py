"""Files and folders are replaced whole or not at all, and an output folder belongs to one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable import files
from vocable.errors import ManifestError, OutputError
from vocable.files import (
    claim_folder,
    differences,
    name_of,
    put_file,
    put_folder,
    read_json_lines,
    read_text,
    remove_leftovers,
    replace_file,
    replace_folder,
    restore_folder,
    split_lines,
    write_json_lines,
    write_text,
)

KILLED = 9


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fsyncs(tmp_path, monkeypatch):
    """What `out`, a file or the file `x` in a folder, held at each fsync, and the bytes or names that were synced."""
    seen: list[tuple[str, bytes | list[str]]] = []
    fsync, out = os.fsync, tmp_path / "out"

    def record(handle: int) -> None:
        fsync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        held = out / "x" if out.is_dir() else out
        seen.append((held.read_text() if held.exists() else "", names(path) if path.is_dir() else path.read_bytes()))

    monkeypatch.setattr(os, "fsync", record)
    return seen


on_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc, to name what is synced")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OutputError])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path, old, error):
    out = tmp_path / "out"
    if old is not None:
        out.write_text(old)
    with pytest.raises(error), replace_file(out) as file:
        file.write(b"half of the n")
        raise error
    assert names(tmp_path) == ([] if old is None else ["out"])
    assert old is None or out.read_text() == old


def test_a_whole_block_makes_its_folders_and_replaces_the_file(tmp_path):
    out = tmp_path / "a" / "b" / "out"
    for text in ("first", "größer", ""):
        write_text(text, out)
        assert out.read_bytes() == text.encode() and names(out.parent) == ["out"]


@on_linux
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, fsyncs):
    write_text("old", tmp_path / "out")
    fsyncs.clear()
    write_text("new", tmp_path / "out")
    assert fsyncs == [("old", b"new"), ("new", ["out"])]
    fsyncs.clear()
    (tmp_path / "part").write_bytes(b"arrived")
    put_file(tmp_path / "part", tmp_path / "out")
    assert fsyncs == [("new", b"arrived"), ("arrived", ["out"])]


def test_what_the_system_refuses_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written: File name too long\. Nothing was written"):
        write_text("text", tmp_path / ("long" * 100))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_text("text", tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text("text", tmp_path / "file" / "below")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_text("old", tmp_path / "out")
    monkeypatch.setattr(files, "open_temporary", lambda path: Path("/dev/full").open("w+b", buffering=0))  # noqa: SIM115
    with pytest.raises(OutputError, match=r"No space left on device\. What was there is unchanged"):
        write_text("new", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old" and names(tmp_path) == ["out"]


def test_a_killed_process_leaves_the_old_file_and_a_leftover_that_is_known(tmp_path):
    write_text("old", tmp_path / "out")
    die = "with replace_file(Path('out')) as file: file.write(b'half'); file.flush(); os._exit(9)"
    assert run(die, tmp_path) == KILLED
    assert (tmp_path / "out").read_text() == "old" and len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["out"]


def run(code: str, folder: Path) -> int:
    """Run code in a process of its own, in a folder; return its exit status."""
    source = str(Path(files.__file__).parents[1])
    code = f"import os\nfrom pathlib import Path\nfrom vocable.files import *\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": source}, timeout=120
    ).returncode


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    for text in ("old", "new"):
        with replace_folder(out) as folder:
            (folder / "x").write_text(text)
            (folder / text).mkdir()
        assert names(out) == sorted(["x", text]) and names(tmp_path) == ["out"]
    with pytest.raises(KeyboardInterrupt), replace_folder(out) as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match="is not there"), replace_folder(out) as folder:
        raise OutputError("is not there")
    assert (out / "x").read_text() == "new" and names(tmp_path) == ["out"]


@on_linux
def test_a_folders_files_and_names_are_on_the_disk_before_its_own_name(tmp_path, fsyncs):
    for text in ("old", "new"):
        fsyncs.clear()
        with replace_folder(tmp_path / "out") as folder:
            (folder / "below").mkdir()
            (folder / "x").write_text(text)
            (folder / "below" / "y").write_bytes(b"why")
    *before, last = fsyncs
    assert {held for held, _ in before} == {"old"}
    assert sorted(map(str, (synced for _, synced in before))) == ["['below', 'x']", "['y']", "b'new'", "b'why'"]
    assert last == ("new", [".out.old", "out"])


@pytest.mark.parametrize(("renames", "expected"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_crash_between_the_renames_is_undone(tmp_path, renames, expected):
    """A process that dies before its first, second or third rename (there are two) leaves one of the two folders."""
    for name, text in (("out", "old"), ("made", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(text)
    counting = f"""
        replace, count = os.replace, iter(range(9))
        os.replace = lambda *names: os._exit(9) if next(count) == {renames} else replace(*names)
        put_folder(Path('made'), Path('out'))
    """
    assert run("\n".join(line.strip() for line in counting.splitlines()), tmp_path) == (KILLED if renames < 2 else 0)
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "x").read_text() == expected
    if renames < 2:  # the next try goes through
        put_folder(tmp_path / "made", tmp_path / "out")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "x").read_text() == "new" and names(tmp_path) == ["out"]


# --- claiming --------------------------------------------------------------------------------------------------------

SETTINGS = {"lm": {"warm": True, "layers": (1, 2)}, "seed": 0, "path": "a=b/ö"}


@pytest.mark.parametrize("record", ["run.json", "config.yaml"])
def test_a_run_goes_on_in_its_own_folder_only(tmp_path, record):
    out = tmp_path / "new" / "run"
    claim_folder(out, SETTINGS, record=record)
    (out / "anything").touch()
    before = (out / record).stat().st_mtime_ns
    claim_folder(out, SETTINGS, record=record)
    assert (out / record).stat().st_mtime_ns == before
    changed = {**SETTINGS, "lm": {"warm": False, "layers": (1, 2)}, "extra": None}
    with pytest.raises(OutputError, match=r"another run \(extra: \(absent\) -> None; lm\.warm: True -> False\)"):
        claim_folder(out, changed, record=record)
    assert (out / record).stat().st_mtime_ns == before


def test_settings_that_may_change_are_kept_as_they_are_now(tmp_path):
    claim_folder(tmp_path, SETTINGS, record="run.json")
    later = {**SETTINGS, "lm": {"warm": True, "layers": (1, 2, 3)}}
    with pytest.raises(OutputError, match=r"lm\.layers: \[1, 2\] -> \[1, 2, 3\]"):
        claim_folder(tmp_path, later, record="run.json", may_change=("seed",))
    claim_folder(tmp_path, later, record="run.json", may_change=("lm.layers",))
    assert json.loads((tmp_path / "run.json").read_text())["lm"]["layers"] == [1, 2, 3]
    claim_folder(tmp_path, later, record="run.json")


def test_a_folder_with_files_of_no_run_is_refused(tmp_path):
    for name in ("thesis.txt", "b", "c", "d"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match=r"has no run\.json, .* holds b, c, d\. Choose a new folder"):
        claim_folder(tmp_path, SETTINGS, record="run.json")
    assert len(names(tmp_path)) == 4
    with pytest.raises(OutputError, match=r"holds thesis\.txt\."):
        claim_folder(tmp_path, SETTINGS, record="run.json", is_foreign=lambda path: path.suffix == ".txt")
    claim_folder(tmp_path, SETTINGS, record="run.json", is_foreign=lambda path: path.name == "e")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_what_a_killed_claim_left_is_not_foreign(tmp_path):
    assert run("with replace_file(Path('run.json')): os._exit(9)", tmp_path) == KILLED
    claim_folder(tmp_path, SETTINGS, record="run.json")


@pytest.mark.parametrize("content", [b"[1, 2]", b"{", b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"(?s)run\.json: .*Choose another folder"):
        claim_folder(tmp_path, SETTINGS, record="run.json")
    assert (tmp_path / "run.json").read_bytes() == content


RECORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda values: st.dictionaries(st.text("abc", min_size=1, max_size=2), values, max_size=3),
).filter(lambda value: isinstance(value, dict))


@given(record=RECORDS)
def test_a_record_differs_from_itself_in_nothing(record):
    assert differences(record, json.loads(json.dumps(record))) == ""


def test_differences_name_nested_entries():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == "a.c: 2 -> 3; d: (absent) -> 4"
    assert differences({"a": {"c": 2}}, {"a": {"c": 3}, "d": 4}, ignored=("a.c",)) == "d: (absent) -> 4"


# --- reading ---------------------------------------------------------------------------------------------------------


def test_text_is_read_with_and_without_a_mark_and_a_bad_line_is_named(tmp_path):
    for content in ("größer\n".encode(), b"\xef\xbb\xbf" + "größer\n".encode()):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_text(tmp_path / "a.txt") == "größer\n"
    (tmp_path / "a.txt").write_bytes("one\ntwo\ngrößer\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"a\.txt, line 3: not UTF-8 text .* Save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_lines_end_where_files_end_them_and_nowhere_else(tmp_path):
    odd = ["a\u2028b", "c\u2029", "\x85d", "e\x0b\x0cf\x1cg", ""]
    for end in ("\n", "\r\n", "\r"):
        assert split_lines(end.join(odd) + end) == odd
    assert split_lines("") == [] and split_lines("\n") == [""] and split_lines("a") == ["a"]
    write_json_lines(odd, tmp_path / "a.jsonl")
    assert list(read_json_lines(tmp_path / "a.jsonl")) == list(enumerate(odd, start=1))


def test_names_of_ids_differ_as_the_ids_do():
    assert name_of("anna/take 1", ".wav") == "anna%2Ftake 1.wav"
    ids = ["\u8a9e" * 26 + end for end in ("\u4e00", "\u4e8c", "")] + ["a" * 200, "a" * 201, "a" * 199 + "/"]
    names = [name_of(id, ".wav") for id in ids]
    assert len(set(names)) == len(ids)
    assert names[3] == "a" * 200 + ".wav"
    assert max(len(name) for name in names) <= 204
