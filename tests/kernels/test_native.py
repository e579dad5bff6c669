"""The native executor against the reference, and its targets against each other, byte for byte."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from golden_models import GOLDEN_NAMES, golden_path, golden_sequences, opened_model
from numpy.typing import NDArray
from step_feeding import Chunk, StepFeeder, by_token_id, logit_rows

from abaci.errors import FileFormatError
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels import native
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import FileRange, RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec

TARGETS = native.targets()


@contextmanager
def native_executor(name: str, target: str, num_threads: int = 2) -> Iterator[tuple[native.NativeExecutor, ModelSpec]]:
    with opened_model(golden_path(name)) as (spec, source):
        pool = native.thread_pool(num_threads)
        executor = native.NativeExecutor(spec, source, max_step_tokens=512, pool=pool, target=target)
        yield executor, spec
        executor.close()


def native_logprobs(name: str, target: str, *, chunk: int | None = None, num_threads: int = 2) -> NDArray[np.float32]:
    token_ids = golden_sequences(name)[0].token_ids
    with native_executor(name, target, num_threads) as (executor, spec):
        feeder = StepFeeder(executor, spec, 2, len(token_ids))
        sizes = (
            None
            if chunk is None
            else [chunk] * (len(token_ids) // chunk) + [len(token_ids) % chunk] * (len(token_ids) % chunk > 0)
        )
        return feeder.logprobs(token_ids, sizes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_agrees_with_the_reference(name: str, target: str) -> None:
    token_ids = golden_sequences(name)[0].token_ids
    with opened_model(golden_path(name)) as (spec, source):
        expected, exact = (
            StepFeeder(ReferenceExecutor(spec, source, activations=kind), spec, 1, len(token_ids)).logprobs(token_ids)
            for kind in ("int8", "float32")
        )
    actual = native_logprobs(name, target)
    # Until some activation rounds to the other int8, which later tokens then see through the cache, the two agree to
    # float rounding; after it they differ by a part of what int8 activations cost.
    np.testing.assert_allclose(actual[:3], expected[:3], atol=1e-3)
    difference, cost = np.abs(actual - expected), np.abs(expected - exact)
    assert difference.max() < max(min(0.6 * cost.max(), 0.25), 1e-3)
    assert difference.mean() < max(0.55 * cost.mean(), 1e-4)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_targets_chunks_and_threads_give_the_same_bytes(name: str) -> None:
    whole = native_logprobs(name, TARGETS[0])
    for target, chunk, num_threads in itertools.product(TARGETS, (None, 7, 1), (1, 2)):
        again = native_logprobs(name, target, chunk=chunk, num_threads=num_threads)
        assert again.tobytes() == whole.tobytes(), (target, chunk, num_threads)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_sequence_does_not_see_its_neighbours(name: str) -> None:
    sequences = [sequence.token_ids for sequence in golden_sequences(name)[:2]]
    length = min(len(token_ids) for token_ids in sequences)
    with native_executor(name, TARGETS[0]) as (executor, spec):
        feeder = StepFeeder(executor, spec, 2, length)
        together = by_token_id(feeder.step([Chunk(1, 0, sequences[1][:length]), Chunk(0, 0, sequences[0][:length])]))
    alone = native_logprobs(name, TARGETS[0])[:length]
    assert together[length:].tobytes() == alone.tobytes()


def hidden_states(executor, spec: ModelSpec, token_ids: NDArray[np.int32], rows: list[int]) -> NDArray[np.float32]:
    """Final hidden states of `rows`, of a step without logits."""
    feeder = StepFeeder(executor, spec, 1, len(token_ids))
    return feeder.step([Chunk(0, 0, token_ids)], logit_rows(0), hidden_rows=rows).hidden


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_hidden_states_agree_with_the_reference_and_on_every_target(name: str) -> None:
    token_ids = golden_sequences(name)[0].token_ids
    rows = [0, len(token_ids) // 2, len(token_ids) - 1]
    with opened_model(golden_path(name)) as (spec, source):
        reference = ReferenceExecutor(spec, source, activations="int8")
        expected = hidden_states(reference, spec, token_ids, rows)
    assert expected.shape == (3, spec.hidden_size)
    found = []
    for target in TARGETS:
        with native_executor(name, target) as (executor, _):
            found.append(hidden_states(executor, spec, token_ids, rows))
    assert len({hidden.tobytes() for hidden in found}) == 1
    np.testing.assert_allclose(found[0][0], expected[0], atol=2e-2)
    assert np.abs(found[0] - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.parametrize("rows", [[-1], [5]])
def test_hidden_rows_out_of_range_are_refused(rows: list[int]) -> None:
    with native_executor("llama", TARGETS[0]) as (executor, spec), pytest.raises(ValueError, match="hidden row"):
        hidden_states(executor, spec, np.arange(5, dtype=np.int32), rows)


@dataclass(frozen=True)
class TensorsInFile:
    """A checkpoint's tensors that say where in the open file they are, as the loader's do."""

    checkpoint: GgufCheckpoint
    descriptor: int

    def tensor(self, name: str) -> RawTensor:
        info = self.checkpoint.tensors[name]
        return RawTensor(info.format, info.shape, self.checkpoint.data(info), FileRange(self.descriptor, info.offset))


@contextmanager
def executor_on_a_copy(path: Path) -> Iterator[tuple[native.NativeExecutor, ModelSpec]]:
    """An executor of the untied golden model, whose file is the copy `path`; nothing else keeps the file open."""
    shutil.copy(golden_path("qwen2"), path)
    with path.open("rb") as file, GgufCheckpoint.open(path) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        assert spec.embedding.weight != spec.head.weight
        source = TensorsInFile(checkpoint, file.fileno())
        executor = native.NativeExecutor(spec, source, max_step_tokens=512, pool=native.thread_pool(2))
    yield executor, spec
    executor.close()


def test_an_untied_embedding_is_read_from_the_file(tmp_path: Path) -> None:
    token_ids = golden_sequences("qwen2")[0].token_ids
    with executor_on_a_copy(tmp_path / "model.gguf") as (executor, spec):
        (tmp_path / "model.gguf").unlink()
        from_file = StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids)
    assert from_file.tobytes() == native_logprobs("qwen2", TARGETS[0]).tobytes()


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    token_ids = golden_sequences("qwen2")[0].token_ids
    with executor_on_a_copy(tmp_path / "model.gguf") as (executor, spec):
        feeder = StepFeeder(executor, spec, 1, len(token_ids))
        os.truncate(tmp_path / "model.gguf", 100)
        with pytest.raises(FileFormatError, match="cut short"):
            feeder.logprobs(token_ids)


def test_a_forked_child_ends() -> None:
    script = (
        "import os, sys\n"
        "from abaci.kernels import native\n"
        "pool = native.thread_pool(2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 7
