from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page


@contextmanager
def opened(
    browser: Browser, address: str, seen: Mapping[str, list[Any]] | None = None, **options: Any
) -> Iterator[Page]:
    """Open an address in a window of its own; `seen` receives the page's events by their names."""
    context = browser.new_context(**options)
    page = context.new_page()
    for event, found in (seen or {}).items():
        page.on(event, partial(list.append, found))  # type: ignore[call-overload]
    page.goto(address)
    yield page
    context.close()


def serious_violations(page: Page) -> list[str]:
    results = Axe().run(page)
    assert results.response["passes"]
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in results.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
