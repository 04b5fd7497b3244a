"""Labels of pictures, from their folder, their name, a pattern or a CSV list.

Labels are found when a job is planned, so that a mistake in a list stops the job before it begins.
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TypeAlias

from nanograd.errors import DataError, UsageError
from nanograd.images.columns import HIVE_NULL, LABEL_NAMES
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, count, info, warning

Label: TypeAlias = int | None

WORDS = ("auto", "folder", "name", "none")

# Accepted names of the columns in a list: pictures (Hugging Face writes file_name), and labels.
_COLUMNS = (("file", "file_name", "filename", "path", "image"), (*LABEL_NAMES, "y"))

# A folder such as 7 or, as in Hive, label=07.
_LABEL_IN_FOLDER = re.compile(
    rf"(?:^|/)(?:(?:{'|'.join(LABEL_NAMES)})=0*)?([0-9])/[^/]*$", re.IGNORECASE
)
# A digit after a word (x-is-7.png, digit7.jpg, label_7-b.png), before _ and a number (7_0012.png),
# or at the start (7.png, 7-b.png, 7 (2).png). In photos called 1.jpg, 2.jpg, ... the digit is a
# count, so `auto` does without the last pattern. img_7.png is more often a count, too.
_LABEL_IN_NAME = (
    re.compile(r"(?:^|[-_ ])(?:is|label|digit|class)[-_ ]?([0-9])(?![0-9])", re.IGNORECASE),
    re.compile(r"^([0-9])_[0-9]+$"),
    re.compile(r"^([0-9])(?![0-9])(?:[-_ (].*)?$"),
)
# pandas writes a whole number as 7.0 if the column has missing values.
_DIGIT = re.compile(r"([0-9])(?:\.0*)?")
# A folder such as label=x. The values in brackets mean no label.
_NO_DIGIT = re.compile(
    rf"/(?:{'|'.join(LABEL_NAMES)})=(?!(?:-1|nan|{HIVE_NULL})?/)[^/]*/[^/]*$", re.IGNORECASE
)
_WILDCARDS = {"*": "[^/]*", "?": "[^/]"}


def parse_label_source(text: str) -> re.Pattern[str] | None:
    r"""Parse `--label-from`: return a pattern; None for one of WORDS or the name of a CSV file.

    A pattern is a regular expression with one group, or a template with {label} and perhaps `*` and
    `?`. A template must match the name of the file, or the last names of the path, completely; it
    ignores case.

    Raises:
        UsageError: the text is none of these.

    >>> parse_label_source("img_*_{label}.png").search("scans/IMG_12_7.PNG")["label"]
    '7'
    >>> parse_label_source(r"digit(\d)").search("my-digit4.jpg")[1]
    '4'
    """
    if text in WORDS or text.lower().endswith(".csv"):
        return None
    if text.count("{label}") == 1:
        body, pieces = "", [each for each in re.split(r"(\*|\?|\{label\})", text) if each]
        for before, piece, after in zip(["", *pieces], pieces, [*pieces[1:], ""], strict=False):
            if piece == "{label}":
                # Next to a wildcard, the digit is no part of a longer number: *{label}.png does not
                # match img_12.png.
                body += "(?<![0-9])" * (before in _WILDCARDS) + "(?P<label>[0-9])"
                body += "(?![0-9])" * (after in _WILDCARDS)
            else:
                body += _WILDCARDS.get(piece) or re.escape(piece)
        return re.compile(f"(?:^|/){body}$", re.IGNORECASE)
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--label-from {text!r} is not a regular expression: {error}") from error
    if pattern.groups == 1 or "label" in pattern.groupindex:
        return pattern
    raise UsageError(
        f"--label-from {text!r}: use {', '.join(WORDS)}, a FILE.csv, a template such as "
        r"'img_*_{label}.png' or a regular expression with one group such as 'digit(\d)'"
    )


def find_labels(
    files: Sequence[str], inputs: Sequence[str], source: str, listener: Listener
) -> list[Label]:
    """Find the label of each picture, a digit or None, as `source` says (see `--label-from`).

    Paths in a list may be relative to the `inputs` of the command.

    Raises:
        DataError: the list does not exist, is invalid or labels no picture.
        UsageError: the pattern is invalid or labels no picture.
    """
    if source in WORDS:
        labels = [label_of(file, source) for file in files]
        pairs = zip(files, labels, strict=True) if source in ("auto", "folder") else ()
        odd = [file for file, label in pairs if label is None and _NO_DIGIT.search(file)]
        if odd:
            text = "without a label, because the name of the folder has no digit, such as"
            listener(warning(f"{count(len(odd), 'picture')} {text} {odd[0]}"))
        return labels
    if pattern := parse_label_source(source):
        labels = []
        for file in files:
            match = pattern.search(file if "/" in pattern.pattern else file.rpartition("/")[2])
            found = match["label" if "label" in pattern.groupindex else 1] if match else None
            labels.append(int(found) if found and re.fullmatch("[0-9]", found) else None)
        if labels.count(None) == len(files):
            raise UsageError(
                f"--label-from {source!r} finds no digit in the names of "
                f"{count(len(files), 'picture')}, such as {files[0]}"
            )
    else:
        labels = _look_up(files, inputs, storage.absolute(source), listener)
        if labels.count(None) == len(files):
            raise DataError(
                f"{storage.absolute(source)} names pictures of the input, but gives no label"
            )
    if num_without := labels.count(None):
        text = f"{num_without:,} of {len(labels):,} pictures have no label from {source}"
        listener(info(text))
    return labels


def label_of(file: str, label_from: str) -> Label:
    """Return the digit in the name of a picture's folder or file, or None.

    >>> label_of("scans/7/img_3.png", "auto"), label_of("photo-a-01-is-0.jpg", "auto")
    (7, 0)
    >>> label_of("scans/label=7/img_3.png", "folder")
    7
    >>> label_of("img_3.png", "auto"), label_of("3.png", "auto"), label_of("3.png", "name")
    (None, None, 3)
    """
    stem, found = Path(file).stem, [_LABEL_IN_FOLDER.search(file)]
    in_name = [pattern.search(stem) for pattern in _LABEL_IN_NAME]
    found = {"auto": found + in_name[:-1], "folder": found, "name": in_name}.get(label_from, [])
    return next((int(match[1]) for match in found if match), None)


def _look_up(
    files: Sequence[str], inputs: Sequence[str], place: str, listener: Listener
) -> list[Label]:
    """Look up the labels of pictures in a list."""
    folders = [storage.absolute(each).rstrip("/") for each in inputs]
    parent, *parents = (each.rpartition("/")[0] for each in (place, *folders))
    roots = [parent, *folders, *parents]
    wanted = {_resolve("", file): file for file in files}
    lines: dict[str, tuple[int, Label]] = {}
    unused: list[tuple[int, str]] = []
    for line, name, label in _read_list(place):
        beside, *others = (wanted.get(_resolve(root, name)) for root in roots)
        matches = [beside] if beside else sorted({each for each in others if each})
        if len(matches) > 1:
            may = f"{name} may be {matches[0]} or {matches[1]}"
            raise DataError(f"{place} line {line}: {may}; give more of its path")
        if not matches:
            unused.append((line, name))
        elif (before := lines.setdefault(matches[0], (line, label)))[1] != label:
            raise DataError(
                f"{place} line {line}: {name} has another label in line {before[0]}; keep one"
            )
    if not lines:
        raise DataError(
            f"{place} names none of the pictures; name them relative to the list or to the input"
        )
    if unused:
        line, name = unused[0]
        number = count(len(unused), "line")
        text = f"{number} of {place} without a picture in the input, the first is {line}: {name}"
        listener(warning(text))
    return [lines.get(file, (0, None))[1] for file in files]


def _read_list(place: str) -> Iterator[tuple[int, str, Label]]:
    """Yield the line number, the path of the picture and the label of each row of a CSV list.

    The list is UTF-8 with a header that names the columns `file` and `label`. Values are separated
    by commas, semicolons or tabs. An empty label gives None.
    """
    try:
        text = storage.decompress(storage.read(place), place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 ({error}); save it as UTF-8") from error
    if text.count('"') % 2:
        line = next(n for n, each in enumerate(text.splitlines(), 1) if each.count('"') % 2)
        raise DataError(f"{place} line {line}: this is not valid CSV (a quote is not closed)")
    separator = max((",", ";", "\t"), key=re.split("[\r\n]", text, maxsplit=1)[0].count)
    rows = csv.reader(StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header = [cell.strip().lower() for cell in next(rows, [])]
    at = [next((header.index(name) for name in known if name in header), -1) for known in _COLUMNS]
    if -1 in at:
        raise DataError(f"{place}: its first line must name the columns file and label")
    start = rows.line_num + 1
    for row in rows:
        number, start = start, rows.line_num + 1
        file, label = (row[each].strip() if each < len(row) else "" for each in at)
        if any(cell.strip() for cell in row[len(header) :]):
            columns = count(len(header), "column")
            problem = f"it has {count(len(row), 'value')} for {columns}; quote the name"
            raise DataError(f"{place} line {number}: {problem}")
        match = _DIGIT.fullmatch(label)
        if label and not match:
            problem = f"the label is {label!r}, not a digit from 0 to 9; correct it"
            raise DataError(f"{place} line {number}: {problem}")
        if any(cell.strip() for cell in row):
            yield number, file, int(match[1]) if match else None


def _resolve(root: str, name: str) -> str:
    """Resolve a name relative to a folder, without `.` and `..`."""
    if storage.is_remote(name):
        return name
    if name.startswith(("/", "file://")):
        return os.path.normpath(storage.local_path(name))
    if storage.is_remote(root):
        return storage.join(root, name.removeprefix("./"))
    return os.path.normpath(storage.join(root, name))  # Path keeps a/../b
