"""From a name to a model that runs: file, tokenizer, template, rules and engine, put together in one place.

`LLM` opens one, a pool opens many. Knows no prompts and no results.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from abaci import hub
from abaci.chat.prompt import chat_template
from abaci.chat.requests import GenerationDefaults, RequestRules
from abaci.chat.reranking import YesOrNo
from abaci.chat.served import EngineFigures, TextModel
from abaci.engine.loader import LoadedModel, LoadOptions, load
from abaci.engine.threads import starting_thread
from abaci.errors import FileFormatError
from abaci.formats.checkpoint import Checkpoint, MetadataValue, own_template
from abaci.formats.opening import open_checkpoint
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Generator, Pooling
from abaci.kernels.dequantise import dequantise

Loader = Callable[[Checkpoint, LoadOptions], LoadedModel]
"""How an open file becomes a running engine."""

_POOLINGS = {1: Pooling.MEAN, 3: Pooling.LAST, 4: Pooling.LAST}
"""`pooling_type` of GGUF."""

FileIdentity = tuple[int, int, int, int]
"""Device, inode, bytes and time of the last change in nanoseconds: other values mean other contents."""

_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    32: "BF16",
}
"""`general.file_type` of GGUF, which names the mixture of formats that a quantiser chose."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is running and how."""

    name: str
    path: Path
    architecture: str
    licence: str | None
    """None where neither catalog nor file says."""
    context_length: int
    num_threads: int
    threads_pinned: bool
    kernels: Mapping[str, str]
    """Weight format -> the kernel that runs it."""
    cache_bytes: int
    """Of the KV cache, when all of it is in use."""
    weight_bytes: int
    """Of the weights in memory."""
    num_parameters: int
    quantisation: str
    """As the file calls its mixture of formats, else the format of most of its bytes."""
    sha256: str | None
    """None for a file that came from no catalog."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A running model with its text side. `close` stops it and lets go of the file."""

    info: ModelInfo
    text: TextModel
    files: frozenset[FileIdentity]
    """Those that hold tensors, as they were when they were opened."""
    notes: tuple[str, ...]
    """What its user should know."""
    loaded: LoadedModel

    @property
    def generator(self) -> Generator:
        """Its engine."""
        return self.loaded.engine

    @property
    def reads_file(self) -> bool:
        """Whether steps read rows of the embedding from the file, so that overwriting it would change answers."""
        return bool(self.loaded.spec.row_tables())

    def figures(self) -> EngineFigures:
        """Counters of its engine, as of about now. Any thread."""
        stats = self.loaded.engine.stats()
        return EngineFigures(
            steps=stats.steps,
            computed_tokens=stats.computed_tokens,
            generated_tokens=stats.generated_tokens,
            preemptions=stats.preemptions,
            prefix_query_tokens=stats.prefix_query_tokens,
            prefix_hit_tokens=stats.prefix_hit_tokens,
            num_running=stats.running,
            num_waiting=stats.waiting,
            cache_tokens=stats.cache_tokens,
            cache_used_fraction=stats.cache_used_fraction,
            num_threads=self.info.num_threads,
            kernels=dict(self.info.kernels),
            computed_prompt_tokens=stats.computed_prompt_tokens,
            prompt_seconds=stats.prompt_seconds,
            step_seconds=stats.step_seconds,
            weight_bytes=self.info.weight_bytes,
        )

    def close(self) -> None:
        """Requests under way end with EngineClosedError. Idempotent."""
        self.loaded.close()


def open_model(
    resolved: hub.ResolvedModel,
    options: LoadOptions,
    *,
    template: str | None = None,
    loader: Loader = load,
    prepare: bool = False,
) -> OpenModel:
    """Load a model that is on this machine. `template` is Jinja source to use instead of the model's.

    With `prepare` the tokenizer does all its work now, and no later text waits for it.

    Raises ModelNotFoundError, FileFormatError, UnsupportedModelError, ResourceError, UsageError.
    """
    checkpoint = open_checkpoint(resolved.path, sorts_columns=True)
    files = _opened_files(checkpoint)
    metadata = checkpoint.metadata
    with ThreadPoolExecutor(1) as background:  # the vocabulary is read while weights are packed
        with starting_thread("the tokenizer"):
            reading = background.submit(_read_tokenizer, checkpoint, prepare)
        loaded = loader(checkpoint, options)
    try:
        tokenizer = _named(reading, resolved.path)
        source = template or own_template(metadata) or resolved.chat_template
        rendered, note = chat_template(source, tokenizer)
        classifier = _classifier(loaded)
        rules = RequestRules(
            GenerationDefaults.from_metadata(metadata),
            tokenizer.end_token_ids,
            loaded.cache.context_length,
            loaded.spec.vocab_size,
        )
    except BaseException:
        loaded.close()
        raise
    return OpenModel(
        info=_describe(resolved, loaded),
        text=TextModel(tokenizer, rendered, rules, _pooling(metadata), classifier),
        files=files,
        notes=loaded.checkpoint.notes + loaded.spec.notes + (() if note is None else (note,)),
        loaded=loaded,
    )


def _pooling(metadata: Mapping[str, MetadataValue]) -> Pooling:
    """What the file says of embeddings; rerankers, whose pooling makes no embedding, look at the last token too."""
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    return _POOLINGS.get(kind, Pooling.MEAN) if isinstance(kind, int) else Pooling.MEAN


def _classifier(loaded: LoadedModel) -> YesOrNo | None:
    classifier = loaded.spec.classifier
    if classifier is None:
        return None
    tensor = loaded.checkpoint.tensors[classifier.weight]
    rows = dequantise(tensor.format, tensor.shape, loaded.checkpoint.data(tensor))
    if not np.isfinite(rows).all():
        raise FileFormatError(f"{loaded.checkpoint.paths[0]}: {classifier.weight} has values that are not finite")
    return YesOrNo(rows[classifier.yes] - rows[classifier.no])


def _named(reading: Future[Tokenizer], path: Path) -> Tokenizer:
    """The tokenizer that was read. Its errors, which name a key, are made to name the file too."""
    try:
        return reading.result()
    except FileFormatError as error:
        if path.name in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def _read_tokenizer(checkpoint: Checkpoint, prepare: bool) -> Tokenizer:
    tokenizer = checkpoint.tokenizer()
    if prepare:
        tokenizer.prepare()
    return tokenizer


def is_replaced(model: OpenModel) -> bool:
    """Whether other files stand now where the model was loaded from."""
    try:
        return not model.files <= {_identity(path.stat()) for path in model.loaded.checkpoint.paths}
    except OSError:
        return True


def is_corrupted(model: OpenModel) -> bool:
    """Whether steps read from a file that was written over since it was opened."""
    return model.reads_file and _opened_files(model.loaded.checkpoint) != model.files


def _opened_files(checkpoint: Checkpoint) -> frozenset[FileIdentity]:
    return frozenset(_identity(os.fstat(descriptor)) for descriptor in checkpoint.descriptors)


def _identity(status: os.stat_result) -> FileIdentity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _describe(resolved: hub.ResolvedModel, loaded: LoadedModel) -> ModelInfo:
    metadata, tensors = loaded.metadata, loaded.checkpoint.tensors
    licence = metadata.get("general.license")
    bytes_by_format: dict[str, int] = {}
    for tensor in tensors.values():
        label = tensor.format.label
        bytes_by_format[label] = bytes_by_format.get(label, 0) + tensor.num_bytes
    file_type = metadata.get("general.file_type")
    named = _FILE_TYPES.get(file_type) if isinstance(file_type, int) else None
    return ModelInfo(
        name=resolved.name,
        path=resolved.path,
        architecture=loaded.spec.architecture,
        licence=resolved.licence or (licence if isinstance(licence, str) else None),
        context_length=loaded.cache.context_length,
        num_threads=loaded.threads.num_threads,
        threads_pinned=loaded.threads.is_pinned,
        kernels=loaded.kernels,
        cache_bytes=loaded.cache.num_bytes,
        weight_bytes=loaded.weight_bytes,
        num_parameters=sum(prod(tensor.shape) for tensor in tensors.values()),
        quantisation=named or max(bytes_by_format, key=lambda label: bytes_by_format[label]),
        sha256=resolved.sha256,
    )
