"""Settings of each command but `train`: one field = one flag = one line of config.toml.

Functions below `commands` take the values they need, never a config.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nanograd.errors import UsageError
from nanograd.settings.fields import REQUIRED, Spec, setting

# Set by Ray in the environment of a submitted job.
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


# Settings of several commands.
DATA = setting(
    ("auto",),
    "data set: auto, mnist, sample, or a path or URI of IDX, CSV or Parquet files or of pictures; "
    "may be repeated",
    group="Data",
)
IMAGE_COLUMN = setting(None, "image column [default: detected from the schema]", group="Data")
LABEL_COLUMN = setting(
    None, "label column of Parquet files [default: label, digit or target]", group="Data"
)
_REVIEW_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class JobSpec(Spec):
    """Settings of every command that can run on Ray."""

    workers: int | None = setting(
        None,
        "number of Ray actors; 0 = run in this process without Ray [default: one per free CPU]",
        least=0,
        group="Workers",
    )
    address: str | None = setting(
        None,
        "Ray cluster to join [default: $RAY_ADDRESS, else a private local Ray]",
        group="Workers",
    )
    overwrite: bool = setting(False, "replace existing output", group="Output")
    quiet: bool = setting(False, "log warnings and errors only", group="Output")
    log_format: str = setting(
        "auto",
        "log on stderr: auto (a live view on a terminal, else text), text or json "
        "(one line every few seconds)",
        choices=("auto", "text", "json"),
        group="Output",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if _IN_JOB not in os.environ or not hasattr(self, "output"):
            return
        output = self.output or ""
        if not Path(output).is_absolute() and "://" not in output:
            given = f"--output {output} is relative" if output else "--output is missing"
            raise UsageError(
                f"{given}, and the folder of a Ray job is a temporary copy; give an absolute path "
                "that all hosts share, or a URI"
            )


@dataclass(frozen=True, kw_only=True)
class ReportSpec(JobSpec):
    """Settings of every command that writes a report."""

    plots: bool = setting(
        False, "also write the charts of the report to plots/ as PNG files", group="Output"
    )


@dataclass(frozen=True, kw_only=True)
class PartsSpec(JobSpec):
    """Settings of every command that works part by part."""

    sync: bool = setting(
        False, "replace the rows of changed input files, drop those of removed ones"
    )
    verify: bool = setting(
        False, "read the output and compare checksums, too; repeat what is damaged"
    )
    max_broken_files: int = setting(
        0, "exit with code 65 if more files than this cannot be read at all", least=0
    )
    dry_run: bool = setting(False, "print what would be done and write nothing")
    limit: int | None = setting(None, "read the first rows only, so many [default: all]", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sync", "verify", "retry_quarantine"):
            if self.overwrite and getattr(self, name, False):
                flag = f"--{name.replace('_', '-')}"
                text = f"{flag} has no effect with --overwrite, which reads every file again"
                raise UsageError(text)


@dataclass(frozen=True, kw_only=True)
class PictureSpec(Spec):
    """Settings of every command that decodes pictures."""

    polarity: str = setting(
        "auto",
        "contrast of ink and paper in pictures",
        choices=("auto", "dark-on-light", "light-on-dark"),
    )
    max_pixels: int = setting(
        50_000_000, "quarantine pictures with more pixels than this", least=784
    )


@dataclass(frozen=True, kw_only=True)
class PictureFilesSpec(PictureSpec):
    """Settings of every command that reads picture files."""

    formats: str = setting(
        "png,jpeg,gif,bmp,tiff,webp,ppm", "accepted picture formats, regardless of file names"
    )
    max_bytes: int = setting(
        100_000_000, "quarantine picture files larger than this, in bytes", least=1
    )


@dataclass(frozen=True, kw_only=True)
class IngestSpec(PartsSpec, PictureFilesSpec):
    """Settings of `nanograd ingest`."""

    output: str = setting(REQUIRED, "directory or URI for the Parquet files")
    label_from: str = setting(
        "auto",
        "source of labels: auto (folder name, else file name), folder, name, none, a list FILE.csv "
        "(columns file and label), a template 'img_*_{label}.png' or a regular expression",
    )
    keep_original: bool = setting(
        False, "keep the bytes of each picture file in the column original"
    )
    part_rows: int = setting(2000, "pictures per output file", least=1)


@dataclass(frozen=True, kw_only=True)
class InspectSpec(PictureFilesSpec):
    """Settings of `nanograd inspect`."""

    output: str = setting(REQUIRED, "PNG file or URI for the sheet")
    model: str | None = setting(
        None,
        "model directory or URI to classify with [default: none, and no probabilities are drawn]",
    )
    limit: int = setting(100, "number of pictures, one per row, at most 1000", least=1, most=1000)


@dataclass(frozen=True, kw_only=True)
class PredictSpec(PartsSpec, ReportSpec, PictureSpec):
    """Settings of `nanograd predict`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(REQUIRED, "directory or URI for predictions, quarantine and manifest")
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = setting(
        None, "label column, or none to ignore labels [default: label, digit or target]"
    )
    normalise: str = setting(
        "auto",
        "normalise pictures to MNIST's form (size 20, centre of mass in 28 x 28): auto (those that "
        "do not have it), always or never (use 28 x 28 pictures as they are)",
        choices=("auto", "always", "never"),
    )
    image_root: str | None = setting(
        None,
        "folder or URI of pictures that rows without bytes may refer to by name [default: none]",
    )
    keep: tuple[str, ...] = setting(
        (), "input column to copy to the output, or '*' for all but the images; may be repeated"
    )
    no_probabilities: bool = setting(False, "leave out the ten probabilities of each row")
    review_share: float = setting(
        _REVIEW_SHARE,
        "share of the rows, the most doubtful ones, to list in _review.pq with their pictures; "
        "0 = no list",
        least=0,
        most=1,
    )
    review_below: float | None = setting(
        None, "list all rows that are less certain than this instead", least=0, most=1
    )
    rows_per_file: int | None = setting(
        None,
        "rows of an output file, at most; small input files share one up to a million "
        "[default: one file for each part of the work]",
        least=1,
    )
    partition_by: tuple[str, ...] = setting(
        (), "column of the predictions that becomes folders, as in Hive; may be repeated"
    )
    format: str = setting(
        "parquet", "file format of predictions and quarantine", choices=("parquet", "csv", "jsonl")
    )
    retry_quarantine: bool = setting(
        False,
        "read files with quarantined rows again, after a repair of what they need, or these rows "
        "with other settings",
    )
    max_error_rate: float = setting(
        1.0, "exit with code 65 if more than this share of the rows is quarantined", least=0, most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.review_below is not None and self.review_share != _REVIEW_SHARE:
            raise UsageError("--review-share and --review-below exclude each other; give one")


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(Spec):
    """Settings of `nanograd evaluate`."""

    model: str = setting(REQUIRED, "model directory or URI")
    data: tuple[str, ...] | str = DATA  # one is stored as a tuple
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    verbose: bool = setting(
        False, "print one line per image: label, ten probabilities, the largest of them, prediction"
    )


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """Settings of `nanograd export`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(
        REQUIRED, "file or URI that ends in .onnx; an existing file is overwritten"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(".onnx"):
            raise UsageError(f"--output {self.output!r} must end in .onnx, the only format")
