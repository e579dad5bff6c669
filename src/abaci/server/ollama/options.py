"""`options` of Ollama's requests: each is honoured, refused by name, or unknown and told of in a header."""

from collections.abc import Mapping
from typing import Final

from pydantic import Field

from abaci.generation import Constraint, SamplingParams
from abaci.server.wire import ParameterError, WireBody

_NO_LIMIT: Final = 2**31 - 1
"""As `top_k`: more than any vocabulary has."""
_MAX_STOP_STRINGS: Final = 64

_NEUTRAL: Final[Mapping[str, tuple[object, str]]] = {
    "mirostat": (0, "Use temperature, top_p or min_p."),
    "tfs_z": (1, "Use top_p or min_p."),
    "typical_p": (1, "Use top_p or min_p."),
    "penalize_newline": (True, "Penalties count every token."),
    "repeat_last_n": (-1, "Penalties count every token of prompt and answer."),
    "num_keep": (0, "Nothing is discarded silently."),
    "num_gpu": (0, "This machine answers with its processors."),
}
"""What is not supported, with the one value that changes nothing and what to do instead."""

_DECIDED_AT_START: Final = (
    *("numa", "num_batch", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock"),
    *("embedding_only", "num_thread", "draft_num_predict"),
)


class Options(WireBody):
    """Of one request."""

    num_ctx: int | None = Field(default=None, ge=1)
    num_predict: int | None = Field(default=None, ge=-2)
    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    repeat_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: list[str] | str | None = None

    def check(self) -> None:
        """Raises ParameterError, naming the option, for what cannot be honoured."""
        extra = self.model_extra or {}
        for name, (neutral, advice) in _NEUTRAL.items():
            if extra.get(name) is not None and extra[name] != neutral:
                raise ParameterError("options", f"options.{name} {extra[name]!r} is not supported", hint=advice)
        for name in _DECIDED_AT_START:
            if extra.get(name) is not None:
                raise ParameterError(
                    "options", f"options.{name} is not supported", hint="The server decides when it loads a model."
                )
        if self.num_predict == 0:
            raise ParameterError(
                "options",
                "options.num_predict is 0",
                hint="Send at least 1, or -1 for as many tokens as there is room for; to load a model send no prompt.",
            )
        if not isinstance(self.stop, str) and len(self.stop or ()) > _MAX_STOP_STRINGS:
            raise ParameterError(
                "options", f"options.stop has {len(self.stop or ())} texts", hint=f"Send at most {_MAX_STOP_STRINGS}."
            )

    def check_context(self, context_length: int | None) -> None:
        """A model is loaded with one context, so `num_ctx` asks for at least that much. Raises ParameterError."""
        if self.num_ctx is not None and context_length is not None and self.num_ctx > context_length:
            raise ParameterError(
                "options",
                f"options.num_ctx is {self.num_ctx}, but the model's context holds {context_length} tokens",
                hint="Ask for less, or start the server with a larger context.",
            )

    def unknown(self) -> list[str]:
        """Options that Ollama does not have either."""
        known = {*_NEUTRAL, *_DECIDED_AT_START}
        return [f"options.{name}" for name in self.unknown_parameters() if name not in known]

    def known(self) -> list[str]:
        """Options that were given and mean something to an answer."""
        return [f"options.{name}" for name in sorted(self.model_fields_set - (self.model_extra or {}).keys())]

    def sampling_params(self, *, constraint: Constraint | None, logprobs: int | None) -> SamplingParams:
        """As the engine wants them."""
        unlimited = self.num_predict is None or self.num_predict < 0
        seed = None if self.seed is None or self.seed == -1 else self.seed % 2**64
        return SamplingParams(
            temperature=self.temperature,
            top_k=_NO_LIMIT if self.top_k == 0 else self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            max_tokens=None if unlimited else self.num_predict,
            logprobs=logprobs,
            constraint=constraint,
        )
