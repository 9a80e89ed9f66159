import io
import os
import struct
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import ConfigError, ImageError
from resnet_hub.images.decoding_limits import MAX_PIXELS
from resnet_hub.images.load import _get_formats, list_images, load_image
from resnet_hub.images.transforms import crop_box, eval_transform

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def quadrants(width=48, height=32):
    """Its corners are red, green, blue and white, clockwise from the top left."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    x, y = width // 2, height // 2
    for corner, color in {(0, 0): RED, (x, 0): GREEN, (x, y): BLUE, (0, y): WHITE}.items():
        draw.rectangle((*corner, corner[0] + x - 1, corner[1] + y - 1), fill=color)
    return image


def assert_same(image, expected, tolerance=0):
    assert image.mode == "RGB"
    assert image.size == expected.size
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).max()
    assert difference <= tolerance, f"pixels differ by {difference}"


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=2, height=2, *, extra=b""):
    """A PNG that claims any size, with the data of 2 x 2 black pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(bytes(14))) + chunk(b"IEND")


def refused(source, match, name="photo.jpg"):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=match) as caught:
            load_image(source, name=name)
    message = str(caught.value)
    assert message.startswith(f"Cannot read {name}: ")
    assert message.endswith(".") and "\n" not in message
    assert not seen


# Sources and formats


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 8),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 24),
        ("HEIF", {"quality": 95, "chroma": 444}, 24),
    ],
)
def test_every_format_from_every_kind_of_source(tmp_path, format, options, tolerance):
    _get_formats()  # registers pillow_heif, so that Pillow writes HEIF too
    data = encoded(quadrants(), format, **options)
    path = tmp_path / "no suffix needed"
    path.write_bytes(data)
    read_once = io.BytesIO(data)
    read_once.read()
    with path.open("rb") as file, Image.open(path) as lazy:
        for source in (path, str(path), data, bytearray(data), memoryview(data), file, read_once, lazy):
            assert_same(load_image(source), quadrants(), tolerance)


def test_an_mpo_of_two_phone_images_gives_the_first():
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[noise(48, 32)], quality=95, subsampling=0)
    assert_same(load_image(data), quadrants(), tolerance=8)


def test_a_motion_photo_with_a_video_after_the_jpeg():
    film = np.random.default_rng(0).bytes(2**21)
    assert load_image(encoded(quadrants(), "JPEG") + film).size == (48, 32)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_and_the_first_page(format):
    options = {"lossless": True} if format == "WEBP" else {}
    others = [Image.new("RGB", (48, 32), BLUE), Image.new("RGB", (48, 32), GREEN)]
    data = encoded(quadrants(), format, save_all=True, append_images=others, **options)
    assert_same(load_image(data), quadrants())


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
def test_extreme_shapes(size):
    expected = noise(*size)
    assert_same(load_image(encoded(expected, "PNG")), expected)


STORED = {  # EXIF orientation -> how an upright array is stored; "row 0 is the visual right side" and so on
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF", "PIL"])
def test_every_orientation_is_applied(orientation, format):
    _get_formats()
    expected = quadrants()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(expected))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": "4:4:4", "chroma": 444, "lossless": format == "WEBP"}
    if format == "PIL":
        stored.info["exif"] = exif.tobytes()
        source = stored
    else:
        source = encoded(stored, format, exif=exif.tobytes(), **options)
    image = load_image(source)
    assert_same(image, expected, tolerance={"JPEG": 8, "HEIF": 24, "AVIF": 24}.get(format, 0))
    assert_same(load_image(image), image)  # it is not rotated again


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_damaged_metadata_is_ignored(exif):
    assert_same(load_image(encoded(quadrants(), "PNG", exif=exif)), quadrants())
    assert load_image(encoded(quadrants(), "JPEG", exif=exif)).size == (48, 32)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_same(load_image(encoded(quadrants(), "PNG", exif=exif)), quadrants())


def test_source_images_and_arrays_are_not_changed():
    stored = quadrants()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.info["exif"] = exif.tobytes()
    before = dict(stored.info)
    load_image(stored).paste(BLUE, (0, 0, 10, 10))
    assert stored.info == before
    assert_same(stored, quadrants())
    array = np.array(quadrants())
    load_image(array).paste(BLUE, (0, 0, 10, 10))
    assert_same(Image.fromarray(array), quadrants())


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "RGBX", "HSV"])
def test_modes_that_pillow_converts(mode):
    image = quadrants().convert(mode)
    assert_same(load_image(image), image.convert("RGB"))


def test_transparency_is_blended_over_white():
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 128))
    expected = Image.new("RGB", (2, 1), "white")
    expected.putpixel((1, 0), (127, 127, 127))
    for source in (rgba, encoded(rgba, "PNG"), encoded(rgba, "TIFF"), np.array(rgba), rgba.convert("RGBa")):
        assert_same(load_image(source), expected)
    gray = Image.new("LA", (2, 1), (0, 0))
    gray.putpixel((1, 0), (0, 128))
    for source in (gray, encoded(gray, "PNG"), gray.convert("La")):
        assert_same(load_image(source), expected)


def test_transparent_colors_of_palettes_and_of_rgb_and_gray():
    palette = quadrants().quantize(4)
    index = palette.getpixel((0, 0))  # of the red corner
    expected = quadrants()
    expected.paste("white", (0, 0, 24, 16))
    assert_same(load_image(encoded(palette, "PNG", transparency=index)), expected)
    alphas = bytes(0 if other == index else 255 for other in range(4))
    assert_same(load_image(encoded(palette, "PNG", transparency=alphas)), expected)
    assert_same(load_image(encoded(palette, "GIF", transparency=index)), expected)
    assert_same(load_image(encoded(quadrants(), "PNG", transparency=RED)), expected)
    assert_same(
        load_image(encoded(Image.new("L", (1, 1), 7), "PNG", transparency=7)), Image.new("RGB", (1, 1), "white")
    )


def test_cmyk_jpeg():
    data = encoded(quadrants().convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert_same(load_image(data), quadrants(), tolerance=12)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bits_are_scaled_not_clipped(mode):
    gray = np.linspace(0, 65535, 1024).round().astype("int64").reshape(32, 32)
    image = Image.fromarray(gray.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]))
    assert image.mode == mode
    expected = Image.fromarray((gray / 257).round().astype(np.uint8)).convert("RGB")
    assert_same(load_image(image), expected)
    assert_same(load_image(encoded(image, "TIFF")), expected)
    if mode == "I;16":
        assert_same(load_image(encoded(image, "PNG")), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 6e29, 1e30], [0, 153, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([-3e38, 1e37, 3e38], [0, 140, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_floats_of_unknown_scale(values, expected):
    image = load_image(Image.fromarray(np.array([values], np.float32)))
    assert np.asarray(image)[0, :, 0].tolist() == expected


def test_32_bit_integers_that_hold_bytes_stay_bytes():
    image = Image.fromarray(np.array([[0, 100, 255]], np.int32))
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [0, 100, 255]


# Arrays


def test_arrays_of_every_accepted_type_and_shape():
    rgb = np.array(quadrants())
    gray = rgb[:, :, 0]
    assert_same(load_image(rgb), quadrants())
    assert_same(load_image(rgb[::-1, ::-1]), Image.fromarray(np.ascontiguousarray(rgb[::-1, ::-1])))
    assert_same(load_image(rgb.astype(np.uint16) * 257), quadrants())
    for kind in (np.float16, np.float32, np.float64):
        assert_same(load_image((rgb / 255).astype(kind)), quadrants())
    for array in (gray, gray[:, :, None], gray > 0):
        assert_same(load_image(array), Image.fromarray(gray).convert("RGB"))
    opaque = np.dstack([rgb, np.full_like(gray, 255)])
    assert_same(load_image(opaque), quadrants())


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"shape is \(3, 8, 9\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"shape is \(2, 8, 9, 3\)"),
        (np.zeros((8, 9, 2), np.uint8), r"shape is \(8, 9, 2\)"),
        (np.zeros(5, np.uint8), r"shape is \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape is \(0, 5, 3\)"),
        (np.broadcast_to(np.uint8(0), (100_000, 100_000)), r"shape is \(100000, 100000\)"),
        (np.zeros((2, 2), np.int64), "type is int64"),
        (np.zeros((2, 2), object), "type is object"),
        (np.full((2, 2), 255.0), "floats are 255 to 255"),
        (np.full((2, 2), np.nan), "floats are nan to nan"),
        (np.full((2, 2), -0.5), "floats are -0.5 to -0.5"),
    ],
)
def test_invalid_arrays_raise_image_error(array, match):
    refused(array, match)


# Errors


@pytest.mark.parametrize(
    "address",
    ["http://a.b/c.jpg", "HTTPS://a.b/c.jpg", " https://a.b", "ftp://a.b/c", "data:image/png;base64,AA", "file:///c"],
)
def test_urls_are_never_downloaded(address):
    with pytest.raises(ImageError, match="not downloaded from URLs"):
        load_image(address)


JPEG, PNG, WEBP = (encoded(noise(24, 16), format) for format in ("JPEG", "PNG", "WEBP"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_file(format, share):
    _get_formats()
    data = encoded(noise(64, 64), format)
    refused(data[: int(len(data) * share)], "damaged")


@pytest.mark.parametrize(
    "data",
    [
        b"This is a text that calls itself photo.jpg.",
        bytes(1000),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"%PDF-1.7\n",
        b"8BPS" + bytes(200),
        b"PK\x03\x04" + bytes(200),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        png(width=0),
    ],
)
def test_unsupported_formats_raise_image_error(data):
    refused(data, r"is damaged or its format is not supported\. Use JPEG, PNG")


def test_the_suffix_does_not_choose_a_decoder(tmp_path):
    path = tmp_path / "drawing.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match=r"^Cannot read drawing\.eps: the file is damaged or its format"):
        load_image(path)


def test_wrong_checksums_raise_image_error():
    assert load_image(png()).size == (2, 2)
    for kind in (b"IHDR", b"IDAT"):
        data = bytearray(png())
        start = data.index(kind)
        length = int.from_bytes(data[start - 4 : start], "big")
        data[start + 4 + length] ^= 1
        refused(bytes(data), "damaged")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (70_000, 1), (12_000, 10_001)])
def test_decompression_bombs_raise_image_error_by_their_header(size):
    refused(png(*size), "too large")
    gif = bytearray(encoded(quadrants(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    refused(bytes(gif), "too large")


def test_a_header_larger_than_its_file_raises_image_error():
    refused(png(10_000, 10_000), "damaged")  # of a size that Pillow warns about


def test_limits_apply_to_pillow_images(monkeypatch):
    monkeypatch.setattr("resnet_hub.images.decoding_limits.MAX_PIXELS", 100)
    monkeypatch.setattr("resnet_hub.images.decoding_limits.MAX_SIDE", 20)
    refused(Image.new("RGB", (11, 10)), r"too large \(11 x 10 pixels\)")
    refused(Image.new("RGB", (21, 1)), r"too large \(21 x 1 pixels\)")
    assert load_image(Image.new("RGB", (10, 10))).size == (10, 10)
    refused(Image.new("RGB", (0, 10)), "no pixels")


def test_files_over_the_size_limit_raise_image_error(monkeypatch, tmp_path):
    monkeypatch.setattr("resnet_hub.images.decoding_limits.MAX_IMAGE_BYTES", len(PNG) - 1)
    (tmp_path / "photo.jpg").write_bytes(PNG)
    for source in (PNG, io.BytesIO(PNG), tmp_path / "photo.jpg"):
        refused(source, "is larger than")


ZEROS = zlib.compress(bytes(2**25))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + ZEROS),
        chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS),
        chunk(b"iCCP", b"a\0\0" + ZEROS),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))) * 100,
        chunk(b"teXt") * 300_000,
    ],
)
def test_chunks_that_expand_raise_image_error(extra):
    refused(png(extra=extra), "damaged")


def test_small_files_decode_within_seconds():
    gif = encoded(quadrants().quantize(4), "GIF")
    blocks = gif.index(b"\x2c")
    refused(gif[:blocks] + b"\x21\xfe\x01a\0" * 1_000_000 + gif[blocks:], "damaged")
    jpeg = encoded(quadrants(), "JPEG")
    refused(jpeg[:2] + b"\xff\xfe\0\3a" * 1_000_000 + jpeg[2:], "damaged")
    jpeg = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    assert load_image(jpeg).size == (2000, 2000)
    scan = jpeg[jpeg.rindex(b"\xff\xc4", 0, jpeg.rindex(b"\xff\xda")) : -2]
    refused(jpeg[:-2] + scan * 600 + jpeg[-2:], "too large .*scans of 2000 x 2000 pixels")


def test_tags_that_share_bytes():
    def tiff(tags, size):
        entries = b"".join(struct.pack("<HHII", 40_000 + tag, 1, size - 8, 0) for tag in range(tags))
        return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries).ljust(size, b"\0")

    tracemalloc.start()
    refused(tiff(1000, 2**20), "damaged")  # 1 GB of tags in 1 MB
    segment = b"Exif\0\0" + tiff(1000, 65_000)
    segments = (b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment) * 8
    jpeg = encoded(quadrants(), "JPEG")
    assert load_image(jpeg[:2] + segments + jpeg[20:]).size == (48, 32)  # 20: skips JFIF, whose resolution counts too
    assert load_image(encoded(quadrants(), "PNG", exif=tiff(1000, 2**20))).size == (48, 32)
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


def test_only_the_first_exif_segment_is_read():
    def segment(orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = exif.tobytes()
        return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data

    jpeg = encoded(quadrants(), "JPEG")
    assert load_image(jpeg[:2] + segment(6) + segment(1) + jpeg[2:]).size == (32, 48)


def test_paths_that_are_not_regular_files_raise_image_error(tmp_path):
    refused(b"", "is empty")
    (tmp_path / "photo.jpg").touch()
    refused(tmp_path / "photo.jpg", "is empty")
    refused(tmp_path / "nothing.jpg", "No such file")
    refused(tmp_path, "is a folder")
    refused("a\0b.jpg", "null")
    refused("a" * 5000, "File name too long")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "not a regular file")


def test_sources_of_another_type(tmp_path):
    (tmp_path / "photo.jpg").write_text("text")
    with (tmp_path / "photo.jpg").open() as text:
        refused(text, "has the type TextIOWrapper")
    closed = io.BytesIO(PNG)
    closed.close()
    refused(closed, "closed file")
    for source in (None, 3, torch.zeros(3, 2, 2), {"image": 1}):
        refused(source, f"has the type {type(source).__name__}")
    refused(torch.zeros(3, 2, 2), "`Classifier.compute_outputs` takes tensors as `preprocess` returns them")


def test_the_message_names_the_file(tmp_path):
    def message(source, **name):
        with pytest.raises(ImageError) as caught:
            load_image(source, **name)
        return str(caught.value)

    bad = tmp_path / "holiday.jpg"
    bad.write_text("text")
    assert message(bad).startswith("Cannot read holiday.jpg: the file is damaged")
    assert message(str(bad)).startswith("Cannot read holiday.jpg: the file is damaged")
    with bad.open("rb") as file:
        assert message(file).startswith("Cannot read holiday.jpg: the file is damaged")
    assert message(bad, name="IMG_1.jpg").startswith("Cannot read IMG_1.jpg: the file is damaged")
    assert message(b"text").startswith("Cannot read the image: the file is damaged")
    strange = message(b"text", name="a\n\x1b[31m\udc80" + "b" * 500)
    assert strange.startswith("Cannot read a??[31m?bb") and len(strange) < 400


def test_heic_without_pillow_heif(monkeypatch):
    _get_formats()
    data = encoded(quadrants(), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    _get_formats.cache_clear()
    try:
        refused(data, "pip install pillow-heif")
        assert load_image(PNG).size == (24, 16)
    finally:
        _get_formats.cache_clear()


@cases(150)
@given(st.sampled_from([b"", JPEG[:3], PNG[:16], WEBP[:16], b"GIF89a", b"BM", b"II*\0"]), st.binary(max_size=300))
def test_random_bytes_load_or_raise_image_error(start, rest):
    loads_or_raises(start + rest)


@cases(300)
@given(
    st.sampled_from([JPEG, PNG, WEBP]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
)
def test_mutations_load_or_raise_image_error(data, changes):
    mutated = bytearray(data)
    for position, new in changes:
        start = int(position * len(mutated))
        mutated[start : start + len(new)] = new
    loads_or_raises(bytes(mutated))


def loads_or_raises(data):
    try:
        image = load_image(data)
    except ImageError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= MAX_PIXELS


# Threads and global state


def test_global_state_stays_and_warnings_are_hidden():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    corrupt = encoded(quadrants(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + bytes(30))
    with pytest.warns(UserWarning, match="EXIF"):  # Pillow itself does
        Image.open(io.BytesIO(corrupt)).getexif()
    sources = [png(10_000, 10_000), *[corrupt, PNG, JPEG, b"text"] * 8]

    def outcome(data):
        try:
            return load_image(data).tobytes()
        except ImageError as error:
            return str(error)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        expected = [outcome(data) for data in sources]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(outcome, sources)) == expected
    assert not seen
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


# Folders


def test_images_of_a_folder(tmp_path):
    wanted = ["b.JPG", "a/2.png", "a/10.heic", "c.webp", "ü.avif"]
    junk = [
        ".hidden.jpg",
        "._b.JPG",
        "Thumbs.db",
        "notes.txt",
        "__MACOSX/b.jpg",
        ".git/x.png",
        "a/.thumbs/2.png",
        "jpg",
    ]
    for name in wanted + junk:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert list_images(tmp_path) == sorted(tmp_path / name for name in wanted)
    assert list_images(str(tmp_path)) == list_images(tmp_path)
    assert list_images(tmp_path / "folder.jpg") == []
    for missing in (tmp_path / "nothing", tmp_path / "b.JPG"):
        with pytest.raises(ImageError, match="is not a folder"):
            list_images(missing)


# Transforms


def config(**changes):
    return ResNetConfig(id2label={0: "a", 1: "b"}, depths=(1, 1), width=8, **changes)


def reference(config, library):
    """torchvision's pipeline for a config."""
    gray = [library.Grayscale(1)] if config.in_channels == 1 else []
    return library.Compose(
        [
            *gray,
            library.Resize(config.resize_size, InterpolationMode(config.interpolation), antialias=True),
            library.CenterCrop(config.image_size),
            transforms.ToTensor(),  # the one of v2 is deprecated
            library.Normalize(config.mean, config.std),
        ]
    )


@pytest.mark.parametrize("library", [transforms, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 32, "crop_pct": 1.0, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
        {"image_size": 33, "crop_pct": 0.9},
        {"image_size": 64, "crop_pct": 0.1},
        {"image_size": 28, "in_channels": 1, "mean": (0.1307,), "std": (0.3081,)},
    ],
    ids=["imagenet", "cifar", "odd", "narrow", "gray"],
)
def test_the_exact_transform_equals_torchvision(library, interpolation, changes):
    settings = config(interpolation=interpolation, **changes)
    ours, theirs = eval_transform(settings), reference(settings, library)
    for seed, size in enumerate([(640, 480), (481, 641), (32, 32), (31, 33), (5, 7), (257, 256), (1, 1), (300, 20)]):
        image = noise(*size, seed=seed)
        ours_now, theirs_now = ours(image), theirs(image)
        assert ours_now.dtype == torch.float32
        assert ours_now.shape == (settings.in_channels, settings.image_size, settings.image_size)
        assert torch.equal(ours_now, theirs_now), f"{size} differs"


def test_an_extreme_image_is_cropped_before_it_is_resized(monkeypatch):
    transform = eval_transform(config())
    for size in ((20_000, 1), (1, 20_000), (65_535, 1)):
        assert transform(Image.new("RGB", size, RED)).shape == (3, 224, 224)
    huge = eval_transform(config(image_size=2048, crop_pct=0.1))
    assert huge(noise(300, 200)).shape == (3, 2048, 2048)

    smooth = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    for image in (smooth, ImageOps.mirror(smooth.rotate(90, expand=True))):
        exact = transform(image)
        monkeypatch.setattr("resnet_hub.images.transforms._MAX_RESIZED_PIXELS", 0)
        assert torch.allclose(transform(image), exact, atol=2 / 255 / 0.224)
        monkeypatch.undo()


def test_other_numbers_of_channels_raise_config_error():
    with pytest.raises(ConfigError, match="4 channels"):
        eval_transform(config(in_channels=4, mean=(0.5,) * 4, std=(0.5,) * 4))


def test_crop_box():
    assert crop_box(config(), (256, 256)) == (16, 16, 240, 240)
    assert crop_box(config(), (1024, 512)) == (288, 32, 736, 480)
    assert crop_box(config(), (512, 1024)) == (32, 288, 480, 736)
    assert crop_box(config(crop_pct=1.0), (50, 50)) == (0, 0, 50, 50)


@cases(200)
@given(st.integers(1, 65_535), st.integers(1, 65_535), st.integers(1, 2048), st.floats(0.1, 1))
def test_the_crop_box_is_inside_the_image(width, height, image_size, crop_pct):
    left, top, right, bottom = crop_box(config(image_size=image_size, crop_pct=crop_pct), (width, height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_the_crop_box_is_the_region_of_the_transform():
    settings = config(image_size=64, mean=(0.0,) * 3, std=(1.0,) * 3)
    for size in ((300, 200), (200, 300), (97, 503)):
        left, top, right, bottom = (round(edge) for edge in crop_box(settings, size))
        marked = Image.new("RGB", size)
        marked.paste(WHITE, (left, top, right, bottom))
        assert eval_transform(settings)(marked).mean() > 0.97
        around = Image.new("RGB", size, WHITE)
        around.paste((0, 0, 0), (left, top, right, bottom))
        assert eval_transform(settings)(around).mean() < 0.03


# Faster steps for large images


@pytest.mark.parametrize(
    ("size", "near", "expected"),
    [
        ((1000, 800), 400, (500, 400)),
        ((1000, 800), 401, (1000, 800)),
        ((801, 1601), 100, (101, 201)),
        ((1000, 800), None, (1000, 800)),
        ((100, 80), 400, (100, 80)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_is_reduced_but_not_below_near(size, near, expected, options):
    data = encoded(quadrants(*size), "JPEG", quality=95, **options)
    image = load_image(data, near=near)
    assert image.mode == "RGB" and image.size == expected
    whole = load_image(data).resize(expected, Image.Resampling.BOX)
    assert np.abs(np.asarray(image, int) - np.asarray(whole, int)).mean() < 3  # blocks at the edge differ


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_reduced_jpeg_in_other_modes(mode):
    data = encoded(quadrants(800, 800).convert(mode), "JPEG", quality=95)
    assert_same(load_image(data, near=100), load_image(data).resize((100, 100), Image.Resampling.BOX), tolerance=90)
    assert load_image(data, near=100).getpixel((10, 10)) == load_image(data).getpixel((80, 80))


def test_a_reduced_jpeg_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(quadrants(800, 400).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    assert_same(load_image(data, near=100), quadrants(200, 100), tolerance=90)


def test_other_formats_are_reduced_only_if_very_large():
    assert load_image(encoded(quadrants(800, 400), "PNG"), near=10).size == (800, 400)
    assert load_image(Image.new("RGB", (6000, 3000), "red"), near=700).size == (1500, 750)
    assert load_image(Image.new("RGB", (20_000, 1000), "red"), near=700).size == (20_000, 1000)


@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (300, 2000), (512, 512)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_fast_transform_differs_by_one_level_at_most(size, interpolation):
    config = ResNetConfig(image_size=112, interpolation=interpolation, std=(1, 1, 1), mean=(0, 0, 0))
    image = Image.effect_noise((size[0] // 10, size[1] // 10), 80).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    gap = (eval_transform(config, exact=False)(image) - eval_transform(config)(image)).abs() * 255
    assert gap.mean() < 1 and gap.max() < 16
