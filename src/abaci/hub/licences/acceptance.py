"""Who accepted which terms for which model, and when: one line of JSON each, only ever added.

The file stands in the store's folder (`licences/accepted.jsonl`) and is readable by its owner alone. Writers hold a
lock on it, a line is on the disk before it counts, and a line that was cut off by a crash is no acceptance. An
acceptance holds for exactly what was asked: other terms, another reading of them or another reason is a new question.
"""

import fcntl
import hashlib
import json
import os
import platform
import pwd
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from abaci.errors import ResourceError

_RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody is asked to accept."""

    model: str
    """Its name; of a file or folder of no store with its SHA-256."""
    licences: str
    """An SPDX expression."""
    terms: tuple[tuple[str, str | None, str | None], ...]
    """Per licence its id, its version, and the SHA-256 of the record that was shown; None: there is no record."""
    reasons: tuple[str, ...]
    """Why it is asked."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One line."""

    who: str
    """User and machine, as the system has them."""
    when: str
    """ISO 8601, UTC."""
    how: str
    """`terminal` or `flag`."""
    question: Question
    policy: str
    """The policy's file."""
    policy_sha256: str


class AcceptanceLog:
    """The acceptances of one store; many processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self.path = home / "licences" / "accepted.jsonl"

    def has(self, question: Question) -> bool:
        """Whether that was accepted. A line that cannot be read is not an acceptance."""
        try:
            with self.path.open("rb") as file:
                return any(_fingerprint(line) == question.fingerprint for line in file)
        except FileNotFoundError:
            return False

    def add(self, question: Question, *, how: str, policy: Path) -> Acceptance:
        """Record that the user of this process accepts; returns when it is on the disk. Raises ResourceError."""
        acceptance = Acceptance(
            who=f"{_user()}@{platform.node()}",
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            how=how,
            question=question,
            policy=str(policy.absolute()),
            policy_sha256=hashlib.sha256(policy.read_bytes()).hexdigest(),
        )
        record = {"version": _RECORD_VERSION, "fingerprint": question.fingerprint, **asdict(acceptance)}
        try:
            self._append(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise ResourceError(
                f"the acceptance could not be recorded in {self.path}: {error.strerror}",
                hint="Set ABACI_HOME to a folder you may write to.",
            ) from error
        return acceptance

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            file.write(line)
            os.fsync(file.fileno())
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fingerprint(line: bytes) -> str | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    match record:
        case {"version": 1, "fingerprint": str(fingerprint)}:
            return fingerprint
    return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
