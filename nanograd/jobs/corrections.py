"""The decisions of a person about the rows of a review list, as labelled pictures.

    OUT/_corrections.pq    a row per decision, in order: the columns of the list without its scores.
                           The label is null if the picture shows no digit

`nanograd train --data` and `nanograd evaluate --data` read this file. Each decision and each undo
commits the whole file, so the file is complete at any moment. A decision belongs to the picture of
a row: if the list is made again, rows with the same picture stay decided.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from threading import Lock

import pyarrow as pa

from nanograd.errors import DataError, StorageError
from nanograd.images.inputs import Origin
from nanograd.images.parquet import check_storage, open_parquet
from nanograd.images.writers import PICTURE, PREDICTIONS, SOURCE, to_parquet
from nanograd.jobs.output import CORRECTIONS, MANIFEST, REVIEW, SUCCESS, Manifest
from nanograd.models.reference import UNFAMILIAR
from nanograd.runtime import storage
from nanograd.runtime.json_files import JsonObject
from nanograd.runtime.lease import Lease

_TYPES = {**{field.name: field.type for field in PREDICTIONS}, "image": PICTURE}
# Columns that every file of decisions has, and the scores of a list, which decisions do not have.
_SAVED = (*SOURCE.names, "prediction", "label", "image")
_SCORES = ("confidence", "unfamiliarity", "probabilities", "doubt")
# Maximum letters that the page shows of the value of a column.
_MAX_LETTERS = 40


def read_list(output: str) -> pa.Table:
    """Read the review list of a finished prediction, the most doubtful row first.

    Raises:
        DataError: the folder or the list is missing or damaged, or the prediction is not finished.
        StorageError: reading failed.
    """
    names, place = storage.names(output), storage.join(output, REVIEW)
    if MANIFEST not in names:
        missing = "" if storage.exists(output) else ", because there is no such folder"
        raise DataError(f"{output} is not an output of nanograd predict{missing}; check the path")
    if (command := Manifest.read(output).job.get("command")) != "predict":
        raise DataError(f"{output} was written by {command}; only predictions have a review list")
    if SUCCESS not in names:
        raise DataError(f"{output} is not finished; start its predict command again, then review")
    if REVIEW not in names:
        text = f"{place} does not exist; start the predict command again, which makes it if its"
        raise DataError(f"{text} --review-share is above 0")
    return _read(place, (*_SAVED, "confidence", "unfamiliarity"))


class Decisions:
    """The decisions about the rows that `read_list` found in an output, which this process holds.

    Threads may call the methods at the same time.

    Raises:
        DataError: the file of decisions is damaged, another program wrote it, or a kept column has
            got another type.
    """

    def __init__(self, output: str, rows: pa.Table, lease: Lease) -> None:
        self.output, self.file = output, storage.join(output, CORRECTIONS)
        self._rows, self._lease, self._lock, self._is_closed = rows, lease, Lock(), False
        self._saved = [name for name in rows.column_names if name not in _SCORES]
        self._table = rows.select(self._saved).slice(0, 0)
        if storage.exists(self.file):
            old = _read(self.file, _SAVED)
            try:
                self._table = pa.concat_tables([old, self._table], promote_options="permissive")
            except pa.ArrowTypeError as error:
                text = f"{self.file} has columns that do not fit the list ({error})"
                raise DataError(f"{text}; move it to another folder") from error
        numbers = {picture: number for number, picture in enumerate(_pictures(rows))}
        # The row of each decision; None if the list does not have it.
        self._order = [numbers.get(picture) for picture in _pictures(self._table)]
        found = zip(self._order, self._table["label"].to_pylist(), strict=True)
        self._labels: dict[int, int | None] = {r: label for r, label in found if r is not None}

    def __len__(self) -> int:
        return len(self._rows)

    def decide(self, row: int, label: int | None) -> bool:
        """Save a digit as the label of a row, or None if its picture shows no digit.

        An earlier label that differs is kept; the result is then False.

        Raises:
            StorageError: saving failed; the label is not recorded.
            OutputExistsError: another process holds the output.
        """
        with self._lock:
            if row in self._labels:
                return self._labels[row] == label
            # In Arrow's types, because Python's lack nanoseconds and years after 9999.
            added = self._rows.select(self._saved).slice(row, 1)
            column = pa.array([label], _TYPES["label"])
            added = added.set_column(self._saved.index("label"), "label", column)
            table = pa.concat_tables([self._table, added], promote_options="default")
            # A table of many chunks takes long to encode.
            self._commit(table.combine_chunks())
            self._order.append(row)
            self._labels[row] = label
            return True

    def undo(self, row: int) -> bool:
        """Remove the last decision; return False if it is not about this row. Raise as `decide`."""
        with self._lock:
            if self._order[-1:] != [row]:
                return False
            self._commit(self._table.slice(0, len(self._table) - 1))
            self._order.pop()
            self._labels.pop(row, None)
            return True

    def state(self, row: int | None = None) -> JsonObject:
        """Return what the page shows: `row` or, if it is None or decided, the next undecided row.

        In the result, `row` is None if all rows are decided, and `last` is the row whose decision
        `undo` would remove.
        """
        with self._lock:
            if row is None or row in self._labels:
                row = next((each for each in range(len(self)) if each not in self._labels), None)
            state = {"row": row, "rows": len(self), "decided": len(self._labels)}
            state["last"] = self._order[-1] if self._order else None
        if row is None:
            return state
        names = self._saved[: self._saved.index("path")]
        shown = [*names, *(n for n in ("line", "position") if n in self._saved[len(names) :])]
        about = [f"{name}: {_text(self._rows[name][row])[:_MAX_LETTERS]}" for name in shown]
        [found] = self._rows.drop_columns(names).slice(row, 1).to_pylist()
        return {
            **state,
            "place": " · ".join([Origin.of(found).place, *about]),
            "is_unfamiliar": (found["unfamiliarity"] or 0) > UNFAMILIAR,
            "probabilities": found.get("probabilities"),
            "image": b64encode(found["image"]["bytes"]).decode(),
            **{name: found[name] for name in ("prediction", "confidence", "label")},
        }

    def close(self) -> dict[str, int]:
        """Save nothing more; return the counts of all decisions, and of the rows without one."""
        with self._lock:
            self._is_closed = True
        columns = (self._table[name].to_pylist() for name in ("prediction", "label"))
        kinds = Counter(
            "no_digit" if label is None else "confirmed" if label == digit else "corrected"
            for digit, label in zip(*columns, strict=True)
        )
        counts = {name: kinds[name] for name in ("corrected", "confirmed", "no_digit")}
        left = len(self) - len(self._labels)
        return {"rows": len(self), "reviewed": kinds.total(), **counts, "left": left}

    def _commit(self, table: pa.Table) -> None:
        if self._is_closed:
            raise StorageError("the review has ended, and nothing more is saved")
        self._lease.check()
        storage.commit(self.file, to_parquet(table))
        self._table = table


def _read(place: str, needed: Sequence[str]) -> pa.Table:
    """Read a Parquet file that has the `needed` columns with their types."""
    try:
        with open_parquet(place) as parquet:
            table = parquet.read()
        wrong = [name for name in needed if table.schema.field(name).type != _TYPES[name]]
        if wrong:
            raise DataError(f"{wrong} have other types")
        return table.replace_schema_metadata()
    except (DataError, pa.ArrowException, OSError, KeyError) as error:
        check_storage(place, error)
        raise DataError(f"{place} is damaged, or another program wrote it; move it away") from error


def _text(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (OverflowError, ValueError):  # Python has no value for it
        return "out of range"


def _pictures(rows: pa.Table) -> list[tuple[str, int, bytes]]:
    """Return what identifies the picture of each row."""
    found = rows.select(["source_file", "source_row", "image"]).to_pylist()
    return [(each["source_file"], each["source_row"], each["image"]["bytes"]) for each in found]
