"""Draw the Mermaid diagrams of docs/ as SVG, because the site makes no requests.

    npm install mermaid
    python -m scripts.diagrams node_modules/mermaid/dist/mermaid.min.js

The name of a drawing is the SHA-256 of its text. So the build fails if a diagram was changed but
not drawn again. The drawing uses the page's colours, light and dark.
"""

import hashlib
import re
import sys
from pathlib import Path

from playwright.sync_api import Page

from scripts import chromium

DOCS = Path(__file__).resolve().parents[1] / "docs"
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Colour of Mermaid's theme -> colour of the page that replaces it.
_COLOURS = {
    "#010203": "var(--color-foreground-primary)",
    "#a1a2a3": "var(--color-foreground-border)",
    "#f1f2f3": "var(--color-background-secondary)",
}
_TEXT, _LINE, _FILL = _COLOURS
_FILLED = (
    "background primaryColor secondaryColor tertiaryColor mainBkg actorBkg labelBoxBkgColor "
    "edgeLabelBackground"
)
_LINES = "primaryBorderColor lineColor actorBorder actorLineColor signalColor labelBoxBorderColor"
_TEXTS = "primaryTextColor textColor actorTextColor signalTextColor labelTextColor loopTextColor"
_THEME = {
    "fontFamily": "inherit",
    **dict.fromkeys(_FILLED.split(), _FILL),
    **dict.fromkeys(_LINES.split(), _LINE),
    **dict.fromkeys(_TEXTS.split(), _TEXT),
}
_RENDER = """
async ([text, name, themeVariables]) => {
    mermaid.initialize({startOnLoad: false, theme: 'base', themeVariables, htmlLabels: false,
                        flowchart: {htmlLabels: false}, deterministicIds: true});
    return (await mermaid.render(name, text)).svg;
}
"""


def file_of(text: str) -> Path:
    """Return the file of the drawing for a diagram's text."""
    return DOCS / "pictures" / f"diagram-{hashlib.sha256(text.encode()).hexdigest()[:12]}.svg"


def main() -> None:
    """Draw every diagram, and remove drawings that no page uses."""
    path = chromium.find_program()
    if path is None:
        sys.exit("needs Chromium; `make test-browser` installs it")
    texts = [text for file in DOCS.rglob("*.md") for text in DIAGRAM.findall(file.read_text())]
    for old in {*DOCS.glob("pictures/diagram-*.svg")} - {file_of(text) for text in texts}:
        old.unlink()
    with chromium.launch(path) as browser:
        page = browser.new_page()
        page.add_script_tag(path=sys.argv[1])
        for text in texts:
            file_of(text).write_text(draw(page, text))


def draw(page: Page, text: str) -> str:
    """Return a diagram as SVG."""
    svg: str = page.evaluate(_RENDER, [text, file_of(text).stem, _THEME])
    for colour, of_page in _COLOURS.items():
        svg = svg.replace(colour, of_page)
    return svg + "\n"


if __name__ == "__main__":
    main()
