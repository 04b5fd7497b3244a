"""The specs of all commands except `train`, and the options for reading pictures and tables.

The docstring of a command's spec is the help of the command.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from nanograd.errors import UsageError
from nanograd.runtime import storage
from nanograd.settings.fields import REQUIRED, Given, Place, Spec, setting

# Ray sets this environment variable in a submitted job.
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Picture formats that are read. Pillow supports some forty more, which are not used for photos or
# scans of digits, and each format is attack surface. MPO files (two JPEG pictures in one file, from
# some phones) are read as JPEG.
FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")
NO_LABELS = "none"  # the value of --label-column that ignores labels
_REVIEW_SHARE = 0.02

Polarity: TypeAlias = Literal["auto", "dark-on-light", "light-on-dark"]
Digits: TypeAlias = Literal["one", "many"]
Names: TypeAlias = Given[str | Sequence[str], tuple[str, ...]]

_data = partial(setting, group="Data")
DATA = _data(
    ("auto",),
    help_="data set: auto, mnist, sample, or a path or URI of IDX, CSV or Parquet files or of "
    "pictures; may be repeated",
    place=True,
)
IMAGE_COLUMN = _data(None, help_="column with the images [default: detected from the schema]")
LABEL_COLUMN = _data(
    None, help_="column with the labels, in Parquet or CSV files [default: label, digit or target]"
)
IMAGE_ROOT = _data(
    None,
    help_="folder or URI of the pictures, for rows that hold a path instead of the picture's bytes "
    "[default: none; such rows are left out]",
    place=True,
)
_MODEL = setting(
    None,
    help_="model or run directory, or its URI [default: the model in this package]",
    place=True,
)

# Settings on which the bytes of the output depend.
_pictures = partial(setting, group="Pictures", identity=True)
_columns = partial(setting, group="Data", identity=True)
_content = partial(setting, group="Output", identity=True)
# Settings that have no effect on the bytes of the output.
_workers = partial(setting, group="Workers")
_output = partial(setting, group="Output")
_EXISTING = "Existing output"
_existing = partial(setting, group=_EXISTING)
_limits = partial(setting, group="Limits")
_review = partial(setting, group="Review", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Spec):
    """How picture files are read and decoded."""

    polarity: Polarity = _pictures("auto")
    """whether ink is darker or lighter than paper"""
    max_pixels: int = _pictures(
        50_000_000,
        least=784,
        most=178_956_970,  # Pillow refuses larger pictures
        rare=True,
    )
    """refuse pictures with more pixels (width x height)"""
    formats: str = _pictures(",".join(FORMATS), rare=True)
    """accepted picture formats, recognised by content"""
    max_bytes: int = _pictures(100_000_000, least=1, rare=True)
    """quarantine picture files with more bytes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = {"jpg": "jpeg", "tif": "tiff"}
        words = filter(None, (each.strip().lower() for each in self.formats.split(",")))
        formats = [usual.get(word, word) for word in words]
        if not formats or not set(formats) <= set(FORMATS):
            raise UsageError(f"--formats {self.formats!r}: choose some of {', '.join(FORMATS)}")
        object.__setattr__(self, "formats", ",".join(formats))


@dataclass(frozen=True, kw_only=True)
class ReadOptions(PictureOptions):
    """How images and labels are read from tables, and images from picture files."""

    image_column: str | None = _columns(None)
    """column with the images [default: detected from the schema]"""
    label_column: str | None = _columns(None)
    """column with the labels, or none to ignore labels [default: label, digit or target]"""
    normalise: Literal["auto", "always", "never"] = _pictures("auto")
    """convert pictures to MNIST's form (28 x 28 pixels, centred): auto (unless they have it),
    always or never (use 28 x 28 pictures unchanged, and quarantine others)"""
    image_root: Given[Any, str | None] = _columns(None, rare=True, place=True)
    """folder or URI of the pictures, for rows that hold a path instead of the picture's bytes
    [default: none; such rows are quarantined]"""

    @classmethod
    def of_data(cls, settings: Mapping[str, Any]) -> Self:
        """Return the options for tables among the settings of `train` or `evaluate`."""
        names = ("image_column", "label_column", "image_root")
        return cls.resolve({name: settings.get(name) for name in names})

    def reading(self) -> "ReadOptions":
        """Return these options without the further settings of a subclass."""
        return ReadOptions(
            **{each.name: getattr(self, each.name) for each in ReadOptions.settings()}
        )


@dataclass(frozen=True, kw_only=True)
class JobSpec(Spec):
    """Settings shared by the commands that can run on Ray."""

    if TYPE_CHECKING:  # no field, but an argument of the functions of these commands
        progress: bool = False

    workers: int | None = _workers(None, least=0)
    """number of Ray actors, the worker processes; 0 = run in this process without Ray [default: one
    per free CPU, at most --shards]"""
    address: str | None = _workers(None)
    """Ray cluster to join [default: $RAY_ADDRESS, else a private local Ray]"""
    overwrite: bool = _output(False)
    """replace existing output; train removes the old run when it starts"""
    quiet: bool = _output(False, terminal=True)
    """log warnings and errors only"""
    log_format: Literal["auto", "text", "json"] = _output("auto", terminal=True)
    """log on stderr: auto (a live view on a terminal, else text), text or json (one line every few
    seconds)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers == 0:
            self.refuse(("address", "ports"), " with --workers 0, which uses no Ray; leave it out")

    def check_output(self, output: str | None) -> None:
        """Check that a command may write an output, before it costs.

        Raises:
            UsageError: it is a Ray job, and would write to its temporary folder.
            OutputExistsError: the output, or a parent of it, is a file.
            StorageError: the working directory was removed.
        """
        is_shared = output and (Path(output).is_absolute() or "://" in output)
        if _IN_JOB in os.environ and not is_shared:
            given = f"--output {output} is relative" if output else "--output is missing"
            raise UsageError(
                f"{given}, and the folder of a Ray job is a temporary copy; give an absolute path "
                "that all hosts share, or a URI"
            )
        storage.refuse_file(output or ".")


@dataclass(frozen=True, kw_only=True)
class ReportSpec(JobSpec):
    """Settings shared by the commands that write a report."""

    plots: bool = _output(False)
    """also write the charts of the report to plots/ as PNG files"""


@dataclass(frozen=True, kw_only=True)
class PartsSpec(JobSpec, PictureOptions):
    """Settings shared by the commands that read files part by part."""

    workers: int | None = _workers(None, least=0)
    """number of Ray actors, the worker processes; 0 = run in this process without Ray [default: 0
    if the job takes less than about 20 s, else one per free CPU]"""
    output: Given[Any, str] = setting(REQUIRED, place=True)
    """output directory or URI"""
    sync: bool = _existing(False)
    """replace the output rows of changed input files, and drop the rows of removed files"""
    verify: bool = _existing(False, rare=True)
    """read all output files, and write those again whose checksum has changed"""
    max_broken_files: int = _limits(0, least=0, rare=True)
    """exit with code 65 if more files than this (tables, ZIP files) are unreadable"""
    dry_run: bool = setting(False)
    """print what would be done and write nothing"""
    limit: int | None = setting(None, least=1, group="Limits", identity=True)
    """read at most this many rows [default: all]"""
    label_from: str = setting("auto", group="Pictures", place=True)
    """where the labels of pictures come from: auto (folder name, else a file name such as
    7_0012.png, but not 7.png), folder, name, none, a list FILE.csv (columns file and label), a
    template 'img_*_{label}.png' or a regular expression"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite:
            names = [each.name for each in self.settings() if each.group == _EXISTING]
            self.refuse(names, " with --overwrite, which reads all files")


@dataclass(frozen=True, kw_only=True)
class IngestSpec(PartsSpec):
    """Convert pictures (files, folders, globs) to Parquet."""

    keep_original: bool = setting(False, identity=True)
    """also keep the bytes of each picture file, in the column original"""
    part_rows: int = _output(2000, least=1, rare=True)
    """maximum pictures per output file"""


@dataclass(frozen=True, kw_only=True)
class InspectSpec(PictureOptions):
    """Draw the main steps from a picture to the probabilities."""

    output: Given[Place, str] = setting(REQUIRED, place=True)
    """PNG file or URI to draw to"""
    model: Given[Place | None, str | None] = _MODEL
    image_column: str | None = IMAGE_COLUMN
    digits: Digits = setting("one")
    """whether a picture has one digit or lines of digits"""
    limit: int = setting(100, least=1, most=1000)
    """draw at most this many pictures, one below the other"""


@dataclass(frozen=True, kw_only=True)
class PredictSpec(PartsSpec, ReportSpec, ReadOptions):
    """Classify digits. A SOURCE is a picture, Parquet or CSV file, folder, glob or ZIP file."""

    output: Given[Any, str] = setting("predictions", place=True)
    """output directory or URI"""
    model: Given[Place | None, str | None] = _MODEL
    digits: Digits = _pictures("one")
    """whether a picture has one digit or lines of digits; lines are written to numbers/, too"""
    # `keep` is not part of the identity: its columns depend on the files, so the job records them.
    keep: Names = _output(())
    """input column to copy to the output, or '*' for all but the images; may be repeated"""
    no_probabilities: bool = _content(False)
    """leave out the ten probabilities of each row"""
    review_share: float = _review(_REVIEW_SHARE)
    """list this share of the rows, the least certain ones, in _review.pq with their pictures; 0 =
    no list"""
    review_below: float | None = _review(None)
    """list every row whose certainty (its confidence, reduced if it is unfamiliar) is below this
    value, instead of a fixed share of the rows"""
    rows_per_file: int | None = _content(None, least=1, most=1_000_000, rare=True)
    """maximum rows per output file; small input files are combined up to this number [default:
    chosen by the number and size of the input files]"""
    partition_by: Names = _content((), rare=True)
    """column of the predictions whose values get a folder each, as in Hive; may be repeated"""
    format: Literal["parquet", "csv", "jsonl"] = _content("parquet")
    """file format of predictions and quarantine"""
    retry_quarantine: bool = _existing(False)
    """read quarantined rows again, after you fixed the cause or with different settings"""
    max_error_rate: float = _limits(1.0, least=0, most=1)
    """exit with code 65 if more than this share of the rows is quarantined"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.review_below is not None and self.review_share != _REVIEW_SHARE:
            raise UsageError("--review-share and --review-below exclude each other; give one")
        if self.digits == "many":
            self.refuse(("normalise", "label_from", "label_column"), " with --digits many")

    def reading(self) -> ReadOptions:
        """Return the options for images and labels; numbers have no labels."""
        label = NO_LABELS if self.digits == "many" else self.label_column
        return replace(super().reading(), label_column=label)


@dataclass(frozen=True, kw_only=True)
class ReviewSpec(Spec):
    """Correct the least certain rows of a prediction in the browser; Ctrl-C ends it."""

    port: int | None = setting(None, least=1, most=65_535)
    """port of the page on this machine [default: a free one]"""
    no_browser: bool = setting(False)
    """print the address of the page without opening a browser"""


@dataclass(frozen=True, kw_only=True)
class DataSpec(Spec):
    """Print the counts, classes and checksum of a data set."""

    data: Given[Any, tuple[str, ...]] = DATA
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    image_root: Given[Place | None, str | None] = IMAGE_ROOT


@dataclass(frozen=True, kw_only=True)
class DataExportSpec(DataSpec):
    """Write a test set as a folder of pictures."""

    output: Given[Place, str] = setting(REQUIRED, place=True)
    """folder for the pictures, with a subfolder per class"""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(DataSpec):
    """Measure a model on a labelled test set."""

    model: Given[Place | None, str | None] = _MODEL
    verbose: bool = setting(False)
    """print one line per image: label, ten probabilities, the largest one, prediction"""


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """Write a model as an ONNX graph: pixels in, ten probabilities out."""

    model: Given[Place | None, str | None] = _MODEL
    output: Given[Place, str] = setting(REQUIRED, place=True)
    """ONNX file or URI, which must end in .onnx; an existing file is replaced"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(".onnx"):
            raise UsageError(f"--output {self.output!r} must end in .onnx, the only format")
