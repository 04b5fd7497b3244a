"""HTML pages, made by the Jinja templates in `page/`, which escape every value."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from PIL import Image

from nanograd.digits.form import encode_png
from nanograd.report.charts import HEIGHT, WIDTH, Chart, draw_png
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, count, percent, warning

REPORT, PLOTS = "report.html", "plots"


class Report(NamedTuple):
    """A report: one HTML file that opens offline."""

    html: str
    plots: Mapping[str, Sequence[Chart]]  # name of a PNG file -> its charts, side by side

    def write(self, folder: str, *, as_png: bool) -> str:
        """Write the page into a folder, with PNG files if `as_png`; return the page's place."""
        file = storage.join(folder, REPORT)
        storage.commit(file, self.html.encode(errors="backslashreplace"))
        if as_png:
            for name, charts in self.plots.items():
                storage.commit(storage.join(folder, PLOTS, f"{name}.png"), draw_png(charts))
        return file


class InlineImage(NamedTuple):
    """A PNG image inside a page."""

    data: str  # the file in base64
    width: int  # pixels
    height: int  # pixels
    alt: str  # description for screen readers
    caption: Sequence[str] = ()  # lines below it
    title: str = ""  # tooltip


def embed_image(
    picture: Image.Image, alt: str, caption: Sequence[str] = (), title: str = ""
) -> InlineImage:
    """Encode a picture as PNG."""
    data = b64encode(encode_png(picture, optimize=True)).decode()
    return InlineImage(data, *picture.size, alt, caption, title)


def render(template: str, **values: Any) -> str:
    """Fill in a template of `page/`; a missing value is an error."""
    return str(_environment().get_template(template).render(values))


@cache
def _environment() -> Any:
    """Load the templates, which are compiled once in each process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nanograd.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"asset": asset, "chart_size": (WIDTH, HEIGHT)}
    environment.filters |= {"percent": percent, "thousands": "{:,}".format, "json": json.dumps}
    environment.filters["count_of"] = count
    return environment


def asset(name: str) -> str:
    """Return the text of a file in `page/`."""
    return (files("nanograd.report") / "page" / name).read_text()


def write_report(
    place: str,
    build: Callable[[], Report],
    listener: Listener,
    *,
    as_png: bool = False,
    again: bool = False,
) -> str | None:
    """Write the report if it is missing, or if `as_png` or `again` is true; warn if that fails."""
    written = storage.join(place, REPORT)
    try:
        if as_png or again or not storage.exists(written):
            build().write(place, as_png=as_png)
        return written
    except Exception as error:  # noqa: BLE001 - the result itself is complete
        listener(warning(f"no report ({error!r}); `nanograd report {place} --debug` shows why"))
        return None
