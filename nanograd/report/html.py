"""HTML pages, made by the Jinja templates in `page/`, which escape every value."""

import json
from base64 import b64encode
from functools import cache
from importlib.resources import files
from io import BytesIO
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment


class InlineImage(NamedTuple):
    """A PNG image inside a page."""

    data: str  # the file in base64
    width: int  # pixels
    height: int  # pixels
    alt: str  # description for screen readers


def render(template: str, **values: Any) -> str:
    """Fill in a template of `page/`; a missing value is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nanograd.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = asset
    environment.filters |= {"percent": percent, "thousands": "{:,}".format, "json": json.dumps}
    return environment


def asset(name: str) -> str:
    """Return the text of a file in `page/`."""
    return (files("nanograd.report") / "page" / name).read_text()


def percent(share: float | None) -> str:
    """Format a share with two decimals, an undefined one as a dash.

    >>> percent(0.98254), percent(float("nan")), percent(None)
    ('98.25 %', '-', '-')
    """
    return "-" if share is None or isnan(share) else f"{100 * share:.2f} %"


def embed_image(pixels: NDArray[np.uint8], alt: str) -> InlineImage:
    """Encode (height, width) grey or (height, width, 4) RGBA pixels as PNG."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    height, width = pixels.shape[:2]
    return InlineImage(b64encode(stream.getvalue()).decode(), width, height, alt)
