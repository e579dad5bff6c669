"""What a store knows of a model, and how it is written down: one JSON document per name.

Version 1 (one file, always under `files`) is still read; version 2 is written. A reference is taken for hostile like
any other file: paths in it are relative to the store and inside it, or absolute and never deleted.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from abaci.errors import AbaciError, UsageError
from abaci.hub.wanted import Digest, checked_name, checked_path

_VERSION = 2


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a model that is here."""

    path: str
    """Its place in the model."""
    location: Path
    """Its place on this machine."""
    num_bytes: int
    modified_nanoseconds: int
    sha256: str
    is_ours: bool
    """Whether it was fetched for this store, and goes when its last name goes."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is here."""

    name: str
    path: Path
    """What a reader opens: the file, the first of its shards, or the folder."""
    files: tuple[StoredFile, ...]
    source: str
    licence: str
    base_models: tuple[str, ...] = ()
    """What it was made from, as its repository said when it was fetched."""

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """The file's; for several, that of their list."""
        return self.files[0].sha256 if len(self.files) == 1 else list_digest(self.files)


def list_digest(files: tuple[StoredFile, ...]) -> str:
    """SHA-256 of the lines that `sha256sum` would print for the files, by path."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def written_reference(model: StoredModel, home: Path) -> str:
    """The document of a model."""
    fields: dict[str, Any] = {
        "version": _VERSION,
        "name": model.name,
        "path": _relative(model.path, home),
        "source": model.source,
        "licence": model.licence,
        "base_models": list(model.base_models),
        "files": [
            {
                "path": file.path,
                "location": _relative(file.location, home),
                "num_bytes": file.num_bytes,
                "modified_nanoseconds": file.modified_nanoseconds,
                "sha256": file.sha256,
                "is_ours": file.is_ours,
            }
            for file in model.files
        ],
    }
    return json.dumps(fields, indent=2) + "\n"


def read_reference(text: str, reference: Path, home: Path) -> StoredModel:
    """The model of a document. Raises AbaciError that names the file where it is none."""
    try:
        fields = json.loads(text)
        match fields:
            case {"version": 1, "path": str(path)}:
                return _first_version(fields, home, path)
            case {"version": 2, "path": str(path), "files": list(files)}:
                return StoredModel(
                    checked_name(_text(fields, "name")),
                    _absolute(path, home),
                    tuple(_file(file, home) for file in files[: _checked_length(files)]),
                    _text(fields, "source"),
                    _text(fields, "licence"),
                    _base_models(fields.get("base_models", [])),
                )
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise bad_reference(reference) from error
    raise bad_reference(reference)


def bad_reference(path: Path) -> AbaciError:
    """The error for a document that is no reference."""
    return AbaciError(f"{path} is not a model reference of this version", hint="Delete that file and pull again.")


def _first_version(fields: dict[str, Any], home: Path, path: str) -> StoredModel:
    location = _absolute(path, home)
    file = StoredFile(
        checked_path(location.name),
        location,
        _integer(fields, "num_bytes"),
        _integer(fields, "modified_nanoseconds"),
        Digest.sha256(_text(fields, "sha256")).value,
        is_ours=location.is_relative_to(home),
    )
    name = checked_name(_text(fields, "name"))
    return StoredModel(name, location, (file,), _text(fields, "source"), _text(fields, "licence"))


def _file(fields: dict[str, Any], home: Path) -> StoredFile:
    return StoredFile(
        checked_path(_text(fields, "path")),
        _absolute(_text(fields, "location"), home),
        _integer(fields, "num_bytes"),
        _integer(fields, "modified_nanoseconds"),
        Digest.sha256(_text(fields, "sha256")).value,
        is_ours=fields["is_ours"] is True,
    )


def _base_models(names: Any) -> tuple[str, ...]:
    """None in a reference of before they were written down."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("base_models")
    return tuple(names)


def _checked_length(files: list[Any]) -> int:
    if not 1 <= len(files) <= 100_000:
        raise ValueError("a model has files")
    return len(files)


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise TypeError(name)
    return str(fields[name])


def _integer(fields: dict[str, Any], name: str) -> int:
    if not isinstance(fields[name], int) or isinstance(fields[name], bool):
        raise TypeError(name)
    return int(fields[name])


def _relative(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def _absolute(path: str, home: Path) -> Path:
    """Inside the store, or an absolute path; never up and out by `..`."""
    if ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(path)
    return home / path
