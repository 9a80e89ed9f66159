"""The store behind a Hub with Xet, in memory: what hf_xet uploads is what it later downloads.

Covers xorbs (blocks of chunks), shards (which chunks make which file), reconstructions, and ranges of a xorb. Left out:
deduplication against other repos, upload grants, and version 2 of the shard and reconstruction routes, for all of which
hf_xet falls back to what is here.
"""

import json
import struct
from collections.abc import Iterator
from typing import NamedTuple

_MARK = b"XETBLOB"  # begins the footer of a xorb
_RECORD = 48  # bytes of each record of a shard
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30


class Segment(NamedTuple):
    """A part of a file: chunks `start` to `end` of a xorb."""

    xorb: str
    size: int
    start: int
    end: int


class XetStore:
    """Xorbs by their hash, and the segments of files by the file's hash."""

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Segment]] = {}
        self.hashes: dict[str, str] = {}  # SHA-256 of a file -> its Xet hash

    def add_shard(self, shard: bytes) -> None:
        position = _RECORD  # after the header
        while (hash_bytes := shard[position : position + 32]) != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", shard, position + 32)
            position += _RECORD
            segments = []
            for _ in range(count):
                _, size, start, end = struct.unpack_from("<IIII", shard, position + 32)
                segments.append(Segment(_hex(shard[position : position + 32]), size, start, end))
                position += _RECORD
            position += _RECORD * count if flags & _HAS_VERIFICATION else 0
            if flags & _HAS_SHA256:
                self.hashes[_hex(shard[position : position + 32])] = _hex(hash_bytes)
                position += _RECORD
            self.files[_hex(hash_bytes)] = segments

    def read(self, sha256: str) -> bytes:
        """The content of a file."""
        parts = []
        for segment in self.files[self.hashes[sha256]]:
            chunks = list(_decode_chunks(self.xorbs[segment.xorb]))
            parts += [content for _, _, content in chunks[segment.start : segment.end]]
        return b"".join(parts)

    def describe(self, file_hash: str, url: str) -> bytes:
        """The reconstruction of a file: its segments, and where their bytes are; `url` comes before a xorb's hash."""
        terms, ranges = [], {}
        for xorb, size, start, end in self.files[file_hash]:
            chunks = list(_decode_chunks(self.xorbs[xorb]))
            chunk_range = {"start": start, "end": end}
            terms.append({"hash": xorb, "unpacked_length": size, "range": chunk_range})
            byte_range = {"start": chunks[start][0], "end": chunks[end - 1][1] - 1}
            ranges.setdefault(xorb, []).append({"range": chunk_range, "url": url + xorb, "url_range": byte_range})
        return json.dumps({"offset_into_first_range": 0, "terms": terms, "fetch_info": ranges}).encode()


def _hex(hash_bytes: bytes) -> str:
    """The text of a hash: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", hash_bytes))


def _decode_chunks(xorb: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and content of each chunk."""
    import pyarrow as pa

    position = 0
    while position < len(xorb) and xorb[position : position + 7] != _MARK:
        packed = int.from_bytes(xorb[position + 1 : position + 4], "little")
        scheme, size = xorb[position + 4], int.from_bytes(xorb[position + 5 : position + 8], "little")
        end = position + 8 + packed
        content = xorb[position + 8 : end]
        if scheme:
            content = pa.decompress(content, size, "lz4", asbytes=True)
        if scheme == 2:  # the first bytes of each group of four, then the second, ...
            lengths = [(size + 3 - place) // 4 for place in range(4)]
            original = bytearray(size)
            start = 0
            for place, length in enumerate(lengths):
                original[place::4] = content[start : start + length]
                start += length
            content = bytes(original)
        yield position, end, content
        position = end
