"""An exported web page in Chromium: it agrees with Python, and asks no other server for anything.

Tests that run a model need the npm package onnxruntime-web; `RESNET_HUB_ONNXRUNTIME_WEB` names its folder.
"""

import base64
import http.server
import io
import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import ROOT
from helpers.checkpoints import make_model
from PIL import Image

from resnet_hub import Classifier
from resnet_hub.config import Reliability, ResNetConfig
from resnet_hub.images.transforms import resize_and_crop
from resnet_hub.included_models import INCLUDED_FOLDER
from resnet_hub.inference.web_export import RUNTIME_URL, RUNTIME_VERSION, build_web_page, export_web
from resnet_hub.model import ResNet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXAMPLES = sorted((ROOT / "resnet_hub" / "demo" / "examples").glob("*.jpg"))
CIFAR = INCLUDED_FOLDER / "resnet20-cifar10"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """A static server, without headers of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def runtime() -> Path:
    folder = os.environ.get("RESNET_HUB_ONNXRUNTIME_WEB")
    if not folder:
        pytest.skip(f"RESNET_HUB_ONNXRUNTIME_WEB does not name a copy of onnxruntime-web {RUNTIME_VERSION}.")
    return Path(folder)


@pytest.fixture(scope="module")
def site(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the CIFAR-10 model with a local runtime."""
    with serving_files(export_web(CIFAR, tmp_path_factory.mktemp("site") / "web", runtime=runtime)) as address:
        yield address


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        yield page


def read_answer(page: "Page") -> list[dict[str, Any]]:
    """Labels and scores as the page shows them, once there are any."""
    page.locator("#best li").first.wait_for(state="attached")
    rows = page.evaluate("[...document.querySelectorAll('li')].map((row) => ({...row.dataset}))")
    return [{"label": row["label"], "score": float(row["score"])} for row in rows]


def classify(page: "Page", path: Path) -> list[dict[str, Any]]:
    page.evaluate("document.getElementById('best').replaceChildren()")
    page.locator("#file").set_input_files(path)
    return read_answer(page)


# Resizing


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page without a runtime, for its other scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, content in build_web_page(make_model(ResNetConfig(depths=(1,), width=8, id2label={0: "a"}))).items():
        (folder / name).write_bytes(content)
    (folder / "blank.html").write_text("<!doctype html>")
    with serving_files(folder) as address:
        yield address


RESIZE = """async ([rgba, width, height, config]) => {
  const { resizeAndCrop } = await import("./resize.js");
  const bytes = Uint8Array.from(atob(rgba), (character) => character.charCodeAt(0));
  const read = (left, top, columns, rows) => {
    const region = new Uint8ClampedArray(columns * rows * 4);
    for (let y = 0; y < rows; y++) {
      const start = ((top + y) * width + left) * 4;
      region.set(bytes.subarray(start, start + columns * 4), y * columns * 4);
    }
    return region;
  };
  return [...resizeAndCrop(read, width, height, config)];
}"""


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_resizing_equals_pillow_to_the_bit(
    browser: "Browser", scripts: str, interpolation: str, crop_mode: str
) -> None:
    """Smaller and larger images of any ratio, in color and in gray, also noise, where each weight counts."""
    random.seed(0)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{scripts}blank.html")
        sizes = [(32, 32), (1, 1), (7, 300), (301, 5), (640, 359), (35, 36), (200, 601)]
        sizes += [(random.randint(2, 400), random.randint(2, 400)) for _ in range(8)]
        for number, (width, height) in enumerate(sizes):
            changes: dict[str, Any] = {"interpolation": interpolation, "crop_mode": crop_mode}
            if number % 3 == 2:
                changes |= {"in_channels": 1, "mean": (0.5,), "std": (0.5,)}
            side, crop = random.choice([(32, 0.875), (33, 0.9), (64, 1.0), (24, 0.5)])
            config = ResNetConfig(image_size=side, crop_pct=crop, id2label={0: "a"}, **changes)
            image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))
            keys = ("image_size", "resize_size", "crop_mode", "interpolation", "in_channels")
            rgba = base64.b64encode(image.convert("RGBA").tobytes()).decode()
            settings = {key: getattr(config, key) for key in keys}
            pixels = page.evaluate(RESIZE, [rgba, width, height, settings])
            expected = np.asarray(resize_and_crop(config, image)).reshape(-1)
            assert np.array_equal(pixels, expected), (width, height, config)


# The model


def write_photos(folder: Path) -> list[Path]:
    """20 files as people have them: photos in several formats, sizes and ratios, turned, transparent and gray."""
    originals = [Image.open(path).convert("RGB") for path in EXAMPLES]
    paths = [*EXAMPLES]

    def save(image: Image.Image, name: str, **options: Any) -> None:
        image.save(folder / name, **options)
        paths.append(folder / name)

    for number, image in enumerate(originals):
        width, height = image.size
        save(image.resize((width // 3, height // 2)), f"{number}.png")
        save(image.crop((0, height // 4, width, height // 2)), f"wide {number}.webp", quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(originals[0].transpose(Image.Transpose.ROTATE_90), "turned.jpg", exif=turned, quality=95)
    save(originals[1].resize((4000, 3000)), "large.jpg", quality=90)
    faded = originals[2].copy()
    faded.putalpha(Image.linear_gradient("L").resize(faded.size))
    save(faded, "transparent.png")
    save(originals[3].convert("L"), "gray.jpg", quality=90)
    save(originals[4].quantize(), "palette.png")
    return paths


def test_the_page_agrees_with_python_on_20_photos(page: "Page", site: str, tmp_path: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(site)
    classifier = Classifier.from_pretrained(CIFAR, precision="fp32")
    photos = write_photos(tmp_path)
    assert len(photos) == 20
    for path in photos:
        answer, expected = classify(page, path), classifier(path, top_k=10)
        assert answer[0]["label"] == expected[0]["label"], path.name
        scores = {row["label"]: row["score"] for row in answer}
        assert max(abs(scores[row["label"]] - row["score"]) for row in expected) < 0.02, path.name
    assert all(url.startswith((site, f"blob:{site}")) for url in requests)


@pytest.mark.parametrize("changes", [{"interpolation": "bicubic", "crop_mode": "squash"}, {"in_channels": 1}])
def test_other_preprocessing(page: "Page", runtime: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    trained = ResNet.from_pretrained(CIFAR)
    weights = trained.state_dict()
    if "in_channels" in changes:
        changes = changes | {"mean": (0.45,), "std": (0.25,)}
        weights["conv1.weight"] = weights["conv1.weight"].sum(1, keepdim=True)
    model = ResNet(ResNetConfig(**vars(trained.config) | changes)).eval()
    model.load_state_dict(weights)
    model.save_pretrained(tmp_path / "model")
    classifier = Classifier(model, precision="fp32", exact=True)
    with serving_files(export_web(tmp_path / "model", runtime=runtime)) as address:
        page.goto(address)
        for path in EXAMPLES[:3]:
            scores = {row["label"]: row["score"] for row in classify(page, path)}
            for row in classifier(path, top_k=10):
                assert scores[row["label"]] == pytest.approx(row["score"], abs=0.02)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_label_below_the_threshold_is_not_sure(page: "Page", runtime: Path, tmp_path: Path, threshold: float) -> None:
    model = ResNet.from_pretrained(CIFAR)
    model.config = replace(model.config, reliability=Reliability(threshold=threshold))
    with serving_files(export_web(model.save_pretrained(tmp_path / "model"), runtime=runtime)) as address:
        page.goto(address)
        best = classify(page, EXAMPLES[0])[0]
        text = f"{best['label']}, {best['score']:.1%}"
        page.get_by_text(f"Not sure: {text}" if threshold else text, exact=True).wait_for()
        assert not page.locator("#doubt").is_visible()
        page.get_by_role("button", name="Camera").click()
        page.get_by_text("The camera is on").wait_for()
        assert page.locator("#doubt").is_visible() == bool(threshold)


def test_a_pasted_and_a_dropped_photo(page: "Page", site: str) -> None:
    page.goto(site)
    data = base64.b64encode(EXAMPLES[0].read_bytes()).decode()
    expected = classify(page, EXAMPLES[0])
    for name, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate("document.getElementById('best').replaceChildren()")
        page.evaluate(
            """([data, name, field]) => {
              const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
              const [Kind] = { paste: [ClipboardEvent], drop: [DragEvent] }[name];
              document.body.dispatchEvent(new Kind(name, { [field]: transfer, bubbles: true, cancelable: true }));
            }""",
            [data, name, field],
        )
        assert read_answer(page) == expected


def test_the_camera_labels_until_it_is_switched_off(page: "Page", site: str) -> None:
    page.goto(site)
    page.get_by_role("button", name="Camera").click()
    page.locator("#best li").nth(4).wait_for()
    assert page.get_by_role("button", name="Camera").get_attribute("aria-pressed") == "true"
    assert page.locator("#video").is_visible()
    page.get_by_role("button", name="Camera").click()
    page.get_by_text("Ready. Choose a photo.").wait_for()
    assert not page.locator("#video").is_visible()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_a_file_that_is_no_photo(page: "Page", site: str, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no photo")
    page.goto(site)
    classify(page, EXAMPLES[0])
    page.locator("#file").set_input_files(tmp_path / "notes.jpg")
    page.get_by_text("This browser cannot read notes.jpg. Choose a JPEG or PNG file.").wait_for()
    assert page.locator("#best li").count() == 0


def test_phone_width_themes_and_all_labels(browser: "Browser", site: str) -> None:
    backgrounds = set()
    for scheme in ("light", "dark"):
        with browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(site)
            classify(page, EXAMPLES[0])
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            for control in page.locator(".button").all():
                box = control.bounding_box()
                assert box and box["height"] >= 44
            assert page.locator("#best li").count() == 5
            page.get_by_text("5 more labels").click()
            assert page.locator("li:visible").count() == 10
            widths = [bar.evaluate("bar => bar.style.width") for bar in page.locator("li .bar").all()]
            assert len(widths) == 10 and widths[0] != "0%"
    assert len(backgrounds) == 2


def test_labels_are_text(page: "Page", runtime: Path, tmp_path: Path) -> None:
    labels = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", '猫 "naïve" &amp;']
    config = ResNetConfig(depths=(1, 1), width=8, id2label=dict(enumerate(labels)), image_size=32)
    make_model(config).save_pretrained(tmp_path / "model")
    dialogs: list[object] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))
    with serving_files(export_web(tmp_path / "model", runtime=runtime)) as address:
        page.goto(address)
        classify(page, EXAMPLES[0])
        assert {*page.locator("li span:first-of-type").all_text_contents()} == {*labels}
        assert page.locator("li img, li script, h1 img, h1 script").count() == 0
        assert labels[0] in page.title()
    assert dialogs == []


# The pinned runtime


def test_the_pinned_hashes_are_those_of_the_package(page: "Page", runtime: Path, tmp_path: Path) -> None:
    """The address of the CDN is answered from the package, with and without a changed byte."""
    web = export_web(CIFAR, tmp_path / "web")
    about = json.loads((web / "model.json").read_text(encoding="utf-8"))
    local = runtime if (runtime / about["runtime"]["script"]["url"].rpartition("/")[2]).exists() else runtime / "dist"
    changed = False

    def answer(route: Any) -> None:
        content = (local / route.request.url.removeprefix(RUNTIME_URL)).read_bytes()
        body = io.BytesIO(content)
        if changed:
            body.seek(-1, io.SEEK_END)
            body.write(b"\n")
        route.fulfill(body=body.getvalue(), headers={"Access-Control-Allow-Origin": "*"})

    page.route(f"{RUNTIME_URL}**", answer)
    with serving_files(web) as address:
        page.goto(address)
        assert len(classify(page, EXAMPLES[0])) == 10
        changed = True
        page.goto(address)
        page.get_by_text("The model could not be loaded. Check the connection, then reload the page.").wait_for()
