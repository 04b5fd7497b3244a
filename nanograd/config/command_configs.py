"""The settings of each command: one field = one flag = one help line = one line of config.toml.

Those of `train` are in `train_config.py`. Deep functions take the values they need, never a config.
"""

from dataclasses import dataclass

from nanograd.config.settings import REQUIRED, Config, setting
from nanograd.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    """Settings of every command that may run on Ray."""

    workers: int | None = setting(
        None, "Ray actors; 0 works in this process without Ray [default: one per free CPU]", least=0
    )
    address: str | None = setting(
        None, "Ray cluster to join [default: $RAY_ADDRESS, else a private local Ray]"
    )
    overwrite: bool = setting(False, "replace what the output holds")
    quiet: bool = setting(False, "say nothing but warnings and errors")
    log_format: str = setting(
        "auto",
        "of what is said on stderr: auto (a live view on a terminal, else text), text or json "
        "(a line every few seconds)",
        choices=("auto", "text", "json"),
    )


@dataclass(frozen=True, kw_only=True)
class ReportConfig(JobConfig):
    """Settings of every command that ends with a report."""

    plots: bool = setting(
        False, "write the report's plots as PNG files into plots/, too (extra: plots)"
    )


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Config):
    """Settings of every command that decodes pictures."""

    polarity: str = setting(
        "auto", "what is ink in pictures", choices=("auto", "dark-on-light", "light-on-dark")
    )
    max_pixels: int = setting(50_000_000, "larger pictures are quarantined", least=784)


@dataclass(frozen=True, kw_only=True)
class PictureFilesConfig(PictureConfig):
    """Settings of every command that reads picture files."""

    formats: str = setting(
        "png,jpeg,gif,bmp,tiff,webp,ppm", "picture formats allowed, whatever a file's name says"
    )
    max_bytes: int = setting(100_000_000, "larger picture files are quarantined", least=1)


@dataclass(frozen=True, kw_only=True)
class IngestConfig(JobConfig, PictureFilesConfig):
    """Settings of `nanograd ingest`."""

    output: str = setting(REQUIRED, "directory or URI for the Parquet files")
    label_from: str = setting(
        "auto",
        "auto (the folder's name, else the file's), folder, name, none, a list FILE.csv "
        "(columns file and label), a template 'img_*_{label}.png' or a regular expression",
    )
    keep_original: bool = setting(False, "keep each picture file as it was, in column original")
    part_rows: int = setting(2000, "pictures in one output file", least=1)


@dataclass(frozen=True, kw_only=True)
class InspectConfig(PictureFilesConfig):
    """Settings of `nanograd inspect`."""

    output: str = setting(REQUIRED, "PNG file or URI for the sheet")
    model: str | None = setting(
        None, "model directory or URI to ask [default: none, and no scores are drawn]"
    )
    limit: int = setting(100, "pictures drawn at most, a row each", least=1, below=1001)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReportConfig, PictureConfig):
    """Settings of `nanograd predict`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(REQUIRED, "directory or URI for predictions, quarantine and manifest")
    image_column: str | None = setting(None, "image column [default: recognised from the schema]")
    label_column: str | None = setting(None, "label column [default: label, digit, target or y]")
    normalise: str = setting(
        "auto",
        "bring pictures to MNIST's form: auto (but those that have it keep their bits), always "
        "(raw pixels too) or never (28 x 28 pictures as they are)",
        choices=("auto", "always", "never"),
    )
    image_root: str | None = setting(
        None, "folder or URI below which a row without bytes may name its picture [default: none]"
    )
    keep: tuple[str, ...] = setting((), "another column to copy to the output; may be repeated")
    format: str = setting(
        "parquet", "of predictions and quarantine", choices=("parquet", "csv", "jsonl")
    )
    max_error_rate: float = setting(
        1.0,
        "end with exit code 65 if a larger share of the rows is quarantined",
        least=0,
        below=1.01,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Settings of `nanograd evaluate`."""

    model: str = setting(REQUIRED, "model directory or URI")
    data: str = setting("auto", "auto, mnist, sample, or a path or URI of IDX or CSV files")
    verbose: bool = setting(False, "a line an image: label, ten scores, best score, best class")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Settings of `nanograd export`."""

    model: str = setting(REQUIRED, "model directory or URI")
    output: str = setting(REQUIRED, "file or URI that ends in .onnx; one that is there is replaced")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(".onnx"):
            raise UsageError(f"--output {self.output!r} must end in .onnx, the one form there is")
