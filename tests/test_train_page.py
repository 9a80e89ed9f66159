"""The Train tab in a real browser, from a ZIP to a model on the Hub, and what visitors see of each other: nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hub_server import WRITER, Hub
from playwright.sync_api import Browser, Page, expect
from test_runs import picture, save_base, write_zip
from zero_server import STUBS, Devices

from resnet_hub.data import load
from resnet_hub.demo.i18n import TEXTS
from resnet_hub.model import ResNet

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
    write_zip(folder / "colours.zip")
    (folder / "red.png").write_bytes(picture(0, 99))
    return folder


@contextmanager
def serving(folder: Path, program: str = "", **settings: str) -> Iterator[str]:
    """The page over the shelf in `folder`, after `program`; it must not print a traceback, nor the token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings |= {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "RESNET_HUB_RUNS": str(folder / "runs"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    program += "\nfrom resnet_hub.demo import build, launch; launch(build('shelf'))"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | settings,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            for _ in range(3000):
                assert server.poll() is None, (folder / "log").read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # whatever it forked
            server.wait()
    said = (folder / "log").read_text()
    # Gradio prints a traceback of its own, without a line of ours, where a browser goes in the midst of an answer.
    assert "resnet_hub/" not in said, said[said.index("Traceback") :]
    assert WRITER not in said
    for path in (folder / "runs").rglob("*"):
        assert not path.is_file() or WRITER.encode() not in path.read_bytes()


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
    expect(page.locator("#facts dl")).to_be_attached()
    return page


def uploaded(page: Page, data: Path) -> None:
    """Waits for the file itself: its name shows in one piece only while it is on its way, which a test may miss."""
    expect(page.locator(f"#zip a[href$='/{data.name}']")).to_be_visible()


def bring(page: Page, data: Path) -> None:
    """Bring a ZIP, and go on to the choice of a base."""
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(data)
    uploaded(page, data)
    page.locator("#check-zip").click()
    page.get_by_role("button", name="Continue").click()


def train(page: Page, data: Path, epochs: int | None) -> None:
    """Bring a ZIP and start a run on it: of so many epochs, or the head alone."""
    bring(page, data)
    if epochs:
        page.get_by_role("button", name="More choices").click()
        page.locator("#epochs input[type=number]").fill(str(epochs))
        page.get_by_label("Image size").fill("64")  # slower
        page.get_by_label("Image size").press("Tab")
    else:
        page.locator("#finetune input").uncheck()
    page.get_by_role("button", name="Start training").click()


def link_of(page: Page) -> str:
    href = page.get_by_role("link", name="Link to this run").get_attribute("href")
    assert href and re.fullmatch(r"\?run=[\w-]{32}", href)
    return href


def test_from_a_zip_to_a_model_on_the_hub(
    browser: Browser, address: str, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    page = visit(browser, address)
    train(page, folder / "colours.zip", epochs=60)
    expect(page.locator("#progress")).to_contain_text(re.compile(r"Epoch \d+ of 60 · [\d,]+ images/s · .* left"))
    expect(page.locator("#loss .mark-line path")).to_have_count(2)  # training and held out
    expect(page.locator("#progress")).to_contain_text("Best so far")
    expect(page.locator("#samples img")).to_have_count(6)
    expect(page.locator("#samples")).to_contain_text(re.compile(r"[✓✗] (red|green|blue) \(\d+%\)"))
    link = link_of(page)
    page.context.close()  # the browser, with all that it knows

    page = visit(browser, address + link)
    figures = page.locator("#figures")
    expect(figures.locator("dl")).to_be_visible()
    accuracy = figures.locator("dd").first.inner_text()
    expect(figures).to_contain_text("Measured on 6 pictures that training has not seen (20% held out).")
    expect(figures.locator("tbody tr")).to_have_count(3)
    expect(page.locator("#confusion img")).to_be_visible()

    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as packed:
        packed.extractall(tmp_path)
    assert ResNet.from_pretrained(tmp_path / "colours").config.labels == ["blue", "green", "red"]

    page.get_by_role("button", name="Share on the Hugging Face Hub").click()
    page.locator("#repo input, #repo textarea").press_sequentially("no/such/name")
    expect(page.locator("#outcome")).to_contain_text("cannot be the name of a repository")
    page.locator("#repo input, #repo textarea").fill("user/colours")
    page.get_by_role("button", name="Push", exact=True).click()
    expect(page.locator("#outcome a")).to_have_attribute("href", re.compile("/user/colours$"))
    pushed = hub.repos["user/colours"]
    assert pushed.private and len(pushed.log) <= 2  # the empty repo's own commit, and ours
    assert accuracy.replace("%", " %") in pushed.files()["README.md"].decode()
    assert link.removeprefix("?run=") not in str(pushed.files())
    assert ResNet.from_pretrained("user/colours", token=WRITER).config.labels == ["blue", "green", "red"]

    page.get_by_role("button", name="Try it").click()
    expect(page.locator("#model input")).to_have_value("My model: colours.zip")
    expect(page.locator("#facts")).to_contain_text("blue, green, red")
    page.locator("#photo input[type=file]").set_input_files(folder / "red.png")
    expect(page.locator("#classes h2")).to_have_text("red")
    expect(page.locator("#line")).to_contain_text("My model: colours.zip")
    page.context.close()


def test_visitors_wait_their_turn_and_see_their_own_runs_only(browser: Browser, address: str, folder: Path) -> None:
    ann, bob = visit(browser, address), visit(browser, address, width=390)
    train(ann, folder / "colours.zip", epochs=100)
    expect(ann.locator("#progress")).to_contain_text("Epoch")
    train(bob, folder / "colours.zip", epochs=None)
    expect(bob.locator("#progress")).to_contain_text("place 1 in the queue")
    assert bob.evaluate("document.documentElement.scrollWidth") == 390

    ann.reload()
    expect(ann.locator("#progress")).to_contain_text("Training")  # found again without the link
    anns, bobs = link_of(ann), link_of(bob)
    assert anns != bobs
    root = folder / "runs" / anns.removeprefix("?run=")
    assert httpx2.get(f"{address}/gradio_api/file={root / 'page.json'}").status_code == 403

    ann.get_by_role("button", name="Stop").click()
    expect(ann.locator("#progress")).to_contain_text("Stopped.")
    expect(ann.get_by_role("button", name="Resume")).to_be_visible()
    expect(bob.locator("#figures dl")).to_be_visible()
    ann.get_by_role("button", name="Delete this run").click()
    expect(ann.locator("#own-classes")).to_be_visible()
    assert not root.exists()

    for name in (anns, "?run=" + "A" * 32, "?run=../runs", "?run=" + EVIL):
        ann.goto(f"{address}/{name}")
        expect(ann.get_by_role("alert")).to_have_text("There is no such run here, or it was deleted.")
    expect(bob.locator("#figures dl")).to_be_visible()
    ann.context.close()
    bob.context.close()


def test_photos_class_by_class(browser: Browser, address: str, tmp_path: Path) -> None:
    photos: list[list[Path]] = [[], [], []]
    for channel, paths in enumerate(photos):
        for number in range(4):
            paths.append(tmp_path / f"{channel}-{number}.png")
            paths[-1].write_bytes(picture(channel, number))
    page = visit(browser, address, locale="zh-CN")
    text = TEXTS["zh"]
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
    expect(page.locator("#report h3")).to_have_text(text["report_head"].format(images=8, classes=2))
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
    exported = load(tmp_path / "data.zip")["train"]
    assert set(exported.labels) == {"红", EVIL} and len(exported) == 8
    page.get_by_role("button", name=text["continue"]).click()
    page.get_by_role("button", name=text["more_choices"]).click()
    page.get_by_role("button", name=text["preview"]).click()
    expect(page.locator("#seen-by-training img")).to_have_count(12)
    assert page.locator("img[src='x']").count() == 0
    assert "__i18n__" not in page.locator("body").inner_text()
    page.context.close()


def test_a_base_that_cannot_be_used_is_refused(browser: Browser, address: str, folder: Path, hub: Hub) -> None:
    page = visit(browser, address)
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="From the Hub").click()
    page.get_by_label("Data set on the Hugging Face Hub").fill("../../etc")
    page.get_by_role("button", name="Check the data").last.click()
    expect(page.get_by_role("alert")).to_contain_text("nor is it a data set on the Hub")
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(folder / "colours.zip")
    uploaded(page, folder / "colours.zip")
    page.locator("#check-zip").click()
    page.get_by_role("button", name="Continue").click()
    for name in ("/etc/passwd", "../shelf/tiny", "user/absent"):
        page.locator("#base input").fill(name)
        page.locator("#base input").press("Enter")
        page.get_by_role("button", name="Start training").click()
        expect(page.locator("#train-notice [role=alert]")).to_contain_text(name)
    page.context.close()


def test_a_run_for_a_larger_machine_goes_to_a_job(browser: Browser, address: str, folder: Path, hub: Hub) -> None:
    page = visit(browser, address)
    bring(page, folder / "colours.zip")
    page.locator("#finetune input").uncheck()
    page.get_by_role("button", name="Train on a machine of Hugging Face").click()
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#train-notice")).to_contain_text("cannot be the name of a repository")
    page.locator("#job-repo input, #job-repo textarea").fill("user/as-job")
    page.get_by_role("button", name="Start the job").click()
    progress = page.locator("#progress")
    expect(progress).to_contain_text("Finished.")
    expect(progress.get_by_role("link").first).to_have_attribute("href", re.compile("/jobs/user/job0$"))
    expect(progress.get_by_role("link").last).to_have_attribute("href", re.compile("/user/as-job"))
    assert ResNet.from_pretrained("user/as-job", token=WRITER).config.labels == ["blue", "green", "red"]
    assert hub.jobs["job0"].spec["flavor"] == "t4-small" and hub.repos["user/as-job"].private
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.context.close()


def test_on_zero_gpu_a_run_waits_for_time_and_goes_on(browser: Browser, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").symlink_to(folder / "shelf")
    with Devices() as devices, serving(tmp_path, STUBS, **devices.env) as address:
        devices.left = [3]
        page = visit(browser, address, extra_http_headers={"X-IP-Token": "a.e30.b"})  # as the platform sends it
        train(page, folder / "colours.zip", epochs=3)
        expect(page.locator("#progress")).to_contain_text("Waiting for GPU time.")
        expect(page.locator("#progress")).to_contain_text("3 s of your GPU time are left.")
        expect(page.locator("#run-link")).to_contain_text("Keep this page open while it trains")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#figures dl")).to_be_visible()
        expect(page.locator("#gpu")).to_contain_text("GPU time used by this run:")
        assert [(call["durationSeconds"], call["token"]) for call in devices.asked] == [("60", "a.e30.b")] * 2
        page.get_by_role("button", name="Try it").click()
        expect(page.locator("#model input")).to_have_value("My model: colours.zip")
        page.locator("#photo input[type=file]").set_input_files(folder / "red.png")
        expect(page.locator("#line")).to_contain_text("on CPU")  # which asks for no GPU
        assert len(devices.asked) == 2
        page.context.close()
