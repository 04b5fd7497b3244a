"""The documentation site: Markdown of the checkout, rendered by Sphinx, for reading offline.

    sphinx-build -W -c docs . build/site

The source folder is the checkout, so that links mean the same here and where the repository is
browsed. Files that pages link to are pages of the site too: code highlighted, folders as lists.
"""

import json
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nanograd import __version__  # noqa: E402
from scripts.diagrams import DIAGRAM, file_of  # noqa: E402

project, author, release = "nanograd", "nanograd", __version__
project_copyright = ""
root_doc = "docs/index"
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
include_patterns = [
    *("README.md", "README.zh-TW.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *(
        "docs/**.md",
        "examples/*.ipynb",
        "benchmarks/results/*.md",
        "nanograd/images/sample/README.md",
    ),
]
exclude_patterns = [".*", "build", "demo", "runs", "tests", "**/node_modules"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
default_role = "code"  # docstrings write code in single backticks
highlight_language = "text"
smartquotes = False  # flags begin with two hyphens
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
math_renderer = "html:mathml"

html_theme = "furo"
html_title = "nanograd"
html_show_copyright = html_show_sphinx = html_copy_source = False
html_static_path = ["static"]
html_css_files = ["formulas.css", "site.css"]
html_theme_options = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "default", "monokai"

_QUOTATION = re.compile(r"^```(\w+) title=(\S+)$", re.MULTILINE)

# Records that the search leaves out, and pages whose tables need the width of the list of sections.
_RECORDS = ("docs/decisions/", "benchmarks/results/", "CHANGELOG")
_WIDE = ("docs/figures",)

_RAW = "```{{raw}} html\n:file: {}\n```"


def markdown(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook and their outputs as Markdown."""
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        blocks.append(f"```python\n{source}\n```" if "outputs" in cell else source)
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if png := data.get("image/png"):
                blocks.append(f"![output](data:image/png;base64,{png.strip()})")
            else:
                blocks.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(blocks)


def prepare(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn notebooks, quotations of code and diagrams into what the parser knows."""
    [text] = source
    if docname.startswith("examples/"):
        text = markdown(json.loads(text))
    text = _QUOTATION.sub(r"```{code-block} \1\n:caption: \2\n", text)
    text = DIAGRAM.sub(lambda found: _RAW.format(file_of(found[1])), text)
    # Pages outside docs/ are reached by links, not from the list of pages.
    source[0] = text if docname.startswith("docs/") else f"---\norphan: true\n---\n\n{text}"


class LinkFiles(SphinxPostTransform):
    """Lead links to files and folders of the checkout to the pages made of them."""

    default_priority = 5  # before unresolved links are reported

    def run(self, **kwargs: Any) -> None:
        """Replace each link of this document."""
        here = (ROOT / self.env.doc2path(self.env.docname)).parent
        for link in [*self.document.findall(download_reference), *self.document.findall(_folder)]:
            target = (here / link["reftarget"]).resolve()
            if target.suffix in (".gif", ".png"):
                continue  # Sphinx copies it
            name = self.page_of(target)
            uri = self.app.builder.get_relative_uri(self.env.docname, name)
            new = nodes.reference("", "", internal=True, refuri=uri)
            new += link.children
            link.replace_self(new)

    def page_of(self, target: Path) -> str:
        """Return the name of the page of a file or folder, which is made at the end."""
        place = target.relative_to(ROOT).as_posix()
        files: set[str] = self.env.__dict__.setdefault("nanograd_files", set())
        files.add(place)
        return f"files/{place}"


def describe_page(app: Sphinx, _: nodes.document) -> None:
    """Keep records of decisions and measurements out of the search, and give tables their width."""
    name = app.env.docname
    if name.startswith(_RECORDS):
        app.env.metadata[name]["nosearch"] = ""
    if name in _WIDE:
        app.env.metadata[name]["hide-toc"] = ""


def write_texts(app: Sphinx, error: Exception | None) -> None:
    """Write the text of all pages for the search: browsers refuse to read pages from a disk."""
    if error is None and app.builder.name == "html":
        names = [name for name in app.env.found_docs if not name.startswith(_RECORDS)]
        texts = {name: _text(app.env.get_doctree(name)) for name in sorted(names)}
        code = f"const TEXTS = {json.dumps(texts)};\n"
        (Path(app.outdir) / "_static" / "texts.js").write_text(code)


def _text(node: nodes.Node) -> str:
    """Return the text of a page as HTML with its sections."""
    if isinstance(node, nodes.Text):
        return escape(node.astext())
    if isinstance(node, nodes.raw | nodes.comment | nodes.math | nodes.math_block):
        return " "
    inner = "".join(map(_text, node.children))
    if isinstance(node, nodes.section):
        return f'<section id="{node["ids"][0]}">{inner}</section>'
    return inner if isinstance(node, nodes.Inline) else f"{inner} "


def _folder(node: nodes.Node) -> bool:
    return isinstance(node, pending_xref) and node.get("reftarget", "").endswith("/")


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the page at the root, and one for each file and folder that a page links to."""
    refresh = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
    link = '<p><a href="docs/index.html">Documentation</a></p>'
    yield "index", {"title": project, "metatags": refresh, "body": link}, "page.html"
    for place in sorted(getattr(app.env, "nanograd_files", ())):
        target = ROOT / place
        if target.is_dir():
            names = "".join(f"<li>{escape(each.name)}</li>" for each in sorted(target.iterdir()))
            body = f"<ul>{names}</ul>"
        else:
            suffix = target.suffix.lstrip(".")
            body = app.builder.highlighter.highlight_block(target.read_text(), suffix or "text")
        title = f"<h1><code>{escape(place)}</code></h1>"
        yield f"files/{place}", {"title": place, "body": title + body}, "page.html"


def make_accessible(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Give captions their level, let the keyboard reach what scrolls, and the search its texts."""
    if page == "search":
        for name in ("texts.js", "search.js"):
            app.add_js_file(name)
    for name in ("body", "furo_navigation_tree"):
        text = context.get(name) or ""
        text = text.replace('role="heading">', 'role="heading" aria-level="2">')
        text = text.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
        context[name] = text.replace("<pre>", '<pre tabindex="0">')


def visit_math(translator: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    if isinstance(node, nodes.math):
        translator.body.append(convert(node.astext()))
    else:
        formula = convert(node.astext(), display="block")
        translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>')
    raise nodes.SkipNode


def _name_functions(*event: Any) -> tuple[str, str | None] | None:
    """Return a signature in which a function as a default is its name."""
    *_, signature, returned = event
    return signature and (re.sub(r"<function (\w+)[^>]*>", r"\1", signature), returned)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-signature", _name_functions)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.add_post_transform(LinkFiles)
    app.connect("source-read", prepare)
    app.connect("doctree-read", describe_page)
    app.connect("build-finished", write_texts)
    app.connect("html-collect-pages", file_pages)
    app.connect("html-page-context", make_accessible, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}
