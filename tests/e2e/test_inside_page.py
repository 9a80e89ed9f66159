"""The Inside tab in a real browser: blocks of the model, chosen by mouse and keyboard, at the width of a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.page import clear_tab, open_page, serving
from helpers.records import create_lesions, create_record, write_lesions
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from resnet_hub.analysis.cifar import write_record
from resnet_hub.analysis.lesion_records import LESIONS
from resnet_hub.config import ResNetConfig
from resnet_hub.model import ResNet


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("inside")
    torch.manual_seed(0)
    labels = dict(enumerate(["cat", "dog", "ship", "truck", "bird", "<img src=x onerror=alert(1)>"]))
    config = ResNetConfig(depths=(2, 2), width=8, stem="3x3", image_size=32, crop_pct=1.0, id2label=labels)
    ResNet(config).save_pretrained(folder / "shelf" / "tiny")
    Image.radial_gradient("L").convert("RGB").save(folder / "photo.png")
    records = folder / "records"
    (records / LESIONS).mkdir(parents=True)
    for name, seed, accuracy in (("plain20", 0, 0.7), ("resnet20", 0, 0.75), ("resnet20", 1, 0.875)):
        write_record(records / f"{name}-{seed}.json", create_record(name, seed, accuracy))
        lesions = create_lesions(f"{name}-seed{seed}", [0.1, 0.7], accuracy=accuracy)
        write_lesions(records / LESIONS / f"{name}-{seed}.json", lesions)
    program = f"from pathlib import Path; from resnet_hub.analysis import cifar; cifar.RECORDS = Path({str(records)!r})"
    with serving(folder, program) as address:
        yield address


def visit(browser: Browser, address: str, *, width: int = 1280, locale: str = "en-US") -> Page:
    page = open_page(browser, address, width=width, locale=locale)
    show_inside(page)
    return page


def show_inside(page: Page) -> None:
    page.get_by_role("tab").nth(2).click()
    expect(page.locator("#inside-drawing svg")).to_be_visible()


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """The page as a newcomer opens it."""
    tab.goto(address)
    show_inside(tab)
    yield tab
    clear_tab(tab)


def test_a_block_shows_its_facts_maps_and_ratio(page: Page) -> None:
    expect(page.locator("#inside-source")).to_contain_text("An example photo")
    block = page.locator("#inside-drawing [data-value='layer2.0']")
    block.click()
    expect(page.locator("#inside-facts")).to_contain_text("8 × 32 × 32 → 16 × 16 × 16")
    expect(page.locator("#inside-facts")).to_contain_text("section 3.3")
    expect(page.locator("#inside-maps img")).to_have_count(8)
    expect(page.locator("#inside-ratios")).to_contain_text("layer2.0: ")
    assert block.get_attribute("aria-pressed") == "true"
    other = page.locator("#inside-drawing [data-value='layer1.1']")
    other.focus()
    page.keyboard.press("Enter")  # the keyboard will do, and the focus stays
    expect(page.locator("#inside-ratios")).to_contain_text("layer1.1: ")
    assert block.get_attribute("aria-pressed") == "false" and other.get_attribute("aria-pressed") == "true"
    assert other.evaluate("box => document.activeElement === box")


def test_the_photo_of_the_predict_tab_goes_through_the_model(page: Page, address: str, tmp_path: Path) -> None:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    page.get_by_role("tab").nth(0).click()
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "photo.png")
    expect(page.locator("#photo img")).to_be_visible()
    page.get_by_role("tab").nth(2).click()
    expect(page.locator("#inside-source")).to_contain_text("Your photo")
    page.locator("#inside-drawing [data-value='layer1.0']").click()
    expect(page.locator("#inside-maps img")).to_have_count(8)


def test_it_fits_a_phone_in_chinese(browser: Browser, address: str) -> None:
    page = visit(browser, address, width=360, locale="zh-CN")
    expect(page.locator("#inside-source")).to_contain_text("示例照片")
    page.locator("#inside-drawing [data-value='layer2.1']").click()
    expect(page.locator("#inside-ratios")).to_contain_text("每个块对输入的改变")
    expect(page.locator("#inside-facts h3")).to_be_in_viewport()  # below the drawing, scrolled to
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#inside-drawing [data-value='layer2.1'] rect").bounding_box()
    assert box is not None and box["width"] >= 40 and box["height"] >= 36  # a finger finds it
    page.close()


def open_part(page: Page, name: str) -> None:
    page.locator(f"#{name} > button").click()


def test_blocks_are_switched_off_one_by_one_and_on_again(page: Page) -> None:
    open_part(page, "inside-lesion")
    labels = page.locator("#inside-labels")
    page.locator("#inside-switches [data-value='layer1.1']").click()
    page.locator("#inside-switches [data-value='layer2.0']").press("Enter")  # at once: no choice is lost
    expect(labels).to_contain_text("2 of 4 blocks are off")
    assert page.locator("#inside-labels tbody tr").count() == 5 and page.locator("img[src='x']").count() == 0
    page.locator("#inside-switches [data-reset]").click()
    expect(labels).to_contain_text("0 of 4 blocks are off, and the top label is still")
    assert page.locator("#inside-switches [aria-pressed=true]").count() == 0


def test_paths_come_when_they_are_asked_for(page: Page) -> None:
    open_part(page, "inside-paths")
    assert page.locator("#inside-path-chart figure").count() == 0
    page.locator("#inside-run-paths").click()
    expect(page.locator("#inside-path-chart")).to_contain_text("Of 4 blocks, a path passes 2 on average")


def test_recorded_curves_are_played_hovered_and_moved_by_keys(page: Page) -> None:
    open_part(page, "inside-recorded")
    player = page.locator("#inside-recorded .player")
    row, slider = player.locator("tr[data-name=resnet20]"), player.locator("input[type=range]")
    expect(row).to_contain_text("18.8%")  # at the end, mean of two seeds
    slider.press("ArrowLeft")
    expect(row).to_contain_text("34.4%")
    line, band = (player.locator(f"figure >> nth=0 >> {kind}[data-name=resnet20]") for kind in ("polyline", "polygon"))
    assert len((line.get_attribute("points") or "").split()) == 2
    assert len((band.get_attribute("points") or "").split()) == 4
    box = player.locator("svg[role=img]").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.17, box["y"] + box["height"] / 2)
    expect(player.locator("output")).to_have_text("0")
    expect(row).to_contain_text("50.0%")
    page.mouse.move(0, 0)
    expect(row).to_contain_text("18.8%")  # the pointer has left
    player.get_by_role("button", name="Play").press("Enter")
    expect(player.get_by_role("button", name="Pause")).to_be_visible()
    expect(player.get_by_role("button", name="Play")).to_be_visible()  # it has ended
    expect(player.locator("output")).to_have_text("2")


def test_recorded_lesions_shortcuts_and_tables_are_shown_and_fit_a_phone(browser: Browser, address: str) -> None:
    page = visit(browser, address, width=390)
    open_part(page, "inside-lesion")
    expect(page.locator("#inside-lesions figure")).to_have_count(3)
    expect(page.locator("#inside-lesions tbody tr")).to_have_count(2)
    page.locator("#inside-switches [data-value='layer1.1']").click()
    expect(page.locator("#inside-accuracy")).to_contain_text("There are no labeled images for this model here")
    open_part(page, "inside-shortcuts")
    expect(page.locator("#inside-shortcuts .player")).to_be_visible()
    open_part(page, "inside-tables")
    expect(page.locator("#inside-tables table")).to_have_count(2)
    open_part(page, "inside-gradients")
    overflow = "label => label.closest('.block').scrollWidth - label.closest('.block').clientWidth"
    assert page.locator("#inside-gradients label", has_text="BatchNorm").evaluate(overflow) <= 0  # all of it is seen
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_live_experiments_draw_while_one_watches_and_stop(page: Page) -> None:
    open_part(page, "inside-gradients")
    page.locator("#inside-gradients button.primary").click()
    expect(page.locator("#inside-gradient-charts figure")).to_have_count(3)
    open_part(page, "inside-race")
    page.locator("#inside-race button.primary").click()
    expect(page.locator("#inside-race-charts figure")).to_have_count(2)
    stop = page.locator("#inside-race").get_by_role("button", name="Stop")
    stop.click()
    expect(page.locator("#inside-race-charts figure")).to_have_count(2)
    open_part(page, "inside-identity")  # the process is free for it
    page.locator("#inside-identity button.primary").click()
    expect(page.locator("#inside-identity-chart figure")).to_have_count(1)
    page.locator("#inside-race button.primary").click()
    stop.click()
    expect(page.locator("#inside-race-charts")).not_to_contain_text("Computing")
