"""HTML as text: everything that comes from outside is escaped here."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The file works offline and asks nobody for anything; the browser is told to hold it to that.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'none'; form-action 'none'; base-uri 'none'"
)


def document(title: str, sections: Sequence[tuple[str, str, str]], lead: str) -> str:
    """A whole page in one file.

    Args:
        title: of the page.
        sections: id, heading and content (HTML) of each.
        lead: HTML between the title and the first section.
    """
    links = "".join(f'<li><a href="#{id_}">{escape(name)}</a></li>' for id_, name, _ in sections)
    body = "".join(
        f'<section id="{id_}" aria-labelledby="{id_}-title">'
        f'<h2 id="{id_}-title">{escape(name)}</h2>{content}</section>\n'
        for id_, name, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{asset('page.css')}</style></head>\n"
        f'<body><a class="skip" href="#main">Skip to the figures</a>'
        f"<header><h1>{escape(title)}</h1>{lead}</header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f'<main id="main">\n{body}</main></body></html>\n'
    )


def asset(name: str) -> str:
    """A file that comes with this package."""
    return (files("nanograd.report") / "page" / name).read_text()


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = ""
) -> str:
    """A table whose first column names its rows; wide ones scroll, also by keyboard."""
    top = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(each)}</td>" for each in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return scrolling(
        caption,
        f'<table class="{class_}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>",
    )


def scrolling(name: str, content: str) -> str:
    """Something wide that scrolls in itself instead of making the page wide."""
    label = escape(name, quote=True)
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">{content}</div>'


def folded(summary: str, content: str) -> str:
    """Something that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def paragraph(words: str, class_: str = "") -> str:
    """Words as a paragraph."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))
    return f'<p class="{class_}">{marked}</p>'


def cards(facts: Iterable[tuple[str, str]]) -> str:
    """A few figures one sees first: name and value of each."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
    )
    return f'<dl class="cards">{items}</dl>'


def picture(pixels: NDArray[np.uint8], words: str) -> str:
    """Pixels as an image inside the page.

    Args:
        pixels: (height, width) grey or (height, width, 4) RGBA, uint8.
        words: what it shows, for those who do not see it.
    """
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    data = b64encode(stream.getvalue()).decode()
    height, width = pixels.shape[:2]
    return (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(words, quote=True)}">'
    )
