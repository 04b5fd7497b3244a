"""Settings of each command but `train`: one field = one flag = one line of config.toml.

Functions below `commands` take the values they need, never a config.
"""

from dataclasses import dataclass

from nanograd.config.settings import REQUIRED, Config, setting
from nanograd.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    """Settings of every command that can run on Ray."""

    workers: int | None = setting(
        None,
        "number of Ray actors; 0 = run in this process without Ray [default: one per free CPU]",
        least=0,
    )
    address: str | None = setting(
        None, "Ray cluster to join [default: $RAY_ADDRESS, else a private local Ray]"
    )
    overwrite: bool = setting(False, "replace existing output")
    quiet: bool = setting(False, "log warnings and errors only")
    log_format: str = setting(
        "auto",
        "log on stderr: auto (a live view on a terminal, else text), text or json "
        "(one line every few seconds)",
        choices=("auto", "text", "json"),
    )


@dataclass(frozen=True, kw_only=True)
class ReportConfig(JobConfig):
    """Settings of every command that writes a report."""

    plots: bool = setting(
        False, "also write the plots of the report to plots/ as PNG files (extra: plots)"
    )


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Config):
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
class PictureFilesConfig(PictureConfig):
    """Settings of every command that reads picture files."""

    formats: str = setting(
        "png,jpeg,gif,bmp,tiff,webp,ppm", "accepted picture formats, regardless of file names"
    )
    max_bytes: int = setting(
        100_000_000, "quarantine picture files larger than this, in bytes", least=1
    )


@dataclass(frozen=True, kw_only=True)
class IngestConfig(JobConfig, PictureFilesConfig):
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
class InspectConfig(PictureFilesConfig):
    """Settings of `nanograd inspect`."""

    output: str = setting(REQUIRED, "PNG file or URI for the sheet")
    model: str | None = setting(
        None, "model directory or URI to classify with [default: none, and no scores are drawn]"
    )
    limit: int = setting(100, "maximum number of pictures, one per row", least=1, below=1001)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReportConfig, PictureConfig):
    """Settings of `nanograd predict`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(REQUIRED, "directory or URI for predictions, quarantine and manifest")
    image_column: str | None = setting(None, "image column [default: detected from the schema]")
    label_column: str | None = setting(None, "label column [default: label, digit, target or y]")
    normalise: str = setting(
        "auto",
        "convert pictures to MNIST's form: auto (except those already in that form), always (raw "
        "pixels too) or never (use 28 x 28 pictures as they are)",
        choices=("auto", "always", "never"),
    )
    image_root: str | None = setting(
        None,
        "folder or URI of pictures that rows without bytes may refer to by name [default: none]",
    )
    keep: tuple[str, ...] = setting((), "input column to copy to the output; may be repeated")
    format: str = setting(
        "parquet", "file format of predictions and quarantine", choices=("parquet", "csv", "jsonl")
    )
    max_error_rate: float = setting(
        1.0,
        "exit with code 65 if more than this share of the rows is quarantined",
        least=0,
        below=1.01,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of `nanograd evaluate`."""

    model: str = setting(REQUIRED, "model directory or URI")
    data: str = setting(
        "auto", "data set: auto, mnist, sample, or a path or URI of IDX or CSV files"
    )
    verbose: bool = setting(
        False, "print one line per image: label, ten scores, best score, best class"
    )


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Settings of `nanograd export`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(
        REQUIRED, "file or URI that ends in .onnx; an existing file is overwritten"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(".onnx"):
            raise UsageError(f"--output {self.output!r} must end in .onnx, the only format")
