"""What is measured, whoever it is: a Contender opens a model file, takes settings, and times itself.

Clocks run inside the contender's own process, around the work and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from abaci.tensor import CacheType

Settings = Mapping[str, bool | int]
Options = Mapping[str, Sequence[bool | int]]
"""For each setting the values worth trying, the likeliest first."""

CALLS = ("open", "options", "configure", "prefill", "decode", "first_token", "python_share")
"""What a child process answers of what its contender can do; the last one only this engine."""

FIRST_TOKEN_PROMPT = "def is_prime(n):"  # noqa: S105  a prompt, no secret


@dataclass(frozen=True, slots=True)
class Description:
    """Who this is: version, and how it was built or runs, for people to read."""

    version: str
    facts: Mapping[str, str]
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens that came, and the seconds they took."""

    num_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class PythonShare:
    """Of a single greedy stream, between its first event and its last."""

    num_steps: int
    wall_seconds: float
    step_seconds: float
    """Of the wall time, in the step program."""


def describe_settings(settings: Settings) -> str:
    """`flash attention on, ubatch tokens 512`."""
    words = {True: "on", False: "off"}
    return ", ".join(
        f"{name.replace('_', ' ')} {words[value] if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )


class Contender(Protocol):
    """An engine under measurement."""

    @property
    def name(self) -> str:
        """As tables show it."""

    def open(self, path: str, num_threads: int, kv_type: CacheType = CacheType.F16) -> Description:
        """Load a model and stay; its cache keeps `kv_type`, or what is likest to it. Raises AbaciError."""

    def options(self, num_streams: int, num_new_tokens: int) -> Options:
        """What can be tuned for steps of that many new tokens in each of that many streams."""

    def configure(self, settings: Settings) -> None:
        """Use these settings, chosen from `options`, from now on."""

    def prefill(self, token_ids: Sequence[int]) -> Timing:
        """Compute a prompt up to its first token, nothing of it known before."""

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, limit_seconds: float) -> Timing:
        """Continue all prompts together by about `num_tokens` each, or until the limit.

        Prompts are computed before the clock starts; only steps in which every stream runs count.
        """

    def first_token(self, path: str, num_threads: int) -> float:
        """In a fresh process: load a model, compute FIRST_TOKEN_PROMPT and one token. Seconds, without imports."""
