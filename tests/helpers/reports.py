"""Reports as an HTML parser sees them, and small predictions to report."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd import batch
from nanograd.digits.dataset import Dataset
from nanograd.settings.specs import PredictSpec

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


def confusion_cells(html: str) -> list[int]:
    """Return the counts of a confusion matrix, row by row."""
    return [int(count.replace(",", "")) for count in re.findall(r"<title>\d as \d: (.*?)<", html)]


def predict_digits(run: Path, digits: Dataset, rows: Path, num_labelled: int, output: Path) -> None:
    """Predict digits, the first of them labelled, and a bad row, stored in the folder `rows`."""
    labels = [*digits.labels[:num_labelled].tolist(), *[None] * (len(digits) + 1 - num_labelled)]
    pictures = [*(image.tobytes() for image in digits.images), b"no picture"]
    rows.mkdir(exist_ok=True)
    table = pa.table({"image": pictures, "label": pa.array(labels, pa.int8())})
    pq.write_table(table, rows / "<s>.parquet")
    config = PredictSpec(model=str(run / "model"), output=str(output), workers=0)
    batch.predict([str(rows)], spec=config, listener=[].append)
