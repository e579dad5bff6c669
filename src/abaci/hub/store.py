"""Where fetched models live on this machine, and what is known of each.

    ABACI_HOME, else XDG_DATA_HOME/abaci, else ~/.local/share/abaci
    ├── models/qwen2.5-coder%3A0.5b.json   a reference: name, file, size, time, SHA-256, source, licence
    ├── files/<sha256>.gguf                complete and checked; only ever renamed into place
    ├── partial/<sha256>                   a download on its way, continued by the next one
    └── locks/<sha256>                     held by the process that fetches or removes that file

A file that stands under `files` was whole and right when it came; a start compares size and modification time with the
reference, and hashes again only if they differ or when asked to.
"""

import fcntl
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from abaci.errors import AbaciError, IntegrityError, ResourceError
from abaci.hub.partial import sha256_of

_REFERENCE_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is here."""

    name: str
    path: Path
    num_bytes: int
    modified_nanoseconds: int
    sha256: str
    source: str
    licence: str


def default_home() -> Path:
    """The store's folder as the environment has it."""
    if home := os.environ.get("ABACI_HOME"):
        return Path(home).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "abaci"


class Store:
    """The models under one folder; many processes may use it at once."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (default_home() if home is None else home).absolute()

    def get(self, name: str) -> StoredModel | None:
        """What is known of a model, or None if it is not here. The file is not looked at."""
        path = self._reference_path(name)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _bad_reference(path) from error
        return self._stored_model(fields, path)

    def all(self) -> list[StoredModel]:
        """Every model that is here, by name."""
        found = []
        for path in sorted((self.home / "models").glob("*.json")):
            model = self.get(urllib.parse.unquote(path.stem))
            if model is not None:
                found.append(model)
        return found

    def check(self, model: StoredModel) -> StoredModel:
        """The model, if its file is as it was; one whose time alone has changed is hashed and its reference renewed.

        Raises IntegrityError if the file is missing or has changed.
        """
        try:
            status = model.path.stat()
        except OSError as error:
            raise IntegrityError(f"{model.name}: {model.path} is gone", hint=_again(model.name)) from error
        if status.st_size != model.num_bytes:
            raise IntegrityError(
                f"{model.name}: {model.path} has {status.st_size:,} bytes, not {model.num_bytes:,}",
                hint=_again(model.name),
            )
        if status.st_mtime_ns == model.modified_nanoseconds:
            return model
        self.verify(model)
        try:
            return self._refer(model.name, model.path, sha256=model.sha256, source=model.source, licence=model.licence)
        except ResourceError:
            return model  # a store that may only be read: right all the same, and hashed again next time

    def verify(self, model: StoredModel) -> None:
        """Hash the whole file. Raises IntegrityError if it is missing or not what was fetched."""
        try:
            found = sha256_of(model.path)
        except OSError as error:
            raise IntegrityError(f"{model.name}: {model.path}: {error.strerror}", hint=_again(model.name)) from error
        if found != model.sha256:
            raise IntegrityError(
                f"{model.name}: {model.path} has SHA-256 {found}, not {model.sha256}", hint=_again(model.name)
            )

    def adopt(self, name: str, partial_path: Path, *, sha256: str, source: str, licence: str) -> StoredModel:
        """Take in a complete file from the store's own `partial`, whose hash the caller has checked."""
        path = self._folder("files") / f"{sha256}.gguf"
        partial_path.replace(path)
        return self._refer(name, path, sha256=sha256, source=source, licence=licence)

    def remove(self, model: StoredModel) -> int:
        """Forget a model and delete its file unless another name needs it. Returns the bytes freed."""
        with self.locked(model.sha256):
            self._reference_path(model.name).unlink(missing_ok=True)
            if any(other.path == model.path for other in self.all()):
                return 0
            freed_bytes = model.path.stat().st_size if model.path.exists() else 0
            model.path.unlink(missing_ok=True)
            return freed_bytes

    def partial_path(self, sha256: str) -> Path:
        """Where a download of that hash grows."""
        return self._folder("partial") / sha256

    @contextmanager
    def locked(self, sha256: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold that file against other processes; `on_wait` is called once if one of them has it."""
        with (self._folder("locks") / sha256).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(folder, error.strerror) from error
        if not os.access(folder, os.W_OK):
            raise _not_writable(folder, "not writable")
        return folder

    def _reference_path(self, name: str) -> Path:
        return self.home / "models" / f"{urllib.parse.quote(name, safe='')}.json"

    def _refer(self, name: str, path: Path, *, sha256: str, source: str, licence: str) -> StoredModel:
        status = path.stat()
        model = StoredModel(name, path, status.st_size, status.st_mtime_ns, sha256, source, licence)
        fields = {"version": _REFERENCE_VERSION, **asdict(model), "path": str(path.relative_to(self.home))}
        reference = self._folder("models") / self._reference_path(name).name
        unfinished = reference.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(reference)
        return model

    def _stored_model(self, fields: dict[str, object], reference: Path) -> StoredModel:
        match fields:
            case {
                "version": 1,
                "name": str(name),
                "path": str(path),
                "num_bytes": int(num_bytes),
                "modified_nanoseconds": int(modified),
                "sha256": str(sha256),
                "source": str(source),
                "licence": str(licence),
            }:
                return StoredModel(name, self.home / path, num_bytes, modified, sha256, source, licence)
        raise _bad_reference(reference)


def _not_writable(folder: Path, reason: str | None) -> ResourceError:
    return ResourceError(f"{folder}: {reason}", hint="set ABACI_HOME to a folder you may write to")


def _again(name: str) -> str:
    return f"fetch it again: abaci rm {name} && abaci pull {name}"


def _bad_reference(path: Path) -> AbaciError:
    return AbaciError(f"{path} is not a model reference of this version", hint="delete that file and pull again")
