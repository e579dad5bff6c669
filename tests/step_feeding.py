"""Drives an executor without an engine: gives sequences pages and runs steps of chosen tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, NO_STATE, PAGE_TOKENS, SAMPLE, Executor, StepBatch, StepOutput
from abaci.models.spec import ModelSpec


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence in a step."""

    sequence: int
    first_position: int
    token_ids: Sequence[int]


def logit_rows(num_rows: int, **fields: object) -> NDArray[np.void]:
    """Greedy rows 0, 1, 2, ... without log-probabilities, with `fields` set over the neutral values."""
    rows = np.zeros(num_rows, LOGIT_ROW)
    rows["row"] = np.arange(num_rows)
    neutral = {"target": SAMPLE, "top_p": 1, "repetition_penalty": 1, "num_top": -1, "mask_row": -1}
    for name, value in (neutral | fields).items():
        rows[name] = value
    return rows


class StepFeeder:
    """Holds the page tables of `num_sequences` sequences of at most `max_tokens` each; pages are dealt scattered."""

    def __init__(self, executor: Executor, spec: ModelSpec, num_sequences: int, max_tokens: int) -> None:
        self.executor = executor
        self.vocab_size = spec.vocab_size
        self._windows = [group.window for group in spec.cache_groups()]
        pages_each = -(-max_tokens // PAGE_TOKENS)
        num_pages = num_sequences * pages_each
        self._has_states = bool(spec.state_layers())
        executor.allocate_cache((num_pages,) * len(self._windows), num_sequences if self._has_states else 0)
        self._tables = [
            np.random.default_rng(group).permutation(num_pages).astype(np.int32).reshape(num_sequences, pages_each)
            for group in range(len(self._windows))
        ]

    def step(
        self, chunks: Sequence[Chunk], rows: NDArray[np.void] | None = None, hidden_rows: Sequence[int] = ()
    ) -> StepOutput:
        """One step over the chunks; by default the whole distribution after every token is asked for."""
        token_ids = np.concatenate([chunk.token_ids for chunk in chunks]).astype(np.int32)
        lengths = [len(chunk.token_ids) for chunk in chunks]
        if rows is None:
            rows = logit_rows(len(token_ids), num_top=self.vocab_size)
        return self.executor.step(
            StepBatch(
                token_ids=token_ids,
                sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
                first_positions=np.array([chunk.first_position for chunk in chunks], np.int32),
                page_tables=tuple(self._table(group, chunks) for group in range(len(self._tables))),
                logit_rows=rows,
                history=np.empty(0, HISTORY),
                bias=np.empty(0, BIAS),
                masks=np.empty((0, -(-self.vocab_size // 32)), np.uint32),
                hidden_rows=np.array(hidden_rows, np.int32),
                states=self._states(chunks),
            )
        )

    def _states(self, chunks: Sequence[Chunk]) -> NDArray[np.int32]:
        """A sequence continues its own state, and at its beginning none."""
        pairs = [(chunk.sequence if chunk.first_position else NO_STATE, chunk.sequence) for chunk in chunks]
        return np.array(pairs if self._has_states else [], np.int32).reshape(-1, 2)

    def logprobs(self, token_ids: Sequence[int], chunk_sizes: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Log-probabilities after each token of sequence 0, (tokens, vocab), fed in chunks of the given sizes."""
        pieces, position = [], 0
        for size in chunk_sizes or [len(token_ids)]:
            output = self.step([Chunk(0, position, token_ids[position : position + size])])
            pieces.append(by_token_id(output))
            position += size
        assert position == len(token_ids)
        return np.concatenate(pieces)

    def _table(self, group: int, chunks: Sequence[Chunk]) -> NDArray[np.int32]:
        """Rows of the chunks' sequences; pages wholly before a window are taken away, as the engine does."""
        table = self._tables[group][[chunk.sequence for chunk in chunks]]
        window = self._windows[group]
        if window is not None:
            for row, chunk in enumerate(chunks):
                table[row, : max(0, chunk.first_position - window + 1) // PAGE_TOKENS] = -1
        return table


def by_token_id(output: StepOutput) -> NDArray[np.float32]:
    """The output's log-probabilities put back in the order of token ids; every token must have been asked for."""
    logprobs = np.full(output.top_logprobs.shape, np.nan, np.float32)
    np.put_along_axis(logprobs, output.top_ids.astype(np.int64), output.top_logprobs, axis=1)
    return logprobs


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities of rows of logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
