"""Take the README's screenshots of a running page: `python app.py`, then

    python docs/screenshots.py http://127.0.0.1:7860 DATA.zip

DATA.zip is any ZIP of class folders to train on; the screenshots show none of its photos.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright


def predict(page: Page) -> None:
    page.get_by_role("button", name="Espresso").click()
    page.locator("#why img.heat").wait_for()


def train(page: Page, data: str) -> None:
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="ZIP file").click()
    page.locator("#zip input[type=file]").set_input_files(data)
    page.locator("#zip a[href$='.zip']").wait_for()
    page.locator("#check-zip").click()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#figures dl")).to_be_visible(timeout=900_000)


def save(page: Page, name: str) -> None:
    page.wait_for_timeout(2000)  # until the images are loaded and the status line is gone
    page.evaluate("scrollTo(0, 0)")
    screenshot = Image.open(io.BytesIO(page.screenshot()))
    screenshot.convert("P", palette=Image.Palette.ADAPTIVE).save(Path(__file__).with_name(f"{name}.png"), optimize=True)


if __name__ == "__main__":
    address, data = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, height in {"predict": 900, "train": 1260}.items():
            page = browser.new_page(viewport={"width": 1280, "height": height})
            page.goto(address)
            page.locator("#summary h2").wait_for()
            predict(page) if name == "predict" else train(page, data)
            save(page, name)
        browser.close()
