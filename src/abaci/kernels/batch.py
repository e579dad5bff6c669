"""What one step of an executor is given and what it gives back: arrays, the same for native and reference.

A step runs all new tokens of all its sequences, one after another ("ragged"). Example, two sequences, page size 32:

    sequence_offsets  [0, 3, 4]          rows 0..2 belong to sequence 0, row 3 to sequence 1
    first_positions   [64, 40]           sequence 0 brings positions 64, 65, 66; sequence 1 position 40
    page_tables[g]    [[7, 2, 9], [4, 1, -1]]   position p of a sequence lives in page row[p // 32], slot p % 32

In a sliding-window group, pages wholly before the window are -1 and never read. Pages for the step's own positions are
already in the table.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS = 32
"""Positions per page of the KV cache; also the width of the tile in which attention reduces over positions."""

NO_STATE = -1
"""State to read for a sequence that begins with this step."""

SAMPLE = -1
"""`target` of a logit row whose token is to be drawn."""

LOGIT_ROW = np.dtype(
    [
        ("seed", np.uint64),
        ("row", np.int32),  # row of the step, 0..tokens
        ("target", np.int32),  # SAMPLE, or the token id whose log-probability is asked for
        ("sample_index", np.uint32),
        ("token_index", np.uint32),  # how many tokens the sample had before: the draw's counter
        ("temperature", np.float32),  # 0: greedy
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("top_k", np.int32),  # 0: no limit
        ("num_top", np.int32),  # -1: no log-probabilities wanted; k >= 0: the chosen token's and the k likeliest
        ("history_begin", np.int32),  # range of `history` for penalties; empty where all penalties are neutral
        ("history_end", np.int32),
        ("bias_begin", np.int32),  # range of `bias`
        ("bias_end", np.int32),
        ("mask_row", np.int32),  # -1, or a row of `masks`: token t is allowed where bit t % 32 of word t // 32 is set
    ],
    align=True,
)

HISTORY = np.dtype([("token_id", np.int32), ("in_prompt", np.int32), ("output_count", np.int32)])
"""Each distinct token of a sequence, once: whether the prompt has it, and how often it was generated."""

BIAS = np.dtype([("token_id", np.int32), ("bias", np.float32)])
"""Logits to add; -inf bans a token (min_tokens bans end tokens this way)."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Input of one step. Integer arrays are int32 and C-contiguous."""

    token_ids: NDArray[np.int32]
    sequence_offsets: NDArray[np.int32]
    first_positions: NDArray[np.int32]
    page_tables: tuple[NDArray[np.int32], ...]
    """One (sequences, pages) array per cache group of the spec, in its order."""
    logit_rows: NDArray[np.void]
    """(rows,) of LOGIT_ROW, by growing `row`."""
    history: NDArray[np.void]
    bias: NDArray[np.void]
    masks: NDArray[np.uint32]
    """(masks, ceil(vocab / 32))."""
    hidden_rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Rows of the step whose final hidden states, normed as the head reads them, are wanted."""
    states: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 2), np.int32))
    """(sequences, 2): the state each sequence continues, or NO_STATE, and the one it leaves. Only for models that have
    layers with a state. What is read but not written stays as it is: a snapshot."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Output of one step, a row per logit row; but for `hidden`."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    """(rows, widest num_top); -1 beyond a row's own num_top."""
    top_logprobs: NDArray[np.float32]
    hidden: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """(hidden rows, hidden size)."""


class Executor(Protocol):
    """Whatever runs steps: the native program or the numpy reference."""

    def step(self, batch: StepBatch) -> StepOutput:
        """Run one step. The caller guarantees that pages and rows are in range; the executor checks it again."""

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of cache group `group` takes, all its layers together."""

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state, all layers that have one together; 0 where none has."""

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        """Make room for that many pages per group, and states. Once, before the first step. Raises ResourceError."""

    def close(self) -> None:
        """Release weights and cache."""
