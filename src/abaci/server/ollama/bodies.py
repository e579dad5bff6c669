"""Request bodies of Ollama's API."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from abaci.chat.answer import ReasoningOptions
from abaci.chat.structured import constraint_of
from abaci.generation import Constraint, SamplingParams
from abaci.server.ollama.names import duration_seconds
from abaci.server.ollama.options import Options
from abaci.server.wire import ParameterError, WireBody

_EFFORTS = ("low", "medium", "high", "max")


class ModelBody(WireBody):
    """A request about one model; `name` is what older clients call it."""

    model: str | None = None
    name: str | None = None

    @property
    def asked(self) -> str:
        """The model's name. Raises ParameterError where there is none."""
        found = self.model or self.name
        if not found:
            raise ParameterError("model", "model is missing", hint="Name one that GET /api/tags lists.")
        return found


class LoadingBody(ModelBody):
    """A request that needs the model in memory."""

    options: Options = Field(default_factory=Options)
    keep_alive: float | int | str | None = None

    def check(self) -> None:
        """Raises ParameterError for what cannot be honoured."""
        self.options.check()
        if self.keep_alive is not None:
            duration_seconds("keep_alive", self.keep_alive)

    @property
    def unloads(self) -> bool:
        """Whether the model is to go as soon as it is not used."""
        return self.keep_alive is not None and duration_seconds("keep_alive", self.keep_alive) == 0

    def ignored(self, *, is_admin: bool) -> list[str]:
        """Names of what has no effect: unknown parameters, and a wish of those who may not have it."""
        ignored = [*self.unknown_parameters(), *self.options.unknown()]
        return ignored if is_admin or self.keep_alive is None else [*ignored, "keep_alive"]


class AnswerBody(LoadingBody):
    """A request for an answer."""

    stream: bool | None = None
    format: dict[str, Any] | str | None = None
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def check(self) -> None:
        super().check()
        if isinstance(self.think, str) and self.think not in _EFFORTS:
            raise ParameterError(
                "think", f"think is {self.think[:40]!r}", hint=f"Choose one of: true, false, {', '.join(_EFFORTS)}."
            )
        if self.top_logprobs and not self.logprobs:
            raise ParameterError(
                "top_logprobs", "top_logprobs is set, and logprobs is not", hint="Send logprobs: true as well."
            )

    def params(self) -> SamplingParams:
        """How to choose tokens. Raises UsageError."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.options.sampling_params(constraint=self._constraint(), logprobs=logprobs)

    def reasoning(self) -> ReasoningOptions:
        """Without `think` the model's template decides."""
        if isinstance(self.think, str):
            return ReasoningOptions(True, self.think)
        return ReasoningOptions(self.think)

    def _constraint(self) -> Constraint | None:
        match self.format:
            case None | "":
                return None
            case "json":
                return constraint_of(response_format={"type": "json_object"})
            case dict(schema):
                described = {"name": "format", "schema": schema}
                return constraint_of(response_format={"type": "json_schema", "json_schema": described})
        raise ParameterError(
            "format",
            "format is neither json nor a schema",
            hint='Send "json", or a JSON schema such as {"type": "object"}.',
        )


class ChatBody(AnswerBody):
    """`/api/chat`."""

    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None


class GenerateBody(AnswerBody):
    """`/api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool = False

    def check(self) -> None:
        super().check()
        if self.raw and (self.system is not None or self.think is not None):
            raise ParameterError(
                "raw",
                "raw sends the prompt as it is, without system and think",
                hint="Leave raw out, or write both into the prompt.",
            )

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {
            "suffix": "Write the model's own fill-in-the-middle tokens into a raw prompt.",
            "images": "Only text is supported.",
            "template": "The model's own chat template is used; a raw prompt goes without.",
            "context": "Send the messages to /api/chat.",
            "width": "Only text is supported.",
            "height": "Only text is supported.",
            "steps": "Only text is supported.",
        }


class EmbedBody(LoadingBody):
    """`/api/embed`."""

    input: str | list[str]
    truncate: bool = False
    dimensions: int | None = Field(default=None, ge=1)


class EmbeddingsBody(LoadingBody):
    """`/api/embeddings`, the older form: one text, not normalised."""

    prompt: str


class ShowBody(ModelBody):
    """`/api/show`."""

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {
            "template": "It changes nothing here.",
            "system": "It changes nothing here.",
            "options": "They change nothing here.",
        }


class PullBody(ModelBody):
    """`/api/pull`."""

    stream: bool | None = None
    insecure: bool = False

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {"username": "Models come from the catalog.", "password": "Models come from the catalog."}


class CopyBody(WireBody):
    """`/api/copy`."""

    source: str = Field(min_length=1)
    destination: str = Field(min_length=1, max_length=256)
