"""The README's pictures of a running page: `python app.py`, then `python docs/screenshots.py http://127.0.0.1:7860`."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

VIEWS = {"predict": (1280, 900), "predict-phone": (390, 1400)}

if __name__ == "__main__":
    address = sys.argv[1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.locator("#examples").get_by_role("img", name="espresso").click()
            page.locator("#why img").wait_for()
            page.wait_for_timeout(2000)  # until the pictures are drawn and the status line is gone
            page.evaluate("scrollTo(0, 0)")
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.convert("P", palette=Image.Palette.ADAPTIVE).save(
                Path(__file__).with_name(f"{name}.png"), optimize=True
            )
        browser.close()
