"""The exception tree: every error a user can meet says what happened, where, and what to do.

    AbaciError                      exit 1, HTTP 500
    ├── UsageError                  exit 2, HTTP 400   a flag, parameter or request that cannot be honoured
    │   ├── ContextLengthError      exit 2, HTTP 400   a prompt that does not fit, with the numbers
    │   └── PayloadTooLargeError    exit 2, HTTP 413   a body or file above a limit, with the numbers
    ├── AuthenticationError         exit 1, HTTP 401   no API key, or not one of ours
    ├── ForbiddenError              exit 1, HTTP 403   a good key that may not do this
    ├── NotFoundError               exit 3, HTTP 404   no such file, batch, key or response
    │   └── ModelNotFoundError      exit 3, HTTP 404   no such model; names near ones
    ├── RateLimitedError            exit 1, HTTP 429   a key's limit is reached; says when to come back
    │   └── OverloadedError         exit 1, HTTP 429   the server has all it can take, whoever asks
    ├── FileFormatError             exit 4, HTTP 500   a model file that breaks its format; names file and offset
    │   └── UnsupportedModelError   exit 4, HTTP 500   a sound file we cannot run; names what is missing
    ├── DownloadError               exit 5, HTTP 502   no source could deliver
    │   ├── IntegrityError          exit 5, HTTP 502   bytes arrived, the hash is not the expected one
    │   └── OfflineError            exit 5, HTTP 502   the network would be needed, and was forbidden
    ├── LicenceDeniedError          exit 4, HTTP 403   a licence or the policy forbids the use; names the clause
    ├── LicenceNotAcceptedError     exit 3, HTTP 403   a licence somebody must accept first; names why
    ├── ResourceError               exit 6, HTTP 503   memory, disk or processors that are not there
    │   └── ThreadLimitError        exit 6, HTTP 503   the system starts no more threads for this process
    └── EngineClosedError           exit 1, HTTP 503   used after close or after fork

`hint` is the sentence that tells the user what to do; it is printed on its own line. What can be typed stands at its
end, after a colon and without a full stop.
"""

from typing import TypeVar

_AnyError = TypeVar("_AnyError", bound=Exception)


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


class PayloadTooLargeError(UsageError):
    """A body or file above a limit; the message holds the numbers."""

    http_status = 413


class AuthenticationError(AbaciError):
    """No API key was given where one is needed, or one that is unknown or revoked."""

    http_status = 401
    usual_hint = "Send a key as `Authorization: Bearer ...`; `abaci key create NAME` on the server makes one."


class ForbiddenError(AbaciError):
    """The key is good, but does not allow this; the message names what."""

    http_status = 403


class NotFoundError(AbaciError):
    """Nothing of that name is there, or nothing that this key may see."""

    exit_code = 3
    http_status = 404


class ModelNotFoundError(NotFoundError):
    """No model of that name, file or folder."""


class RateLimitedError(AbaciError):
    """A limit of the key is reached; after `retry_after_seconds` (more than 0) the same request may succeed."""

    http_status = 429

    def __init__(self, message: str, *, retry_after_seconds: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(RateLimitedError):
    """The server has as much waiting as it can hold, whoever asks."""


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


class OfflineError(DownloadError):
    """The network would be needed and may not be used: `--offline`, ABACI_OFFLINE or HF_HUB_OFFLINE."""


class LicenceDeniedError(AbaciError):
    """A licence, or the organisation's policy, forbids the declared use; the message holds the clause."""

    exit_code = 4
    http_status = 403


class LicenceNotAcceptedError(AbaciError):
    """The policy wants somebody to accept a licence first, and nobody has; the message holds why."""

    exit_code = 3
    http_status = 403


class ResourceError(AbaciError):
    """Memory, disk or processors that the work needs and the machine lacks."""

    exit_code = 6
    http_status = 503


class ThreadLimitError(ResourceError):
    """The system starts no more threads for this process; the message says what they were for."""

    usual_hint = (
        "Run with fewer threads (--threads), or raise the limit on processes and threads: that of a container "
        "(--pids-limit), or the shell's, which is shown by: ulimit -u"
    )


class EngineClosedError(AbaciError):
    """The engine was used after close, or in a forked child."""

    http_status = 503


def copy_of(error: _AnyError) -> _AnyError:
    """The same error for one more who will raise it: each raise makes the traceback of what is raised longer."""
    arguments = error.__reduce__()[1]  # which `args` has not all of, for an OSError
    copied = type(error).__new__(type(error), *arguments)
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    copied.__context__ = error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    return copied.with_traceback(error.__traceback__)
