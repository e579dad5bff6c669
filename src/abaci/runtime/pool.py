"""Several models under one memory budget: loaded on first use, unloaded when idle or when another needs the room.

All state belongs to one event loop; loading and closing run on a thread of their own, one at a time. A model in memory
is a resident. A resident that is to go is retired: its entry forgets it at once, so that whoever comes next gets a
fresh one, and it goes when the last request that holds it has ended.
"""

import asyncio
import glob
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from abaci import hub
from abaci.chat.served import EngineFigures, ModelState, ModelStatus, TextModel
from abaci.engine.loader import LoadOptions, load
from abaci.engine.memory import available_memory_bytes
from abaci.engine.threads import starting_thread
from abaci.errors import EngineClosedError, ModelNotFoundError, ResourceError, UsageError
from abaci.formats.adapter import LoraChoice
from abaci.generation import Generator
from abaci.runtime.open_model import Loader, ModelInfo, OpenModel, is_corrupted, is_replaced, open_model
from abaci.tensor import CacheType

MEMORY_SHARE = 0.75
"""Of the memory available at the start, for a pool that was given no size."""
CACHE_SHARE = 0.25
"""Of what the budget leaves beside a model's weights, for its KV cache where nobody asked a size of it."""
WATCH_SECONDS = 1.0
"""Between looks at residents that are idle, or whose file was written over."""

_FIRST_SHARD = re.compile(r"-00001-of-(?=\d{5}\.gguf$)")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PooledModel:
    """A model that clients may ask for.

    model          what `hub.resolve` takes: a catalog name, a `.gguf` file or a folder that holds one.
    names          as clients ask for it; none: the model's own name.
    cache_bytes    for its KV cache; None: its share of the budget.
    context        tokens; None: the model's own, or what the cache holds.
    chat_template  Jinja source to use instead of the model's.
    quantize       a mixture such as "q4_k_m" that float weights are quantised to as they are loaded.
    lora           adapters, all in force.
    """

    model: str
    names: tuple[str, ...] = ()
    cache_bytes: int | None = None
    context: int | None = None
    chat_template: str | None = None
    quantize: str | None = None
    lora: tuple[LoraChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What a pool holds, and how much.

    models              the first is the default.
    memory_bytes        for weights and pages of all models; None: MEMORY_SHARE of what is available at the start.
    keep_alive_seconds  that an unused model stays; None: until another needs the room.
    allow_any           whether every model of this machine's store may be asked for.
    threads, max_sequences, max_step_tokens, kv_type    of each engine, as in `LLM`.
    """

    models: tuple[PooledModel, ...]
    memory_bytes: int | None = None
    keep_alive_seconds: float | None = None
    allow_any: bool = False
    threads: int | None = None
    max_sequences: int = 64
    max_step_tokens: int = 512
    kv_type: CacheType = CacheType.F16


class EnginePool:
    """A `chat.served.ModelPool` over engines of this process.

    Resolves the named models at once, fetching what is not here: raises what `hub.resolve` raises, and UsageError for
    a name given twice. A model of the store that a client asks for must pass `admit` first, which raises if it may not
    be used; the named ones are the caller's own choice. `tell` is given what users of a model should know of it, each
    time it is loaded.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        loader: Loader = load,
        admit: Callable[[hub.ResolvedModel], None] | None = None,
        tell: Callable[[str], None] = lambda remark: None,
    ) -> None:
        if not config.models:
            raise UsageError("no model to serve", hint="Name at least one.")
        self.memory_bytes = config.memory_bytes or int(available_memory_bytes() * MEMORY_SHARE)
        """For weights and pages of all models."""
        self._config = config
        self._loader = loader
        self._admit = admit
        self._tell = tell
        self._entries: dict[str, _Entry] = {}
        for model in config.models:
            self._enter(model, hub.resolve(model.model, download=True))
        self._own_names = frozenset(self._entries)
        self._residents: list[Resident] = []
        self._thread = ThreadPoolExecutor(1, "abaci-load")
        self._load_lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def default_name(self) -> str:
        """The first name of the first model."""
        return next(iter(self._entries))

    def models(self) -> Sequence[ModelStatus]:
        """Every model that may be asked for, under each of its names; with `allow_any` those of the store as well."""
        known = [entry.status(name) for name, entry in self._entries.items()]
        if self._config.allow_any:
            stored = (model for model in hub.Store().all() if model.name not in self._entries)
            known += [_status(model.name, _ModelFile.of_stored(model), None, ModelState.UNLOADED) for model in stored]
        return known

    def loaded(self) -> "Sequence[Resident]":
        """Those in memory, such as are about to go included."""
        return tuple(self._residents)

    @asynccontextmanager
    async def lease(self, name: str) -> "AsyncIterator[Resident]":
        """The model, loaded if it is not, and kept until the context ends. Raises as `ModelPool.lease` says."""
        resident = await self._hold(await self._entry(name))
        try:
            yield resident
        finally:
            self._let_go(resident)

    async def unload(self, name: str) -> bool:
        """Unload as soon as no request holds it; False if it was not loaded. Raises ModelNotFoundError."""
        entry = await self._entry(name)
        if entry.loading is not None:
            await asyncio.wait([entry.loading])
        resident = entry.resident
        if resident is None:
            return False
        await self._gone(resident)
        return True

    def keep_alive(self, name: str, seconds: float | None) -> None:
        """How long the resident stays unused; the next load of the model begins with the pool's own figure again."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._unknown(name)
        if entry.resident is not None:
            entry.resident.keep_alive_seconds = seconds

    async def alias(self, name: str, existing: str) -> None:
        """Give a model a further name. Raises as `ModelPool.alias` says."""
        entry = await self._entry(existing)
        is_stored = self._config.allow_any and hub.Store().get(name) is not None
        if is_stored or self._entries.setdefault(name, entry) is not entry:
            raise UsageError(f"there is a model called {name!r} already", hint="Choose another name.")

    async def forget(self, name: str) -> bool:
        """Give up a name. Raises as `ModelPool.forget` says."""
        if name in self._own_names:
            raise UsageError(f"the server was started with {name!r}", hint="Start it without that model.")
        entry = self._entries.pop(name, None)
        if entry is None:
            if not self._config.allow_any:
                raise self._unknown(name)
            hub.stored_model(name, hub.Store())
            return True
        if entry in self._entries.values():
            return False
        if entry.loading is not None:
            await asyncio.wait([entry.loading])
        if entry.resident is not None:
            await self._gone(entry.resident)
        return True

    async def close(self) -> None:
        """Unload everything; running requests end with EngineClosedError. Idempotent."""
        self._is_closed = True
        if self._watching is not None:
            self._watching.cancel()
        await self._close_residents()  # a load may be waiting for one of them to go
        loads = {entry.loading for entry in self._entries.values() if entry.loading is not None}
        if loads:
            await asyncio.wait(loads)
        await self._close_residents()
        self._thread.shutdown()

    # Names.

    def _enter(self, model: PooledModel, resolved: hub.ResolvedModel) -> None:
        entry = _Entry(model, resolved)
        for name in model.names or (resolved.name,):
            if self._entries.setdefault(name, entry) is not entry:
                raise UsageError(f"two models are called {name!r}", hint="Give each a name of its own.")

    async def _entry(self, name: str) -> "_Entry":
        if name not in self._entries:
            if not self._config.allow_any:
                raise self._unknown(name)
            hub.stored_model(name, hub.Store())  # only names of the store: no path that a client thought of
            resolved = await self._on_thread(lambda: hub.resolve(name, download=False))
            if self._admit is not None:
                admit = self._admit
                await self._on_thread(lambda: admit(resolved))
            if name not in self._entries:
                self._enter(PooledModel(name), resolved)
        return self._entries[name]

    def _unknown(self, name: str) -> ModelNotFoundError:
        return ModelNotFoundError(f"no model is called {name!r}", hint=f"There is {', '.join(self._entries)}.")

    # Leases.

    async def _hold(self, entry: "_Entry") -> "Resident":
        """The model's resident, held once more."""
        entry.num_waiting += 1  # so that what is loaded for us is not taken for idle before we hold it
        try:
            while True:
                self._check_open()
                resident = entry.resident
                if resident is None:
                    await asyncio.shield(self._load_once(entry))
                elif is_replaced(resident.model):
                    self._retire(resident)
                else:
                    resident.num_leases += 1
                    return resident
        finally:
            entry.num_waiting -= 1

    def _let_go(self, resident: "Resident") -> None:
        resident.num_leases -= 1
        resident.used_seconds = time.monotonic()
        if resident.is_retired and resident.num_leases == 0:
            self._close_soon(resident)

    # Loading.

    def _load_once(self, entry: "_Entry") -> "asyncio.Task[None]":
        """The load that is under way, or a new one: all who wait, wait for the same."""
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(_retrieve)
        return entry.loading

    async def _load(self, entry: "_Entry") -> None:
        try:
            async with self._load_lock:
                resolved = await self._on_thread(lambda: hub.resolve(entry.model.model, download=False))
                entry.file = _ModelFile.of(resolved)
                options = self._options(entry)
                assert options.cache_bytes is not None
                await self._make_room(entry, entry.file.num_bytes + options.cache_bytes)
                template = entry.model.chat_template
                model = await self._on_thread(
                    lambda: open_model(resolved, options, template=template, loader=self._loader, prepare=True)
                )
                for note in model.notes:
                    self._tell(f"{entry.name}: {note}")
                entry.info = model.info
                entry.resident = Resident(entry, model, self._config.keep_alive_seconds)
                self._residents.append(entry.resident)
                if self._watching is None:
                    self._watching = asyncio.create_task(self._watch())
        finally:
            entry.loading = None

    def _options(self, entry: "_Entry") -> LoadOptions:
        config = self._config
        cache_bytes = entry.model.cache_bytes
        if cache_bytes is None:
            cache_bytes = self._cache_share(entry)
        return LoadOptions(
            entry.model.context,
            config.threads,
            config.max_sequences,
            config.max_step_tokens,
            cache_bytes,
            entry.model.quantize,
            config.kv_type,
            entry.model.lora,
        )

    def _cache_share(self, entry: "_Entry") -> int:
        """CACHE_SHARE of what the weights leave; less, down to a quarter of it, if all the models fit together then."""
        entries = set(self._entries.values())
        alone = int((self.memory_bytes - entry.file.num_bytes) * CACHE_SHARE)
        together = (self.memory_bytes - sum(entry.file.num_bytes for entry in entries)) // len(entries)
        return max(0, min(alone, together) if 4 * together >= alone else alone)

    async def _make_room(self, entry: "_Entry", wanted_bytes: int) -> None:
        """Unload idle models, the longest unused first, until this one fits beside the others."""
        if wanted_bytes > self.memory_bytes:
            raise ResourceError(
                f"{entry.name} takes {wanted_bytes:,} bytes, but all models together may take {self.memory_bytes:,}",
                hint="Give the models more memory, or choose a smaller one.",
            )
        while self._used_bytes() + wanted_bytes > self.memory_bytes:
            await self._next_to_go(entry, wanted_bytes).has_gone.wait()
            self._check_open()

    def _next_to_go(self, entry: "_Entry", wanted_bytes: int) -> "Resident":
        idle = [resident for resident in self._residents if resident.is_idle]
        if idle:
            self._retire(min(idle, key=lambda resident: resident.used_seconds))
        going = [resident for resident in self._residents if resident.is_retired]
        if not going:
            free_bytes = max(0, self.memory_bytes - self._used_bytes())
            raise ResourceError(
                f"no room for {entry.name}: it takes {wanted_bytes:,} bytes, and the models at work leave "
                f"{free_bytes:,} of {self.memory_bytes:,}",
                hint="Try again later, or give the models more memory.",
            )
        return min(going, key=lambda resident: resident.num_leases)

    def _used_bytes(self) -> int:
        return sum(resident.memory_bytes for resident in self._residents)

    # Unloading.

    async def _watch(self) -> None:
        keep_alive_seconds = self._config.keep_alive_seconds
        pause_seconds = WATCH_SECONDS if keep_alive_seconds is None else min(WATCH_SECONDS, keep_alive_seconds / 2)
        while True:
            await asyncio.sleep(max(pause_seconds, WATCH_SECONDS / 50))
            for resident in tuple(self._residents):
                if is_corrupted(resident.model):
                    # What runs on it ends with an error: its answers would not be the model's.
                    resident.retire()
                    self._close_soon(resident)
                elif resident.has_idled():
                    self._retire(resident)

    async def _gone(self, resident: "Resident") -> None:
        self._retire(resident)
        await resident.has_gone.wait()

    def _retire(self, resident: "Resident") -> None:
        resident.retire()
        if resident.num_leases == 0:
            self._close_soon(resident)

    def _close_soon(self, resident: "Resident") -> None:
        if resident.closing is None:
            resident.closing = asyncio.create_task(self._close(resident))

    async def _close(self, resident: "Resident") -> None:
        try:
            await self._on_thread(resident.model.close)
        finally:
            self._residents.remove(resident)
            resident.has_gone.set()

    async def _close_residents(self) -> None:
        for resident in tuple(self._residents):
            resident.retire()
            self._close_soon(resident)
            await resident.has_gone.wait()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineClosedError("the server is stopping", hint="Send the request again when the server is back.")

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        with starting_thread("loading models"):
            working = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await working


@dataclass(frozen=True, slots=True)
class _ModelFile:
    """A model's files, as they were found last."""

    path: Path
    num_bytes: int
    created_seconds: int
    licence: str | None
    sha256: str | None

    @classmethod
    def of(cls, resolved: hub.ResolvedModel) -> "_ModelFile":
        """Of all shards together, if there are several."""
        found = [path.stat() for path in _shards(resolved.path)]
        num_bytes = sum(status.st_size for status in found)
        return cls(resolved.path, num_bytes, int(found[0].st_mtime), resolved.licence, resolved.sha256)

    @classmethod
    def of_stored(cls, stored: hub.StoredModel) -> "_ModelFile":
        created_seconds = stored.files[0].modified_nanoseconds // 10**9
        return cls(stored.path, stored.num_bytes, created_seconds, stored.licence, stored.sha256)


class _Entry:
    """A model that may be asked for. Written by the pool."""

    def __init__(self, model: PooledModel, resolved: hub.ResolvedModel) -> None:
        self.model = model
        self.name = model.names[0] if model.names else resolved.name
        self.file = _ModelFile.of(resolved)
        self.info: ModelInfo | None = None
        """Of the last load: what was learned of the file then stays known."""
        self.resident: Resident | None = None
        self.loading: asyncio.Task[None] | None = None
        self.num_waiting = 0

    def status(self, name: str) -> ModelStatus:
        """Under one of its names."""
        if self.resident is not None:
            return replace(self.resident.status, name=name)
        state = ModelState.UNLOADED if self.loading is None else ModelState.LOADING
        return _status(name, self.file, self.info, state)


class Resident:
    """A model in memory (`chat.served.ServedModel`). Written by the pool."""

    def __init__(self, entry: _Entry, model: OpenModel, keep_alive_seconds: float | None) -> None:
        self.model = model
        self.memory_bytes = (model.info.weight_bytes or entry.file.num_bytes) + model.info.cache_bytes
        self.num_leases = 0
        self.keep_alive_seconds = keep_alive_seconds
        """That it stays unused; None: until another needs the room."""
        self.used_seconds = time.monotonic()
        """When a request let go of it last."""
        self.is_retired = False
        self.closing: asyncio.Task[None] | None = None
        self.has_gone = asyncio.Event()
        self._entry = entry

    @property
    def text(self) -> TextModel:
        """Its text side."""
        return self.model.text

    @property
    def generator(self) -> Generator:
        """Its engine."""
        return self.model.generator

    @property
    def status(self) -> ModelStatus:
        """Under the first of its names."""
        status = _status(self._entry.name, self._entry.file, self.model.info, ModelState.LOADED)
        idle_until = None
        if self.keep_alive_seconds is not None:
            used_seconds = time.monotonic() if self.num_leases else self.used_seconds
            idle_until = time.time() - time.monotonic() + used_seconds + self.keep_alive_seconds
        return replace(
            status, memory_bytes=self.memory_bytes, num_active=self.num_leases, idle_until_seconds=idle_until
        )

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds it, nor is about to."""
        return not self.is_retired and self.num_leases == 0 and self._entry.num_waiting == 0

    def figures(self) -> EngineFigures:
        """Counters, as of about now. Any thread."""
        return self.model.figures()

    def has_idled(self) -> bool:
        """Whether it has been idle for as long as it may."""
        if self.keep_alive_seconds is None or not self.is_idle:
            return False
        return time.monotonic() - self.used_seconds >= self.keep_alive_seconds

    def retire(self) -> None:
        """Make the entry forget it."""
        self.is_retired = True
        if self._entry.resident is self:
            self._entry.resident = None


def _status(name: str, file: _ModelFile, info: ModelInfo | None, state: ModelState) -> ModelStatus:
    status = ModelStatus(
        name, file.path, state, file.created_seconds, file.num_bytes, licence=file.licence, sha256=file.sha256
    )
    if info is None:
        return status
    return replace(
        status,
        architecture=info.architecture,
        context_length=info.context_length,
        num_parameters=info.num_parameters,
        quantisation=info.quantisation,
        licence=info.licence,
    )


def _shards(path: Path) -> list[Path]:
    """The file, or if it is the first of several shards, all that are there; of a folder all that hold weights."""
    if path.is_dir():
        return sorted(path.glob("*.safetensors")) or [path]
    if not _FIRST_SHARD.search(path.name):
        return [path]
    before, after = _FIRST_SHARD.split(path.name)
    return sorted(path.parent.glob(f"{glob.escape(before)}-?????-of-{after}"))


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Take note of a load's error, so that asyncio does not complain where all who waited have gone."""
    if not task.cancelled():
        task.exception()
