"""What ran on this machine outside any server: a journal of totals, on this machine only.

    ABACI_STATE_DIR, else XDG_STATE_HOME/abaci, else ~/.local/state/abaci
    └── journal/2026-11.jsonl     a line per model, day and process, with what it added

It holds numbers and names of models; no prompt, no answer, no file's path, and nothing leaves the machine. Lines are
only ever appended, each in one write, so that processes need not wait for each other; what they add up to is found when
it is read. `ABACI_JOURNAL=0` keeps no journal. One that cannot be written is no error: nobody's answer waits for it.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Self

from abaci.errors import UsageError
from abaci.generation import Usage

SWITCH_VARIABLE: Final = "ABACI_JOURNAL"
_OFF: Final = frozenset({"0", "false", "off", "no"})
_ON: Final = frozenset({"", "1", "true", "on", "yes"})
_FLUSH_SECONDS: Final = 60.0
_MAX_LINE_BYTES: Final = 2048
_MAX_FILE_BYTES: Final = 256 << 20
_MAX_COUNT: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class UsedModel:
    """What was used of a model on a UTC day, by one kind of caller."""

    day: str
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    """Those of the prompts that were found in the prefix cache."""
    completion_tokens: int
    architecture: str = ""
    """Of the model, where it is known."""
    key: str | None = None
    """Whose requests they were; None for those of no server."""


_COUNTS: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Journal:
    """The files of one user."""

    folder: Path

    @classmethod
    def of_this_user(cls) -> Self | None:
        """As the environment has it; None where none is to be kept. Raises UsageError for a switch that is neither."""
        switch = os.environ.get(SWITCH_VARIABLE, "").strip().lower()
        if switch not in _ON | _OFF:
            raise UsageError(f"{SWITCH_VARIABLE} is {switch!r}", hint="Set it to 0 to keep no journal, or to 1.")
        try:
            return None if switch in _OFF else cls(_state_folder() / "journal")
        except RuntimeError:  # no home
            return None

    def append(self, used: Iterable[UsedModel]) -> None:
        """Add to the journal; what cannot be written is left out."""
        for one in used:
            line = json.dumps({name: value for name, value in asdict(one).items() if name != "key"}) + "\n"
            if len(line.encode()) <= _MAX_LINE_BYTES:
                with suppress(OSError):
                    self._write(self.folder / f"{one.day[:7]}.jsonl", line.encode())

    def read(self, since: date | None = None) -> Iterator[UsedModel]:
        """All lines since a day, as they were written; a line that is none of ours is passed over."""
        first = "" if since is None else since.isoformat()
        for path in sorted(self.folder.glob("????-??.jsonl")):
            if path.stem >= first[:7]:
                yield from (one for one in _read_lines(path) if one.day >= first)

    def _write(self, path: Path, line: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size < _MAX_FILE_BYTES:
                os.write(descriptor, line)
        finally:
            os.close(descriptor)


class UsageCounter:
    """Counts what one model is used for, and writes it down now and then and at the end. Any thread."""

    def __init__(self, journal: Journal | None, model: str, architecture: str) -> None:
        self._journal = journal
        self._model = model
        self._architecture = architecture
        self._lock = threading.Lock()
        self._days: dict[str, tuple[int, int, int, int]] = {}
        self._written_seconds = time.monotonic()

    def add(self, usages: Iterable[Usage]) -> None:
        """Requests that have ended."""
        if self._journal is None:
            return
        day = datetime.now(UTC).date().isoformat()
        with self._lock:
            for usage in usages:
                requests, prompt, cached, completion = self._days.get(day, (0, 0, 0, 0))
                self._days[day] = (
                    requests + 1,
                    prompt + usage.prompt_tokens,
                    cached + usage.cached_tokens,
                    completion + usage.completion_tokens,
                )
        if time.monotonic() - self._written_seconds > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            days, self._days = self._days, {}
            self._written_seconds = time.monotonic()
        if self._journal is not None:
            self._journal.append(
                UsedModel(day, self._model, *counts, self._architecture) for day, counts in days.items()
            )


def _read_lines(path: Path) -> Iterator[UsedModel]:
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            used = _parse(line)
            if used is not None:
                yield used


def _parse(line: bytes) -> UsedModel | None:
    try:
        values = json.loads(line)
        used = UsedModel(**values)
        date.fromisoformat(used.day)
    except (ValueError, TypeError, RecursionError):
        return None
    counts = [getattr(used, name) for name in _COUNTS]
    sound = all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts)
    named = all(isinstance(name, str) and name.isprintable() for name in (used.model, used.architecture))
    return used if sound and named and used.key is None else None


def _state_folder() -> Path:
    if folder := os.environ.get("ABACI_STATE_DIR"):
        return Path(folder).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "abaci"
