"""Request bodies of OpenAI's API, with what vLLM and llama.cpp added to them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from abaci.chat.structured import constraint_of
from abaci.generation import Constraint, SamplingParams
from abaci.server.wire import ParameterError, WireBody

_NO_LIMIT = 2**31 - 1
"""As `top_k`: more than any vocabulary has. 0 and -1 say this, and not that the model's own advice is to be taken."""
_MAX_STOP_STRINGS = 64
_MAX_STOP_CHARACTERS = 4096

_NOT_SUPPORTED = {
    "best_of": "Ask for n samples and choose among them.",
    "use_beam_search": "Leave it out.",
    "length_penalty": "It belongs to beam search; leave it out.",
    "early_stopping": "It belongs to beam search; leave it out.",
    "prompt_embeds": "Send text or token ids.",
    "truncate_prompt_tokens": "Nothing is truncated silently; shorten the prompt.",
    "logits_processors": "Use logit_bias or structured_outputs.",
    "allowed_token_ids": "Use logit_bias or structured_outputs.",
    "bad_words": "Use logit_bias.",
    "vllm_xargs": "Leave it out.",
    "lora": "Ask for a model by its name.",
    "typical_p": "Use top_p or min_p.",
    "mirostat": "Use temperature, top_p or min_p.",
    "tfs_z": "Use top_p or min_p.",
    "dynatemp_range": "Use temperature.",
    "xtc_probability": "Use min_p.",
    "dry_multiplier": "Use repetition_penalty or frequency_penalty.",
    "samplers": "The order is top-k, top-p, min-p.",
    "n_discard": "Nothing is discarded silently.",
    "n_keep": "Nothing is discarded silently.",
    "n_predict": "Use max_tokens.",
    "repeat_penalty": "Use repetition_penalty.",
}


class StreamOptions(WireBody):
    """How to stream."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingBody(WireBody):
    """What chat and text completions have in common."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    n: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    user: str | None = None

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return _NOT_SUPPORTED

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_stream_options(self) -> None:
        """Raises ParameterError for options of a stream that is none."""
        if self.stream_options is not None and not self.stream:
            raise ParameterError(
                "stream_options",
                "stream_options is set, and stream is not",
                hint="Send stream: true as well, or leave stream_options out.",
            )
        if self.stream and self.prompt_logprobs is not None:
            raise ParameterError(
                "prompt_logprobs", "prompt_logprobs cannot be streamed", hint="Leave stream out, or prompt_logprobs."
            )

    def constraint(self) -> Constraint | None:
        """The form the answer must have. Raises UsageError that names the field."""
        structured = dict(self.structured_outputs or {})
        for name in ("json", "regex", "choice", "grammar"):
            value = getattr(self, f"guided_{name}")
            if value is not None:
                structured[name] = value
        return constraint_of(
            response_format=self.response_format,
            structured_outputs=structured or None,
            grammar=self.grammar,
            json_schema=self.json_schema,
        )

    def sampling_params(self, *, logprobs: int | None, max_tokens: int | None) -> SamplingParams:
        """As the engine wants them. Raises ParameterError."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=_NO_LIMIT if self.top_k in (0, -1) else self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_logit_bias(self.logit_bias or {}),
            seed=None if self.seed is None else self.seed % 2**64,
            n=self.n or 1,
            stop=_stop(self.stop),
            include_stop_str_in_output=self.include_stop_str_in_output,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            skip_special_tokens=self.skip_special_tokens,
            constraint=self.constraint(),
        )


class ChatBody(SamplingBody):
    """`/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    reasoning: dict[str, Any] | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    include_reasoning: bool = True
    thinking_token_budget: int | None = Field(default=None, ge=0)
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {
            **_NOT_SUPPORTED,
            "functions": "Use tools.",
            "function_call": "Use tool_choice.",
            "audio": "Only text is supported.",
            "prediction": "Leave it out.",
            "web_search_options": "Give the model a tool that searches.",
            "echo": "Use /v1/completions.",
            "documents": "Put them into a message.",
            "chat_template": "The model's own template is used; chat_template_kwargs sets its variables.",
            "mm_processor_kwargs": "Only text is supported.",
        }


class CompletionBody(SamplingBody):
    """`/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=100)
    add_special_tokens: bool = True

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {**_NOT_SUPPORTED, "suffix": "Write the model's own fill-in-the-middle tokens into the prompt."}


class EmbeddingBody(WireBody):
    """`/v1/embeddings`."""

    model: str | None = None
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    pooling: Literal["mean", "last"] | None = None
    normalize: bool = True
    user: str | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return {"truncate_prompt_tokens": "Nothing is truncated silently; shorten the text."}


class TokenizeBody(WireBody):
    """`/tokenize`: of a text, or of a chat as the model would see it. llama.cpp calls the text `content`."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = True
    add_special: bool | None = None
    parse_special: bool = True
    return_token_strs: bool = False
    with_pieces: bool = False


class DetokenizeBody(WireBody):
    """`/detokenize`."""

    model: str | None = None
    tokens: list[int]


class ApplyTemplateBody(WireBody):
    """`/apply-template`."""

    model: str | None = None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True


def _logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    biases = {}
    for token, bias in given.items():
        if not token.isdecimal() or len(token) > 9:
            raise ParameterError(
                "logit_bias",
                f"logit_bias: {token[:40]!r} is not a token id",
                hint='Keys are token ids, for example {"42": -100}; /tokenize has the ids of a text.',
            )
        biases[int(token)] = bias
    return biases


def _stop(given: str | Sequence[str] | None) -> tuple[str, ...]:
    stop = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stop) > _MAX_STOP_STRINGS or sum(map(len, stop)) > _MAX_STOP_CHARACTERS:
        raise ParameterError(
            "stop",
            f"stop has {len(stop)} texts of {sum(map(len, stop))} characters together",
            hint=f"Send at most {_MAX_STOP_STRINGS} texts, of {_MAX_STOP_CHARACTERS} characters together.",
        )
    return stop
