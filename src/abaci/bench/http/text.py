"""Prompts of a wanted length, made of committed sentences in an order that a seed decides.

What a prompt says does not matter to speed; that no two begin alike does, since a server may know a beginning already.
"""

from collections.abc import Callable
from importlib.resources import files
from math import exp
from random import Random

CountTokens = Callable[[str], int]


class PromptWriter:
    """Writes prompts whose length is counted in the tokens of one model. Equal seeds write equal prompts."""

    def __init__(self, count_tokens: CountTokens, seed: str) -> None:
        self._random = Random(seed)  # noqa: S311
        self._sentences = [(sentence, max(1, count_tokens(" " + sentence))) for sentence in _sentences()]

    @property
    def random(self) -> Random:
        """For other choices of the same workload."""
        return self._random

    def write(self, num_tokens: int) -> str:
        """About so many tokens: the last sentence is cut off between words. No two prompts begin alike."""
        parts = [f"Note {self._random.randrange(10**9)}."]
        num_left = num_tokens - 6
        while num_left > 0:
            sentence, length = self._random.choice(self._sentences)
            if length > num_left:
                words = sentence.split()
                sentence = " ".join(words[: max(1, len(words) * num_left // length)])
            parts.append(sentence)
            num_left -= length
        return " ".join(parts)

    def draw_length(self, median_tokens: int, spread: float, least: int, most: int) -> int:
        """A length from a log-normal distribution: `spread` is the deviation of the logarithm."""
        return min(most, max(least, round(median_tokens * exp(self._random.gauss(0.0, spread)))))


def _sentences() -> list[str]:
    return files("abaci.bench.http").joinpath("sentences.txt").read_text(encoding="utf-8").splitlines()
