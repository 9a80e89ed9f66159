"""Limits for untrusted image files: a small file must take neither minutes nor all memory to decode.

Examples: a 10 MB GIF of comments only, a JPEG of a thousand scans, a TIFF whose thousand tags all refer to the same
megabyte, a PNG that claims 60,000 x 60,000 pixels. Every check works on the header, before pixels are decoded.
"""

import io
import re
import struct
from contextlib import suppress

from PIL import Image

from resnet_hub.errors import ImageError

MAX_IMAGE_BYTES = 50 * 10**6
MAX_PIXELS = 120_000_000  # enough for a 108-megapixel phone photo; Pillow uses 4 bytes for each
MAX_SIDE = 65_535  # pixels; the maximum of JPEG

_MAX_READS = 500_000  # of a file, by Pillow's loops over its blocks
_MAX_READ_RATIO = 8  # of all bytes read to the bytes of the file
_EXIF_SEGMENT = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)

_MAX_SCANNED_PIXELS = 2_000_000_000  # pixels times scans of a progressive JPEG, which usually has ten scans
_SCAN = re.compile(rb"\xff\xda\x00(\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

_STRIP_TAGS = (273, 324)  # StripOffsets, TileOffsets
_BITS_TAG, _SAMPLES_TAG = 258, 277  # BitsPerSample, SamplesPerPixel
_PRIVATE_TAGS = 400  # from here on, tags hold blobs such as color profiles, which Pillow keeps as bytes
_TEXT_TYPE = 2  # tags of this type stay bytes
_MAX_STRIPS = 70_000  # strips or tiles of a TIFF, over which Pillow loops; one strip a row is common
_MAX_NUMBERS = 2**18  # in any other tag, each of which becomes a Python object; a color map has 3 * 2^16

# Bytes per pixel at the peak of decoding and converting to RGB, as measured, by format or mode. For slow decoders the
# figure is higher, so that they finish within seconds.
_MAX_MEMORY = 8 * MAX_PIXELS
_COSTS = {"WEBP": 19, "AVIF": 19, "HEIF": 19, "I": 30, "F": 30, "LAB": 30, "LA": 13, "La": 13, "PA": 13}
_COSTS |= dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), 9)
_COST, _COST_TRANSPARENT, _COST_TRANSPARENT_RGB = 8, 10, 13
_COST_SCANS = 10  # of a JPEG in several scans
_COST_STRIP = 4  # of a TIFF, whose strips are in memory beside the image, plus the bytes of a pixel in them


class LimitedReader(io.BytesIO):
    """Bytes that limit how often, and how many times over, they can be read."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.reads_left, self.bytes_left = _MAX_READS, _MAX_READ_RATIO * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads_left -= 1
        self.bytes_left -= len(data)
        if self.reads_left < 0 or self.bytes_left < 0:
            raise ValueError("the file has too many blocks")
        return data


def keep_first_exif(data: bytes) -> bytes:
    """Hide all EXIF segments of a JPEG but the first. Pillow would join any number of them."""
    if data.startswith(b"\xff\xd8") and (exif := _EXIF_SEGMENT.search(data)):
        return data[: exif.end()] + data[exif.end() :].replace(b"Exif\0\0", b"exif\0\0")
    return data


def check_size(image: Image.Image, name: str) -> None:
    """Raise `ImageError` for an image without pixels, or with more than the limits."""
    width, height = image.size
    if not width or not height:
        raise ImageError(f"Cannot read {name}: the image has no pixels ({width} x {height}). Save it again.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise too_large_error(name, f" ({width} x {height} pixels)")


def check_cost(image: Image.Image, name: str, data: bytes) -> None:
    """Raise `ImageError` for an image that takes more memory or time than a plain image of `MAX_PIXELS`.

    Args:
        image: An image whose header was read.
        name: Its name in messages.
        data: The bytes of the file.
    """
    # The number of channels in each scan of a JPEG.
    scans = [match[1][1] for match in _SCAN.finditer(data)] if image.format in ("JPEG", "MPO") else []
    costs = [_COSTS.get(image.format or "", _COST), _COSTS.get(image.mode, _COST)]
    if image.has_transparency_data:
        costs.append(_COST_TRANSPARENT_RGB if image.mode == "RGB" else _COST_TRANSPARENT)
    if image.info.get("progressive") or any(channels != len(image.getbands()) for channels in scans):
        # The decoder keeps all coefficients in memory: two bytes for each of each channel.
        costs.append(max(_COST_SCANS, 4 + 2 * len(image.getbands())))
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(_BITS_TAG, (1,)))
        costs.append(_COST_STRIP + bits * max(1, int(tags.get(_SAMPLES_TAG, 1))) // 8)
    limit = _MAX_MEMORY // max(costs)
    if image.width * image.height > limit:
        size = f"{image.width} x {image.height} pixels as {image.format} in mode {image.mode}"
        megapixels = f"{limit // 10**6} megapixels"
        raise ImageError(f"Cannot read {name}: it is too large ({size}, at most {megapixels}). Save it smaller.")
    if len(scans) * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise too_large_error(name, f" ({len(scans)} scans of {image.width} x {image.height} pixels)")


def check_tiff_tags(data: bytes, name: str) -> None:
    """Raise `ImageError` for a TIFF of too many strips or numbers in its first directory, before Pillow lists them."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    is_big = b"\x2b" in data[2:4]  # BigTIFF has a longer header, and 8 bytes where TIFF has 4
    with suppress(struct.error, OverflowError):  # Pillow reports a truncated file
        (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
        for entry in range(min(entries, 2**16)):
            offset = start + (8 + 20 * entry if is_big else 2 + 12 * entry)
            tag, tag_type, count = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), data, offset)
            if tag in _STRIP_TAGS:
                limit, what = _MAX_STRIPS, "strips or tiles"
            elif tag < _PRIVATE_TAGS and tag_type != _TEXT_TYPE:
                limit, what = _MAX_NUMBERS, "numbers in one tag"
            else:
                continue
            if count > limit:
                raise ImageError(f"Cannot read {name}: it has {count:,} {what} (limit {limit:,}). Save it again.")


def too_large_error(name: str, detail: str = "") -> ImageError:
    limits = f"{MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side"
    return ImageError(f"Cannot read {name}: it is too large{detail}; the limits are {limits}. Save it smaller.")
