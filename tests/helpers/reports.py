"""Reports as an HTML parser sees them."""

import re
from html.parser import HTMLParser
from typing import Any

from nanograd.report import html

MAX_BYTES = 3_000_000


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.attributes if each == name]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        assert tag != "img" or dict(attrs)["alt"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_page(text: str) -> Page:
    """Check that a report is one small file that requests nothing and whose links resolve."""
    page = Page(text)
    ids, links = page.values("id"), page.values("href")
    assert len(text.encode()) < MAX_BYTES
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    return page


def render_source(source: str, **values: Any) -> str:
    """Fill in a template given as text, which may import those of the reports."""
    return html._environment().from_string(source).render(values)
