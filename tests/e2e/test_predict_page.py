"""The page in a real browser, its endpoint through Gradio's client, and the models that visitors share."""

import csv
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers import ROOT
from helpers.page import as_local_user, clear_tab, open_page, wait_for_server
from helpers.program import Program
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import models as models_module
from resnet_hub.demo.i18n import MESSAGES, PageError
from resnet_hub.demo.models import Models
from resnet_hub.demo.predict_tab.tab import EXAMPLES
from resnet_hub.errors import ResNetHubError
from resnet_hub.included_models import DEFAULT_MODEL_NAME, INCLUDED_FOLDER
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet

EVIL = "<img src=x onerror=alert(1)>"
LABELS = ["cat", "dog", "ship", "truck", "bird", EVIL]
INCLUDED = INCLUDED_FOLDER / DEFAULT_MODEL_NAME


def save_tiny(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=32, crop_pct=1.0, **changes)
    ResNet(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    save_tiny(shelf / "tiny-a", seed=1, id2label=dict(enumerate(LABELS)))
    save_tiny(shelf / "tiny-b", seed=2, id2label={0: "daisy", 1: "tulip"})
    save_tiny(shelf / "without-head")
    (shelf / "no-checkpoint").mkdir()
    return shelf


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    image = Image.radial_gradient("L").convert("RGB").resize((160, 120))
    image.paste("red", (20, 20, 60, 60))
    image.save(path)
    return path


# --- The page


class HubSearch(BaseHTTPRequestHandler):
    """Answers a search for models, and has none of them."""

    def do_GET(self) -> None:
        found = [{"id": "timm/resnet18.a1_in1k"}] if self.path.startswith("/api/models?") else {"error": "none"}
        self.send_response(200 if isinstance(found, list) else 404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page as a newcomer starts it, in a process of its own; it must not print a traceback."""
    hub = ThreadingHTTPServer(("127.0.0.1", 0), HubSearch)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "PYTHONPATH": str(ROOT),
    }
    for path in EXAMPLES:
        os.utime(path, (0, 0))  # as in a clone of long ago: what is that old among the uploads is deleted
    program = "import sys; from resnet_hub.demo import build, launch; launch(build(sys.argv[1]))"
    server = Program(program, str(shelf), cwd=folder, env=os.environ | settings, output=folder / "log")
    try:
        yield wait_for_server(server, folder / "log")
    finally:
        server.terminate()
        server.wait(10)
        hub.shutdown()
        hub.server_close()
    assert "Traceback" not in (folder / "log").read_text()


def visit(browser: Browser, address: str, *, width: int = 1280, locale: str = "en-US") -> Page:
    page = open_page(browser, address, width=width, locale=locale)
    expect(page.locator("#summary h2")).to_be_visible()
    return page


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """The page as a newcomer opens it."""
    tab.goto(address)
    expect(tab.locator("#summary h2")).to_be_visible()
    yield tab
    clear_tab(tab)


def drop(page: Page, path: Path) -> None:
    page.locator("#photo input[type=file]").set_input_files(path)


def clear(page: Page) -> None:
    page.get_by_role("button", name="Clear").or_(page.get_by_role("button", name="Remove Image")).first.click()


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").fill(name)
    page.locator("#model input").press("Enter")


def top_classes(page: Page) -> list[str]:
    return [
        label or "" for label in page.locator("#classes button").evaluate_all("rows => rows.map(r => r.dataset.label)")
    ]


def test_a_dropped_photo_is_answered_at_once(page: Page, photo: Path) -> None:
    drop(page, photo)
    expect(page.locator("#why img.heat")).to_be_visible()
    expect(page.locator("#classes .took")).to_have_text(
        re.compile(r"^\d+ ms on CPU \((PyTorch|ONNX Runtime), fp32\), tiny-a$")
    )
    classes = top_classes(page)
    assert len(set(classes)) == 5 and set(classes) <= set(LABELS)
    expect(page.locator("#classes .name").first).to_have_text(classes[0])
    expect(page.locator("#why")).to_contain_text(f"Why “{classes[0]}”")


def test_labels_of_strangers_stay_text(page: Page, photo: Path) -> None:
    drop(page, photo)
    page.locator("#classes button").filter(has_text=EVIL).click()
    expect(page.locator("#why")).to_contain_text(EVIL)
    assert page.locator("img[src='x']").count() == 0


def test_another_class_shows_its_own_heat(page: Page, photo: Path) -> None:
    drop(page, photo)
    expect(page.locator("#why img.heat")).to_be_visible()
    heat = page.locator("#why img.heat")
    before, second = heat.get_attribute("src"), top_classes(page)[1]
    expect(page.locator("#classes button").first).to_have_attribute("aria-pressed", "true")
    page.locator("#classes button").nth(1).press("Enter")  # the keyboard will do
    expect(page.locator("#why")).to_contain_text(f"Why “{second}”")
    expect(heat).not_to_have_attribute("src", before or "")
    expect(page.locator("#classes button[aria-pressed=true]")).to_have_attribute("data-label", second)
    page.get_by_label("Strength of the heat map").fill("30")
    expect(heat).to_have_css("opacity", "0.3")
    photo_box, heat_box = page.locator("#why img").first.bounding_box(), heat.bounding_box()
    assert photo_box == heat_box  # one lies on the other


def test_an_example_is_one_click(page: Page) -> None:
    espresso = page.get_by_role("button", name="Espresso")
    page.wait_for_function("[...document.querySelectorAll('#examples img')].every(image => image.naturalWidth)")
    espresso.scroll_into_view_if_needed()
    before = espresso.bounding_box()
    espresso.click()
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")
    expect(page.locator("#photo img")).to_be_visible()
    assert espresso.bounding_box() == before  # nothing jumps when the answer comes
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")


def test_clearing_the_photo_clears_everything_of_it(page: Page, photo: Path) -> None:
    drop(page, photo)
    expect(page.locator("#why img.heat")).to_be_visible()
    before = page.locator("#photo img").get_attribute("src") or ""
    page.get_by_role("button", name="Espresso").click()
    expect(page.locator("#photo img")).not_to_have_attribute("src", before)
    clear(page)
    expect(page.locator("#classes h2")).to_have_count(0)
    expect(page.locator("#why img")).to_have_count(0)
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#photo-notice [role=alert]")).to_have_text("Add a photo first.")
    drop(page, photo)
    expect(page.locator("#classes h2")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_another_model_answers_for_the_same_photo(page: Page, photo: Path) -> None:
    drop(page, photo)
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")
    choose_model(page, "tiny-b")
    expect(page.locator("#classes .took")).to_contain_text("tiny-b")
    assert set(top_classes(page)) == {"daisy", "tulip"}
    expect(page.locator("#summary")).to_contain_text("daisy, tulip")


def test_a_model_that_cannot_be_used_leaves_the_one_before(page: Page, photo: Path) -> None:
    refusals = {
        "https://example.com/model": "neither in the list",
        "/etc/passwd": "neither in the list",
        "../shelf/tiny-b": "neither in the list",
        "no-checkpoint": "neither in the list",
        "without-head": "has no labels",
        "user/absent": "user/absent",
    }
    for name, sentence in refusals.items():
        choose_model(page, name)
        expect(page.get_by_role("alert")).to_contain_text(sentence)
        expect(page.get_by_role("alert")).to_contain_text("Still using tiny-a.")
        expect(page.locator("#model input")).to_have_value("ResNet with 6 labels · tiny-a")
    drop(page, photo)
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")


def test_typing_suggests_models_of_the_hub(page: Page) -> None:
    page.locator("#model input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("resnet18", delay=30)
    page.get_by_role("option").filter(has_text="timm/resnet18.a1_in1k").wait_for()
    expect(page.locator("#model input")).to_have_value("resnet18")


def test_a_file_that_is_no_image_gets_a_sentence(page: Page, tmp_path: Path, photo: Path) -> None:
    (tmp_path / "notes.jpg").write_text("No picture at all.")
    drop(page, tmp_path / "notes.jpg")
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg")
    expect(page.locator("#photo img")).to_have_count(0)  # no empty box
    drop(page, photo)
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")


def test_a_phone_photo_is_shown_upright(page: Page, tmp_path: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    Image.new("RGB", (120, 80), "orange").save(tmp_path / "photo.heic")
    drop(page, tmp_path / "photo.heic")
    expect(page.locator("#classes .took")).to_contain_text("tiny-a")
    page.wait_for_function("document.querySelector('#photo img')?.naturalWidth === 120")  # a browser reads no HEIC
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (120, 80), "orange").save(tmp_path / "turned.jpg", exif=exif)
    clear(page)
    drop(page, tmp_path / "turned.jpg")
    page.wait_for_function("document.querySelector('#why img')?.naturalWidth === 80")


def test_several_photos_become_a_gallery_and_a_table(page: Page, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("No picture at all.")
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "=雏菊.png")
    page.wait_for_function("document.querySelector('#photo input[type=file]').multiple")
    page.locator("#photo input[type=file]").set_input_files([photo, tmp_path / "notes.jpg", tmp_path / "=雏菊.png"])
    expect(page.locator("#several-summary")).to_contain_text("3 photos in")
    expect(page.locator("#several-summary")).to_contain_text("1 could not be read")
    expect(page.locator(".frame")).to_have_count(3)
    expect(page.locator(".frame.bad")).to_contain_text("notes.jpg")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the table").click()
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert [row["file"] for row in rows] == ["photo.jpg", "notes.jpg", "'=雏菊.png"]
    assert rows[0]["label"] in LABELS and rows[1]["error"].startswith("Cannot read")
    page.locator("button.frame").last.click()
    expect(page.locator("#classes .name").first).to_have_text(rows[2]["label"])
    expect(page.locator("#classes .name").first).to_be_in_viewport()
    choose_model(page, "tiny-b")
    expect(page.locator("#several-summary")).to_contain_text("tiny-b")
    page.get_by_role("button", name="Clear these photos").click()
    expect(page.locator("#several-panel")).to_be_hidden()
    page.evaluate("resnetHub.limits.photos = 1")
    page.locator("#photo-buttons input[type=file]").set_input_files([photo, tmp_path / "notes.jpg"])
    expect(page.locator("#several-summary").get_by_role("alert")).to_contain_text("At most 100 photos")


def test_the_live_camera_answers_until_it_is_off_or_hidden(page: Page) -> None:
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function("document.querySelector('#live-labels').dataset.frames > 4")
    assert page.locator("#live-labels .name").first.inner_text() in LABELS
    page.evaluate("window.track = document.querySelector('#live video').srcObject.getTracks()[0]")
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.evaluate("track.readyState") == "ended"
    expect(page.locator("#live-prediction")).to_be_hidden()
    page.evaluate("delete document.hidden")
    page.get_by_role("button", name="Live camera").click()
    page.get_by_role("button", name="Keep this photo").click()
    expect(page.locator("#why img.heat")).to_be_visible()
    expect(page.locator("#live video")).to_be_hidden()
    page.get_by_role("button", name="Live camera").click()  # the photo and its answer go
    expect(page.locator("#live video")).to_be_visible()
    expect(page.locator("#why img.heat")).to_have_count(0)
    page.get_by_role("tab", name="Train").click()
    page.wait_for_function("!document.querySelector('#live video').srcObject")
    page.get_by_role("tab", name="Predict").click()
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('none')); }")
    page.get_by_role("button", name="Live camera").click()
    expect(page.locator("#no-live-camera")).to_contain_text("The camera cannot be used")
    expect(page.locator("#photo")).to_be_visible()


def test_two_models_are_compared_and_the_answer_is_saved(page: Page, photo: Path) -> None:
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#photo-notice").get_by_role("alert")).to_have_text("Add a photo first.")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared").get_by_role("alert")).to_have_text("Add a photo first.")
    expect(page.get_by_role("alert")).to_have_count(1)
    drop(page, photo)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("#why img.heat")).to_be_visible()
    page.locator("#other-model input").fill("tiny-b")
    page.locator("#other-model input").press("Enter")
    columns = page.locator("#compared article")
    expect(columns).to_have_count(2)
    assert [column.split("\n")[0] for column in columns.all_inner_texts()] == ["tiny-a", "tiny-b"]
    expect(columns.last.locator(".name").first).to_have_text(re.compile("daisy|tulip"))
    expect(columns.last).to_contain_text("32 × 32")
    source = columns.last.locator("img").first.get_attribute("src") or ""
    page.get_by_role("button", name="Espresso").click()
    expect(columns.last.locator("img").first).not_to_have_attribute("src", source)  # it follows the photo
    with page.expect_download() as download:
        page.get_by_role("button", name="Save photo and labels").click()
    with Image.open(download.value.path()) as picture:
        assert picture.format == "PNG" and picture.width == 800 and picture.height > 800
    clear(page)
    expect(columns).to_have_count(0)


def test_a_drop_on_a_photo_replaces_it(page: Page, photo: Path) -> None:
    page.get_by_role("button", name="Espresso").click()
    expect(page.locator("#why img.heat")).to_be_visible()
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 90, height: 70 });
          const blob = await new Promise((done) => canvas.toBlob(done));
          const files = new DataTransfer();
          files.items.add(new File([blob], "dropped.png", { type: "image/png" }));
          const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
          document.querySelector("#photo img").dispatchEvent(event);
        }"""
    )
    page.wait_for_function("document.querySelector('#photo img')?.naturalWidth === 90")
    page.wait_for_function("document.querySelector('#why img')?.naturalWidth === 90")


def test_fits_a_phone(browser: Browser, address: str, photo: Path, tmp_path: Path) -> None:
    page = visit(browser, address, width=390)
    drop(page, photo)
    expect(page.locator("#why img.heat")).to_be_visible()
    (tmp_path / "notes.jpg").write_text("No picture at all.")
    clear(page)
    drop(page, tmp_path / "notes.jpg")
    expect(page.locator("#photo-notice [role=alert]")).to_be_in_viewport()  # the page has scrolled to it
    expect(page.locator("#photo img")).to_be_hidden()  # and shows no broken image
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_uses_the_language_of_the_browser(browser: Browser, address: str, photo: Path) -> None:
    page = visit(browser, address, locale="zh-CN")
    body = page.locator("body")
    for key in ("photo_hint", "classify", "model", "model_info", "example_cat", "about_model"):
        expect(body).to_contain_text(MESSAGES["zh"][key])
    drop(page, photo)
    expect(page.locator("#classes .took")).to_contain_text("用时")
    choose_model(page, "no such model")
    expect(page.get_by_role("alert")).to_contain_text("继续使用 tiny-a")
    assert "__i18n__" not in body.inner_text()
    page.close()


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, select, a')]
        .filter(e => e.checkVisibility() && !(e.ariaLabel || e.innerText || e.title || e.labels?.length))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_the_page_sends_no_request_elsewhere(browser: Browser, address: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.locator("#summary h2")).to_be_visible()
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


# --- The endpoint


def test_endpoint(address: str, photo: Path) -> None:
    client = Client(address, verbose=False)
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    classes = client.predict(handle_file(photo), "tiny-a", 3, api_name="/predict")
    assert [sorted(entry) for entry in classes] == [["label", "score"]] * 3
    assert classes == sorted(classes, key=lambda entry: -entry["score"]) and classes[0]["label"] in LABELS
    for arguments, message in {
        (photo, "/etc/passwd", 3): "neither in the list",
        (photo, "tiny-a", 0): "top_k is 0",
        (photo, "tiny-a", 2.5): "top_k is 2.5",
        (Path(__file__), "tiny-a", 3): "test_predict_page.py",
    }.items():
        path, model, top_k = arguments
        with pytest.raises(AppError, match=message) as refusal:
            client.predict(handle_file(path), model, top_k, api_name="/predict")
        assert "Traceback" not in str(refusal.value)
    with pytest.raises(AppError, match="no image"):
        client.predict(None, "tiny-a", 3, api_name="/predict")
    with pytest.raises(AppError):  # a file of the server, which nobody uploaded
        client.predict({"path": __file__, "meta": {"_type": "gradio.FileData"}}, "tiny-a", 3, api_name="/predict")
    client.close()


def test_endpoint_is_a_tool_for_agents(address: str) -> None:
    with urlopen(f"{address}/gradio_api/mcp/schema") as reply:
        (tool,) = json.load(reply)
    assert tool["name"] == "predict"
    assert {name: field["type"] for name, field in tool["inputSchema"]["properties"].items()} == {
        "image": "string",
        "model": "string",
        "top_k": "number",
    }
    assert "enum" not in tool["inputSchema"]["properties"]["model"]  # any Hub id will do


# --- The shared models


def test_names_are_the_shelf(shelf: Path) -> None:
    assert Models(shelf).names() == ["tiny-a", "tiny-b", "without-head"]
    assert Models(shelf / "absent").names() == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "tiny-a/",
        "../shelf/tiny-a",
        "a/b/c",
        "/etc/passwd",
        "https://hub/x",
        "a b/c",
        "gpt2",
        "a/\0",
    ],
)
def test_accepts_names_and_hub_ids_only(shelf: Path, name: str) -> None:
    with pytest.raises(PageError, match="neither in the list nor a Hub id"):
        Models(shelf).source(name)


def test_a_hub_id_is_never_a_folder(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(shelf)
    assert models.source("tiny-a") == shelf / "tiny-a"
    with as_local_user():
        assert models.source(f"{shelf.name}/tiny-a") == f"{shelf.name}/tiny-a"
    monkeypatch.chdir(shelf.parent)
    with pytest.raises(PageError):
        models.source(f"{shelf.name}/tiny-a")


def test_all_visitors_share_one_model(shelf: Path) -> None:
    models = Models(shelf)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(models.get, ["tiny-a"] * 16))
    assert len({id(classifier) for classifier in got}) == 1


def test_memory_is_bounded_and_the_least_used_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        save_tiny(tmp_path / name, id2label={0: "cat", 1: "dog"})
    each = 12 * ResNetConfig.from_json((tmp_path / "a" / "config.json").read_bytes()).num_parameters
    monkeypatch.setattr(models_module, "_MAX_BYTES", 2 * each)
    models = Models(tmp_path)
    a, b = models.get("a"), models.get("b")
    assert models.get("a") is a
    models.get("c")
    assert models.get("a") is a
    assert models.get("b") is not b
    monkeypatch.setattr(models_module, "_MAX_BYTES", each - 1)
    with pytest.raises(PageError, match="more than this page can load"):
        Models(tmp_path).get("a")
    monkeypatch.undo()
    monkeypatch.setattr(models_module, "_MAX_LOADED", 2)
    few = Models(tmp_path)
    a, b, _ = (few.get(name) for name in "abc")
    assert few.get("b") is b and few.get("a") is not a


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    save_tiny(tmp_path / "a", id2label={0: "cat", 1: "dog"})
    weights = tmp_path / "a" / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"damaged")
    models = Models(tmp_path)
    for _ in range(2):
        with pytest.raises(ResNetHubError):
            models.get("a")
    weights.write_bytes(good)
    assert models.get("a").config.num_classes == 2


def test_the_included_model_recognizes_the_examples() -> None:
    classify = Classifier.from_pretrained(INCLUDED)
    for name in ("espresso", "goldfish", "school_bus"):
        prediction = classify(next(path for path in EXAMPLES if path.stem == name), top_k=1)
        assert prediction[0]["label"] == name.replace("_", " ") and prediction.verdict == "sure"
