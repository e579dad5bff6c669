"""What a server is told: flags over environment over file over defaults, checked once and frozen.

Every field may stand in the TOML file under its own name, and in the environment as `ABACI_` and its name in capitals.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from abaci.errors import UsageError
from abaci.server.validation import demand
from abaci.tensor import CacheType

ENVIRONMENT_PREFIX = "ABACI_"

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def default_state_dir() -> Path:
    """ABACI_STATE_DIR is read as any other field; this is where state lives without it."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "abaci"


class ServerConfig(BaseModel):
    """Settings of `abaci serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    models: tuple[str, ...] = ()
    """Catalog names, files or folders to serve; the first is the default. None named: the catalog's default."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Further names: what clients ask for -> one of `models`."""
    any_model: bool = False
    """Whether clients may also ask for models of the catalog that are on this machine but not in `models`."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback a key is needed."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    api_key: str | None = None
    """A key that holds beside those of the database, without limits."""
    tls_certificate: Path | None = None
    """PEM file of the certificate and its chain: serve HTTPS."""
    tls_key: Path | None = None
    """PEM file of its key."""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers to answer, beside the loopback's own names; `*` for all. Beyond loopback checked only if given."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other web pages that may call; the server's own page always may."""

    state_dir: Path = Field(default_factory=default_state_dir)
    """Database and files of this server."""
    database_url: str | None = None
    """SQLAlchemy URL; None: an SQLite file in the state folder."""

    context: int | None = Field(default=None, ge=1)
    """Tokens of context per model; None: the model's own, or what memory allows."""
    quantize: str | None = None
    """Quantise float weights to a mixture such as `q4_k_m` as they are loaded; None: keep them."""
    kv_type: CacheType = CacheType.F16
    """What the KV cache keeps keys and values as: `f16`, `bf16`, or `int8` in about half the memory."""
    lora: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """LoRA adapters: one of `models` -> files or folders, all in force, each as `FILE` or `FILE=SCALE`."""
    threads: int | None = Field(default=None, ge=1)
    """That compute; None: the physical cores this process may use."""
    memory_bytes: int | None = Field(default=None, ge=1)
    """For weights and pages of all loaded models; None: what the machine has to give."""
    keep_alive_seconds: float | None = Field(default=None, ge=0)
    """Unload a model that nobody has used for so long; None: only when another needs the room."""
    max_sequences: int = Field(default=64, ge=1, le=1024)
    """That run at a time, per model; more wait."""

    share_store: bool = False
    """Whether other Abaci servers may fetch this machine's models, by the SHA-256 of their files."""

    max_queued_requests: int = Field(default=512, ge=0)
    """That wait beyond those running; more are refused with 429."""
    batch_concurrency: int = Field(default=8, ge=1)
    """Lines of batches that run at a time."""
    max_body_bytes: int = Field(default=32 << 20, ge=1024)
    """Larger bodies, and so larger uploads, are refused with 413."""
    max_samples: int = Field(default=32, ge=1)
    """Most `n` of one request."""
    max_prompts: int = Field(default=1024, ge=1)
    """Most prompts or texts in one request."""
    ping_seconds: float = Field(default=15.0, gt=0)
    """A stream that is silent for so long says that it lives."""
    slow_reader_seconds: float = Field(default=300.0, gt=0)
    """A client that takes nothing for so long is dropped."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """For running requests to end after SIGTERM."""

    reasoning_fields: Literal["both", "reasoning_content", "reasoning", "inline"] = "both"
    """Where the thought of an answer goes: one field, both, or `<think>` in the content."""
    hourly_price: float | None = Field(default=None, ge=0)
    """Dollars per hour of this machine, to put a price on tokens."""
    vllm_metrics: bool = False
    """Also export the metrics under vLLM's prefix."""
    log_prompts: bool = False
    """Whether the log has the prompts of requests."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`info` has a line for every request."""
    otlp_endpoint: str | None = None
    """Where OpenTelemetry traces go; None: nowhere."""

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: str | None) -> str | None:
        """An empty one, as of a variable that is not set, or one with blanks around it would lock everybody out."""
        if key is not None and (not key or key != key.strip()):
            raise ValueError("give at least one character, and no blanks around them")
        return key

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in _LOOPBACK


def read_config(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> ServerConfig:
    """Put the settings together; a flag that is None was not given.

    Raises UsageError that names file, variable or flag and what is wrong with it.
    """
    values: dict[str, Any] = {} if file is None else _read_file(file)
    sources = dict.fromkeys(values, str(file))
    for name, text in _from_environment(os.environ if environment is None else environment).items():
        values[name] = text
        sources[name] = f"{ENVIRONMENT_PREFIX}{name.upper()}"
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = value
            sources[name] = f"--{name.replace('_', '-')}"
    try:
        config = ServerConfig.model_validate(values)
    except ValidationError as error:
        raise _explain(error, sources) from error
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise UsageError("tls_certificate and tls_key belong together", hint="Give both files, or neither.")
    return config


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="Give --config the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}", hint="A line is, for example: port = 8000") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in ServerConfig.model_fields.items():
        text = environment.get(f"{ENVIRONMENT_PREFIX}{name.upper()}")
        if text is None:
            continue
        kind = get_origin(field.annotation)
        if kind is tuple:
            found[name] = tuple(part.strip() for part in text.split(",") if part.strip())
        elif kind is dict:
            pairs = (part.partition("=") for part in text.split(",") if part.strip())
            found[name] = {key.strip(): value.strip() for key, _, value in pairs}
        else:
            found[name] = text
    return found


def _explain(error: ValidationError, sources: Mapping[str, str]) -> UsageError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        message = f"{sources.get(name, name)}: there is no setting {name!r}"
        return UsageError(message, hint="See docs/serving.md, which lists the settings.")
    given = "no key that can be sent" if name == "api_key" else repr(first["input"])  # a secret stays one
    return UsageError(f"{sources.get(name, name)}: {name} is {given}", hint=demand(first["msg"]))
