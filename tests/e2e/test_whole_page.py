"""The page as a whole: what a screen reader finds, what the browser's console says, and what a link opens.

The first needs the npm package axe-core; `RESNET_HUB_AXE` names its folder.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.data import save_base, write_zip
from helpers.hostile import CARD
from helpers.page import clear_tab, open_page, serving
from playwright.sync_api import Browser, Page, expect

from resnet_hub.demo.i18n import MESSAGES

LOCALES = {"en": "en-US", "zh": "zh-CN"}
FIND_VIOLATIONS = """async () => {
    for (const change of document.getAnimations()) if (change instanceof CSSTransition) change.finish();
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    // The header of Gradio's own messages is a button with a button in it: no part of this page can change that.
    const isGradios = ({ id, nodes }) => id === "nested-interactive"
        && nodes.every(({ html }) => html.includes('class="toast-header'));
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
        .filter((violation) => !isGradios(violation))
        .map(({ id, nodes }) => [id, nodes.map(({ html, any }) => html.slice(0, 200) + (any[0]?.message ?? ""))]);
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    save_base(folder / "shelf" / "tiny")
    (folder / "shelf" / "tiny" / "README.md").write_text(CARD, encoding="utf-8")
    write_zip(folder / "colors.zip")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder) as address:
        yield address


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """The page as a newcomer opens it."""
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.goto(address)
    expect(tab.locator("#summary h2")).to_be_visible()
    yield tab
    clear_tab(tab)


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    folder = os.environ.get("RESNET_HUB_AXE")
    if not folder:
        must_run = os.environ.get("CI") and shutil.which("npm")
        (pytest.fail if must_run else pytest.skip)("RESNET_HUB_AXE does not name a copy of axe-core.")
    return (Path(folder) / "axe.min.js").read_text(encoding="utf-8")


def find_violations(page: Page, axe: str, stop: str) -> list[Any]:
    """The serious findings on what the page shows, in both themes."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    found = []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=theme == "dark")
        found += [[stop, theme, *finding] for finding in page.evaluate(FIND_VIOLATIONS)]
    return found


@pytest.mark.parametrize("language", LOCALES)
def test_every_step_is_accessible(browser: Browser, address: str, folder: Path, axe: str, language: str) -> None:
    text = MESSAGES[language]
    page = open_page(browser, address, locale=LOCALES[language])
    expect(page.locator("#summary h2")).to_be_visible()
    found = find_violations(page, axe, "predict")
    page.locator("#examples button").first.click()
    expect(page.locator("#why img.heat")).to_be_visible()
    page.get_by_role("button", name=text["about_model"]).click()
    expect(page.locator("#facts dl")).to_be_visible()
    found += find_violations(page, axe, "answer")
    page.get_by_role("tab", name=text["train_tab"]).click()
    expect(page.locator("#own-classes")).to_be_visible()
    found += find_violations(page, axe, "classes")
    page.get_by_role("tab", name=text["zip"]).click()
    page.locator("#zip input[type=file]").set_input_files(folder / "colors.zip")
    expect(page.locator("#zip a")).to_be_visible()
    page.locator("#check-zip").click()
    expect(page.locator("#report table")).to_be_visible()
    found += find_violations(page, axe, "report")
    page.get_by_role("button", name=text["continue"]).click()
    page.get_by_role("button", name=text["more_choices"]).click()
    expect(page.locator("#mixup input")).to_be_visible()
    found += find_violations(page, axe, "model")
    page.get_by_label(text["recipe_head"]).check()
    page.get_by_role("button", name=text["start"]).click()
    expect(page.locator("#figures dl")).to_be_visible()
    page.locator("#delete-run").click()
    expect(page.locator("#delete-run-yes")).to_be_visible()
    found += find_violations(page, axe, "result")
    page.locator(".step-button").nth(2).click()
    expect(page.locator("#samples img").first).to_be_visible()
    found += find_violations(page, axe, "training")
    page.locator(".step-button").first.click()
    page.get_by_role("tab", name=text["by_class"]).click()
    expect(page.locator(".preview h2")).to_be_visible()
    found += find_violations(page, axe, "trained")
    page.get_by_role("tab", name=text["inside_tab"]).click()
    expect(page.locator("#inside-drawing svg")).to_be_visible()
    found += find_violations(page, axe, "inside")
    page.close()
    assert found == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_description_of_the_api_has_a_link(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    docs = page.locator(".api-docs")
    page.locator("footer .show-api").click()
    expect(docs).to_contain_text("/predict")
    page.goto(f"{address}/?view=api")
    expect(docs).to_contain_text("/predict")


def test_the_console_stays_empty(browser: Browser, address: str, folder: Path) -> None:
    page = open_page(browser, address)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    expect(page.locator("#summary h2")).to_be_visible()
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(folder / "colors.zip")
    expect(page.locator("#zip a")).to_be_visible()
    page.reload()
    expect(page.locator("#summary h2")).to_be_visible()
    page.close()
    assert messages == []


def test_a_card_of_a_stranger_runs_nothing_and_loads_nothing(page: Page) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_role("button", name="About this model").click()
    card = page.locator("#card")
    expect(card.locator("h1")).to_contain_text("<script>alert(1)</script>")
    expect(page.locator("#summary h2")).to_contain_text("<script>")
    for element in card.locator("a, th, summary").all():
        element.dispatch_event("mouseover")
    assert card.locator("script, iframe, img, svg, style").count() == 0
    assert [url for url in requests if "evil.example" in url] == []


def test_fingers_hit_every_button(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#summary h2")).to_be_visible()
    page.locator("#examples button").first.tap()
    expect(page.locator("#classes h2")).to_be_in_viewport()  # below the photo
    for tab in ("Predict", "Train"):
        page.get_by_role("tab", name=tab).tap()
        expect(page.locator("#photo" if tab == "Predict" else "#own-classes")).to_be_visible()
        small = page.evaluate("""[...document.querySelectorAll("button, [role=tab], summary")]
            .filter((element) => element.checkVisibility({ visibilityProperty: true }))
            .map((element) => [element.getBoundingClientRect(), element.outerHTML.slice(0, 200)])
            .filter(([{ width, height }]) => Math.min(width, height) < 44)""")
        assert small == []
    context.close()
