"""The spec of each command but `train`, and the options for reading pictures and tables."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from nanograd.errors import UsageError
from nanograd.settings.fields import REQUIRED, Spec, flag_name, setting

# Set by Ray in the environment of a submitted job.
_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Picture formats that are read. Pillow supports some forty more; each is attack surface, and none
# is used to photograph digits. MPO (two JPEG pictures in one file, from some phones) is JPEG.
FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")
_REVIEW_SHARE = 0.02

DATA = setting(
    ("auto",),
    "data set: auto, mnist, sample, or a path or URI of IDX, CSV or Parquet files or of pictures; "
    "may be repeated",
    group="Data",
    lines=True,
)
_DETECTED = "image column [default: detected from the schema]"
IMAGE_COLUMN = setting(None, _DETECTED, group="Data")
LABEL_COLUMN = setting(
    None, "label column of Parquet files [default: label, digit or target]", group="Data"
)
_MODEL = setting(REQUIRED, "model directory or URI")


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Spec):
    """How pictures are decoded."""

    polarity: str = setting(
        "auto",
        "contrast of ink and paper",
        choices=("auto", "dark-on-light", "light-on-dark"),
        group="Pictures",
        identity=True,
    )
    max_pixels: int = setting(
        50_000_000,
        "quarantine pictures with more pixels (width x height)",
        least=784,
        group="Pictures",
        rare=True,
        identity=True,
    )

    @property
    def pillow_formats(self) -> tuple[str, ...]:
        """Accepted picture formats, as Pillow spells them."""
        return tuple(map(str.upper, FORMATS))


@dataclass(frozen=True, kw_only=True)
class PictureFileOptions(PictureOptions):
    """How picture files are read."""

    formats: str = setting(
        ",".join(FORMATS),
        "accepted picture formats, whatever the file names",
        group="Pictures",
        rare=True,
        identity=True,
    )
    max_bytes: int = setting(
        100_000_000,
        "quarantine picture files with more bytes",
        least=1,
        group="Pictures",
        rare=True,
        identity=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = {"jpg": "jpeg", "tif": "tiff"}
        words = [word for each in self.formats.split(",") if (word := each.strip().lower())]
        formats = [usual.get(word, word) for word in words]
        unknown = sorted(set(formats) - set(FORMATS))
        if unknown or not formats:
            raise UsageError(
                f"--formats {self.formats!r}: {(unknown or ['nothing'])[0]} is none of "
                f"{', '.join(FORMATS)}"
            )
        object.__setattr__(self, "formats", ",".join(formats))

    @property
    def pillow_formats(self) -> tuple[str, ...]:
        """Accepted picture formats, as Pillow spells them."""
        return tuple(self.formats.upper().split(","))


@dataclass(frozen=True, kw_only=True)
class ReadOptions(PictureOptions):
    """How images and labels are read from tables."""

    image_column: str | None = setting(None, _DETECTED, group="Data", identity=True)
    label_column: str | None = setting(
        None,
        "label column, or none to ignore labels [default: label, digit or target]",
        group="Data",
        identity=True,
    )
    normalise: str = setting(
        "auto",
        "normalise pictures to MNIST's form (size 20, centred by mass in 28 x 28): auto (those not "
        "in this form), always or never (use 28 x 28 pictures unchanged)",
        choices=("auto", "always", "never"),
        group="Pictures",
        identity=True,
    )
    image_root: str | None = setting(
        None,
        "folder or URI of the pictures that rows name instead of holding their bytes [default: "
        "none; such rows are quarantined]",
        group="Data",
        rare=True,
        identity=True,
    )

    def reading(self) -> "ReadOptions":
        """Return these options alone, of a spec that has more settings."""
        return ReadOptions(**{each.name: getattr(self, each.name) for each in fields(ReadOptions)})


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
    quiet: bool = setting(False, "log warnings and errors only", group="Output", terminal=True)
    log_format: str = setting(
        "auto",
        "log on stderr: auto (a live view on a terminal, else text), text or json "
        "(one line every few seconds)",
        choices=("auto", "text", "json"),
        group="Output",
        terminal=True,
    )

    def require_shared(self, output: str | None) -> None:
        """Raise UsageError for an output that a Ray job would write to its temporary folder."""
        if _IN_JOB in os.environ and not (
            output and (Path(output).is_absolute() or "://" in output)
        ):
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

    output: str = setting(REQUIRED, "output directory or URI")
    sync: bool = setting(
        False,
        "replace the rows of changed input files and drop the rows of removed ones",
        group="Existing output",
    )
    verify: bool = setting(
        False,
        "compare the checksums of all output files and repeat damaged parts",
        group="Existing output",
        rare=True,
    )
    max_broken_files: int = setting(
        0,
        "exit with code 65 if more input files than this are unreadable",
        least=0,
        group="Limits",
        rare=True,
    )
    dry_run: bool = setting(
        False, "print what would be done and write nothing", group="Existing output"
    )
    limit: int | None = setting(
        None,
        "read at most this many rows [default: all]",
        least=1,
        group="Limits",
        identity=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_shared(self.output)
        self.refuse_with_overwrite(sync=self.sync, verify=self.verify)

    def refuse_with_overwrite(self, **flags: bool) -> None:
        """Raise UsageError for a flag that is set and has no effect with --overwrite."""
        for name, is_set in flags.items():
            if self.overwrite and is_set:
                raise UsageError(
                    f"{flag_name(name)} has no effect with --overwrite, which reads every file "
                    "again"
                )


@dataclass(frozen=True, kw_only=True)
class IngestSpec(PartsSpec, PictureFileOptions):
    """Settings of `nanograd ingest`."""

    label_from: str = setting(
        "auto",
        "source of labels: auto (folder name, else file name), folder, name, none, a list FILE.csv "
        "(columns file and label), a template 'img_*_{label}.png' or a regular expression",
    )
    keep_original: bool = setting(
        False, "also keep the bytes of each picture file, in the column original", identity=True
    )
    part_rows: int = setting(
        2000, "maximum pictures per output file", least=1, group="Output", rare=True
    )


@dataclass(frozen=True, kw_only=True)
class InspectSpec(PictureFileOptions):
    """Settings of `nanograd inspect`."""

    output: str = setting(REQUIRED, "PNG file or URI for the sheet")
    model: str | None = setting(
        None, "model directory or URI to classify with [default: none; probabilities are left out]"
    )
    limit: int = setting(100, "draw at most this many pictures, one per row", least=1, most=1000)


@dataclass(frozen=True, kw_only=True)
class PredictSpec(PartsSpec, ReportSpec, ReadOptions):
    """Settings of `nanograd predict`."""

    model: str = _MODEL
    # What `keep` adds to the output also depends on the files, so the job records the columns.
    keep: tuple[str, ...] = setting(
        (),
        "input column to copy to the output, or '*' for all but the images; may be repeated",
        group="Output",
    )
    no_probabilities: bool = setting(
        False, "leave out the ten probabilities of each row", group="Output", identity=True
    )
    review_share: float = setting(
        _REVIEW_SHARE,
        "share of the rows, the least certain ones, to list in _review.pq with their pictures; "
        "0 = no list",
        least=0,
        most=1,
        group="Review",
    )
    review_below: float | None = setting(
        None,
        "list every row whose confidence is below this value, instead of a share",
        least=0,
        most=1,
        group="Review",
    )
    rows_per_file: int | None = setting(
        None,
        "maximum rows per output file; small inputs are combined, up to a million rows [default: "
        "one file per part of the job]",
        least=1,
        group="Output",
        rare=True,
        identity=True,
    )
    partition_by: tuple[str, ...] = setting(
        (),
        "column of the predictions to write as folders, as Hive does; may be repeated",
        group="Output",
        rare=True,
        identity=True,
    )
    format: str = setting(
        "parquet",
        "file format of predictions and quarantine",
        choices=("parquet", "csv", "jsonl"),
        group="Output",
        identity=True,
    )
    retry_quarantine: bool = setting(
        False,
        "retry quarantined rows, after you fixed the cause or with different settings",
        group="Existing output",
    )
    max_error_rate: float = setting(
        1.0,
        "exit with code 65 if more than this share of the rows is quarantined",
        least=0,
        most=1,
        group="Limits",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_with_overwrite(retry_quarantine=self.retry_quarantine)
        if self.review_below is not None and self.review_share != _REVIEW_SHARE:
            raise UsageError("--review-share and --review-below exclude each other; give one")


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(Spec):
    """Settings of `nanograd evaluate`."""

    model: str = _MODEL
    data: tuple[str, ...] = DATA
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    verbose: bool = setting(
        False, "print one line per image: label, ten probabilities, the largest of them, prediction"
    )


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """Settings of `nanograd export`."""

    model: str = _MODEL
    output: str = setting(REQUIRED, "ONNX file or URI to write, or to replace; it ends in .onnx")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(".onnx"):
            raise UsageError(f"--output {self.output!r} must end in .onnx, the only format")
