"""Every way a command can fail, each with its documented exit code.

The message of an error is one sentence that names the file, row, round or rank and says what to
do. Exit codes follow BSD sysexits where one fits (65 data, 69 unavailable, 70 software, 73 cannot
create, 74 input/output, 75 temporary); 76 is this project's own meaning. A second Ctrl-C ends a
command with 130, as a shell would.
"""


class NanogradError(Exception):
    """A failure that the user can read: one sentence, one exit code."""

    exit_code = 70


class UsageError(NanogradError):
    """A flag, setting or combination of settings that cannot be meant."""

    exit_code = 2


class DataError(NanogradError):
    """Input that is missing, broken or not what it claims to be."""

    exit_code = 65


class ClusterError(NanogradError):
    """No Ray cluster answers, or it refuses us, or it has no room."""

    exit_code = 69


class InternalError(NanogradError):
    """A promise of this program is broken; please report it."""

    exit_code = 70


class OutputExistsError(NanogradError):
    """The output is there already and holds something else."""

    exit_code = 73


class StorageError(NanogradError):
    """Reading or writing failed: disk full, no permission, object store gone."""

    exit_code = 74


class Stopped(NanogradError):  # noqa: N818 - not an error: the work is saved and can go on
    """The run was asked to stop; what is done is saved and the same command continues it."""

    exit_code = 75


class DivergedError(NanogradError):
    """Training left the finite numbers."""

    exit_code = 76


class UnreadableError(Exception):
    """A picture in which no digit can be read: a row for quarantine, not a failure of the job.

    Args:
        reason: short and stable: broken_image, too_large, empty, blank, low_contrast,
            too_many_marks, ...
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str]]:
        """Both arguments survive the way between processes."""
        return UnreadableError, (self.reason, self.detail)
