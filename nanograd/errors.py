"""The errors of all commands, each with its exit code.

A message names the file, row, round or worker, and says how to fix the problem. The exit codes are
those of BSD's sysexits.h if one fits; 76 has another meaning there. A second Ctrl-C exits with 130.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum


class NanogradError(Exception):
    """A failure with a message for the user and an exit code."""

    exit_code = 70


class UsageError(NanogradError):
    """An invalid flag, setting or combination of settings."""

    exit_code = 2


class ArgumentError(UsageError, ValueError, TypeError):
    """An invalid argument of a Python function."""


@contextmanager
def needs_package(what: str, package: str) -> Iterator[None]:
    """Raise UsageError if an optional package cannot be imported inside a with block."""
    try:
        yield
    except ImportError as error:
        text = f"{what} needs the package {package}: pip install {package} ({error})"
        raise UsageError(text) from error


class DataError(NanogradError):
    """Input that is missing or damaged, or that has another type than expected."""

    exit_code = 65


class UnavailableError(NanogradError):
    """A server does not answer, or the machine lacks memory or a feature that a command needs."""

    exit_code = 69


class ClusterError(UnavailableError):
    """The Ray cluster does not answer, refuses the connection or has no free resources."""


class InternalError(NanogradError):
    """A defect of this program; please report it."""


class OutputExistsError(NanogradError):
    """The output already exists with other content, or another process is writing it."""

    exit_code = 73


class StorageError(NanogradError):
    """Reading or writing failed: disk full, no permission, object store unreachable."""

    exit_code = 74


class Stopped(NanogradError):  # noqa: N818 - not an error: the work is saved
    """The run was stopped on request; its state is saved and the same command resumes it."""

    exit_code = 75


class DivergedError(NanogradError):
    """A parameter, gradient or loss is not finite."""

    exit_code = 76


class Reason(StrEnum):
    """Why a row or file cannot be used. Quarantine files hold these values."""

    BROKEN_FILE = "broken_file"
    WRONG_SCHEMA = "wrong_schema"
    NO_FILE = "no_file"
    NO_PERMISSION = "no_permission"
    OUTSIDE_ROOT = "outside_root"
    BROKEN_ARCHIVE = "broken_archive"
    BROKEN_MEMBER = "broken_member"
    BAD_NAME = "bad_name"
    ENCRYPTED = "encrypted"
    NO_BYTES = "no_bytes"
    EMPTY = "empty"
    BROKEN_IMAGE = "broken_image"
    TOO_LARGE = "too_large"
    WRONG_SHAPE = "wrong_shape"
    BAD_PIXEL = "bad_pixel"
    BLANK = "blank"
    LOW_CONTRAST = "low_contrast"
    TOO_MANY_MARKS = "too_many_marks"


class UnreadableError(NanogradError):
    """A picture in which no digit can be found. A job quarantines its row and continues."""

    exit_code = 65

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # pickle passes these to the new instance
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
