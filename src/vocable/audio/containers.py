"""Read what containers say about their length, where it cannot be believed.

    WAV   sizes of 0, or beyond the end of the file              RIFF: chunks of (name, size, bytes)
    MP3   no Xing, Info or VBRI tag in the first frame: the length is an estimate from one bit rate
    Ogg   several streams one after another ("chained")             RFC 3533, section 4

Headers are read here; opening.py decides what follows from them.
"""

import functools
import io
import mmap
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

STREAMED_LENGTH = 0x7FFF0000
"""RIFF sizes from here on mean 'not known when the header was written': recorders and pipes leave them behind."""

OGG_PAGE = re.compile(rb"OggS\x00[\x00-\x07]", re.DOTALL)
"""Start of a page: the capture pattern, version 0, and the flags."""
FIRST_PAGE, LAST_PAGE = 2, 4
"""Flags of an Ogg page: it begins a stream; it ends one."""


class WavSizes(NamedTuple):
    """Sizes in bytes that matter in a WAV file."""

    riff: int
    """Size that the header gives for all that follows its first 8 bytes."""
    data: int
    """Size that the header gives for the samples."""
    data_start: int
    file: int
    """Real size of the file."""

    @property
    def there(self) -> int:
        """Bytes from the first sample to the end of the file."""
        return self.file - self.data_start

    @property
    def is_unfinished(self) -> bool:
        """Whether the writer never came back to fill the sizes in, as when a recorder is killed."""
        return self.data == 0 < self.there and self.riff + 8 <= self.data_start

    @property
    def missing(self) -> int:
        """Bytes of samples that the header promises and the file lacks."""
        return max(self.data - self.there, 0) if self.data < STREAMED_LENGTH else 0

    @property
    def counts_its_header(self) -> bool:
        """Whether the file is whole and its data size too large: RIFF's size is right, or the header was counted."""
        return self.missing > 0 and (self.missing <= self.data_start or self.riff + 8 == self.file)


def wav_sizes(path: Path) -> WavSizes | None:
    """Read the sizes in a RIFF file; None: it is another kind of file, or has no samples' chunk."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                return WavSizes(struct.unpack("<I", head[4:8])[0], length, file.tell(), size)
            file.seek(length + length % 2, os.SEEK_CUR)
    return None


class PartFile(io.FileIO):
    """The bytes of a file from `first` up to `end`, as if they were all of it, with some replaced.

    `patches` maps positions in the file to the bytes that are read there instead.
    """

    def __init__(self, path: Path, patches: dict[int, bytes], first: int = 0, end: int | None = None) -> None:
        super().__init__(path)
        self.patches = patches
        self.first, self.end = first, os.fstat(self.fileno()).st_size if end is None else end
        super().seek(first)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move within the part."""
        origin = {os.SEEK_SET: self.first, os.SEEK_CUR: super().tell(), os.SEEK_END: self.end}[whence]
        return super().seek(origin + offset) - self.first

    def tell(self) -> int:
        """Return the place within the part."""
        return super().tell() - self.first

    def readinto(self, buffer, /) -> int:
        """Read up to the end of the part, and put the patches over what was read."""
        start = super().tell()
        view = memoryview(buffer).cast("B")[: max(self.end - start, 0)]
        count = super().readinto(view) or 0
        for place, patch in self.patches.items():
            begin, end = max(place, start), min(place + len(patch), start + count)
            if begin < end:
                view[begin - start : end - start] = patch[begin - place : end - place]
        return count


class EndlessFile(io.FileIO):
    """A file that says it is 64 times as long, for decoders that stop where they take the end to be.

    Its last bytes are where such a decoder looks for them (a tag at the end), counted from the end it is told. The
    bit rates of MP3 differ by a factor of 40 at most.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.real = os.fstat(self.fileno()).st_size
        self.shift = 0
        """How far the end that it is told lies behind the real one, while the place is counted from that end."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; places beyond the real end are counted from the claimed one."""
        beyond = 63 * self.real
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.real + beyond}[whence]
        self.shift = beyond if place > self.real else 0
        super().seek(max(place - self.shift, 0))
        return place

    def tell(self) -> int:
        """Return the place, which may lie beyond the real end."""
        return super().tell() + self.shift


class MpegTag(NamedTuple):
    """What the tag in the first frame of an MPEG audio file says; LAME and most other encoders write one."""

    has_length: bool
    """Whether it counts the frames; else the length is an estimate."""
    is_followed: bool
    """Whether another MPEG stream begins where the tag says that this one ends."""


def mpeg_tag(path: Path) -> MpegTag:
    """Look for Xing, Info or VBRI in the first frame, which the tag fills.

    A Xing tag: name, flags (1: the number of frames follows; 2: the number of bytes), then what the flags announce.
    """
    with path.open("rb") as file:
        first = _after_id3(file.read(10))
        file.seek(first)
        start = file.read(4096)
        found = re.search(rb"\xff[\xe2-\xff]", start)
        frame = start[found.start() : found.start() + 60] if found else b""
        if b"VBRI" in frame:
            return MpegTag(has_length=True, is_followed=False)
        place = max(frame.find(b"Xing"), frame.find(b"Info"))
        if found is None or place < 0 or len(frame) < place + 16:
            return MpegTag(has_length=False, is_followed=False)
        flags, *numbers = struct.unpack(">III", frame[place + 4 : place + 16])
        size = numbers[flags & 1] if flags & 2 else 0
        file.seek(first + found.start() + size)
        follows = file.read(4)
        if follows[:3] == b"TAG":  # ID3v1, 128 bytes
            file.seek(first + found.start() + size + 128)
            follows = file.read(4)
        same = follows[:1] == b"\xff" and len(follows) == 4 and (follows[1] & 0xFE) == (frame[1] & 0xFE)
        return MpegTag(has_length=bool(flags & 1), is_followed=size > 0 and (same or follows[:3] == b"ID3"))


def _after_id3(head: bytes) -> int:
    """Where an ID3v2 tag ends, its size in 4 bytes of 7 bits; 0 where there is none."""
    if head[:3] != b"ID3":
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    return 10 + size + (10 if head[5] & 0x10 else 0)


class OggLink(NamedTuple):
    """A stream, or several at a time, in an Ogg file; a file of one recording has one link."""

    first: int
    """First byte."""
    end: int
    """One past the last byte."""
    last_page: int
    """Where the last page begins."""
    is_whole: bool
    """Whether the last page has all its bytes."""
    is_ended: bool
    """Whether the last page says that it is the last one of its stream."""


def ogg_links(path: Path) -> list[OggLink]:
    """Find where chained streams begin, and how each ends.

    A page has its flags in byte 5; byte 26 counts the segments, whose lengths in bytes follow (RFC 3533, section 6).
    Pages that begin streams stand in a row at the front of each link.
    """
    links: list[OggLink] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place, first, end_of_row = 0, 0, 0
        while (match := OGG_PAGE.search(content, place)) is not None:
            page, flags = match.start(), content[match.start() + 5]
            end = page + _page_size(content, page)
            if flags & FIRST_PAGE:
                first = first if page == end_of_row else page
                end_of_row = end
            if not links or links[-1].first != first:
                links.append(OggLink(first, 0, 0, False, False))
            links[-1] = OggLink(first, end, page, page + 27 <= end <= len(content), bool(flags & LAST_PAGE))
            place = max(end, page + 1)
    return links


def ended_page(path: Path, page: int) -> dict[int, bytes]:
    """Return the patches that make the Ogg page at `page` the last one of its stream: the flag, and the checksum.

    The checksum is the CRC of polynomial 0x04c11db7 over the page, in which it counts as 0 (RFC 3533, section 6).
    """
    with path.open("rb") as file:
        file.seek(page)
        content = bytearray(file.read(27 + 255 + 255 * 255))
    size = _page_size(content, 0)
    flags = bytes([content[5] | LAST_PAGE])
    content[5:6], content[22:26] = flags, bytes(4)
    crc = 0
    for value in content[:size]:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _crc_table()[(crc >> 24) ^ value]
    return {page + 5: flags, page + 22: struct.pack("<I", crc)}


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return table


def _page_size(content: mmap.mmap | bytearray, start: int) -> int:
    table = content[start + 26 : start + 27]
    if not table:
        return 0
    return 27 + table[0] + sum(content[start + 27 : start + 27 + table[0]])
