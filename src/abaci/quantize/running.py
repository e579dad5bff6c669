"""Runs texts through an executor by themselves: no engine, no sampling, one sequence at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.engine.loader import CheckpointTensors
from abaci.formats.checkpoint import Checkpoint
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, NO_STATE, PAGE_TOKENS, SAMPLE, Executor, StepBatch, StepOutput
from abaci.kernels.native import NativeExecutor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec

ROWS_AT_A_TIME: Final = 64
_NUM_STATES: Final = 2

Progress = Callable[[int, int], None]
"""Told tokens done, and in all."""


class OpenedModel:
    """A checkpoint's model, ready to run texts of at most `max_tokens`. A context manager."""

    def __init__(self, checkpoint: Checkpoint, max_tokens: int, pool: Any, *, observes: bool = False) -> None:
        self.spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        self.executor = NativeExecutor(
            self.spec, CheckpointTensors(checkpoint), max_step_tokens=ROWS_AT_A_TIME, pool=pool, observes=observes
        )
        make_room(self.executor, self.spec, max_tokens)

    def __enter__(self) -> "OpenedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()


def make_room(executor: Executor, spec: ModelSpec, max_tokens: int) -> None:
    """Allocate an executor's cache for one text at a time."""
    num_pages = (_num_pages(max_tokens),) * len(spec.cache_groups())
    executor.allocate_cache(num_pages, _NUM_STATES if executor.state_bytes else 0)


def run_text(
    executor: Executor, spec: ModelSpec, token_ids: Sequence[int], *, with_logits: bool = True
) -> Iterator[StepOutput]:
    """Steps over a text from its beginning; with logits, those of every token at every position are asked for."""
    num_pages = _num_pages(len(token_ids))
    for index, begin in enumerate(range(0, len(token_ids), ROWS_AT_A_TIME)):
        chunk = np.array(token_ids[begin : begin + ROWS_AT_A_TIME], np.int32)
        states = [[NO_STATE if begin == 0 else index % _NUM_STATES, (index + 1) % _NUM_STATES]]
        yield executor.step(
            StepBatch(
                token_ids=chunk,
                sequence_offsets=np.array([0, len(chunk)], np.int32),
                first_positions=np.array([begin], np.int32),
                page_tables=tuple(np.arange(num_pages, dtype=np.int32)[np.newaxis] for _ in spec.cache_groups()),
                logit_rows=_logit_rows(len(chunk) if with_logits else 0, spec.vocab_size),
                history=np.empty(0, HISTORY),
                bias=np.empty(0, BIAS),
                masks=np.empty((0, -(-spec.vocab_size // 32)), np.uint32),
                states=np.array(states if executor.state_bytes else [], np.int32).reshape(-1, 2),
            )
        )


def _num_pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def _logit_rows(count: int, vocab_size: int) -> NDArray[np.void]:
    rows = np.zeros(count, LOGIT_ROW)
    rows["row"] = np.arange(count)
    rows["target"], rows["mask_row"], rows["num_top"] = SAMPLE, -1, vocab_size
    rows["top_p"], rows["repetition_penalty"] = 1, 1
    return rows
