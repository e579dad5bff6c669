"""What a server is given: models by name, each a generator with its text side. Protocols and plain values only.

`runtime` implements them over engines of this process; tests implement them over a script.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from abaci.chat.requests import RequestRules
from abaci.chat.reranking import YesOrNo
from abaci.formats.chat_template import ChatTemplate
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Generator, Pooling


@dataclass(frozen=True, slots=True)
class TextModel:
    """The text side of a loaded model: everything between what people write and token ids."""

    tokenizer: Tokenizer
    template: ChatTemplate
    rules: RequestRules
    pooling: Pooling = Pooling.MEAN
    """How this model's embeddings are made of its hidden states."""
    classifier: YesOrNo | None = None
    """Of a reranker that has one."""


class ModelState(StrEnum):
    """Where a model is on its way into memory."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that may be asked for. Sizes in bytes; what is known only of a loaded model is None before."""

    name: str
    """As clients ask for it; one file may have several names."""
    path: Path
    state: ModelState
    created_seconds: int
    """Unix time of the file."""
    file_bytes: int
    architecture: str | None = None
    context_length: int | None = None
    num_parameters: int | None = None
    quantisation: str | None = None
    licence: str | None = None
    sha256: str | None = None
    memory_bytes: int | None = None
    """Weights and pages, while loaded."""
    num_active: int = 0
    """Requests that hold it now."""
    idle_until_seconds: float | None = None
    """Unix time at which it is unloaded unless used; None: never."""


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Counters of one engine since it was loaded, and gauges of now."""

    steps: int
    computed_tokens: int
    generated_tokens: int
    preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    num_running: int
    num_waiting: int
    cache_tokens: int
    """What the KV cache holds at most."""
    cache_used_fraction: float
    """Of its pages that sequences hold now, 0..1."""
    num_threads: int
    kernels: dict[str, str]
    computed_prompt_tokens: int
    """Those of `computed_tokens` that belong to prompts."""
    prompt_seconds: float
    """Their part of `step_seconds`: each step's seconds are divided evenly over its tokens."""
    step_seconds: float
    weight_bytes: int
    """Read once by every step."""


class ServedModel(Protocol):
    """A loaded model."""

    @property
    def status(self) -> ModelStatus: ...

    @property
    def text(self) -> TextModel: ...

    @property
    def generator(self) -> Generator: ...

    def figures(self) -> EngineFigures:
        """Counters, as of about now. Any thread."""


class ModelPool(Protocol):
    """The models of a server. Methods are called on the server's event loop unless they say otherwise."""

    @property
    def default_name(self) -> str:
        """The model to use where a client names none."""

    def models(self) -> Sequence[ModelStatus]:
        """Every model that may be asked for, loaded or not."""

    def loaded(self) -> Sequence[ServedModel]:
        """Those in memory."""

    def lease(self, name: str) -> AbstractAsyncContextManager[ServedModel]:
        """The model, loaded if it is not, and kept until the context ends.

        Raises ModelNotFoundError, ResourceError where there is no room and nothing idle to unload, and what loading
        raises.
        """

    async def unload(self, name: str) -> bool:
        """Unload as soon as no request holds it; False if it was not loaded. Raises ModelNotFoundError."""

    def keep_alive(self, name: str, seconds: float | None) -> None:
        """How long the model, if it is loaded, stays unused before it goes; None: until another needs room.

        Raises ModelNotFoundError.
        """

    async def alias(self, name: str, existing: str) -> None:
        """Give a model a further name until the pool closes.

        Raises ModelNotFoundError, UsageError where another model has that name.
        """

    async def forget(self, name: str) -> bool:
        """Give up a name that the pool was not made with; False if the model has others.

        A model without a name is unloaded. Raises ModelNotFoundError, UsageError for a name the pool was made with.
        """

    async def close(self) -> None:
        """Unload everything; running requests end with an error."""
