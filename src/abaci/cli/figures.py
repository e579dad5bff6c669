"""Figures in words: of an answer (load time, tokens per second, memory), and of what a quantised file loses."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abaci.cli.answer import Answer
from abaci.cli.terminal import megabytes


@dataclass(frozen=True, slots=True)
class Figures:
    """What an answer cost; rates are None where there was nothing to measure."""

    load_seconds: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int
    prompt_tokens_per_second: float | None
    completion_tokens_per_second: float | None
    peak_memory_bytes: int

    def __str__(self) -> str:
        parts = [f"load {self.load_seconds:.2f} s"]
        if self.prompt_tokens is not None:
            cached = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
            parts.append(f"prompt: {_tokens(self.prompt_tokens)}{cached}{_rate(self.prompt_tokens_per_second)}")
        parts.append(f"answer: {_tokens(self.completion_tokens)}{_rate(self.completion_tokens_per_second)}")
        parts.append(f"memory {megabytes(self.peak_memory_bytes)}")
        return " | ".join(parts)


def measure(answer: Answer, load_seconds: float) -> Figures:
    """Figures of an answer that has just ended in this process.

    Of one that was stopped, what was seen of it counts.
    The first token comes out of the prompt's last step, so the rate of generation counts those after it.
    """
    usage = answer.usage
    if usage is None:
        return Figures(load_seconds, None, None, 0, None, None, peak_memory_bytes())
    return Figures(
        load_seconds=load_seconds,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        prompt_tokens_per_second=_per_second(usage.prompt_tokens - usage.cached_tokens, usage.prefill_seconds),
        completion_tokens_per_second=_per_second(usage.completion_tokens - 1, usage.decode_seconds),
        peak_memory_bytes=peak_memory_bytes(),
    )


def quality_rows(quality: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a quantised file loses, by the fields of `abaci.quantize.quality.Quality`."""
    return [
        ("loss", f"{quality['mean_kl']:.5f} nats per token, 99th percentile {quality['p99_kl']:.5f}"),
        ("top token", f"the source's at {quality['top_agreement']:.1%} of positions"),
        ("perplexity", f"{quality['perplexity']:.3f}, the source's {quality['source_perplexity']:.3f}"),
    ]


def peak_memory_bytes() -> int:
    """The most memory this process has held at once, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _per_second(num_tokens: int, seconds: float) -> float | None:
    return num_tokens / seconds if num_tokens > 0 and seconds > 0 else None


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def _rate(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f", {tokens_per_second:,.1f}/s"
