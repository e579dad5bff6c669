"""The exception tree: every error a user can meet says what happened, where, and what to do.

    AbaciError                      exit 1, HTTP 500
    ├── UsageError                  exit 2, HTTP 400   a flag, parameter or request that cannot be honoured
    │   └── ContextLengthError      exit 2, HTTP 400   a prompt that does not fit, with the numbers
    ├── ModelNotFoundError          exit 3, HTTP 404   no such model; names near ones
    ├── FileFormatError             exit 4, HTTP 500   a model file that breaks its format; names file and offset
    │   └── UnsupportedModelError   exit 4, HTTP 500   a sound file we cannot run; names what is missing
    ├── DownloadError               exit 5, HTTP 502   no source could deliver
    │   └── IntegrityError          exit 5, HTTP 502   bytes arrived, the hash is not the expected one
    ├── ResourceError               exit 6, HTTP 503   memory, disk or threads that are not there
    └── EngineClosedError           exit 1, HTTP 503   used after close or after fork

`hint` is the sentence that tells the user what to do; it is printed on its own line.
"""


class AbaciError(Exception):
    """Base of all errors meant for users. `message` says what and where, `hint` what to do next."""

    exit_code = 1
    http_status = 500
    usual_hint: str | None = None
    """For an error of this class that brings no hint of its own."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class UsageError(AbaciError):
    """A flag, parameter or request that cannot be honoured; the message names it."""

    exit_code = 2
    http_status = 400


class ContextLengthError(UsageError):
    """Prompt and requested output do not fit the context; the message holds the numbers."""


class ModelNotFoundError(AbaciError):
    """No model of that name, file or folder."""

    exit_code = 3
    http_status = 404


class FileFormatError(AbaciError):
    """A file that breaks its own format; the message names the file and the offset or key."""

    exit_code = 4
    usual_hint = "The file is damaged or was converted wrongly; fetch it again."


class UnsupportedModelError(FileFormatError):
    """A well-formed file that this version cannot run; the message names what is missing."""

    usual_hint = "Choose another model, or another file of it; a newer version may support this one."


class DownloadError(AbaciError):
    """No source could deliver the file; the message lists each source and why."""

    exit_code = 5
    http_status = 502


class IntegrityError(DownloadError):
    """Bytes arrived whose hash is not the expected one; they were not kept."""


class ResourceError(AbaciError):
    """Memory, disk or processors that the work needs and the machine lacks."""

    exit_code = 6
    http_status = 503


class EngineClosedError(AbaciError):
    """The engine was used after close, or in a forked child."""

    http_status = 503
