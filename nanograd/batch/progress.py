"""How far a batch job is: receipts counted, figures shown."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from nanograd.runtime import json_files
from nanograd.runtime.events import Show

_RECORD_S = 1.0


class Progress:
    """Counts receipts and shows how far they go, and how fast since the first part was begun.

    Args:
        command: whose job it is.
        num_parts: of the whole job.
        num_rows: of the whole job.
        show: shown figures after each part.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        command: str,
        num_parts: int,
        num_rows: int,
        show: Show,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._command, self._num_parts, self._num_rows = command, num_parts, num_rows
        self._show, self._clock = show, clock
        self._parts = self._rows = self._quarantined = self._rows_before = 0
        self._began: float | None = None
        self._recorded: list[dict[str, Any]] = []

    def start_from(self, receipt: Mapping[str, Any]) -> None:
        """Count a part that an earlier command did; it says nothing about this one's speed."""
        self._count(receipt)
        self._rows_before += receipt["rows"]

    def begin(self) -> None:
        """Show where an earlier command left the job."""
        self._tell(complete=False)

    def add(self, receipt: Mapping[str, Any], seconds: float) -> None:
        """Count a part that was done just now and took so long, and show where that leads."""
        self._count(receipt)
        # What others do before they begin (Ray, actors) is not known here, and no part's time.
        began = self._clock() - seconds
        self._began = began if self._began is None else min(self._began, began)
        self._tell(complete=self._parts == self._num_parts)

    def running(self) -> tuple[int, float, float]:
        """Rows added, the moment at which the first of their parts was begun, and this moment."""
        now = self._clock()
        return self._rows - self._rows_before, now if self._began is None else self._began, now

    def _count(self, receipt: Mapping[str, Any]) -> None:
        self._parts += 1
        self._rows += receipt["rows"]
        self._quarantined += receipt["quarantined"]

    def recorded(self) -> bytes:
        """What was shown, as lines of JSON, one a second at most."""
        return json_files.lines(self._recorded)

    def _tell(self, *, complete: bool) -> None:
        figures = {**self._figures(), "complete": complete}
        self._show(figures)
        before = self._recorded[-1]["time_s"] if self._recorded else -_RECORD_S
        if complete or figures["time_s"] - before >= _RECORD_S:
            self._recorded.append(figures)

    def _figures(self) -> dict[str, Any]:
        rows, began, now = self.running()
        rate = rows / max(now - began, 1e-3)
        return {
            "event": "progress",
            "command": self._command,
            "part": self._parts,
            "parts": self._num_parts,
            "row": self._rows,
            "rows": self._num_rows,
            "rows_per_s": round(rate, 3),
            "quarantined": self._quarantined,
            "time_s": round(now - began, 3),
            "left_s": round((self._num_rows - self._rows) / rate, 1) if rate else None,
        }
