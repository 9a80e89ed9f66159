"""Whatever holds a picture -> an upright RGB image -> the tensor that a network was trained on.

Pictures come from strangers: formats are an explicit list, sizes are checked before pixels are decoded, and
whatever goes wrong inside a decoder becomes an `ImageError` of one sentence."""

import io
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnet_hub.errors import ImageError
from resnet_hub.paths import walk_files

MAX_IMAGE_BYTES = 50 * 2**20
MAX_PIXELS = 120_000_000  # a 108-megapixel phone photo passes; Pillow holds 4 bytes for each
MAX_SIDE = 65_535  # what a JPEG can have

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # Pillow opens MPO as JPEG
_JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
SUFFIXES = _JPEG_SUFFIXES | {".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"}
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
_HEIC = re.compile(rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)
_URL = re.compile(r"\s*(data:|file:|https?:|ftp:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)

_ORIENTATION = 0x0112  # EXIF tag; its value says how the stored pixels have to be turned
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A small file must not take minutes or the whole memory: a 10 MB GIF full of comments does, a JPEG of countless scans,
# a TIFF or EXIF block whose every tag points to the same megabyte.
_MAX_READS = 500_000  # of the file, by Pillow's loops over its parts
_MAX_READ_AGAIN = 8  # bytes read in all, over those of the file
_MAX_EXIF = 2**16  # bytes; a JPEG segment cannot hold more
_EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)
_MAX_SCANNED_PIXELS = 2_000_000_000  # over all scans of a progressive JPEG, usually ten
_SCAN = re.compile(rb"\xff\xda\x00(\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_PIECES = (273, 324)  # StripOffsets, TileOffsets
_BITS, _SAMPLES = 258, 277  # BitsPerSample, SamplesPerPixel
_PRIVATE = 400  # from here on tags hold blobs, such as colour profiles, which stay bytes
_MAX_PIECES = 70_000  # strips or tiles of a TIFF, over each of which Pillow loops; one a row is common
_MAX_NUMBERS = 2**18  # in any other of its usual tags, each a Python object; a colour map has 3 * 2^16
_TEXT = 2  # type of a TIFF tag that stays bytes
# Bytes a pixel takes at its peak until it is RGB, measured; for slow kinds as many as keep the decoder within seconds.
_MEMORY = 8 * MAX_PIXELS
_COSTS = {"WEBP": 19, "AVIF": 19, "HEIF": 19, "I": 30, "F": 30, "LAB": 30, "LA": 13, "La": 13, "PA": 13}
_COSTS |= dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), 9)
_COST, _COST_TRANSPARENT, _COST_TRANSPARENT_RGB = 8, 10, 13
_COST_SCANS = 10  # of a JPEG in several scans
_COST_STRIP = 4  # of a TIFF, whose strips are held beside the picture: and what a pixel takes there
_LARGE, _LARGE_PIXELS = threading.Lock(), 2**24  # above, one at a time is decoded, however many threads there are


def load_image(source: Any, *, name: str | None = None, near: int | None = None) -> Image.Image:
    """An upright RGB image of 8 bits from a path, bytes, a binary file, a PIL image or a numpy array.

    Arrays are (H, W) or (H, W, 1 | 3 | 4), uint8, uint16, bool, or floats in 0..1. Transparency is laid over white;
    of an animation it is the first frame. URLs are never fetched. With `near`, a JPEG file may come at a half, a
    quarter or an eighth of its size, which its decoder makes in less time, and any picture of over 16 megapixels at a
    whole fraction, which takes less memory, but with no side below `near` pixels.
    Raises `ImageError`, which calls the picture `name` or by the name of its file.
    """
    name = printable(name or _name_of(source) or "The image")
    try:
        with _quiet():
            if isinstance(source, Image.Image):
                image = source
            elif isinstance(source, np.ndarray):
                image = _from_array(source, name)
            else:
                image = _open(_read(source, name), name)
                if near is not None:
                    image.draft(None, (near, near))
            _check_size(image, name)
            large = image.width * image.height > _LARGE_PIXELS
            with _LARGE if large else nullcontext():
                image.load()
                _check_size(image, name)  # some formats learn their true size only now
                turn = _turn(image)
                image = _to_rgb(image)
                if large and near is not None:
                    image = image.reduce(max(1, min(image.size) // near))
                return image if turn is None else image.transpose(turn)
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise ImageError(_too_large(name)) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is damaged, or of a kind that is not read here; use {_ACCEPTED}.") from None
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise ImageError(f"{name} is damaged or incomplete; save or send it again.") from error


def list_images(folder: str | Path) -> list[Path]:
    """The image files in `folder` and below by their suffix, sorted; hidden and system files are left out."""
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{printable(str(folder))} is no folder.")
    found = []
    for parent, folders, files in walk_files(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found += [
            Path(parent, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def _read(source: Any, name: str) -> bytes:
    """The bytes of a path, a file object or bytes; of a file never more than `MAX_BYTES` and one."""
    if isinstance(source, str) and _URL.match(source):
        raise ImageError("Pictures are not fetched from addresses; download the picture and give its path.")
    data: Any = None
    try:
        if isinstance(source, str | os.PathLike):
            data = _read_path(Path(source), name)
        elif isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
        elif hasattr(source, "read"):
            data = _read_file(source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name} cannot be read: {reason}.") from None
    if not isinstance(data, bytes):
        wanted = "a path, bytes, a binary file, a PIL image or a numpy array"
        raise ImageError(f"{name} is of the type {type(source).__name__}; give {wanted}.")
    if not data:
        raise ImageError(f"{name} is empty; save or send it again.")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"{name} is larger than {MAX_IMAGE_BYTES // 2**20} MB; save it smaller.")
    return data


def _read_path(path: Path, name: str) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe or a device could block for ever
        raise ImageError(f"{name} is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}; give an image file.")
    with path.open("rb") as file:
        return file.read(MAX_IMAGE_BYTES + 1)


def _read_file(file: IO[bytes]) -> bytes:
    with suppress(OSError, AttributeError):  # from its start, as Pillow does, where it can go back
        file.seek(0)
    return file.read(MAX_IMAGE_BYTES + 1)


class _Metered(io.BytesIO):
    """Bytes that can be read only so often, and only so many times over."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.reads, self.bytes = _MAX_READS, _MAX_READ_AGAIN * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads -= 1
        self.bytes -= len(data)
        if self.reads < 0 or self.bytes < 0:
            raise ValueError("the file has too many parts")
        return data


def _open(data: bytes, name: str) -> Image.Image:
    """The picture with its header read, and no pixel decoded."""
    formats = _formats()
    _check_pieces(data, name)
    if exif := data.startswith(b"\xff\xd8") and _EXIF.search(data):  # Pillow would join any number of EXIF segments
        data = data[: exif.end()] + data[exif.end() :].replace(b"Exif\0\0", b"exif\0\0")
    try:
        image = Image.open(_Metered(data), formats=formats)
    except UnidentifiedImageError:
        if "HEIF" not in formats and _HEIC.match(data):
            raise ImageError(f"{name} is a HEIC picture; to read it, pip install pillow-heif.") from None
        raise
    _check_size(image, name)
    scans = [found[1][1] for found in _SCAN.finditer(data)] if image.format in ("JPEG", "MPO") else []
    parted = bool(image.info.get("progressive")) or any(bands != len(image.getbands()) for bands in scans)
    _check_cost(image, name, parted=parted)
    if image.format == "PNG":
        image.verify()  # Pillow leaves the check sums of pixel data alone; the image is of no use afterwards
        image = Image.open(_Metered(data), formats=formats)
    elif len(scans) * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise ImageError(_too_large(name, f" ({len(scans)} passes over {image.width} x {image.height} pixels)"))
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow opens."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(format for format in FORMATS if format in Image.OPEN)


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if not width or not height:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(_too_large(name, f" ({width} x {height} pixels)"))


def _check_cost(image: Image.Image, name: str, *, parted: bool) -> None:
    """Refuses, by its header, what takes more memory or seconds to decode than a plain picture of `MAX_PIXELS`.

    `parted` are JPEGs in several scans.
    """
    costs = [_COSTS.get(image.format or "", _COST), _COSTS.get(image.mode, _COST)]
    transparent = _COST_TRANSPARENT_RGB if image.mode == "RGB" else _COST_TRANSPARENT
    costs += [transparent] * image.has_transparency_data
    costs += [max(_COST_SCANS, 4 + 2 * len(image.getbands()))] * parted  # all coefficients, two bytes a channel
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(_BITS, (1,)))
        costs.append(_COST_STRIP + bits * max(1, int(tags.get(_SAMPLES, 1))) // 8)
    limit = _MEMORY // max(costs)
    if image.width * image.height > limit:
        found = f"{image.width} x {image.height} pixels as {image.format} in mode {image.mode}"
        raise ImageError(f"{name} is too large ({found}); at most {limit // 10**6} megapixels of that kind are opened.")


def _check_pieces(data: bytes, name: str) -> None:
    """Refuses a TIFF in more strips or tiles than `_MAX_PIECES`, from its first directory, before Pillow lists them."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return
    big = b"\x2b" in data[2:4]  # BigTIFF, with 8 bytes for what has 4, and a longer header
    with suppress(struct.error, OverflowError):  # shorter than it says, which is for Pillow to find
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        for entry in range(min(entries, 2**16)):
            place = start + (8 + 20 * entry if big else 2 + 12 * entry)
            tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
            if tag in _PIECES and count > _MAX_PIECES:
                raise ImageError(
                    f"{name} is cut into {count:,} pieces, at most {_MAX_PIECES:,} are read; save it anew."
                )
            if tag < _PRIVATE and kind != _TEXT and tag not in _PIECES and count > _MAX_NUMBERS:
                raise ImageError(
                    f"{name} has {count:,} numbers in one tag, at most {_MAX_NUMBERS:,} are read; save it anew."
                )


def _too_large(name: str, found: str = "") -> str:
    limits = f"{MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side"
    return f"{name} is too large{found}; at most {limits} are opened."


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings the picture upright; damaged metadata is no reason to refuse it."""
    with suppress(Exception):
        if len(image.info.get("exif", b"")) > _MAX_EXIF:
            return None
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """A copy in mode RGB with nothing but pixels: metadata left on it could turn it a second time."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_usual_scale(np.asarray(image)))
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded to the nearest."""
    wide = values.astype(np.uint32)
    wide += 128
    wide //= 257
    return wide.astype(np.uint8)


def _to_usual_scale(values: np.ndarray) -> np.ndarray:
    """Numbers from a file that does not say which is white: the smallest of 1 (floats), 255, 65535 that holds all."""
    scales = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0).clip(-1e38, 1e38)
    black, largest = min(values.min(), 0), values.max()
    white = next((scale for scale in scales if largest <= scale), largest)
    values -= black
    values *= 255 / (white - black)
    return values.round().astype(np.uint8)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(f"{name} has the shape {array.shape}; expected (H, W) or (H, W, 1, 3 or 4).")
    if array.size == 0 or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"{name} has the shape {array.shape}; expected 1 to {MAX_PIXELS} pixels.")
    if array.dtype == np.uint16:
        array = _to_8_bit(array)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # so written, NaN fails too
            found = f"{array.min():g} to {array.max():g}"
            raise ImageError(f"{name} has floats from {found}; expected 0 to 1, or uint8 for 0 to 255.")
        array = (array.astype(np.float32) * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} has the type {array.dtype}; expected uint8, uint16 or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(array))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Pillow's remarks on odd metadata.

    `warnings.catch_warnings` would put back, at its end, filters that other threads have changed meanwhile.
    """
    filters: Any = warnings.filters
    ignore = ("ignore", None, Warning, re.compile(r"PIL\.|pillow_heif\."), 0)
    filters.insert(0, ignore)
    try:
        yield
    finally:
        with suppress(ValueError):
            filters.remove(ignore)


def _name_of(source: Any) -> str | None:
    """The name of a file without its folders, if `source` has one."""
    path = getattr(source, "name", None) if hasattr(source, "read") else source
    path = getattr(path, "filename", path) if isinstance(path, Image.Image) else path
    return Path(path).name if isinstance(path, str | os.PathLike) else None


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
