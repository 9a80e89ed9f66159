"""About two hundred files that a stranger might send, made here: what each is, and what has to become of it.

`python tests/hostile.py` opens each in a process of its own, as the page would, and prints a line of JSON: what a user
reads, the processor's seconds, and the memory over that of the idle process.
"""

import importlib
import io
import json
import os
import pickle
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Case(NamedTuple):
    build: Callable[[], bytes] | Callable[[Path], None]  # a file's bytes; of a checkpoint, fills its folder
    expected: str  # "" where it is accepted, else words of the one sentence


# -- images ------------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, kind: int = 2, bits: int = 8, extra: bytes = b"", data: bytes | None = None
) -> bytes:
    """A PNG of zeros; `kind` is its color type."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    if data is None:
        packer, row = zlib.compressobj(1), bytes(1 + (width * channels * bits + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if kind == 3 else b""
    parts = chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", data) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(tags: list[tuple[int, int, int, int]], rest: bytes = b"", *, following: int = 0) -> bytes:
    """A little-endian TIFF: tags as (tag, type, count, value or place), and what lies behind its directory."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + rest


def gray_tiff(width: int, height: int, *more: tuple[int, int, int, int], bits: int = 8, format: int = 1) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff([*tags, (339, 3, 1, format), (273, 4, 1, 8), (279, 4, 1, width * height * bits // 8), *more])


def tiles(side: int) -> bytes:
    """side x side tiles of one pixel each, all of the same byte."""
    count = side * side
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = 8 + 2 + 12 * 10 + 4
    tags += [(322, 4, 1, 1), (323, 4, 1, 1), (324, 4, count, place), (325, 4, count, place + 4 * count)]
    return tiff(tags, struct.pack("<I", 8) * count + struct.pack("<I", 1) * count)


def big_tiff_tiles() -> bytes:
    entry = struct.pack("<HHQQ", 324, 16, 10**7, 16)
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1) + entry + bytes(100)


def pages(count: int) -> bytes:
    """A TIFF of so many directories, the last of which leads back to the first."""
    out = bytearray(b"II*\0\x08\0\0\0")
    for page in range(count):
        tags = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0)]
        tags.append((279, 4, 1, 1))
        after = 8 if page == count - 1 else len(out) + 2 + 12 * len(tags) + 4
        out += tiff(tags, following=after)[8:]
    return bytes(out)


def nested_directories(depth: int) -> bytes:
    """EXIF directories that point to themselves and to each other."""
    tags = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), (0x014A, 4, 1, 8)]
    return png(4, 4, extra=chunk(b"eXIf", tiff(tags * depth)))


def gif(frames: int, comment: bytes = b"") -> bytes:
    content = encoded(Image.new("P", (16, 16)), "GIF")
    start = content.index(b"\x2c")
    return content[:start] + comment + content[start:-1] * frames + b";"


def resized_gif() -> bytes:
    content = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    content[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(content)


def frames(format: str, count: int = 2000) -> bytes:
    first, *others = (Image.new("RGB", (16, 16), (n % 256, n // 256, 0)) for n in range(count))
    return encoded(first, format, save_all=True, append_images=others)


def jpeg(image: Image.Image | None = None, *, before: bytes = b"", **options) -> bytes:
    content = encoded(image or noise(), "JPEG", **options)
    return content[:2] + before + content[2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def scans(count: int) -> bytes:
    content = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda")) : -2]
    return content[:-2] + scan * count + content[-2:]


def segments(marker: bytes, content: bytes, count: int) -> bytes:
    return (marker + struct.pack(">H", len(content) + 2) + content) * count


def bmp(width: int, height: int, data: bytes, *, packed: int = 1) -> bytes:
    size = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, packed, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", size + len(data), 0, 0, size) + header + bytes(1024) + data


def vp8l(width: int, height: int) -> bytes:
    """A lossless WebP of any size, in the bytes of a small one."""
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    place = content.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place, bits & 0xF0000000 | (height - 1) << 14 | (width - 1))
    return bytes(content)


def box_size(format: str, width: int, height: int) -> bytes:
    """A HEIC or AVIF whose container claims any size."""
    content = bytearray(encoded(noise(), format))
    place = content.index(b"ispe") + 8
    content[place : place + 8] = struct.pack(">II", width, height)
    return bytes(content)


def heif(image: Image.Image, format: str = "HEIF") -> bytes:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return encoded(image, format)


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def top_down(height: int) -> bytes:
    """A BMP whose first row is the top one, as a height below zero says."""
    return bmp(64, -height, bytes(64 * 64), packed=0)


def packed_tiff(width: int, height: int, kind: int, data: bytes) -> bytes:
    """A TIFF of one strip, compressed as `kind` says."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, kind), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(278, 4, 1, height), (273, 4, 1, 8 + 2 + 12 * 9 + 4), (279, 4, 1, len(data))]
    return tiff(tags, data)


def animated_png(width: int, height: int) -> bytes:
    """A PNG of 4 x 4 whose only frame claims to be larger."""
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 1, 0, 0)
    return png(4, 4, extra=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + chunk(b"fcTL", control))


def turned(orientation: bytes) -> bytes:
    """A JPEG whose EXIF has this as the way up: type, count and value of the tag."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<H", 0x0112) + orientation + bytes(4)
    return jpeg(before=segments(b"\xff\xe1", exif, 1))


def icon() -> bytes:
    content = png(16, 16)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def images_in_one(count: int) -> bytes:
    """What phones with two lenses write: a JPEG with others behind it, which its first names."""
    return encoded(noise(16, 16), "MPO", save_all=True, append_images=[noise(16, 16)] * (count - 1))


def strip_tiff(side: int, bits: int, samples: int) -> bytes:
    """A square TIFF in one packed strip that is not all there."""
    tags = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, bits),
        (259, 3, 1, 8),
        (262, 3, 1, 1 if samples == 1 else 2),
    ]
    tags += [(277, 3, 1, samples), (278, 4, 1, side), (273, 4, 1, 8), (279, 4, 1, 100)]
    return tiff(tags, bytes(100))


def jpeg_in_scans(side: int, mode: str = "RGB", **options) -> bytes:
    """A JPEG that promises side x side pixels, in the bytes of a small one."""
    content = bytearray(encoded(noise(16, 16).convert(mode), "JPEG", **options))
    place = next(content.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in content)
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def by_channel(side: int) -> bytes:
    """A baseline JPEG of side x side pixels with a scan for each channel, instead of one scan for all."""
    content = bytearray(jpeg_in_scans(side, quality=50, subsampling=0))
    start = content.index(b"\xff\xda")
    data = bytes(content[start + 14 : -2])
    scans = [b"\xff\xda\0\x08\x01" + bytes([n + 1, 0 if n == 0 else 0x11, 0, 63, 0]) + data for n in range(3)]
    return bytes(content[:start]) + b"".join(scans) + b"\xff\xd9"


SWOLLEN = zlib.compress(bytes(2**25))  # 32 MB in 32 KB
SIDE = 10_900  # squared nearly the 120 million pixels that are opened

IMAGES: dict[str, Case] = {
    "empty": Case(lambda: b"", "is empty"),
    "text": Case(lambda: b"Not an image.", "damaged or its format"),
    "HTML": Case(lambda: b"<html><script>alert(1)</script></html>", "not supported"),
    "SVG": Case(
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "not supported",
    ),
    "EPS": Case(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not supported"),
    "PDF": Case(lambda: b"%PDF-1.7\n" + bytes(100), "not supported"),
    "PSD": Case(lambda: b"8BPS" + bytes(200), "not supported"),
    "PPM cut short": Case(lambda: b"P6 1 1 255\n\0", "damaged or incomplete"),
    "ICNS": Case(lambda: b"icns" + bytes(100), "not supported"),
    "pickle": Case(lambda: pickle.dumps({"a": 1}), "not supported"),
    "HEIC header only": Case(lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not supported"),
    "AVIF header only": Case(lambda: b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "damaged"),
    "JPEG start only": Case(lambda: b"\xff\xd8\xff", "not supported"),
    "PNG signature only": Case(lambda: b"\x89PNG\r\n\x1a\n", "not supported"),
    "zeros": Case(lambda: bytes(2**20), "not supported"),
    "51 MB": Case(lambda: jpeg() + bytes(51 * 2**20), "larger than 50 MB"),
    "truncated JPEG": Case(lambda: jpeg()[:-500], "damaged or incomplete"),
    "truncated PNG": Case(lambda: encoded(noise(), "PNG")[:-500], "damaged or incomplete"),
    "truncated WebP": Case(lambda: encoded(noise(), "WEBP")[:-500], "damaged"),
    "truncated AVIF": Case(lambda: encoded(noise(), "AVIF")[:-50], "damaged"),
    "truncated HEIC": Case(lambda: heif(noise())[:-500], "damaged"),
    "wrong check sum": Case(lambda: png(4, 4)[:-17] + b"\0" + png(4, 4)[-16:], "damaged"),
    "1 x 1": Case(lambda: png(1, 1), ""),
    "0 x 5": Case(lambda: png(0, 5), "not supported"),
    "20000 x 1": Case(lambda: png(20_000, 1), ""),
    "1 x 20000": Case(lambda: png(1, 20_000), ""),
    "20000 x 20000": Case(lambda: png(20_000, 20_000, data=b""), "too large"),
    "largest PNG": Case(lambda: png(SIDE, SIDE), ""),
    "largest JPEG": Case(lambda: encoded(Image.new("RGB", (SIDE, SIDE)), "JPEG"), ""),
    "PNG larger than it says": Case(lambda: png(4, 4, data=zlib.compress(bytes(2**28))), ""),
    "PNG smaller than it says": Case(lambda: png(9000, 9000, data=zlib.compress(b"")), "damaged"),
    "PNG with alpha, large": Case(lambda: png(SIDE, SIDE, kind=6, data=b""), "megapixels). Save"),
    "PNG of gray with alpha, large": Case(lambda: png(SIDE, SIDE, kind=4, data=b""), "megapixels). Save"),
    "PNG of 2**31 x 2**31": Case(lambda: png(2**31 - 1, 2**31 - 1, data=b""), "too large"),
    "swollen text": Case(lambda: png(4, 4, extra=chunk(b"zTXt", b"a\0\0" + SWOLLEN)), "damaged"),
    "swollen international text": Case(lambda: png(4, 4, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + SWOLLEN)), "damaged"),
    "swollen profile": Case(lambda: png(4, 4, extra=chunk(b"iCCP", b"a\0\0" + SWOLLEN)), "damaged"),
    "10 MB of text": Case(lambda: png(4, 4, extra=chunk(b"tEXt", b"a\0" + bytes(10 * 2**20))), ""),
    "300,000 chunks": Case(lambda: png(4, 4, extra=chunk(b"teXt") * 300_000), "damaged"),
    "10 MB of EXIF": Case(lambda: png(4, 4, extra=chunk(b"eXIf", b"II*\0" + bytes(10 * 2**20))), ""),
    "directories in circles": Case(lambda: nested_directories(50), ""),
    "JPEG that promises 60000 x 60000": Case(lambda: jpeg_of_size(60_000, 60_000), "too large"),
    "JPEG that promises 9000 x 9000": Case(lambda: jpeg_of_size(9000, 9000), ""),
    "progressive JPEG, large": Case(
        lambda: encoded(Image.new("L", (SIDE, SIDE)), "JPEG", progressive=True), "megapixels). Save"
    ),
    "600 scans": Case(lambda: scans(600), "scans of"),
    "a million comments": Case(lambda: jpeg(before=segments(b"\xff\xfe", b"a", 10**6)), "damaged"),
    "700 profiles": Case(lambda: jpeg(before=segments(b"\xff\xe2", b"ICC_PROFILE\0\1\1" + bytes(65_000), 700)), ""),
    "700 EXIF segments": Case(lambda: jpeg(before=segments(b"\xff\xe1", b"Exif\0\0II*\0" + bytes(65_000), 700)), ""),
    "JPEG with a ZIP behind it": Case(lambda: jpeg() + zipped({"evil.py": b"import os"}), ""),
    "JPEG with a script behind it": Case(lambda: jpeg() + b"<script>alert(1)</script>", ""),
    "GIF that is JavaScript": Case(lambda: b"GIF89a/*" + bytes(50) + b"*/=1;alert(1)", "damaged"),
    "GIF of 10,000 frames": Case(lambda: gif(10_000), ""),
    "GIF of a million frames": Case(lambda: gif(1_000_000), ""),
    "GIF of a million comments": Case(lambda: gif(1, b"\x21\xfe\x01a\0" * 10**6), "damaged"),
    "GIF that promises 65535 x 65535": Case(resized_gif, "too large"),
    "WebP of 2,000 frames": Case(lambda: frames("WEBP"), ""),
    "PNG of 2,000 frames": Case(lambda: frames("PNG"), ""),
    "WebP that promises 16383 x 7300": Case(lambda: vp8l(16_383, 7300), "megapixels). Save"),
    "WebP that promises 7000 x 7000": Case(lambda: vp8l(7000, 7000), ""),
    "AVIF that promises 60000 x 60000": Case(lambda: box_size("AVIF", 60_000, 60_000), "damaged"),
    "HEIC that promises 60000 x 60000": Case(lambda: heif(noise()) and box_size("HEIF", 60_000, 60_000), "too large"),
    "HEIC of 81 megapixels": Case(lambda: heif(noise()) and box_size("HEIF", 9000, 9000), "megapixels). Save"),
    "BMP of runs": Case(lambda: bmp(SIDE, SIDE, b"\xff\0" * (SIDE * SIDE // 255)), "damaged"),
    "BMP of 24 million runs": Case(lambda: bmp(SIDE, SIDE, (b"\1\7" * SIDE + b"\0\0") * 2200), "damaged"),
    "BMP that promises 60000 x 60000": Case(lambda: bmp(60_000, 60_000, b"\0\1"), "too large"),
    "TIFF with 5 million numbers in a tag": Case(
        lambda: gray_tiff(4, 4, (320, 3, 5_000_000, 1000)) + bytes(10_001_000), "numbers in one tag"
    ),
    "TIFF of 6 million tiles": Case(lambda: tiles(2450), "strips or tiles"),
    "TIFF of 60,000 tiles": Case(lambda: tiles(244), "damaged"),
    "BigTIFF of 10 million tiles": Case(big_tiff_tiles, "strips or tiles"),
    "TIFF of 400,000 pages in a circle": Case(lambda: pages(400_000), ""),
    "TIFF of 32-bit numbers, large": Case(lambda: gray_tiff(SIDE, SIDE, bits=32, format=2), "megapixels). Save"),
    "TIFF of floats, large": Case(lambda: gray_tiff(SIDE, SIDE, bits=32, format=3), "megapixels). Save"),
    "TIFF tags over the same megabyte": Case(
        lambda: tiff([(40_000 + n, 1, 2**20, 0) for n in range(1000)], bytes(2**20)), "damaged"
    ),
    "TIFF whose directory is the file": Case(lambda: b"II*\0\4\0\0\0" + bytes(100), "damaged"),
    "JPEG of four inks": Case(lambda: encoded(noise().convert("CMYK"), "JPEG"), ""),
    "JPEG of 300 images": Case(lambda: images_in_one(300), ""),
    "JPEG without a table": Case(lambda: patched(jpeg(), b"\xff\xc4", b"\xff\xef"), ""),
    "JPEG with a second, larger frame": Case(
        lambda: patched(jpeg(), b"\xff\xda", jpeg_of_size(60_000, 60_000)[jpeg().index(b"\xff\xc0") :]), "too large"
    ),
    "JPEG behind a ZIP": Case(lambda: zipped({"evil.py": b"import os"}) + jpeg(), "not supported"),
    "JPEG that is a PDF": Case(lambda: jpeg(before=segments(b"\xff\xfe", b"%PDF-1.7\n1 0 obj<<>>endobj\n", 1)), ""),
    "JPEG turned 99 ways": Case(lambda: turned(struct.pack("<HII", 3, 1, 99)), ""),
    "JPEG turned by a text of 4 GB": Case(lambda: turned(struct.pack("<HII", 2, 2**32 - 1, 8)), ""),
    "JPEG turned by 3/0": Case(lambda: turned(struct.pack("<HII", 5, 1, 26)), ""),
    "PNG of 16 bits": Case(lambda: png(64, 64, kind=0, bits=16), ""),
    "PNG without its palette": Case(lambda: patched(png(8, 8, kind=3), b"PLTE", b"pLTE"), "damaged"),
    "PNG of color type 5": Case(lambda: patched(png(4, 4), struct.pack(">BB", 8, 2), b"\x08\x05"), "damaged"),
    "PNG whose chunk has 4 GB": Case(lambda: patched(png(4, 4), b"\0\0\0\x0dIHDR", b"\xff\xff\xff\xffIHDR"), "damaged"),
    "PNG with another behind it": Case(lambda: png(4, 4) + png(20_000, 20_000, data=b""), ""),
    "PNG with a frame of 2**31 x 2**31": Case(lambda: animated_png(2**31 - 1, 2**31 - 1), "damaged"),
    "ICO": Case(icon, "not supported"),
    "JPEG 2000": Case(lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "not supported"),
    "DDS": Case(lambda: b"DDS " + struct.pack("<IIII", 124, 0x1007, 60_000, 60_000) + bytes(200), "not supported"),
    "BMP from the top": Case(lambda: top_down(64), ""),
    "BMP of height -2**31": Case(lambda: top_down(2**31), "too large"),
    "TIFF that swells": Case(lambda: packed_tiff(4, 4, 8, SWOLLEN), ""),
    "TIFF of no bits": Case(lambda: gray_tiff(4, 4, bits=0), "damaged"),
    "TIFF of a fax of 60000 x 60000": Case(lambda: packed_tiff(60_000, 60_000, 4, bytes(100)), "too large"),
    "TIFF of an unknown packing": Case(lambda: packed_tiff(4, 4, 34_892, bytes(100)), "damaged"),
    "TIFF of 16 bits in a strip, large": Case(lambda: strip_tiff(SIDE, 16, 1), "megapixels). Save"),
    "TIFF of 3 x 16 bits in a strip, large": Case(lambda: strip_tiff(SIDE, 16, 3), "megapixels). Save"),
    "TIFF with as many numbers as may be in 51 tags": Case(
        lambda: gray_tiff(4, 4, *((tag, 3, 2**18, 2000) for tag in range(348, 399))) + b"\x12\x34" * (5 * 2**20),
        "",
    ),
    "TIFF with as many fractions as may be in 51 tags": Case(
        lambda: gray_tiff(4, 4, *((tag, 5, 2**18, 2000) for tag in range(348, 399))) + b"\x12\x34" * (16 * 2**20),
        "damaged",
    ),
    "TIFF of 2,000 tags with too many numbers": Case(
        lambda: tiff([(320, 3, 2**18 + 1, 8)] * 2000, bytes(2**20)), "numbers in one tag"
    ),
    "PNG of colors with one transparent, large": Case(
        lambda: png(SIDE, SIDE, extra=chunk(b"tRNS", bytes(6)), data=b""), "megapixels). Save"
    ),
    "JPEG of ten scans, large": Case(lambda: jpeg_in_scans(SIDE, progressive=True), "megapixels). Save"),
    "JPEG of a scan for each channel, large": Case(lambda: by_channel(SIDE), "megapixels). Save"),
    "JPEG of a scan for each channel": Case(lambda: by_channel(16), ""),
    "JPEG of four inks, large": Case(lambda: jpeg_in_scans(SIDE, "CMYK"), ""),
    "JPEG of four inks in ten scans, large": Case(
        lambda: jpeg_in_scans(SIDE, "CMYK", progressive=True), "megapixels). Save"
    ),
    "TIFF in TIFF": Case(lambda: gray_tiff(4, 4, (330, 4, 1, 8)), ""),
}


# -- ZIPs --------------------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return file.getvalue()


def photo(number: int) -> bytes:
    image = Image.linear_gradient("L").resize((16, 16)).rotate(90 * (number % 4))
    return encoded(Image.merge("RGB", [image, Image.new("L", (16, 16), number * 20), image]), "PNG")


def good() -> dict[str, bytes]:
    return {f"{label}/{n}.png": photo(n + 3 * k) for k, label in enumerate(("cat", "dog")) for n in range(3)}


def with_file(name: str, content: bytes | None = None) -> bytes:
    return zipped(good() | {name: photo(9) if content is None else content})


def entries(count: int, claimed: int | None = None) -> bytes:
    """A ZIP of so many empty files, all of which share one name and one place."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 9, 0) + b"cat/1.png"
    central = b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0)
    table = (central + b"cat/1.png") * count
    number = min(claimed or count, 65_535)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, number, number, len(table), len(local), 0)
    return local + table + end


def long_names(count: int, name: Callable[[int], str]) -> bytes:
    """A ZIP of so many empty files at one place."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0x800, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    table = bytearray()
    for number in range(count):
        title = name(number).encode()
        fields = (20, 20, 0x800, 0, 0, 0, 0, 0, 0, len(title), 0, 0, 0, 0, 0, 0)
        table += b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", *fields) + title
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(table), len(local), 0)
    return local + bytes(table) + end


def flagged(bit: int) -> bytes:
    return with_fields(6, bytes([bit]))


def with_fields(offset: int, value: bytes) -> bytes:
    """A good ZIP with other bytes at this place behind the version, in both headers of every file."""
    content = bytearray(zipped(good()))
    for signature, more in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset + more : place + offset + more + len(value)] = value
            place = content.find(signature, place + 4)
    return bytes(content)


def claims(size: int) -> bytes:
    """A small ZIP of eight files, each of which claims to unpack to `size`."""
    content = bytearray(zipped({f"{'cat' if n % 2 else 'dog'}/{n}.png": bytes(2**20) for n in range(8)}))
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 24 : place + 28] = struct.pack("<L", size)
        place = content.find(b"PK\x01\x02", place + 4)
    return bytes(content)


def linked() -> bytes:
    file = io.BytesIO(zipped(good()))
    info = zipfile.ZipInfo("cat/link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(file, "a") as out:
        out.writestr(info, "/etc/passwd")
    return file.getvalue()


def changed(old: bytes, new: bytes) -> bytes:
    """A good ZIP with the bytes replaced wherever they are."""
    content = zipped(good())
    assert old in content
    return content.replace(old, new)


def huge_entry() -> bytes:
    """A ZIP whose last file claims 2**63 bytes, in the field for sizes over 4 GB."""
    info = zipfile.ZipInfo("cat/9.png")
    info.extra = struct.pack("<HHQQ", 1, 16, 2**63, 2**63)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in good().items():
            out.writestr(name, content)
        out.writestr(info, photo(9))
    content = bytearray(file.getvalue())
    place = content.rindex(b"PK\x01\x02")
    content[place + 20 : place + 28] = b"\xff" * 8
    return bytes(content)


ZIPS: dict[str, Case] = {
    "good": Case(lambda: zipped(good()), ""),
    "empty file": Case(lambda: b"", "not a ZIP"),
    "not a ZIP": Case(lambda: b"Rar!" + bytes(100), "not a ZIP"),
    "empty ZIP": Case(lambda: zipped({}), "contains no images"),
    "truncated": Case(lambda: zipped(good())[:-40], "incomplete"),
    "password": Case(lambda: flagged(1), "password"),
    "traversal": Case(lambda: with_file("../../cat/evil.png"), ""),
    "absolute": Case(lambda: with_file("/etc/cron.d/evil.png"), ""),
    "drive": Case(lambda: with_file("C:\\evil.png"), ""),
    "network share": Case(lambda: with_file("\\\\server\\share\\evil.png"), ""),
    "link": Case(linked, ""),
    "nested": Case(lambda: with_file("cat/more.zip", zipped(good())), ""),
    "only nested": Case(lambda: zipped({"a/a.zip": zipped(good())}), "Unpack"),
    "case twins": Case(lambda: with_file("CAT/1.PNG"), ""),
    "name of 10 KB": Case(lambda: with_file("cat/" + "n" * 10_000 + ".png"), ""),
    "10,000 names of 60 KB": Case(lambda: long_names(10_000, lambda n: f"cat/{n}{'n' * 60_000}.png"), "not a ZIP"),
    "400 labels of 60 KB": Case(
        lambda: long_names(400, lambda n: f"{n}\U0001f408{'c' * 59_000}/1.png"), "names that are too long"
    ),
    "5,900 labels of 4 KB": Case(
        lambda: long_names(5900, lambda n: f"{n}\U0001f408{'c' * 3900}/1.png"), "names that are too long"
    ),
    "label of 10 KB": Case(lambda: with_file("c" * 10_000 + "/1.png"), "unprintable or too long"),
    "a thousand folders deep": Case(lambda: with_file("cat/" + "d/" * 5000 + "1.png"), ""),
    "label of markup": Case(lambda: with_file("<script>alert(1)</script>/1.png"), ""),
    "label of a formula": Case(lambda: with_file("=cmd|' /C calc'!A0/1.png"), ""),
    "label of control characters": Case(lambda: with_file("a\x1b[31m\r\nb/1.png"), "unprintable or too long"),
    "scripts": Case(lambda: with_file("cat/run.sh", b"rm -rf /"), ""),
    "text called .png": Case(lambda: with_file("cat/text.png", b"Not an image."), ""),
    "image of 60000 x 60000": Case(lambda: with_file("cat/large.png", png(60_000, 60_000, data=b"")), ""),
    "bomb of ratio": Case(lambda: claims(400 * 2**20), "ZIP bomb"),
    "bomb in one file": Case(lambda: claims(2**32 - 2), "ZIP bomb"),
    "a lie about sizes": Case(lambda: claims(1000), "can be read"),
    "300,000 entries": Case(lambda: entries(300_000), "contains 300,000 files"),
    "a million entries": Case(lambda: entries(1_000_000), "not a ZIP"),
    "file of 2**63 bytes": Case(huge_entry, "ZIP"),
    "packed by LZMA": Case(lambda: zipped(good(), zipfile.ZIP_LZMA), "contains no images"),
    "packed by an unknown method": Case(lambda: with_fields(8, b"\x63"), "contains no images"),
    "names that are no UTF-8": Case(lambda: changed(b"cat/", b"\xff\xfe\xfd/"), ""),
    "names of devices": Case(lambda: with_file("CON/NUL.png"), ""),
    "32,700 folders in each other": Case(
        lambda: zipped(good() | {"d/" * 32_700 + f"{n}.png": b"" for n in range(4)}), ""
    ),
    "names that end in blanks": Case(lambda: with_file("cat ./1.png "), ""),
    "directory of other names": Case(
        lambda: (
            (content := zipped(good()))[: (place := content.index(b"PK\x01\x02"))]
            + content[place:].replace(b"cat/", b"dog/")
        ),
        "can be read",
    ),
    "an image before it": Case(lambda: jpeg() + zipped(good()), ""),
    "a second end": Case(lambda: zipped(good()) + zipped({}), "contains no images"),
    "files of other systems": Case(lambda: with_file("__MACOSX/cat/._1.png", b"x"), ""),
    "one image in 150,000 entries": Case(lambda: entries(150_000), "can be read"),
}


# -- checkpoints -------------------------------------------------------------------------------------------------------

CONFIG = {
    "architecture": "resnet_custom",
    "label_names": ["cat", "dog"],
    "num_classes": 2,
    "pretrained_cfg": {"input_size": [3, 32, 32]},
    "resnet_hub": {"schema": 1, "depths": [1, 1], "width": 8, "stem": "3x3"},
}


def saved(folder: Path) -> dict[str, np.ndarray]:
    """A small checkpoint in `folder`; its weights by name."""
    from safetensors.numpy import load_file

    from resnet_hub.config import ResNetConfig
    from resnet_hub.model import ResNet

    ResNet(ResNetConfig.from_json(json.dumps(CONFIG))).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def with_config(content: object) -> Callable[[Path], None]:
    """A good checkpoint with another `config.json`: JSON of an object, or text and bytes as they are."""

    def build(folder: Path) -> None:
        saved(folder)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def with_weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        from safetensors.numpy import save_file

        weights = saved(folder)
        found = change(weights)
        save_file(found if isinstance(found, dict) else weights, folder / "model.safetensors", {"format": "pt"})

    return build


def with_bytes(content: Callable[[bytes], bytes], name: str = "model.safetensors") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        saved(folder)
        (folder / name).write_bytes(content((folder / name).read_bytes()))

    return build


def header(content: object, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def spoilt(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(weights: dict[str, np.ndarray]) -> None:
        weights["fc.weight"].flat[3] = value

    return change


def network(**changes: object) -> dict[str, object]:
    return CONFIG | {"resnet_hub": CONFIG["resnet_hub"] | changes}


def large_maps(*, width: int, side: int) -> dict[str, object]:
    """A small network on a large image."""
    return network(depths=[1], width=width) | {"pretrained_cfg": {"input_size": [3, side, side]}}


def linked_weights(folder: Path) -> None:
    saved(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def odd_file(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A good checkpoint, one of whose files is no file."""

    def build(folder: Path) -> None:
        saved(folder)
        (folder / name).unlink()
        make(folder / name)

    return build


def parts(*names: str) -> Callable[[Path], None]:
    """A checkpoint in parts, of which the index says that they are there."""

    def build(folder: Path) -> None:
        index = {"metadata": {}, "weight_map": {key: names[n % len(names)] for n, key in enumerate(saved(folder))}}
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return build


def beside(name: str, content: bytes) -> Callable[[Path], None]:
    """A good checkpoint with one more file."""

    def build(folder: Path) -> None:
        saved(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return build


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/resnet_hub_was_hacked",)


def pickled(folder: Path) -> None:
    saved(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


CHECKPOINTS: dict[str, Case] = {
    "good": Case(lambda folder: saved(folder) and None, ""),
    "empty folder": Case(lambda folder: None, "has no config.json"),
    "pickle renamed": Case(with_bytes(lambda _: pickle.dumps(Evil())), "damaged"),
    "pickle beside no weights": Case(pickled, "a pickle, which is never opened"),
    "weights without end": Case(linked_weights, "has no model.safetensors"),
    "empty weights": Case(with_bytes(lambda _: b""), "damaged"),
    "header of 2**60 bytes": Case(with_bytes(lambda _: struct.pack("<Q", 2**60) + b"{}"), "damaged"),
    "header of 90 MB": Case(
        with_bytes(lambda _: struct.pack("<Q", 90 * 2**20) + b" " * (90 * 2**20)), "at most 4 MB are read"
    ),
    "header that is no JSON": Case(with_bytes(lambda _: struct.pack("<Q", 8) + b"not JSON"), "damaged"),
    "header of a million brackets": Case(with_bytes(lambda _: struct.pack("<Q", 10**6) + b"[" * 10**6), "damaged"),
    "offsets beyond the file": Case(
        with_bytes(lambda _: header({"fc.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})),
        "damaged",
    ),
    "offsets that overlap": Case(
        with_bytes(
            lambda _: header({n: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for n in ("fc.weight", "a")})
        ),
        "damaged",
    ),
    "shape that overflows": Case(
        with_bytes(lambda _: header({"a": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 64]}})), "damaged"
    ),
    "shape of minus one": Case(
        with_bytes(lambda _: header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}})), "damaged"
    ),
    "unknown number format": Case(
        with_bytes(lambda _: header({"a": {"dtype": "EVIL", "shape": [16], "data_offsets": [0, 64]}})), "damaged"
    ),
    "200,000 tensors": Case(
        with_bytes(
            lambda _: header(
                {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}, b""
            )
        ),
        "at most 4 MB are read",
    ),
    "truncated weights": Case(with_bytes(lambda content: content[:-100]), "damaged"),
    "weights with more behind": Case(with_bytes(lambda content: content + b"evil"), "damaged"),
    "not a number": Case(with_weights(spoilt(float("nan"))), "not finite numbers"),
    "infinite": Case(with_weights(spoilt(float("inf"))), "not finite numbers"),
    "whole numbers": Case(
        with_weights(lambda w: w | {"fc.weight": w["fc.weight"].astype(np.int64)}), "of an unsupported type: fc.weight"
    ),
    "missing key": Case(with_weights(lambda w: w.pop("conv1.weight") is None), "missing: conv1.weight"),
    "extra key": Case(with_weights(lambda w: w | {"evil": np.zeros(3, np.float32)}), "unexpected: evil"),
    "key of 1 MB": Case(with_weights(lambda w: w | {"<b>" * 300_000: np.zeros(3, np.float32)}), "unexpected"),
    "transposed": Case(with_weights(lambda w: w | {"conv1.weight": w["conv1.weight"].T.copy()}), "misshapen"),
    "head of another size": Case(with_weights(lambda w: w | {"fc.weight": np.zeros((3, 16), np.float32)}), "3 outputs"),
    "config that is no JSON": Case(with_config("{"), "not valid JSON"),
    "config of bytes": Case(with_config(b"\xff\xfe\x00"), "not valid JSON"),
    "config that is a list": Case(with_config([1]), "expected an object"),
    "config 100,000 deep": Case(with_config("[" * 100_000), "not valid JSON"),
    "config of 17 MB": Case(with_config(" " * (17 * 2**20)), "larger than 16 MB"),
    "config of wrong types": Case(with_config(CONFIG | {"pretrained_cfg": 3}), "expected an object"),
    "config of NaN": Case(with_config(CONFIG | {"pretrained_cfg": {"crop_pct": float("nan")}}), "crop_pct"),
    "a million blocks": Case(with_config(network(depths=[10**6])), "1 to 1000 blocks"),
    "width of 10**30": Case(with_config(network(width=10**30)), "width"),
    "100 GB": Case(with_config(network(depths=[1000] * 4, width=4096)), "parameters"),
    "as many layers as it may": Case(with_config(network(depths=[1000] * 4, width=8)), "do not fit"),
    "maps of 20 GB": Case(with_config(large_maps(width=256, side=2048)), "values for one image"),
    "a million labels": Case(with_config(CONFIG | {"num_classes": 10**6, "label_names": ["a"] * 10**6}), "num_classes"),
    "label of 1 MB": Case(with_config(CONFIG | {"label_names": ["a" * 2**20, "dog"]}), "over 1000 characters"),
    "label of control characters": Case(with_config(CONFIG | {"label_names": ["a\x1b[31m", "dog"]}), "unprintable"),
    "label of markup": Case(with_config(CONFIG | {"label_names": ["<img src=x onerror=alert(1)>", "dog"]}), ""),
    "another head than labels": Case(with_config(CONFIG | {"num_classes": 3, "label_names": list("abc")}), "3 labels"),
    "schema of tomorrow": Case(with_config(network(schema=2**70)), "update resnet_hub"),
    "code to run": Case(with_config(CONFIG | {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True}), ""),
    "weights that are a folder": Case(odd_file("model.safetensors", Path.mkdir), "has no model.safetensors"),
    "weights that are a pipe": Case(odd_file("model.safetensors", os.mkfifo), "has no model.safetensors"),
    "config that is a pipe": Case(odd_file("config.json", os.mkfifo), "config.json"),
    "config without end": Case(odd_file("config.json", lambda path: path.symlink_to("/dev/zero")), "config.json"),
    "card without end": Case(odd_file("README.md", lambda path: path.symlink_to("/dev/zero")), ""),
    "parts that lead outside": Case(parts("../../../../etc/passwd"), "not a weights file"),
    "parts that are not there": Case(parts("a.safetensors", "b.safetensors"), "a.safetensors"),
    "a graph of nonsense": Case(beside("onnx/model.onnx", b"\x08\xff" * 1000), ""),
    "int8 of nonsense": Case(beside("onnx/int8.json", b'{"version": 1e999, "ranges": [[[[]]]]}'), ""),
    "code beside it": Case(beside("modeling_evil.py", b"raise SystemExit('run')"), ""),
    "numbers of eight bits": Case(with_bytes(lambda content: content.replace(b'"F32"', b'"U8" ', 1)), "damaged"),
    "card of 20 MB": Case(with_bytes(lambda _: b"# " + b"a" * (20 * 2**20), "README.md"), ""),
}


# -- opening -----------------------------------------------------------------------------------------------------------


def open_image(case: Case, folder: Path) -> None:
    from resnet_hub.images.load import load_image

    (folder / "file.jpg").write_bytes(case.build())  # type: ignore[call-arg, arg-type]
    yield
    load_image(folder / "file.jpg")


def open_zip(case: Case, folder: Path) -> None:
    from resnet_hub.datasets.load import load_dataset
    from resnet_hub.datasets.report import create_report

    (folder / "photos.zip").write_bytes(case.build())  # type: ignore[call-arg, arg-type]
    yield
    found = create_report(load_dataset(folder / "photos.zip"))
    found.to_json(), found.to_text()
    found.check()


def open_checkpoint(case: Case, folder: Path) -> None:
    from resnet_hub.inference.classifier import Classifier

    (folder / "model").mkdir()
    case.build(folder / "model")  # type: ignore[call-arg]
    yield
    classify = Classifier.from_pretrained(folder / "model", device="cpu")
    assert len(classify(Image.new("RGB", (40, 40)))) == 2


KINDS = {"image": (IMAGES, open_image), "zip": (ZIPS, open_zip), "checkpoint": (CHECKPOINTS, open_checkpoint)}


def memory(line: str, process: int | str = "self") -> float:
    """Megabytes, as Linux counts them for a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(text for text in status.splitlines() if text.startswith(line)).split()[1]) / 1024


def opened(kind: str, name: str) -> dict[str, object]:
    from resnet_hub.errors import ResNetHubError

    cases, attempt = KINDS[kind]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        steps = attempt(cases[name], folder)
        next(steps)
        before = sorted(folder.rglob("*"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        idle, start = memory("VmRSS"), time.process_time()
        try:
            next(steps, None)
            said = ""
        except ResNetHubError as error:
            said = str(error)
        except BaseException as error:
            said = f"CRASH {type(error).__name__}: {error}"
        seconds, peak = time.process_time() - start, memory("VmHWM") - idle
        if sorted(folder.rglob("*")) != before:
            said = "CRASH it wrote files"
    return {"kind": kind, "name": name, "said": said, "seconds": round(seconds, 2), "megabytes": round(peak)}


def tell(row: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main(wanted: list[str]) -> None:
    for module in ("checkpoints.load", "checkpoints.save", "datasets.load", "datasets.report", "inference.classifier"):
        importlib.import_module(f"resnet_hub.{module}")  # the idle process has them loaded

    for kind, (cases, _) in KINDS.items():
        for name in cases:
            if wanted and not any(word in f"{kind} {name}" for word in wanted):
                continue
            sys.stdout.flush()
            child = os.fork()
            if not child:
                tell(opened(kind, name))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                tell({"kind": kind, "name": name, "said": f"CRASH {status}", "seconds": 0, "megabytes": 0})


if __name__ == "__main__":
    main(sys.argv[1:])

CARD = """---
license: mit
---
# Model <script>alert(1)</script>

<iframe src="https://evil.example"></iframe><img src=x onerror=alert(1)><svg onload=alert(1)>

<style>body { display: none }</style>

<details><summary>5 labels</summary>

<p onclick="alert(1)">hidden</p>

</details>
</details><details><summary><img src=x onerror=alert(1)></summary>

![alt" onerror="alert(1)](https://evil.example/pixel.png) [link](javascript:alert(1)) [file](data:text/html,x)
[home](https://ok.example 'title" onmouseover="alert(1)')

| a | <script>alert(2)</script> |
|---|---|
| {{ 7 * 7 }} | __i18n__{"key": "train"} |
"""
