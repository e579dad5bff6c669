"""Where fetched models live on this machine, and what is known of each.

    ABACI_HOME, else XDG_DATA_HOME/abaci, else ~/.local/share/abaci
    ├── models/qwen2.5-coder%3A0.5b.json   a reference: name, source, licence, and of each file its place, size, SHA-256
    ├── files/<sha256>.gguf                complete and checked; only ever renamed into place
    ├── folders/<sha256>/name/config.json  links to files, for models that are more than one file
    ├── partial/<sha256>                   a download on its way, continued by the next one
    └── locks/<sha256>                     held by the process that fetches that file; `store` by who changes references

A reference may also name files that other tools keep (a Hugging Face cache, an Ollama store): they are read where they
are. A file was whole and right when its reference was written; a start compares size and modification time with the
reference, and hashes again only if they differ or when asked to.

Order makes it safe to stop anywhere: bytes are on the disk before a file is named, files before a reference names them,
and a reference goes before what it named. What a stopped process leaves is a beginning to continue or a file that
nothing names, which `prune` finds.
"""

import fcntl
import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from abaci.errors import IntegrityError, ResourceError
from abaci.hub import huggingface_cache
from abaci.hub.disk import delete_file, make_folders, remove_tree, sync_folder, write_whole
from abaci.hub.partial import sha256_of
from abaci.hub.references import (
    StoredFile,
    StoredModel,
    bad_reference,
    list_digest,
    read_reference,
    written_reference,
)
from abaci.hub.wanted import Digest, WantedFile, checked_name, checked_path

_MAX_NAME_BYTES = 220
_MAX_TITLE_CHARACTERS = 80
_UNPRINTED = re.compile(r"[^A-Za-z0-9._-]+")


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
        """What is known of a model, or None if it is not here. The files are not looked at."""
        return self._read(self._reference_path(name))

    def all(self) -> list[StoredModel]:
        """Every model that is here, by name. Raises ResourceError for a place that cannot be listed."""
        found = (self._read(path) for path in self._references())
        return sorted((model for model in found if model is not None), key=lambda model: model.name)

    def _references(self) -> list[Path]:
        folder = self.home / "models"
        try:
            return [path for path in folder.iterdir() if path.suffix == ".json"]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ResourceError(
                f"{folder}: {error.strerror}", hint="ABACI_HOME names the folder where models are kept."
            ) from error

    def _read(self, path: Path) -> StoredModel | None:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise bad_reference(path) from error
        return read_reference(text, path, self.home)

    def check(self, model: StoredModel) -> StoredModel:
        """The model, if its files are as they were; one whose time alone has changed is hashed and noted anew.

        Raises IntegrityError if a file is missing or has changed.
        """
        touched = [file for file in model.files if not self._is_untouched(model, file)]
        if not touched:
            return model
        for file in touched:
            self.verify_file(model, file)
        renewed = replace(model, files=tuple(_with_time(file) for file in model.files))
        try:
            with self.changing():
                if self.get(model.name) == model:  # not removed or fetched anew meanwhile
                    self.refer(renewed)
        except ResourceError:
            return model  # a store that may only be read: right all the same, and hashed again next time
        return renewed

    def verify(self, model: StoredModel) -> None:
        """Hash all files. Raises IntegrityError if one is missing or not what was fetched."""
        for file in model.files:
            self.verify_file(model, file)

    def verify_file(
        self, model: StoredModel, file: StoredFile, show_bytes: Callable[[int], None] | None = None
    ) -> None:
        """Hash one file, telling how far it has come. Raises IntegrityError."""
        try:
            found = sha256_of(file.location, show_bytes)
        except OSError as error:
            reason = "is gone" if isinstance(error, FileNotFoundError) else str(error.strerror)
            raise IntegrityError(f"{model.name}: {file.location} {reason}", hint=_again(model.name)) from error
        if found != file.sha256:
            raise IntegrityError(
                f"{model.name}: {file.location} has SHA-256 {found}, not {file.sha256}", hint=_again(model.name)
            )

    def find(self, sha256: str) -> Path | None:
        """A file of that hash that was taken in, whether or not a model needs it."""
        for path in (self.home / "files" / f"{sha256}.gguf", self.home / "files" / sha256):
            if path.is_file():
                return path
        return None

    def adopt(self, file: WantedFile, partial_path: Path, sha256: str) -> Path:
        """Take in a complete file from the store's own `partial`, whose hash the caller has checked."""
        digest = Digest.sha256(sha256)
        path = self._folder("files") / f"{digest.value}{'.gguf' if file.path.endswith('.gguf') else ''}"
        partial_path.replace(path)
        sync_folder(path.parent)
        return path

    def link_folder(self, name: str, files: tuple[StoredFile, ...]) -> Path:
        """A folder in which each file stands under its own path, called after the model.

        It stands in one that is named by the hash of the list of files, so what is found there is never another's.
        """
        title = _UNPRINTED.sub("-", name.rpartition("/")[2]).strip("-.")[:_MAX_TITLE_CHARACTERS] or "model"
        folder = self._folder("folders") / list_digest(files) / title
        if all((folder / file.path).exists() for file in files):
            return folder
        for file in files:
            link = folder / checked_path(file.path)
            make_folders(link.parent, self.home)
            unfinished = link.with_name(f".{link.name}.{os.getpid()}")
            unfinished.unlink(missing_ok=True)
            unfinished.symlink_to(self._link_target(link, file.location))
            unfinished.replace(link)
        return folder

    def refer(self, model: StoredModel) -> StoredModel:
        """Write down a model whose files are here. Raises ResourceError where the store cannot be written."""
        reference = self._reference_path(checked_name(model.name))
        unfinished = self._folder("models") / f".{os.getpid()}.{os.urandom(4).hex()}"
        try:
            write_whole(unfinished, written_reference(model, self.home))
            unfinished.replace(reference)
            sync_folder(reference.parent)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise ResourceError(
                f"{reference}: {error.strerror}",
                hint="Free some space, or set ABACI_HOME to a folder you may write to.",
            ) from error
        return model

    def remove(self, model: StoredModel) -> int:
        """Forget a model and delete its files unless another name needs them. Returns the bytes freed.

        Files that were found at another tool's stay where they are.
        """
        with self.changing():
            reference = self._reference_path(model.name)
            reference.unlink(missing_ok=True)
            sync_folder(reference.parent)
            others = [other for other in self.all() if other.name != model.name]
            needed = {file.location for other in others for file in other.files}
            folder = self.folder_of(model.path)
            if folder is not None and not any(self.folder_of(other.path) == folder for other in others):
                remove_tree(folder)
            return sum(
                self._delete(file.location) for file in model.files if file.is_ours and file.location not in needed
            )

    def discard(self, file: StoredFile) -> None:
        """Delete one file that is to be fetched again."""
        with self.changing():
            self._delete(file.location)

    def folder_of(self, path: Path) -> Path | None:
        """The folder of links that a model's path is or is in; None for a path that is none of this store's."""
        folders = self.home / "folders"
        return folders / path.relative_to(folders).parts[0] if path.is_relative_to(folders) else None

    def has_fetched(self, location: Path) -> bool:
        """Whether a file that stands elsewhere was fetched for a model of this store."""
        return any(file.is_ours for model in self.all() for file in model.files if file.location == location)

    def shared_path(self, sha256: str) -> Path | None:
        """A whole file of that hash that a model of this store has, for other machines; None if there is none."""
        for model in self.all():
            for file in model.files:
                if file.sha256 == sha256 and self._is_unchanged(file):
                    return file.location
        return None

    @staticmethod
    def _is_unchanged(file: StoredFile) -> bool:
        try:
            status = file.location.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (file.num_bytes, file.modified_nanoseconds)

    def partial_path(self, key: str) -> Path:
        """Where the download of a hash grows."""
        return self._folder("partial") / key

    @contextmanager
    def locked(self, key: str, on_wait: Callable[[], None] | None = None, *, shared: bool = False) -> Iterator[None]:
        """Hold something against other processes; `on_wait` is called once if one of them has it."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        descriptor = os.open(self._folder("locks") / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def fetching(self) -> AbstractContextManager[None]:
        """Held while files arrive that no reference names yet; many may."""
        return self.locked("fetching", shared=True)

    def changing(self) -> AbstractContextManager[None]:
        """Held while references change; one may."""
        return self.locked("store")

    def _delete(self, location: Path) -> int:
        """Delete a file where files of this store may be, and nowhere else."""
        if location.parent == self.home / "files":
            return delete_file(location)
        return huggingface_cache.delete_blob(location)

    def _is_untouched(self, model: StoredModel, file: StoredFile) -> bool:
        try:
            status = file.location.stat()
        except OSError as error:
            raise IntegrityError(f"{model.name}: {file.location} is gone", hint=_again(model.name)) from error
        if status.st_size != file.num_bytes:
            raise IntegrityError(
                f"{model.name}: {file.location} has {status.st_size:,} bytes, not {file.num_bytes:,}",
                hint=_again(model.name),
            )
        return status.st_mtime_ns == file.modified_nanoseconds

    def _link_target(self, link: Path, location: Path) -> Path:
        """Relative where both are in the store, so that it may be moved."""
        inside = location.is_relative_to(self.home)
        return Path(os.path.relpath(location, link.parent)) if inside else location

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        try:
            self.home.parent.mkdir(parents=True, exist_ok=True)
            self.home.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _not_writable(folder, error.strerror) from error
        if not os.access(folder, os.W_OK):
            raise _not_writable(folder, "not writable")
        return folder

    def _reference_path(self, name: str) -> Path:
        """Percent signs stand for all that means something in a path; a long name is cut, and told by its hash."""
        quoted = urllib.parse.quote(name, safe="", errors="surrogatepass")
        if len(quoted) > _MAX_NAME_BYTES:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            quoted = f"{quoted[: _MAX_NAME_BYTES - len(digest) - 1]}-{digest}"
        return self.home / "models" / f"{quoted}.json"


def stored_file(path: str, location: Path, sha256: str, *, is_ours: bool) -> StoredFile:
    """What is to be written down of a file that is at `location` and has been checked."""
    status = location.stat()
    return StoredFile(path, location, status.st_size, status.st_mtime_ns, sha256, is_ours)


def _with_time(file: StoredFile) -> StoredFile:
    return replace(file, modified_nanoseconds=file.location.stat().st_mtime_ns)


def _not_writable(folder: Path, reason: str | None) -> ResourceError:
    return ResourceError(f"{folder}: {reason}", hint="Set ABACI_HOME to a folder you may write to.")


def _again(name: str) -> str:
    return f"Fetch it again: abaci verify --repair {name}"
