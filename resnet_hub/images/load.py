"""Loads an image from any source as an upright 8-bit RGB image.

Images are untrusted: only the listed formats are decoded, `decoding_limits` are checked before pixels are decoded, and
every error of a decoder becomes an `ImageError`.
"""

import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnet_hub.errors import ImageError, format_bytes, printable
from resnet_hub.images import decoding_limits
from resnet_hub.paths import walk_files

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM")  # Pillow opens MPO as JPEG
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
SUFFIXES |= {".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm"}
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or PPM"
HEAD_BYTES = 16  # enough for `is_image`
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0\0\0\0|II[*+]\0|MM\0[*+]|P[1-6]\s|RIFF.{4}WEBP"
    rb"|.{4}ftyp(avif|avis|heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    re.DOTALL,
)
_USUAL_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,4}")
_HEIC = re.compile(rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)
_URL = re.compile(r"\s*(data:|file:|https?:|ftp:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)

_ORIENTATION_TAG = 0x0112  # of EXIF; its value is the transformation of the stored pixels
_MAX_EXIF = 2**16  # bytes; a JPEG segment cannot hold more
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_DARK_16_BIT = 2**12  # 16-bit images whose values all are below it use 12 bits: they would be nearly black
_RAW_16_BIT = re.compile(r"\b(RGB|RGBA|LA|RGBX);16[BLN]")  # how Pillow calls 16 bits a channel in a file
_LARGE_PIXELS = 2**24
_large_image_lock = threading.Lock()  # however many threads there are, one large image is decoded at a time


def load_image(source: Any, *, name: str | None = None, near: int | None = None) -> Image.Image:
    """Load an image as an upright 8-bit RGB image.

    The EXIF orientation is applied, transparency is blended over white, and of an animation the first frame is taken.

    Args:
        source: A path, bytes, a binary file, a PIL image, or a NumPy array of shape (H, W) or (H, W, 1 | 3 | 4) with
            values of uint8, uint16, bool, or floats in 0..1. URLs are not downloaded.
        name: The name of the image in error messages. By default the name of the file.
        near: A length in pixels. If set, the image may be reduced, but neither side below `near`: a JPEG to 1/2,
            1/4 or 1/8 of its size, which decodes faster, and any image of over 16 megapixels at a whole fraction,
            which takes less memory.

    Returns:
        An image in mode RGB without metadata. `source` is not changed.

    Raises:
        ImageError: The source cannot be read, is damaged, of an unsupported format, or too large.
    """
    name = printable(name or _get_file_name(source) or "the image")
    try:
        with _ignore_pillow_warnings():
            if isinstance(source, Image.Image):
                image = source
            elif isinstance(source, np.ndarray):
                image = _from_array(source, name)
            else:
                image = _open(read_encoded(source, name), name)
                if near is not None:
                    image.draft(None, (near, near))
            decoding_limits.check_size(image, name)
            is_large = image.width * image.height > _LARGE_PIXELS
            with _large_image_lock if is_large else nullcontext():
                has_16_bits = any(_RAW_16_BIT.search(str(tile[3])) for tile in getattr(image, "tile", ()))
                image.load()
                decoding_limits.check_size(image, name)  # some formats know their size only now
                _check_depth(image, has_16_bits, name)
                transpose = _get_transpose(image)
                image = _to_rgb(image)
                if is_large and near is not None:
                    image = image.reduce(max(1, min(image.size) // near))
                return image if transpose is None else image.transpose(transpose)
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise decoding_limits.too_large_error(name) from None
    except UnidentifiedImageError:
        reason = "the file is damaged or its format is not supported"
        raise ImageError(f"Cannot read {name}: {reason}. Use {_ACCEPTED}.") from None
    except Exception as error:  # damaged bytes make decoders raise nearly any exception
        raise ImageError(f"Cannot read {name}: the file is damaged or incomplete. Save it again.") from error


def is_image(name: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file is an image: by its suffix or, if it has no usual one, by its content.

    Args:
        name: The name of the file.
        read_head: Reads the first `HEAD_BYTES` bytes of the file; only called if the suffix does not decide.
    """
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES or _USUAL_SUFFIX.fullmatch(suffix):
        return suffix in SUFFIXES
    return bool(_MAGIC.match(read_head()))


def has_image_header(path: Path) -> bool:
    """Whether a file begins as images do; rare formats begin in other ways."""
    try:
        with path.open("rb") as file:
            return bool(_MAGIC.match(file.read(HEAD_BYTES)))
    except OSError:
        return False


def list_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder and its subfolders by their suffix, sorted, without hidden and system files.

    Raises:
        ImageError: The folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{printable(str(folder))} is not a folder. Check the path.")
    paths = []
    for parent, folders, files in walk_files(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        paths += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES)


def read_encoded(source: Any, name: str) -> bytes:
    """Read a path, a file object or bytes. Reads at most `MAX_IMAGE_BYTES + 1`."""
    if isinstance(source, str) and _URL.match(source):
        raise ImageError("Images are not downloaded from URLs. Download the image and give its path.")
    data: Any = None
    try:
        if isinstance(source, str | os.PathLike):
            data = _read_path(Path(source), name)
        elif isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
        elif hasattr(source, "read"):
            with suppress(OSError, AttributeError):  # read from the start if possible, as Pillow does
                source.seek(0)
            data = source.read(decoding_limits.MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ImageError(f"Cannot read {name}: {reason}. Check the file.") from None
    if not isinstance(data, bytes):
        accepted = "a path, bytes, a binary file, a PIL image or a NumPy array"
        kind = type(source).__name__
        remedy = " `Classifier.compute_outputs` takes tensors as `preprocess` returns them." if kind == "Tensor" else ""
        raise ImageError(f"Cannot read {name}: it has the type {kind}. Give {accepted}.{remedy}")
    if not data:
        raise ImageError(f"Cannot read {name}: the file is empty. Save it again.")
    if len(data) > decoding_limits.MAX_IMAGE_BYTES:
        limit = format_bytes(decoding_limits.MAX_IMAGE_BYTES)
        raise ImageError(f"Cannot read {name}: the file is larger than {limit}. Save it smaller.")
    return data


def _read_path(path: Path, name: str) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # reading a pipe or device could block
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise ImageError(f"Cannot read {name}: it is {kind}. Give an image file.")
    with path.open("rb") as file:
        return file.read(decoding_limits.MAX_IMAGE_BYTES + 1)


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header of an image and check the limits. No pixels are decoded."""
    formats = _get_formats()
    decoding_limits.check_tiff_tags(data, name)
    data = decoding_limits.keep_first_exif(data)
    try:
        image = Image.open(decoding_limits.LimitedReader(data), formats=formats)
    except UnidentifiedImageError:
        if "HEIF" not in formats and _HEIC.match(data):
            raise ImageError(f"Cannot read {name}: HEIC needs another package. Run pip install pillow-heif.") from None
        raise
    decoding_limits.check_size(image, name)
    decoding_limits.check_cost(image, name, data)
    if image.format == "PNG":
        image.verify()  # load() ignores the checksums of pixel data; the image cannot be used after verify()
        image = Image.open(decoding_limits.LimitedReader(data), formats=formats)
    return image


@cache
def _get_formats() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that the installed Pillow opens."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(format for format in FORMATS if format in Image.OPEN)


def _get_transpose(image: Image.Image) -> Image.Transpose | None:
    """Return the transformation that turns the image upright. Damaged metadata is ignored."""
    with suppress(Exception):
        if len(image.info.get("exif", b"")) <= _MAX_EXIF:
            return _TRANSPOSE.get(image.getexif().get(_ORIENTATION_TAG, 1))
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Copy an image to mode RGB without its metadata, whose orientation could be applied a second time."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_rescale_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _check_depth(image: Image.Image, has_16_bits: bool, name: str) -> None:
    """Raise `ImageError` for a 16-bit image that uses 12 bits or fewer."""
    if image.mode.startswith("I"):
        largest = int(np.asarray(image).max())
        lowest = 1 if image.mode.startswith("I;16") else 256  # 32 bits hold the values of 8 bits too
    elif has_16_bits and image.mode in ("RGB", "RGBA", "LA"):  # Pillow kept the upper 8 bits
        extrema: Any = image.getextrema()[: 1 if image.mode == "LA" else 3]
        largest, lowest = max(high for _, high in extrema) << 8, 1
    else:
        return
    if lowest <= largest < _DARK_16_BIT:
        raise _depth_error(name, largest)


def _depth_error(name: str, largest: float) -> ImageError:
    return ImageError(
        f"Cannot read {name}: it has 16 bits but its largest value is {largest:.0f}, as of 12 bits or fewer, which is "
        "nearly black. Multiply the values so that white is 65535, by 16 for 12 bits, in all images alike."
    )


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale 0..65535 to 0..255, rounded to the nearest."""
    wide = values.astype(np.uint32)
    wide += 128
    wide //= 257
    return wide.astype(np.uint8)


def _rescale_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale values of an unknown range to 0..255.

    White is the smallest of 1 (only of floats), 255 and 65535 that no value exceeds, else the largest value.
    """
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
        raise ImageError(f"Cannot read {name}: its shape is {array.shape}. Give (H, W) or (H, W, 1, 3 or 4).")
    if array.size == 0 or array.shape[0] * array.shape[1] > decoding_limits.MAX_PIXELS:
        raise ImageError(
            f"Cannot read {name}: its shape is {array.shape}. Give 1 to {decoding_limits.MAX_PIXELS} pixels."
        )
    if array.dtype == np.uint16:
        if 0 < array.max() < _DARK_16_BIT:
            raise _depth_error(name, array.max())
        array = _to_8_bit(array)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # also true for NaN
            values = f"{array.min():g} to {array.max():g}"
            raise ImageError(f"Cannot read {name}: its floats are {values}. Give 0 to 1, or uint8 for 0 to 255.")
        array = (array.astype(np.float32) * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"Cannot read {name}: its type is {array.dtype}. Give uint8, uint16 or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(array))


@contextmanager
def _ignore_pillow_warnings() -> Iterator[None]:
    """Ignore the warnings of Pillow about unusual metadata.

    `warnings.catch_warnings` is not thread-safe: at its end it would undo changes that other threads made.
    """
    filters: Any = warnings.filters
    ignore = ("ignore", None, Warning, re.compile(r"PIL\.|pillow_heif\."), 0)
    filters.insert(0, ignore)
    try:
        yield
    finally:
        with suppress(ValueError):
            filters.remove(ignore)


def _get_file_name(source: Any) -> str | None:
    """Return the name of the file without its folder, if the source has one."""
    path = getattr(source, "name", None) if hasattr(source, "read") else source
    path = getattr(path, "filename", path) if isinstance(path, Image.Image) else path
    return Path(path).name if isinstance(path, str | os.PathLike) else None
