"""The tab that the journeys of a file share."""

from collections.abc import Iterator

import pytest
from helpers.page import open_page
from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """An empty tab; one that has been used opens the page faster, since its scripts are compiled."""
    tab = open_page(browser, "about:blank")
    yield tab
    tab.close()
