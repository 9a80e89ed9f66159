"""The Train tab in a real browser, from a ZIP to a model on the Hub, and what visitors see of each other: nothing."""

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from helpers.data import NAMED, encode_image, save_base, write_zip
from helpers.hub_server import WRITER, Hub, Repo
from helpers.page import clear_tab, serving
from helpers.zero_server import STUBS, Devices
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Page, expect

from resnet_hub.checkpoints.model_card import read_metrics
from resnet_hub.datasets.load import load_dataset
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.errors import format_bytes
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet
from resnet_hub.training.run_dir import RunDir

SHAPES: dict[str, tuple[int, tuple[int, int, int]]] = {  # corners, color
    "red circle": (0, (210, 40, 40)),
    "green triangle": (3, (40, 170, 60)),
    "blue square": (4, (50, 70, 210)),
    "yellow hexagon": (6, (230, 210, 50)),
}
EVIL = "<img src=x onerror=alert(1)>"
ERRORS: list[str] = []  # of scripts, in any page of a test


@pytest.fixture(autouse=True)
def no_script_fails() -> Iterator[None]:
    ERRORS.clear()
    yield
    assert ERRORS == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    save_base(folder / "shelf" / "tiny")
    write_zip(folder / "colors.zip")
    (folder / "red.png").write_bytes(encode_image(0, 99))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The page of a local user who has a token saved."""
    with serving(folder, HF_TOKEN=WRITER) as address:
        yield address


def visit(browser: Browser, address: str, **options: Any) -> Page:
    """A visitor of their own, with an empty browser."""
    page = browser.new_context(viewport={"width": options.pop("width", 1280), "height": 900}, **options).new_page()
    page.set_default_timeout(240_000)
    page.on("pageerror", lambda error: ERRORS.append(str(error)))
    page.on("dialog", lambda dialog: ERRORS.append(f"A label was run as a script: {dialog.message}"))
    page.goto(address)
    expect(page.locator("#summary h2")).to_be_attached()
    return page


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    tab = browser.new_page()
    tab.set_default_timeout(240_000)
    tab.on("pageerror", lambda error: ERRORS.append(str(error)))
    tab.on("dialog", lambda dialog: ERRORS.append(f"A label was run as a script: {dialog.message}"))
    yield tab
    tab.close()


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """The page as a newcomer opens it."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(address)
    expect(tab.locator("#summary h2")).to_be_attached()
    yield tab
    tab.context.clear_permissions()
    clear_tab(tab)


def uploaded(page: Page, data: Path) -> None:
    """Waits for the file itself: its name shows in one piece only while it is on its way, which a test may miss."""
    expect(page.locator(f"#zip a[href$='/{data.name}']")).to_be_visible()


def check(page: Page, data: Path) -> None:
    """Bring a ZIP and have it looked at."""
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(data)
    uploaded(page, data)
    page.locator("#check-zip").click()


def bring(page: Page, data: Path) -> None:
    """Bring a ZIP, and go on to the choice of a base."""
    check(page, data)
    page.get_by_role("button", name="Continue").click()


def type_into(field: Locator, value: str) -> None:
    """Types until it stays: for the moment after an accordion opens Gradio still sets its fields to what they had."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        field.fill(value)
        field.page.wait_for_timeout(300)
        if field.input_value() == value:
            return
    raise AssertionError(f"{value!r} does not stay in its field")


def choose(page: Page, epochs: int | None) -> None:
    """Choose a run of so many epochs, or of the head alone."""
    if epochs:
        page.get_by_role("button", name="More options").click()
        type_into(page.locator("#epochs input[type=number]"), str(epochs))
        type_into(page.get_by_label("Image size"), "32")  # slower than the 16 of the base
        page.get_by_label("Image size").press("Tab")
    else:
        page.get_by_label("The last layer only").check()


def train(page: Page, data: Path, epochs: int | None) -> None:
    """Bring a ZIP and start a run on it."""
    bring(page, data)
    choose(page, epochs)
    page.get_by_role("button", name="Start training").click()


def lines_of(page: Page) -> Locator:
    """The lines of the chart of the loss."""
    return page.locator("#charts figure").first.locator("polyline")


def link_of(page: Page) -> str:
    href = page.locator("#run-link a").get_attribute("href")  # out of sight once the result is shown
    assert href and re.fullmatch(r"\?run=[\w-]{32}", href)
    return href


def draw_shape(label: str, number: int) -> bytes:
    """A photo of one of `SHAPES` as a phone might take it: anywhere, of any size, before clutter, as JPEG."""
    random = np.random.default_rng([list(SHAPES).index(label), number])
    width, height = (int(side) for side in random.integers(200, 400, 2))
    clutter = random.integers(0, 255, (height // 20, width // 20, 3), np.uint8)
    image = Image.fromarray(clutter).resize((width, height), Image.Resampling.BICUBIC)
    side = int(random.integers(80, 150))
    left, top = (int(random.integers(0, whole - side)) for whole in (width, height))
    corners, color = SHAPES[label]
    color = tuple(int(value) for value in np.clip(np.array(color) + random.integers(-40, 40, 3), 0, 255))
    middle = (left + side / 2, top + side / 2)
    draw = ImageDraw.Draw(image)
    if corners:
        draw.regular_polygon((middle, side / 2), corners, rotation=int(random.integers(360)), fill=color)
    else:
        draw.ellipse((left, top, left + side, top + side), fill=color)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()


def write_shapes(path: Path, count: int) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for label in SHAPES:
            for number in range(count):
                out.writestr(f"shapes/{label}/{number}.jpg", draw_shape(label, number))
    return path


def test_from_200_photos_to_a_model_on_the_hub(browser: Browser, address: str, hub: Hub, tmp_path: Path) -> None:
    shapes, labels = write_shapes(tmp_path / "shapes.zip", 50), sorted(SHAPES)
    page = visit(browser, address)
    check(page, shapes)
    report = page.locator("#report")
    expect(report).to_contain_text("200 images in 4 classes")
    for label in labels:
        expect(report.get_by_role("row").filter(has_text=label)).to_contain_text("50")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_label("The whole network")).to_be_checked()
    choose(page, epochs=30)
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#progress")).to_contain_text(re.compile(r"Epoch \d+ of 30 · [\d,]+ images/s · .* left"))
    lines = lines_of(page)
    expect(lines).to_have_count(2)  # training and validation
    before = lines.first.get_attribute("points") or ""
    expect(lines.first).not_to_have_attribute("points", before)  # the curves move
    expect(page.locator("#progress")).to_contain_text("Best so far")
    expect(page.locator("#samples img")).to_have_count(6)
    expect(page.locator("#samples")).to_contain_text(re.compile(rf"[✓✗] ({'|'.join(labels)}) \(\d+%\)"))
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url) if "/queue/join" in request.url else None)
    page.wait_for_timeout(4000)
    assert 1 <= len(calls) < 15  # it asks once a second, and for the list of runs after each epoch
    link = link_of(page)
    assert "Finished" not in page.locator("#progress").inner_text()
    page.context.close()  # the browser, with all that it knows

    page = visit(browser, address + link)
    figures = page.locator("#figures")
    expect(figures.locator("dl")).to_be_visible()
    expect(figures).to_contain_text("Evaluated on 40 images that were not used for training (20% set aside).")
    expect(figures.locator("tbody tr")).to_have_count(4)
    expect(page.locator("#confusion tbody tr")).to_have_count(4)
    expect(page.locator("#result-charts figure")).to_have_count(2)
    kept = re.search(r"The model is that of epoch (\d+) of 30, which the charts mark\.", figures.inner_text())
    assert kept
    expect(page.locator("#result-charts .marker title").first).to_have_text(f"Epoch {kept[1]}: the model that is kept")
    said = dict(zip(figures.locator("dt").all_inner_texts(), figures.locator("dd").all_inner_texts(), strict=True))
    assert float(said["Accuracy"].rstrip("%")) > 50  # of four classes: it has learnt something

    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as packed:
        packed.extractall(tmp_path)
    assert ResNet.from_pretrained(tmp_path / "shapes").config.labels == labels

    page.get_by_role("button", name="Make a web page").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the web page").click()
    assert download.value.suggested_filename == "shapes-web.zip"
    download.value.save_as(tmp_path / "web.zip")
    with zipfile.ZipFile(tmp_path / "web.zip") as packed:
        assert json.loads(packed.read("model.json"))["labels"] == labels

    page.get_by_role("button", name="Share on the Hugging Face Hub").click()
    page.locator("#repo input, #repo textarea").press_sequentially("no/such/name")
    expect(page.locator("#outcome")).to_contain_text("is not a valid repository name")
    page.locator("#repo input, #repo textarea").fill("user/shapes")
    page.get_by_role("button", name="Push", exact=True).click()
    expect(page.locator("#outcome a")).to_have_attribute("href", re.compile("/user/shapes$"))
    pushed = hub.repos["user/shapes"]
    assert pushed.private and len(pushed.log) <= 2  # the empty repo's own commit, and ours
    assert link.removeprefix("?run=") not in str(pushed.files())
    model = ResNet.from_pretrained("user/shapes", token=WRITER)
    assert model.config.labels == labels
    measured = {metric.name: metric for metric in read_metrics(model.card or "")}
    names = {"accuracy": "Accuracy", "macro F1": "Macro F1"}
    assert {names[name]: f"{metric.value:.0%}" for name, metric in measured.items() if name in names} == said
    assert {metric.split for metric in measured.values()} == {"20% held out"}

    page.get_by_role("button", name="Try it").click()
    expect(page.locator("#model input")).to_have_value("Your model: shapes")
    expect(page.locator("#summary")).to_contain_text(", ".join(labels))
    photo = tmp_path / "new.jpg"
    photo.write_bytes(draw_shape(labels[0], 1000))
    page.locator("#photo input[type=file]").set_input_files(photo)
    expect(page.locator("#classes .took")).to_contain_text("Your model: shapes")
    expect(page.locator("#classes .name").first).to_have_text(Classifier(model)(photo, top_k=1)[0]["label"])
    page.context.close()


def find_worker(data: str) -> psutil.Process:
    """The process that trains on this file."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            command = " ".join(process.cmdline())
            if "resnet_hub.training.worker" in command and data in command:
                return process
    raise AssertionError(f"no process trains on {data}")


def test_visitors_wait_their_turn_and_see_their_own_runs_only(browser: Browser, address: str, folder: Path) -> None:
    ann, bob = visit(browser, address), visit(browser, address, width=390)
    bring(bob, folder / "colors.zip")
    choose(bob, epochs=2)
    train(ann, write_zip(folder / "many.zip", count=300), epochs=100)
    expect(ann.locator("#progress")).to_contain_text("Epoch")
    worker = find_worker("many.zip")
    worker.suspend()  # for the time of what follows
    bob.get_by_role("button", name="Start training").click()
    expect(bob.locator("#progress")).to_contain_text("position 1 in the queue")
    assert bob.evaluate("document.documentElement.scrollWidth") == 390

    ann.reload()
    expect(ann.locator("#progress")).to_contain_text("Training")  # found again without the link
    anns, bobs = link_of(ann), link_of(bob)
    assert anns != bobs
    root = folder / "runs" / anns.removeprefix("?run=")
    assert httpx2.get(f"{address}/gradio_api/file={root / 'page.json'}").status_code == 403

    ann.get_by_role("button", name="Stop").click()
    worker.resume()
    expect(ann.locator("#progress")).to_contain_text("Stopped.")
    expect(ann.get_by_role("button", name="Resume")).to_be_visible()
    expect(bob.locator("#figures dl")).to_be_visible()
    ann.get_by_role("button", name="See the result").click()
    expect(ann.locator("#figures")).to_contain_text("has not been evaluated yet")
    ann.get_by_role("button", name="Finish now").click()
    expect(ann.locator("#figures dl")).to_be_visible()
    ann.locator(".step-label", has_text="Training").click()
    expect(ann.get_by_role("button", name="Resume")).to_be_visible()  # it may go on all the same
    ann.get_by_role("button", name="Delete this run").click()
    ann.locator("#delete-run-no").click()  # it asks
    expect(ann.locator("#delete-run-question")).to_be_hidden()
    assert root.exists()
    ann.get_by_role("button", name="Delete this run").click()
    ann.locator("#delete-run-yes").click()
    expect(ann.locator("#train-alert")).to_contain_text("The run was deleted")
    expect(ann.locator("#own-classes")).to_be_visible()
    assert not root.exists()

    for name in (anns, "?run=" + "A" * 32, "?run=../runs", "?run=" + EVIL):
        ann.goto(f"{address}/{name}")
        expect(ann.get_by_role("alert")).to_have_text(MESSAGES["en"]["bad_link"])
    expect(bob.locator("#figures dl")).to_be_visible()
    ann.context.close()
    bob.context.close()


DOUBLE_CLICK = """button => {
  for (const detail of [1, 2]) button.dispatchEvent(new MouseEvent("click", { bubbles: true, detail }));
}"""
CAMERA = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
  const context = canvas.getContext("2d");
  window.hue = 0;
  setInterval(() => {
    context.fillStyle = `hsl(${window.hue}, 80%, ${40 + 20 * Math.random()}%)`;
    context.fillRect(0, 0, 320, 240);
    context.fillStyle = "white";
    context.fillRect(300 * Math.random(), 200 * Math.random(), 20, 40);
  }, 100);
  navigator.mediaDevices.getUserMedia = async () => {
    if (window.hue < 0) throw new DOMException("none", "NotFoundError");
    return canvas.captureStream(10);
  };
}"""


def record(page: Page, class_index: int, photos: int) -> None:
    """Hold the button of a class until the camera has taken so many photos."""
    button = page.locator(".record:visible").nth(class_index)
    button.scroll_into_view_if_needed()
    button.hover()
    page.mouse.down()
    page.wait_for_function(f"document.querySelector('.record.recording')?.dataset.count >= {photos}")
    page.mouse.up()
    expect(
        page.locator(".class-card:visible").nth(class_index).locator(".thumbnail-item").nth(photos - 1)
    ).to_be_visible()


def test_two_classes_from_the_camera_become_a_model_on_one_screen(page: Page, folder: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(CAMERA)
    page.get_by_role("tab", name="Train").click()
    page.evaluate("window.hue = -1")
    page.locator(".record:visible").first.click()
    alert = page.locator(".class-card").first.get_by_role("alert")  # where the visitor pressed
    expect(alert).to_contain_text("The camera cannot be used")
    expect(alert).to_be_in_viewport()
    for index, (name, hue) in enumerate({"red": 0, "blue": 240}.items()):
        page.get_by_label("Class name").nth(index).fill(name)
        page.evaluate(f"window.hue = {hue}")
        record(page, index, 20)
    expect(page.get_by_role("alert")).to_have_count(0)
    runs = set((folder / "runs").iterdir())
    page.locator("#train-now").evaluate(DOUBLE_CLICK)
    preview = page.locator(".preview")  # beside the classes
    preview.get_by_role("button", name="Camera").click()
    expect(preview.locator("h2").last).to_have_text("blue")  # what the camera shows
    assert len(set((folder / "runs").iterdir()) - runs) == 1  # not one for each click
    page.evaluate("window.hue = 0")
    expect(preview.locator("h2").last).to_have_text("red")
    preview.locator("input").set_input_files(folder / "red.png")
    expect(preview.locator("video")).to_have_count(0)
    expect(preview.locator("h2").last).to_have_text("red")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="See the result").click()
    expect(page.locator("#figures dl")).to_be_visible()
    page.get_by_role("button", name="Try it").click()
    expect(page.locator("#model input")).to_have_value("Your model: red, blue")
    expect(page.locator("#own-photos")).to_contain_text("Your model: blue, red")
    page.locator("#own-photos button").first.click()
    expect(page.locator("#classes .name").first).to_have_text(re.compile("red|blue"))


def test_findings_of_the_report_are_corrected_with_one_click(page: Page, tmp_path: Path) -> None:
    data = write_zip(tmp_path / "twice.zip")
    with zipfile.ZipFile(data, "a") as out:
        out.writestr("green/also.png", encode_image(0, 0))
        out.writestr("red/first.png", encode_image(0, 0))
    page.set_viewport_size({"width": 390, "height": 900})
    check(page, data)
    figures = page.locator("#duplicates figure")
    expect(figures.first.locator("img")).to_be_visible()
    count = int(re.findall(r"\d+", page.locator("#report h2").inner_text())[0])
    expect(page.locator("#report .bars dd")).to_have_count(3)
    figures.filter(has_text="green").first.get_by_role("button", name="Leave out").click()
    expect(page.locator("#report h2")).to_contain_text(f"{count - 1} images")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#plan")).to_contain_text(
        re.compile("Auto: .* epochs over .* images, about .* on this machine")
    )


def get_top(locator: Locator) -> float:
    box = locator.bounding_box()
    assert box
    return box["y"]


def test_a_run_can_be_named_found_again_compared_and_deleted(browser: Browser, address: str, folder: Path) -> None:
    page = visit(browser, address, locale="zh-CN", width=390)
    text = MESSAGES["zh"]
    page.get_by_role("tab", name=text["train_tab"]).click()

    def train_head() -> None:
        page.get_by_role("tab", name=text["zip"]).click()
        page.locator("#zip input[type=file]").set_input_files(folder / "colors.zip")
        uploaded(page, folder / "colors.zip")
        page.locator("#check-zip").click()
        page.get_by_role("button", name=text["continue"]).click()
        page.get_by_label(text["recipe_head"]).check()
        page.get_by_role("button", name=text["start"]).click()
        expect(page.locator("#figures dl")).to_be_visible()

    train_head()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#run-link").get_by_role("button", name=text["copy_run_link"]).click()
    expect(page.locator("#run-link button")).to_have_text(text["copied"])
    assert page.evaluate("navigator.clipboard.readText()") == f"{address}/{link_of(page)}"
    first = link_of(page)
    page.wait_for_url(address + "/" + first)
    name = page.locator("#run-name input, #run-name textarea")
    expect(name).to_have_value("colors")
    name.fill("颜色 <b>")
    name.press("Enter")
    expect(page.locator("#my-runs")).to_contain_text("颜色 <b>")
    page.get_by_role("button", name=text["new_run"]).click()
    page.wait_for_url(address + "/")
    train_head()
    second = link_of(page)
    assert second != first
    boxes = page.locator("#my-runs input[type=checkbox]")
    expect(boxes).to_have_count(2)
    page.locator("#compare-runs").click()
    expect(page.locator("#comparison")).to_have_text(text["choose_two"])
    boxes.first.check()
    boxes.last.check()
    page.locator("#compare-runs").click()
    expect(page.locator("#comparison th")).to_have_text(["", "colors", "颜色 <b>"])
    assert page.evaluate("document.documentElement.scrollWidth") == 390

    page.get_by_role("button", name=text["try_it"]).click()
    picker = page.locator("#model input")
    expect(picker).to_have_value(text["my_model"].format(title="colors"))
    page.reload()
    expect(page.locator("#figures dl")).to_be_visible()  # the result, not an empty Predict tab
    page.get_by_role("button", name=text["try_it"]).click()
    expect(picker).to_have_value(text["my_model"].format(title="colors"))
    page.get_by_role("tab", name=text["train_tab"]).click()
    page.locator("#delete-run").click()
    page.locator("#delete-run-yes").click()
    expect(page.locator("#own-classes")).to_be_visible()
    page.wait_for_url(address + "/")
    page.get_by_role("tab", name=text["predict_tab"]).click()
    expect(picker).to_have_value(re.compile("tiny$"))
    page.locator("#photo input[type=file]").set_input_files(folder / "red.png")
    expect(page.locator("#classes h2")).to_be_visible()
    assert second.removeprefix("?run=") not in page.locator("body").inner_text()

    page.goto(f"{address}/{second}")
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(text["bad_link"])
    assert get_top(alert) < 400  # of a phone: above the form
    page.locator("#my-runs a").click()
    expect(page.locator("#figures dl")).to_be_visible()
    page.context.close()


def test_photos_class_by_class(browser: Browser, address: str, tmp_path: Path) -> None:
    photos: list[list[Path]] = [[], [], []]
    for channel, paths in enumerate(photos):
        for number in range(4):
            paths.append(tmp_path / f"{channel}-{number}.png")
            paths[-1].write_bytes(encode_image(channel, number))
    page = visit(browser, address, locale="zh-CN")
    text = MESSAGES["zh"]
    page.get_by_role("tab", name=text["train_tab"]).click()
    classes = page.locator("#own-classes")
    check = page.get_by_role("button", name=text["check"]).first
    check.click()
    expect(page.get_by_role("alert")).to_have_text(text["no_data"])
    page.get_by_role("button", name=text["add_class"]).click()
    expect(classes.locator("input[type=file]")).to_have_count(3)
    for place, paths in enumerate(photos):
        classes.locator("input[type=file]").nth(place).set_input_files(paths)
        expect(classes.locator(".thumbnail-item")).to_have_count(4 * (place + 1))
    names = classes.get_by_label(text["class_name"])
    for place, name in enumerate(["红", EVIL]):
        names.nth(place).fill(name)
    check.click()
    expect(page.get_by_role("alert")).to_have_text(text["unnamed"])
    names.nth(2).fill("红")
    check.click()
    expect(page.get_by_role("alert")).to_have_text(text["twice"].format(name="红"))
    classes.get_by_role("button", name=text["remove_class"]).nth(2).click()
    expect(names).to_have_count(2)
    classes.get_by_role("button", name="Delete image").first.click()
    expect(classes.locator(".thumbnail-item")).to_have_count(7)
    classes.locator("input[type=file]").first.set_input_files(photos[2][0])  # one more to those that are there
    expect(classes.locator(".thumbnail-item")).to_have_count(8)
    check.click()
    size = format_bytes(sum(path.stat().st_size for path in [*photos[0][1:], photos[2][0], *photos[1]]))
    expect(page.locator("#report h2")).to_have_text(text["report_head"].format(images=8, classes=2, size=size))
    expect(page.locator("#report")).to_contain_text(EVIL)
    with page.expect_download() as download:
        page.locator("#report-file").click()
    download.value.save_as(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["label"] for row in report["classes"]} == {"红", EVIL}
    page.get_by_role("button", name=text["export_data"]).click()
    with page.expect_download() as download:
        page.locator("#data-file").click()
    download.value.save_as(tmp_path / "data.zip")
    exported = load_dataset(tmp_path / "data.zip")["train"]
    assert set(exported.labels) == {"红", EVIL} and len(exported) == 8
    page.get_by_role("button", name=text["continue"]).click()
    expect(page.get_by_label(text["recipe_finetune"])).to_be_checked()
    page.get_by_role("button", name=text["more_choices"]).click()
    expect(page.get_by_label(text["select"])).to_have_value(text["select_accuracy"])
    page.get_by_role("button", name=text["preview"]).click()
    expect(page.locator("#seen-by-training img")).to_have_count(12)
    page.set_viewport_size({"width": 300, "height": 800})  # a title in place of the steps
    expect(page.locator(".step-title")).to_have_text(re.compile(rf"^2/4:\s+{text['step_model']}"))
    assert page.locator("img[src='x']").count() == 0
    assert "__i18n__" not in page.locator("body").inner_text()
    page.context.close()


COPY = """async () => {
    const canvas = document.createElement("canvas");
    canvas.getContext("2d").fillRect(0, 0, 30, 30);
    const blob = await new Promise(done => canvas.toBlob(done));
    await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
}"""


def test_photos_from_the_camera_and_the_clipboard(page: Page) -> None:
    page.context.grant_permissions(["camera", "clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="Train").click()
    classes = page.locator("#own-classes")
    classes.get_by_role("button", name="Capture from camera").first.click()
    classes.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("[...document.querySelectorAll('video')].some(video => video.readyState > 1)")  # is seen
    classes.get_by_role("button", name="capture photo").click()
    expect(classes.locator(".thumbnail-item")).to_have_count(1)

    page.evaluate(COPY)
    classes.get_by_role("button", name="Paste from clipboard").last.click()
    expect(classes.locator(".thumbnail-item")).to_have_count(2)
    taken, pasted = classes.locator(".thumbnail-item img").all()
    expect(pasted).to_have_js_property("naturalWidth", 300)  # a canvas as it is by itself
    expect(taken).not_to_have_js_property("naturalWidth", 0)


def test_a_base_that_cannot_be_used_is_refused(page: Page, folder: Path, hub: Hub) -> None:
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="From the Hub").click()
    page.get_by_label("Dataset on the Hugging Face Hub").fill("../../etc")
    page.get_by_role("button", name="Check the data").last.click()
    expect(page.get_by_role("alert")).to_contain_text("it is not the id of a dataset on the Hub")
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(folder / "colors.zip")
    uploaded(page, folder / "colors.zip")
    page.locator("#check-zip").click()
    page.get_by_role("button", name="Continue").click()
    for name in ("/etc/passwd", "../shelf/tiny", "user/absent"):
        page.locator("#base input").fill(name)
        page.locator("#base input").press("Enter")
        page.get_by_role("button", name="Start training").click()
        expect(page.locator("#train-notice [role=alert]")).to_contain_text(name)


def test_every_choice_reaches_the_run(page: Page, folder: Path) -> None:
    bring(page, folder / "colors.zip")
    page.get_by_role("button", name="More options").click()
    page.get_by_label("From scratch").check()  # by its answer the choices that just came stand
    expect(page.locator("#base")).to_be_hidden()
    page.locator("#architecture input").click()
    page.get_by_role("option", name="resnet20").click()
    numbers = {"Image size": "24", "Seed": "7", "Learning rate": "0.03", "Patience": "2"}
    for label, value in numbers.items():
        type_into(page.get_by_label(label), value)
        page.get_by_label(label).press("Tab")
    for label, value in {"epochs": "3", "mixup": "0.3", "label_smoothing": "0.1"}.items():
        type_into(page.locator(f"#{label} input[type=number]"), value)
        page.locator(f"#{label} input[type=number]").press("Tab")
    for label, value in {
        "Augmentation": "Random crop and flip",
        "Epoch to keep": "Lowest loss",
    }.items():
        page.get_by_label(label).click()
        page.get_by_role("option", name=value).click()
    page.get_by_label("Balance the classes").check()
    page.get_by_label("The last layer only").check()
    expect(page.get_by_label("Patience")).to_be_hidden()  # what a head has not
    expect(page.locator("#base")).to_be_visible()
    page.get_by_label("From scratch").check()
    expect(page.get_by_label("Epoch to keep")).to_have_value("Lowest loss")
    for label, value in numbers.items():
        expect(page.get_by_label(label)).to_have_value(value)
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#progress")).to_contain_text("Finished.")
    run = RunDir(folder / "runs" / link_of(page).removeprefix("?run=") / "run")
    asked: dict[str, Any] = {"recipe": "modern", "base": None, "architecture": "resnet20", "image_size": 24, "seed": 7}
    asked |= {"epochs": 3, "learning_rate": 0.03, "patience": 2, "mixup": 0.3, "label_smoothing": 0.1}
    asked |= {"augmentation": "crop", "select": "loss", "balance": "loss"}
    assert {key: getattr(run.config, key) for key in asked} == asked
    assert ResNet.from_pretrained(run.model).config.architecture == "resnet20"


def test_a_run_for_a_larger_machine_goes_to_a_job(browser: Browser, address: str, folder: Path, hub: Hub) -> None:
    page = visit(browser, address)
    bring(page, folder / "colors.zip")
    page.get_by_label("The last layer only").check()
    page.get_by_role("button", name="Train as a Hugging Face Job").click()
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#train-notice")).to_contain_text("is not a valid repository name")
    page.locator("#job-repo input, #job-repo textarea").fill("stranger/as-job")
    page.get_by_label("Time limit").click()
    page.get_by_role("option", name="30m").click()
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#train-notice")).to_contain_text("cannot create stranger/as-job")
    page.locator("#job-repo input, #job-repo textarea").fill("user/as-job")
    page.get_by_role("button", name="Start the job").click()
    progress = page.locator("#progress")
    expect(progress).to_contain_text("which continues without this page")
    link = link_of(page)
    page.context.close()  # while the job runs

    stranger = visit(browser, address + link, extra_http_headers={"X-Forwarded-For": "192.0.2.1"})
    # How long the page of before still follows depends on when the job speaks next.
    expect(stranger.locator("#progress")).to_contain_text(re.compile("sign in as user and reload the page|Finished"))
    page = visit(browser, address + link)
    progress = page.locator("#progress")
    expect(progress).to_contain_text("Finished.")
    stranger.reload()
    expect(stranger.locator("#progress")).to_contain_text("Finished.")  # all that it has to know
    stranger.context.close()
    expect(progress.get_by_role("link").first).to_have_attribute("href", re.compile("/jobs/user/job0$"))
    expect(progress.get_by_role("link").last).to_have_attribute("href", re.compile("/user/as-job"))
    assert ResNet.from_pretrained("user/as-job", token=WRITER).config.labels == ["blue", "green", "red"]
    asked = hub.jobs["job0"].spec
    assert (asked["flavor"], asked["timeoutSeconds"]) == ("t4-small", 1800) and "1320s" in asked["command"]
    assert hub.repos["user/as-job"].private
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.context.close()


def test_a_hub_dataset_is_read_with_the_chosen_subset_and_columns(page: Page, tables: Repo) -> None:
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="From the Hub").click()
    page.get_by_label("Dataset on the Hugging Face Hub").fill("user/tables")
    page.locator("#check-hub").click()
    expect(page.locator("#report [role=alert]")).to_contain_text("has subsets. Choose one of two, three.")
    folded = page.locator("#hub-names")
    expect(folded.get_by_label("Subset")).to_be_hidden()
    folded.get_by_role("button", name="Subset, split, columns").click()
    labels = ("Subset", "Split", "Image column", "Label column")
    for label, name in zip(labels, NAMED.values(), strict=True):
        type_into(folded.locator("label", has_text=re.compile(f"^\\s*{label}")).locator("input, textarea"), name)
    page.locator("#check-hub").click()
    expect(page.locator("#report")).to_contain_text("35 images in 3 classes")


def test_on_zero_gpu_a_run_waits_for_quota_and_resumes(browser: Browser, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").symlink_to(folder / "shelf")
    with Devices() as devices, serving(tmp_path, STUBS, **devices.env) as address:
        devices.left = [3]
        page = visit(browser, address, extra_http_headers={"X-IP-Token": "a.e30.b"})  # as the platform sends it
        train(page, folder / "colors.zip", epochs=3)
        expect(page.locator("#progress")).to_contain_text("Waiting for GPU time.")
        expect(page.locator("#progress")).to_contain_text("You have 3 s of GPU time left.")
        expect(page.locator("#run-link")).to_contain_text("Keep this page open during training")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#figures dl")).to_be_visible()
        expect(page.locator("#gpu")).to_contain_text("GPU time used by this run:")
        assert [(call["durationSeconds"], call["token"]) for call in devices.asked] == [("60", "a.e30.b")] * 2
        page.get_by_role("button", name="Try it").click()
        expect(page.locator("#model input")).to_have_value("Your model: colors")
        page.locator("#photo input[type=file]").set_input_files(folder / "red.png")
        expect(page.locator("#classes .took")).to_contain_text("on CPU")  # which asks for no GPU
        assert len(devices.asked) == 2
        page.context.close()
