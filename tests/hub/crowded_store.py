"""Many processes that pull, copy, remove and prune in one store. Prints `sound` if every promise held."""

import hashlib
import os
import random
import sys
from pathlib import Path

from abaci import hub
from abaci.errors import AbaciError
from abaci.hub import maintenance
from abaci.hub.download import SilentListener, fetch
from abaci.hub.maintenance import copy, leftovers, prune
from abaci.hub.network import Network
from abaci.hub.sources import LocalSource
from abaci.hub.wanted import Digest, WantedFile, WantedModel

SHARED = b"shared" * 3000
NUM_PROCESSES, NUM_CHANGES = 6, 25


def wanted(root: Path, index: int) -> WantedModel:
    contents = {"shared.gguf": SHARED, f"own-{index}.json": b"%d" % index * 500}
    files = []
    for path, content in contents.items():
        (root / path).write_bytes(content)
        digest = Digest.sha256(hashlib.sha256(content).hexdigest())
        files.append(WantedFile(path, len(content), digest, (LocalSource(root),)))
    return WantedModel(f"tiny:{index}b", tuple(files))


def change(store: hub.Store, models: list[WantedModel], choice: random.Random) -> None:
    model = models[choice.randrange(len(models))]
    match choice.randrange(5):
        case 0 | 1:
            stored = fetch(model, store, SilentListener(), Network())
            assert stored.name == model.name
        case 2:
            found = store.get(model.name)
            if found is not None:
                store.remove(found)
        case 3:
            found = store.get(model.name)
            name = f"copy-{choice.randrange(3)}"
            if found is not None and store.get(name) is None:
                try:
                    copy(store, found, name)
                except AbaciError:
                    return  # another process was faster with that name, or removed the model
        case 4:
            prune(store, lambda: None)


def main() -> None:
    catalog = hub.load_catalog()
    maintenance.load_catalog = lambda: catalog  # type: ignore[attr-defined]  # read once for all children
    root = Path(sys.argv[1])
    models = [wanted(root, index) for index in range(3)]
    children = []
    for number in range(NUM_PROCESSES):
        child = os.fork()
        if child == 0:
            try:
                choice = random.Random(number)
                for _ in range(NUM_CHANGES):
                    change(hub.Store(root / "home"), models, choice)
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    store = hub.Store(root / "home")
    for model in store.all():
        store.verify(model)
    prune(store, lambda: None)
    assert leftovers(store) == ()
    for model in store.all():
        store.verify(model)
        store.remove(model)
    assert not any((store.home / "files").iterdir())
    sys.stdout.write("sound\n")


main()
