"""Runs one change of a store again and again in children that die without warning, at every step and at any byte.

Arguments: the change, a folder. Steps are what the interpreter's audit hooks see of a file system: opening for writing,
renaming, linking, deleting. Bytes are counted by the system, which kills a child whose file grows beyond a limit. After
every death the store is held against its promises. Prints how many deaths there were.
"""

import hashlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hub_server import COMMIT

from abaci import hub
from abaci.hub import huggingface_cache, maintenance
from abaci.hub.download import SilentListener, fetch
from abaci.hub.maintenance import copy, leftovers, prune
from abaci.hub.network import Network
from abaci.hub.sources import LocalSource
from abaci.hub.wanted import Digest, WantedFile, WantedModel

FILES = {"sub/config.json": b"{}" * 40, "model.safetensors": b"one" * 700}
STEPS = {"os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
DIED = 9


class CacheSource(LocalSource):
    """Keeps what it delivers in the shared cache, as the hub's source does."""

    def keep(self, file: WantedFile, finished: Path, network: Network) -> Path | None:
        assert file.digest is not None
        names = {"repository": "maker/model", "revision": "main", "commit": COMMIT}
        return huggingface_cache.keep(finished, **names, path=file.path, etag=file.digest.value).resolve()


def wanted(folder: Path, name: str, source: type[LocalSource] = LocalSource) -> WantedModel:
    files = []
    for path, content in FILES.items():
        (folder / "origin" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "origin" / path).write_bytes(content)
        digest = Digest.sha256(hashlib.sha256(content).hexdigest())
        files.append(WantedFile(path, len(content), digest, (source(folder / "origin"),)))
    return WantedModel(name, tuple(files), "MIT")


def pull(folder: Path, name: str = "tiny:1b", source: type[LocalSource] = LocalSource) -> hub.StoredModel:
    return fetch(wanted(folder, name, source), hub.Store(folder / "home"), SilentListener(), Network())


def before_pull(folder: Path) -> None:
    """An empty store."""


def before_others(folder: Path) -> None:
    """A model under two names, one of another tool's kind, and leftovers."""
    store = hub.Store(folder / "home")
    copy(store, pull(folder), "second")
    store.partial_path("0" * 64).write_bytes(b"begun")
    (store.home / "files" / f"{'1' * 64}.gguf").write_bytes(b"nobody's")


def remove_all(folder: Path) -> None:
    store = hub.Store(folder / "home")
    for model in store.all():
        store.remove(model)


CHANGES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "pull": (before_pull, pull),
    "pull-cached": (before_pull, lambda folder: pull(folder, source=CacheSource)),
    "remove": (before_others, remove_all),
    "copy": (before_others, lambda folder: copy(hub.Store(folder / "home"), pull(folder), "third")),
    "prune": (before_others, lambda folder: prune(hub.Store(folder / "home"), lambda: None)),
}


def die_at_step(number: int) -> None:
    """End this process at the `number`-th step from now."""
    left = [number]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in STEPS or writes:
            left[0] -= 1
            if left[0] == 0:
                os._exit(DIED)

    sys.addaudithook(hook)


def die_at_byte(number: int) -> None:
    """Be killed by the system when a file would grow beyond `number` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def dies(folder: Path, change: Callable[[Path], object], prepare: Callable[[], None]) -> bool:
    """Whether a child that was prepared died of it."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            change(folder)
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGXFSZ
        return True
    assert os.WEXITSTATUS(status) in (0, DIED), status
    return os.WEXITSTATUS(status) == DIED


def check(folder: Path) -> None:
    """What must hold at every moment."""
    store = hub.Store(folder / "home")
    for model in store.all():
        store.verify(model)
        assert model.path.exists()
        for file in model.files:
            assert (model.path / file.path).read_bytes() == FILES[file.path]
    for partial in (store.home / "partial").glob("*"):
        begun = partial.read_bytes()
        assert begun == b"begun" or any(content.startswith(begun) for content in FILES.values())
    for blob in huggingface_cache.cache_folder().glob("models--*/blobs/*"):
        if not blob.name.endswith(".incomplete"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    pull(folder)
    store.verify(store.get("tiny:1b") or sys.exit("gone"))
    prune(store, lambda: None)
    assert leftovers(store) == ()
    store.verify(store.get("tiny:1b") or sys.exit("pruned"))
    remove_all(folder)
    assert store.all() == []
    prune(store, lambda: None)
    assert not list((store.home / "files").glob("*"))
    assert not list((store.home / "folders").glob("*"))


def main() -> None:
    os.fsync = lambda descriptor: None  # a process that dies takes nothing written with it: only slow here
    catalog = hub.load_catalog()
    maintenance.load_catalog = lambda: catalog  # type: ignore[attr-defined]  # read once for all children
    change, root = sys.argv[1], Path(sys.argv[2])
    before, act = CHANGES[change]
    deaths = 0
    preparations: list[Callable[[], None]] = []
    for number in range(1, 400):
        preparations.append(lambda number=number: die_at_step(number))
    if change.startswith("pull"):
        preparations += [lambda number=number: die_at_byte(number) for number in range(0, 2100, 201)]
    steps_are_over = False
    for index, prepare in enumerate(preparations):
        is_step = index < 399
        if is_step and steps_are_over:
            continue
        folder = root / str(index)
        folder.mkdir()
        os.environ["HF_HOME"] = str(folder / "hf")
        before(folder)
        died = dies(folder, act, prepare)
        steps_are_over = steps_are_over or (is_step and not died)
        deaths += died
        check(folder)
    assert steps_are_over
    sys.stdout.write(f"{deaths}\n")


main()
