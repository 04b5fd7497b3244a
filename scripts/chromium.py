"""Chromium of the system, driven by Playwright: for screenshots and for tests of the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_program() -> str | None:
    """Return the path of the browser; None if it is not installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def launch(path: str) -> Iterator[Browser]:
    """Start a headless browser and close it at the end."""
    with sync_playwright() as playwright:
        # In a container, where tests run as root, Chromium's own sandbox cannot be set up.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
