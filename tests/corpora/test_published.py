"""LibriSpeech and LJ Speech: downloads that survive a kill, safe unpacking, manifests of trees like the real ones."""

import hashlib
import http.server
import io
import json
import random
import tarfile
import threading
from pathlib import Path

import pytest
import torch

from vocable.audio.manifest import Rejections
from vocable.audio.writing import write_audio
from vocable.corpora import download, librispeech, ljspeech
from vocable.corpora.download import download_file, extract_archive
from vocable.corpora.librispeech import download_librispeech, prepare_librispeech
from vocable.corpora.ljspeech import download_ljspeech, prepare_ljspeech
from vocable.errors import AssetError, ManifestError, OutputError, UnknownNameError

CONTENT = bytes(range(256)) * 4000  # about 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path; breaks each connection after `break_after` bytes."""

    content = CONTENT
    break_after: int | None = None
    knows_ranges = True
    statuses: list[int]
    """Answers to give before any content."""
    asked: list[str | None]
    """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{{split}}.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.break_after is None else body[: server.break_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.statuses, server.asked = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def sizes(progress: list[tuple[int, int | None]]) -> list[int]:
    return [done for done, _ in progress]


# --- downloading ------------------------------------------------------------------------------------------------------


def test_a_download_goes_on_where_the_killed_one_stopped(tmp_path, server):
    class KilledError(Exception):
        pass

    def kill_half_way(done: int, total: int | None) -> None:
        assert total == len(CONTENT)
        if done >= len(CONTENT) // 2:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "CHUNK_BYTES", 1000)
        with pytest.raises(KilledError):
            download_file(server.url, tmp_path / "a.bin", md5(CONTENT), on_progress=kill_half_way)
    assert not (tmp_path / "a.bin").exists()
    have = (tmp_path / "a.bin.part").stat().st_size
    assert len(CONTENT) // 2 <= have < len(CONTENT)
    progress: list[tuple[int, int | None]] = []
    download_file(server.url, tmp_path / "a.bin", md5(CONTENT), on_progress=lambda *values: progress.append(values))
    assert server.asked == [None, f"bytes={have}-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert sizes(progress)[0] > have
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]
    download_file(server.url, tmp_path / "a.bin", md5(CONTENT))
    assert len(server.asked) == 2  # what is there and right is not fetched again


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_connection_is_tried_again(tmp_path, server, knows_ranges, monkeypatch):
    server.break_after = 400_000
    server.knows_ranges = knows_ranges
    server.statuses = [503]
    arguments = {"num_tries": 6, "wait_seconds": 0.0}
    if knows_ranges:
        download_file(server.url, tmp_path / "a.bin", md5(CONTENT), **arguments)
        assert server.asked == [None, None, "bytes=400000-", "bytes=800000-"]
        assert (tmp_path / "a.bin").read_bytes() == CONTENT
    else:
        with pytest.raises(
            AssetError, match=r"ended after 400000 of 1024000 bytes\. 400000 bytes are kept in .*a\.bin\.part"
        ):
            download_file(server.url, tmp_path / "a.bin", md5(CONTENT), **arguments)
        server.break_after = None
        download_file(server.url, tmp_path / "a.bin", md5(CONTENT), **arguments)
        assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(tmp_path, server):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert download_file(server.url, tmp_path / "a.bin", md5(CONTENT)).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_wrong_content_is_refused_and_removed(tmp_path, server):
    for name in ("a.bin", "a.bin.part"):
        (tmp_path / name).write_bytes(b"x" * len(CONTENT))
        with pytest.raises(AssetError, match=r"md5 is \w{32}, but http.* was published with \w{32}.*has been removed"):
            download_file(server.url, tmp_path / "a.bin", md5(CONTENT))
        assert list(tmp_path.iterdir()) == []
    sha256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    assert download_file(server.url, tmp_path / "a.bin", sha256).read_bytes() == CONTENT


def test_a_refusal_is_not_tried_again_and_an_absent_server_is_named(tmp_path, server):
    server.statuses = [404]
    with pytest.raises(AssetError, match=r"download failed: HTTP Error 404.* put the whole file at .*/a\.bin yourself"):
        download_file(server.url, tmp_path / "a.bin", md5(CONTENT))
    assert len(server.asked) == 1
    with pytest.raises(AssetError, match=r"http://127\.0\.0\.1:9/x: download failed"):
        download_file("http://127.0.0.1:9/x", tmp_path / "a.bin", md5(CONTENT), num_tries=2, wait_seconds=0.0)


def test_a_full_disk_keeps_what_has_arrived(tmp_path, server):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "CHUNK_BYTES", 100_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (350_000, limits[1]))
        try:
            with pytest.raises(OutputError, match=r"a\.bin\.part: cannot be written: .*What has arrived is kept"):
                download_file(server.url, tmp_path / "a.bin", md5(CONTENT))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.bin.part").stat().st_size >= 300_000
    assert download_file(server.url, tmp_path / "a.bin", md5(CONTENT)).read_bytes() == CONTENT


# --- unpacking --------------------------------------------------------------------------------------------------------


def tar_bytes(*members: tuple[str, bytes | str], mode: str = "w:gz") -> bytes:
    """A tar archive; a member with text instead of bytes is a link to that place."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "member", [("../evil.txt", b"x"), ("a/../../evil.txt", b"x"), ("link", "../../etc"), ("link", "/etc/passwd")]
)
def test_members_that_leave_the_folder_are_refused(tmp_path, member):
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes(member))
    with pytest.raises(AssetError, match=r"refused to unpack: .*not the published one"):
        extract_archive(tmp_path / "a.tar.gz", tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "in" / "out" / "link").is_symlink()


def test_absolute_members_stay_in_the_folder(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes(("/abs/a.txt", b"x")))
    extract_archive(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "abs" / "a.txt").read_bytes() == b"x"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2"])
def test_damaged_archives(tmp_path, mode):
    content = tar_bytes(("a.bin", random.Random(0).randbytes(20_000)), mode=mode)
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError, match=r"(?s)damaged: .*download it again"):
        extract_archive(tmp_path / "a.tar", tmp_path / "out")


# --- LibriSpeech ------------------------------------------------------------------------------------------------------

SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
; comment
84   | F | dev-clean        | 8.02  | Christie Nowak
174  | M | dev-clean        | 8.04  | Peter Eastman
"""


def librispeech_tree(root: Path) -> Path:
    """Two speakers as in the real corpus; one file without a transcript, one transcript without a file."""
    (root / "LibriSpeech").mkdir(parents=True)
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text(SPEAKERS)
    for speaker, chapter, texts in [("84", "121123", ["GO DO YOU HEAR", "BUT"]), ("174", "50561", ["FORGOTTEN TOO"])]:
        folder = root / "LibriSpeech" / "dev-clean" / speaker / chapter
        rows = []
        for number, text in enumerate(texts):
            id = f"{speaker}-{chapter}-{number:04d}"
            write_audio(folder / f"{id}.flac", torch.zeros(16_000 * (number + 1)), 16_000)
            rows.append(f"{id} {text}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(rows))
    (root / "LibriSpeech" / "dev-clean" / ".DS_Store").touch()
    return root


def test_librispeech_becomes_a_manifest(tmp_path):
    root = librispeech_tree(tmp_path)
    found = list(prepare_librispeech(root, strict=True))
    assert [(item.id, item.text, item.speaker, item.duration, item.extra["sex"]) for item in found] == [
        ("84-121123-0000", "GO DO YOU HEAR", "librispeech-84", 1.0, "F"),
        ("84-121123-0001", "BUT", "librispeech-84", 2.0, "F"),
        ("174-50561-0000", "FORGOTTEN TOO", "librispeech-174", 1.0, "M"),
    ]
    assert {(item.language, item.corpus, item.licence) for item in found} == {("en", "librispeech", "CC BY 4.0")}
    assert found[0].extra == {"part": "dev-clean", "chapter": "121123", "sex": "F"}
    assert list(prepare_librispeech(root / "LibriSpeech", ["dev-clean"])) == found


def test_librispeech_with_holes(tmp_path):
    root = librispeech_tree(tmp_path)
    folder = root / "LibriSpeech" / "dev-clean" / "84" / "121123"
    (folder / "84-121123-0000.flac").rename(folder / "84-121123-0007.flac")
    (root / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    found = list(prepare_librispeech(root, rejections=Rejections(tmp_path)))
    assert [item.id for item in found] == ["84-121123-0001", "174-50561-0000"]
    assert "sex" not in found[0].extra
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["84-121123-0000", "84-121123-0007"]
    assert "no such file" in rows[0]["reason"]
    assert "has no line in 84-121123.trans.txt" in rows[1]["reason"]
    with pytest.raises(ManifestError, match="no such file"):
        list(prepare_librispeech(root, strict=True))
    with pytest.raises(ManifestError, match=r"test-clean is not there\. Fetch it: vocable corpus download librispeech"):
        list(prepare_librispeech(root, ["dev-clean", "test-clean"]))
    with pytest.raises(ManifestError, match="any split of LibriSpeech is not there"):
        list(prepare_librispeech(tmp_path / "84"))


def test_librispeech_is_downloaded_unpacked_and_not_twice(tmp_path, server, monkeypatch):
    librispeech_tree(tmp_path / "source")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "source" / "LibriSpeech", "LibriSpeech")
    server.content = buffer.getvalue()
    monkeypatch.setitem(librispeech.MD5, "dev-clean", hashlib.md5(server.content).hexdigest())
    root = download_librispeech(tmp_path / "corpora", ["dev-clean"], url=server.url)
    assert root == tmp_path / "corpora" / "LibriSpeech"
    assert len(list(prepare_librispeech(tmp_path / "corpora", strict=True))) == 3
    (tmp_path / "corpora" / "dev-clean.tar.gz").unlink()  # to save room: the corpus is there all the same
    download_librispeech(tmp_path / "corpora", ["dev-clean"], url=server.url)
    assert len(server.asked) == 1
    with pytest.raises(UnknownNameError, match=r"Unknown LibriSpeech split 'dev-claen'\. Did you mean 'dev-clean'"):
        download_librispeech(tmp_path, ["dev-claen"], url=server.url)


# --- LJ Speech --------------------------------------------------------------------------------------------------------


def ljspeech_tree(root: Path) -> Path:
    folder = root / "LJSpeech-1.1"
    for id in ("LJ001-0001", "LJ001-0002"):
        write_audio(folder / "wavs" / f"{id}.wav", torch.zeros(22_050), 22_050)
    rows = ['LJ001-0001|in 1885, "printing"|in eighteen eighty-five, "printing"', "LJ001-0002|Mr. X|Mister X"]
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def test_ljspeech_becomes_a_manifest(tmp_path):
    first, second = prepare_ljspeech(ljspeech_tree(tmp_path), strict=True)
    assert (first.id, first.text, first.duration) == ("LJ001-0001", 'in eighteen eighty-five, "printing"', 1.0)
    assert first.extra == {"printed_text": 'in 1885, "printing"'}
    assert (second.speaker, second.corpus, second.licence) == ("ljspeech-LJ", "ljspeech", "public domain")
    assert list(prepare_ljspeech(tmp_path / "LJSpeech-1.1")) == [first, second]


def test_ljspeech_with_holes(tmp_path):
    metadata = ljspeech_tree(tmp_path) / "LJSpeech-1.1" / "metadata.csv"
    metadata.write_text(metadata.read_text() + "LJ009-0001|lost|lost\nLJ009-0002|one column\n")
    assert len(list(prepare_ljspeech(tmp_path, rejections=Rejections(tmp_path)))) == 2
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["line"]) for row in rows] == [("LJ009-0001", 3), ("LJ009-0002", 4)]
    assert "expected: id|text as printed|text with" in rows[1]["reason"]
    with pytest.raises(ManifestError, match=r"there is no metadata\.csv\. Fetch the corpus"):
        list(prepare_ljspeech(tmp_path / "LJSpeech-1.1" / "wavs"))


def test_ljspeech_is_downloaded_and_unpacked(tmp_path, server):
    ljspeech_tree(tmp_path / "source")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        tar.add(tmp_path / "source" / "LJSpeech-1.1", "LJSpeech-1.1")
    server.content = buffer.getvalue()
    root = download_ljspeech(tmp_path / "corpora", url=server.url, checksum=md5(server.content))
    assert len(list(prepare_ljspeech(root))) == 2


def test_published_checksums_have_the_right_form():
    assert all(len(value) == 32 and int(value, 16) for value in librispeech.MD5.values())
    algorithm, value = ljspeech.CHECKSUM.split(":")
    assert (algorithm, len(value)) == ("sha256", 64)
