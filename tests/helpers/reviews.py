"""`nanograd review` in a process of its own, and a prediction that it can show."""

import json
import re
import signal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanograd import batch
from nanograd.digits.dataset import Dataset
from nanograd.models import model as model_io
from nanograd.runtime.signals import handled
from tests.helpers import processes
from tests.helpers.models import some_model

Row = dict[str, Any]
NO_BROWSER: tuple[str, ...] = ("--no-browser",)


def predict(digits: Dataset, place: Path, **settings: Any) -> str:
    """Predict digits with an untrained model and list all of them; return the output.

    In a second call, an equal file is left as it is.
    """
    (place / "in").mkdir(parents=True, exist_ok=True)
    file, model = place / "in" / f"{len(digits)}.parquet", str(place / "model")
    if not file.exists():
        pq.write_table(pa.table({"image": [each.tobytes() for each in digits.images]}), file)
    if not (place / "model").exists():
        model_io.save(some_model(), model)
    chosen = {"model": model, "output": str(place / "out"), "review_share": 1.0, **settings}
    batch.predict(str(place / "in"), **chosen)
    return str(chosen["output"])


def corrections(output: str) -> list[Row]:
    rows: list[Row] = pq.read_table(f"{output}/_corrections.pq").to_pylist()
    return rows


class Reviewer:
    """A running command and a program that sends requests to its page."""

    def __init__(self, output: str, *flags: str, **environment: str) -> None:
        words = ("review", output, *NO_BROWSER, *flags)
        # A background job of a shell ignores Ctrl-C, and its children would inherit that.
        with handled(signal.default_int_handler, signal.SIGINT):
            self.process = processes.start(*words, **environment)
        assert self.process.stderr
        self.log = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)(/\?token=(\S+))", self.log)
        assert found, self.log + self.process.stderr.read()
        self.address, self.port, self.path = found[0], int(found[1]), found[2]
        self.token = found[3]

    def request(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, str]:
        """Send a request; return status and body of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def page(self) -> Row:
        """Return the state in the page."""
        code, text = self.request("GET", self.path)
        assert code == 200, text
        [state] = re.findall(r'<script type="application/json" id="state">(.*?)</script>', text)
        found: Row = json.loads(state)
        return found

    def send(self, **change: int | None) -> tuple[int, Row]:
        """Decide (`row`, `label`) or undo (`row`); return status and state."""
        code, text = self.request("POST", self.path, json.dumps(change))
        return code, json.loads(text)

    def end(self) -> tuple[Row, str]:
        """Press Ctrl-C; return the result line and the log."""
        self.process.send_signal(signal.SIGINT)
        return processes.finish(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
