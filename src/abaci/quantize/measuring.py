"""How far one model's predictions are from another's: measured by running both, over the whole vocabulary.

The first model's log-probabilities are kept in a file without a name, so that the two need not be in memory together.
Executors are those that answer requests. Must not know how either model was made.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError
from abaci.formats.checkpoint import Checkpoint
from abaci.kernels.batch import Executor
from abaci.models.spec import ModelSpec
from abaci.quantize.quality import Quality
from abaci.quantize.running import OpenedModel, Progress, run_text

Floats = NDArray[np.float32]


class ReferencePredictions:
    """A model's log-probabilities after every token of a text, kept on disk. A context manager."""

    def __init__(self, token_ids: Sequence[int], vocab_size: int, folder: Path) -> None:
        self.token_ids = tuple(token_ids)
        self.vocab_size = vocab_size
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, token_ids: Sequence[int], folder: Path, pool: Any, progress: Progress
    ) -> "ReferencePredictions":
        """Run a model over a text; `folder` takes 4 bytes per token of the text and of the vocabulary."""
        with OpenedModel(checkpoint, len(token_ids), pool) as model:
            predictions = cls(token_ids, model.spec.vocab_size, folder)
            try:
                for block in log_probabilities(model.executor, model.spec, token_ids, progress):
                    predictions._file.write(np.ascontiguousarray(block).data)
            except BaseException:
                predictions.close()
                raise
        return predictions

    def compare(self, checkpoint: Checkpoint, pool: Any, progress: Progress) -> Quality:
        """Run another model over the same text. Raises FileFormatError for one of another vocabulary."""
        self._file.seek(0)
        divergences: list[float] = []
        num_agreeing = 0
        losses: list[tuple[float, float]] = []
        with OpenedModel(checkpoint, len(self.token_ids), pool) as model:
            if model.spec.vocab_size != self.vocab_size:
                raise FileFormatError(f"{checkpoint.paths[0]}: {model.spec.vocab_size} tokens, not {self.vocab_size}")
            for block in log_probabilities(model.executor, model.spec, self.token_ids, progress):
                stored = self._file.read(block.nbytes)
                reference = np.frombuffer(stored, np.float32).reshape(block.shape)
                for expected, found in zip(reference, block, strict=True):
                    divergences.append(divergence(expected, found))
                    num_agreeing += int(expected.argmax() == found.argmax())
                    if len(divergences) < len(self.token_ids):
                        following = self.token_ids[len(divergences)]
                        losses.append((-float(expected[following]), -float(found[following])))
        source_loss, loss = np.mean(losses, axis=0)
        return Quality(
            mean_kl=float(np.mean(divergences)),
            p99_kl=float(np.quantile(divergences, 0.99)),
            top_agreement=num_agreeing / len(divergences),
            perplexity=math.exp(loss),
            source_perplexity=math.exp(source_loss),
        )

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def divergence(expected: Floats, found: Floats) -> float:
    """KL(expected || found) of two rows of log-probabilities, in nats; never below zero."""
    likelihoods = np.exp(expected.astype(np.float64))
    return max(0.0, float((likelihoods * (expected.astype(np.float64) - found)).sum()))


def log_probabilities(
    executor: Executor, spec: ModelSpec, token_ids: Sequence[int], progress: Progress = lambda done, total: None
) -> Iterator[Floats]:
    """Log-probabilities of every token after each position of a text: blocks of (positions, vocabulary).

    Through the executor's own output of the likeliest tokens, of which all are asked for.
    """
    num_done = 0
    for output in run_text(executor, spec, token_ids):
        block = np.empty_like(output.top_logprobs)
        np.put_along_axis(block, output.top_ids.astype(np.int64), output.top_logprobs, axis=1)
        num_done += len(block)
        progress(num_done, len(token_ids))
        yield block
