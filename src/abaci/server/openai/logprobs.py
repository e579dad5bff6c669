"""Log-probabilities as OpenAI writes them: for chats per token with its bytes, for completions in parallel lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abaci.formats.tokenizer import Tokenizer
from abaci.generation import TokenLogprob

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


@dataclass(frozen=True, slots=True)
class TokenNames:
    """How tokens are written: as their text, or as `token_id:N` for callers who must tell them apart."""

    tokenizer: Tokenizer
    as_ids: bool = False

    def name(self, token_id: int) -> str:
        """The token's text; bytes that are no whole characters become replacement characters."""
        if self.as_ids:
            return f"token_id:{token_id}"
        return self.tokenizer.token_bytes(token_id).decode("utf-8", "replace")

    def chat_entry(self, logprob: TokenLogprob) -> dict[str, Any]:
        """One entry of `logprobs.content`."""
        top = [self._with_bytes(token_id, value) for token_id, value in logprob.top]
        return {**self._with_bytes(logprob.token_id, logprob.logprob), "top_logprobs": top}

    def top_mapping(self, logprob: TokenLogprob, num_top: int) -> dict[str, float]:
        """Alternatives by name, the token itself among them, as `/v1/completions` has it."""
        named = {self.name(token_id): finite(value) for token_id, value in logprob.top[:num_top]}
        named.setdefault(self.name(logprob.token_id), finite(logprob.logprob))
        return named

    def prompt_entry(self, logprob: TokenLogprob | None) -> dict[str, Any] | None:
        """One position of vLLM's `prompt_logprobs`: token id -> log-probability, rank and text."""
        if logprob is None:
            return None
        entries = {str(logprob.token_id): self._ranked(logprob.token_id, logprob.logprob, None)}
        for rank, (token_id, value) in enumerate(logprob.top, start=1):
            entries[str(token_id)] = self._ranked(token_id, value, rank)
        return entries

    def _ranked(self, token_id: int, value: float, rank: int | None) -> dict[str, Any]:
        return {"logprob": finite(value), "rank": rank, "decoded_token": self.name(token_id)}

    def _with_bytes(self, token_id: int, value: float) -> dict[str, Any]:
        spelled = list(self.tokenizer.token_bytes(token_id))
        return {"token": self.name(token_id), "logprob": finite(value), "bytes": spelled}


class CompletionLogprobs:
    """The parallel lists of a completion, growing as tokens come."""

    def __init__(self, names: TokenNames, num_top: int, text_offset: int = 0) -> None:
        self._names = names
        self._num_top = num_top
        self._offset = text_offset
        self._lists: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}

    def add(self, logprobs: Sequence[TokenLogprob | None], token_ids: Sequence[int]) -> None:
        """Tokens and what is known of each; None for a prompt's first, which nothing precedes."""
        for token_id, logprob in zip(token_ids, logprobs, strict=True):
            name = self._names.name(token_id)
            self._lists["tokens"].append(name)
            self._lists["token_logprobs"].append(None if logprob is None else finite(logprob.logprob))
            top = None if logprob is None else self._names.top_mapping(logprob, self._num_top)
            self._lists["top_logprobs"].append(top)
            self._lists["text_offset"].append(self._offset)
            self._offset += len(name)

    def take(self) -> Mapping[str, list[Any]]:
        """What came since the last time."""
        taken = self._lists
        self._lists = {name: [] for name in taken}
        return taken


def finite(value: float) -> float:
    """The value, or LOWEST for what JSON cannot say."""
    return max(value, LOWEST)
