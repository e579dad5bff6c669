"""From an open model file to a running engine. Knows files, not names: those are resolved by the runtime."""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from abaci.engine.adapted import AdaptedCheckpoint
from abaci.engine.engine import Engine, EngineConfig
from abaci.engine.grammar import Vocabulary
from abaci.engine.memory import CacheSize, available_memory_bytes, check_weights, count_states, size_cache
from abaci.engine.prompt_cost import doubling_position
from abaci.engine.quantised import QuantisedCheckpoint
from abaci.engine.threads import ThreadPlan, plan_threads
from abaci.errors import FileFormatError
from abaci.formats.adapter import LoraChoice
from abaci.formats.checkpoint import Checkpoint, MetadataValue
from abaci.kernels.batch import PAGE_TOKENS, Executor
from abaci.kernels.packed_store import KeptWeights, packed_store
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import FileRange, RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.mixtures import mixture_named
from abaci.models.spec import HeadLinear, ModelSpec
from abaci.tensor import CacheType


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load. None leaves the choice to the machine and the model."""

    context_length: int | None = None
    num_threads: int | None = None
    max_sequences: int = 64
    max_step_tokens: int = 512
    cache_bytes: int | None = None
    """For the KV cache, at most."""
    quantize: str | None = None
    """Name of a mixture, such as q4_k_m, that float weights are quantised to as they are loaded."""
    kv_type: CacheType = CacheType.F16
    """What the KV cache keeps keys and values as."""
    lora: tuple[LoraChoice, ...] = ()
    """Adapters, all of which are in force."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An executor, the name of the kernel that runs each weight format the model has, and what the weights take."""

    executor: Executor
    kernels: Mapping[str, str]
    weight_bytes: int = 0
    mapped_bytes: int = 0
    """Of these, what is pages of a file: the system counts them as available."""


BackendFactory = Callable[[ModelSpec, Checkpoint, LoadOptions, ThreadPlan], Backend]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A running engine and what there is to know of its model. `close` ends it and lets go of the file."""

    engine: Engine
    spec: ModelSpec
    checkpoint: Checkpoint
    kernels: Mapping[str, str]
    threads: ThreadPlan
    cache: CacheSize
    weight_bytes: int = 0
    """Of the weights in memory, all of which a step reads."""

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """As the file has it."""
        return self.checkpoint.metadata

    def close(self) -> None:
        """Idempotent."""
        self.engine.close()
        self.checkpoint.close()


def native_backend(spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, threads: ThreadPlan) -> Backend:
    """The compiled kernels."""
    # Imported here, so that other backends work where the extension was not built.
    native = importlib.import_module("abaci.kernels.native")
    pool = _native_pool(threads)
    store = packed_store()
    weights, available_bytes = _weight_bytes(spec, checkpoint), available_memory_bytes()
    # What is mapped need not all be in memory: of experts the share that a token meets.
    needed_bytes = weights.all if store is None else weights.met
    check_weights(needed_bytes, available_bytes, are_floats=_are_floats(checkpoint))
    executor = native.NativeExecutor(
        spec,
        CheckpointTensors(checkpoint),
        max_step_tokens=options.max_step_tokens,
        pool=pool,
        kept=None if store is None else KeptWeights(store, _identity(checkpoint)),
        must_map=weights.all > available_bytes,
        cache_type=options.kv_type,
    )
    mapped_bytes = min(executor.weight_bytes, weights.met) if executor.weights_are_mapped else 0
    return Backend(executor, executor.kernels(), executor.weight_bytes, mapped_bytes)


def _native_pool(threads: ThreadPlan) -> Any:
    native = importlib.import_module("abaci.kernels.native")
    return native.thread_pool(threads.num_threads, threads.cores if threads.is_pinned else ())


def _are_floats(checkpoint: Checkpoint) -> bool:
    """Whether most bytes are of weights that are not quantised, nor will be as they are loaded."""
    tensors = checkpoint.tensors.values()
    float_bytes = sum(tensor.num_bytes for tensor in tensors if not tensor.format.is_quantised)
    return 2 * float_bytes > sum(tensor.num_bytes for tensor in tensors)


class _WeightBytes(NamedTuple):
    """Of all that is packed, and of it without the experts that a token does not meet."""

    all: int
    met: int


def _weight_bytes(spec: ModelSpec, checkpoint: Checkpoint) -> _WeightBytes:
    """Embeddings whose rows are read from the file do not count."""
    sizes = {name: checkpoint.tensors[name].num_bytes for name, _ in spec.tensors()}
    for table in spec.row_tables():
        if checkpoint.is_stored(checkpoint.tensors[table.weight]):
            del sizes[table.weight]
    for stack in spec.stacks():
        if isinstance(stack, HeadLinear) and stack.is_transposed:  # beside the other rows of its tensor
            weight_format = stack.matrix_format(checkpoint.tensors[stack.weight].format)
            sizes[stack.matrix] = weight_format.block_bytes * stack.num_heads * stack.out_features * stack.in_features
    met = dict(sizes)
    for mixture in spec.mixtures():
        router = mixture.router
        for stack in (mixture.gate, mixture.up, mixture.down):
            met[stack.weight] = sizes[stack.weight] * router.num_active // router.num_experts
    return _WeightBytes(sum(sizes.values()), sum(met.values()))


def _identity(checkpoint: Checkpoint) -> str:
    """Changes whenever one of the checkpoint's files does."""
    states = [os.fstat(descriptor) for descriptor in checkpoint.descriptors]
    return repr([(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in states])


def reference_backend(spec: ModelSpec, checkpoint: Checkpoint, options: LoadOptions, threads: ThreadPlan) -> Backend:
    """The numpy specification: exact and slow."""
    formats = dict.fromkeys(tensor.format.label for tensor in checkpoint.tensors.values())
    executor = ReferenceExecutor(spec, CheckpointTensors(checkpoint), cache_type=options.kv_type)
    return Backend(executor, dict.fromkeys(formats, "reference"))


@dataclass(frozen=True, slots=True)
class CheckpointTensors:
    """A checkpoint as a source of weights: views of the file, and what is computed when it is asked for."""

    checkpoint: Checkpoint

    def tensor(self, name: str) -> RawTensor:
        """The tensor `name`. Raises KeyError if there is none."""
        info, checkpoint = self.checkpoint.tensors[name], self.checkpoint
        is_stored = checkpoint.is_stored(info)
        return RawTensor(
            info.format,
            info.shape,
            checkpoint.data(info) if is_stored else lambda: checkpoint.data(info),
            FileRange(checkpoint.descriptors[info.file_index], info.offset) if is_stored else None,
            lambda: checkpoint.release(info),
        )


def load(checkpoint: Checkpoint, options: LoadOptions, backend: BackendFactory = native_backend) -> LoadedModel:
    """Check and load a model and start its engine. The checkpoint is the LoadedModel's from now on, also on failure.

    Raises FileFormatError, UnsupportedModelError, ResourceError; UsageError for options that the model or the machine
    cannot meet.
    """
    try:
        threads = plan_threads(options.num_threads)
        if options.quantize is not None:
            checkpoint = QuantisedCheckpoint(checkpoint, mixture_named(options.quantize), _native_pool(threads))
        with _naming_file(checkpoint):
            spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors, options.context_length)
        if options.lora:
            checkpoint = adapters = AdaptedCheckpoint(checkpoint, options.lora)
            spec = adapters.adapted(spec)
        with _naming_file(checkpoint):
            built = backend(spec, checkpoint, options, threads)
        try:
            cache = _allocate_cache(spec, built, options)
            engine = Engine(
                built.executor,
                EngineConfig(
                    vocab_size=spec.vocab_size,
                    context_length=cache.context_length,
                    windows=tuple(group.window for group in spec.cache_groups()),
                    num_pages=cache.num_pages,
                    max_sequences=options.max_sequences,
                    max_step_tokens=options.max_step_tokens,
                    num_states=cache.num_states,
                    doubling_position=doubling_position(spec),
                    has_head=spec.has_head,
                ),
                on_thread_start=lambda: threads.pin_current_thread(0),
                vocabulary=lambda: Vocabulary.from_tokenizer(checkpoint.tokenizer()),
            )
        except BaseException:
            built.executor.close()
            raise
    except BaseException:
        checkpoint.close()
        raise
    return LoadedModel(engine, spec, checkpoint, built.kernels, threads, cache, built.weight_bytes)


@contextmanager
def _naming_file(checkpoint: Checkpoint) -> Iterator[None]:
    """Errors of the file say which file."""
    try:
        yield
    except FileFormatError as error:
        raise type(error)(f"{checkpoint.paths[0]}: {error.message}", hint=error.hint) from error


def _allocate_cache(spec: ModelSpec, built: Backend, options: LoadOptions) -> CacheSize:
    executor = built.executor
    groups = spec.cache_groups()
    available_bytes = available_memory_bytes() - built.mapped_bytes
    num_states = count_states(executor.state_bytes, options.max_sequences, available_bytes, options.cache_bytes)
    states_bytes = num_states * executor.state_bytes
    cache = size_cache(
        windows=[group.window for group in groups],
        page_bytes=[executor.page_bytes(index) for index in range(len(groups))],
        page_tokens=PAGE_TOKENS,
        model_context=spec.context_length,
        requested_context=options.context_length,
        max_sequences=options.max_sequences,
        max_step_tokens=options.max_step_tokens,
        available_bytes=available_bytes - states_bytes,
        cache_bytes=None if options.cache_bytes is None else options.cache_bytes - states_bytes,
    )
    executor.allocate_cache(cache.num_pages, num_states)
    return replace(cache, num_bytes=cache.num_bytes + states_bytes, num_states=num_states)
