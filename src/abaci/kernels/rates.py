"""How fast this machine does each part of a step, measured: what a forecast of a model's speed is put together from.

Products are measured on random weights, per storage format; the rest on a small decoder of random weights, run by the
real executor. Knows no model. The calling thread is the pool's worker 0 and should be pinned as the pool's others are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np

from abaci.kernels import _native
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, SAMPLE, StepBatch
from abaci.kernels.footprint import Footprint, footprint
from abaci.kernels.native import NativeExecutor
from abaci.kernels.random_weights import pack_random, random_blocks
from abaci.kernels.weights import RawTensor
from abaci.models.spec import (
    Activation,
    Attention,
    Embedding,
    GatedMlp,
    Layer,
    Linear,
    ModelSpec,
    Norm,
    Rope,
    RopeStyle,
)
from abaci.tensor import WeightFormat

STEP_TOKENS: Final = 512
"""Rows of a full step of a prompt, at which products are measured."""
PROBE_FORMAT: Final = WeightFormat.Q8_0
"""Of the small decoder's weights."""
_STREAMED_BYTES: Final = 192 << 20
"""A matrix that few caches hold: its weights come from memory, as a model's do."""
_SMALL_BYTES: Final = 48 << 20
"""More than a core's own caches hold, and less than some processors' shared one."""
_COLUMNS: Final = 2048
_BATCH_ROWS: Final = 2048
_SAMPLES: Final = 5
_SAMPLE_SECONDS: Final = 0.03
_PROBE_VOCABULARY: Final = 512
_USUAL_LAYERS: Final = 16
"""Of the probe that stands for models as they are: together more than caches hold."""
_FAR_POSITION: Final = 4096
"""Far enough for attention to outweigh what else a step does."""


@dataclass(frozen=True, slots=True)
class FormatRates:
    """Of products with one storage format, all threads together."""

    stream_bytes_per_second: float
    """Packed bytes, multiplied with one row."""
    operations_per_second: float
    """With STEP_TOKENS rows; a multiplication and an addition count as two."""
    small_bytes_per_second: float
    """As `stream_bytes_per_second`, of so few bytes that a shared cache may hold some of them."""

    def bytes_per_second(self, weight_bytes: int) -> float:
        """Of the products of a model whose matrices have so many bytes together, with one row."""
        size = min(max(weight_bytes, _SMALL_BYTES), _STREAMED_BYTES)
        streamed_share = log(size / _SMALL_BYTES) / log(_STREAMED_BYTES / _SMALL_BYTES)
        rates = self.small_bytes_per_second, self.stream_bytes_per_second
        return float(rates[0] ** (1 - streamed_share) * rates[1] ** streamed_share)


@dataclass(frozen=True, slots=True)
class StepRates:
    """Of the rest of a step, all threads together."""

    operation_seconds: float
    """For the threads to get through an operation that has next to no work, and meet."""
    value_seconds: float
    """To make a value by an operation other than products and attention."""
    reading_share: float
    """Of the speed of one large product with one row, what the many small ones of a decoder reach."""
    decode_attention_per_second: float
    """Operations of attention when each sequence brings one token."""
    prefill_attention_per_second: float
    """Operations of attention when a sequence brings STEP_TOKENS."""


def measure_format(pool: _native.ThreadPool, target: str, weight_format: WeightFormat) -> FormatRates:
    """In about half a second. Raises MemoryError where some hundred megabytes cannot be had."""
    kernels = _native.Kernels(target)
    streamed, small = (
        _streaming_rate(kernels, pool, weight_format, num_bytes) for num_bytes in (_STREAMED_BYTES, _SMALL_BYTES)
    )
    matrix = pack_random(pool, weight_format, _BATCH_ROWS, _COLUMNS)
    batch = _seconds(kernels, matrix, pool, num_rows=STEP_TOKENS)
    return FormatRates(streamed, 2 * STEP_TOKENS * _BATCH_ROWS * _COLUMNS / batch, small)


def _streaming_rate(
    kernels: _native.Kernels, pool: _native.ThreadPool, weight_format: WeightFormat, num_bytes: int
) -> float:
    """Packed bytes per second of one row's product with a matrix of about so many bytes."""
    row_bytes = _COLUMNS // weight_format.block_size * weight_format.block_bytes
    matrix = pack_random(pool, weight_format, -(-num_bytes // row_bytes), _COLUMNS)
    packed_bytes = _native.packed_bytes(matrix.format, matrix.rows, matrix.columns)
    return packed_bytes / _seconds(kernels, matrix, pool, num_rows=1)


def _seconds(kernels: _native.Kernels, matrix: _native.Matrix, pool: _native.ThreadPool, num_rows: int) -> float:
    activations = np.random.default_rng(1).standard_normal((num_rows, matrix.columns), dtype=np.float32)
    once = kernels.matmul(matrix, activations, pool, 1)[1]
    repeats = max(1, int(_SAMPLE_SECONDS / once))
    return median(kernels.matmul(matrix, activations, pool, repeats)[1] / repeats for _ in range(_SAMPLES))


def measure_step(pool: _native.ThreadPool, target: str, products: FormatRates) -> StepRates:
    """In some seconds; `products` are the rates of PROBE_FORMAT. Raises ResourceError, MemoryError."""
    narrow = _Probe(pool, target, _probe_spec(num_layers=16, hidden_size=256, num_heads=4), STEP_TOKENS)
    operation_seconds = narrow.seconds(1, 0) / narrow.footprint.num_operations
    narrow.close()
    wide = _Probe(pool, target, _probe_spec(num_layers=2, hidden_size=1024, num_heads=16), _FAR_POSITION + STEP_TOKENS)
    per_position = sum(layer.operations for layer in wide.footprint.attention)
    decode_seconds = wide.seconds(1, _FAR_POSITION) - wide.seconds(1, 0)
    prefill_seconds = wide.seconds(STEP_TOKENS, _FAR_POSITION) - wide.seconds(STEP_TOKENS, 0)
    wide.close()
    prefill_attention = _rate(per_position * STEP_TOKENS * _FAR_POSITION, prefill_seconds)
    usual = _Probe(pool, target, _probe_spec(num_layers=_USUAL_LAYERS, hidden_size=1024, num_heads=16), STEP_TOKENS)
    one_token, full_step = usual.seconds(1, 0), usual.seconds(STEP_TOKENS, 0)
    usual.close()
    model = usual.footprint
    meeting = model.num_operations * operation_seconds
    reading = model.products_bytes / products.bytes_per_second(model.products_bytes)
    near_positions = STEP_TOKENS * (STEP_TOKENS + 1) / 2
    making = (
        full_step
        - meeting
        - STEP_TOKENS * sum(product.operations for product in model.products) / products.operations_per_second
        - near_positions * sum(layer.operations for layer in model.attention) / prefill_attention
    )
    return StepRates(
        operation_seconds=operation_seconds,
        value_seconds=max(0.0, making) / (model.values_per_token * STEP_TOKENS),
        reading_share=min(1.0, reading / max(one_token - meeting, reading / 2, 1e-9)),
        decode_attention_per_second=_rate(per_position * _FAR_POSITION, decode_seconds),
        prefill_attention_per_second=prefill_attention,
    )


def _rate(amount: float, seconds: float) -> float:
    """A difference of two measurements may come out as nothing where the machine is disturbed."""
    return amount / max(seconds, 1e-6)


class _Probe:
    """A decoder of random weights with one sequence, whose steps are timed at any position of it."""

    def __init__(self, pool: _native.ThreadPool, target: str, spec: ModelSpec, num_positions: int) -> None:
        formats = {name: PROBE_FORMAT if len(shape) == 2 else WeightFormat.F32 for name, shape in spec.tensors()}
        self.footprint: Footprint = footprint(spec, formats)
        self._executor = NativeExecutor(
            spec, _RandomTensors(formats, dict(spec.tensors())), max_step_tokens=STEP_TOKENS, pool=pool, target=target
        )
        num_pages = -(-num_positions // PAGE_TOKENS)
        self._executor.allocate_cache((num_pages,))
        self._pages = np.arange(num_pages, dtype=np.int32).reshape(1, num_pages)

    def seconds(self, num_tokens: int, first_position: int) -> float:
        """Of a step of so many tokens there: the median of a few."""
        batch = self._batch(num_tokens, first_position)
        begin = perf_counter()
        self._executor.step(batch)
        repeats = min(64, max(1, int(_SAMPLE_SECONDS / (perf_counter() - begin))))
        samples = []
        for _ in range(_SAMPLES):
            begin = perf_counter()
            for _ in range(repeats):
                self._executor.step(batch)
            samples.append((perf_counter() - begin) / repeats)
        return median(samples)

    def close(self) -> None:
        self._executor.close()

    def _batch(self, num_tokens: int, first_position: int) -> StepBatch:
        row = np.zeros(1, LOGIT_ROW)
        for name, value in (
            ("row", num_tokens - 1),
            ("target", SAMPLE),
            ("top_p", 1),
            ("repetition_penalty", 1),
            ("num_top", -1),
            ("mask_row", -1),
        ):
            row[name] = value
        return StepBatch(
            token_ids=np.arange(num_tokens, dtype=np.int32) % _PROBE_VOCABULARY,
            sequence_offsets=np.array([0, num_tokens], np.int32),
            first_positions=np.array([first_position], np.int32),
            page_tables=(self._pages,),
            logit_rows=row,
            history=np.empty(0, HISTORY),
            bias=np.empty(0, BIAS),
            masks=np.empty((0, _PROBE_VOCABULARY // 32), np.uint32),
            hidden_rows=np.arange(num_tokens, dtype=np.int32),  # or the last layer would leave most rows out
        )


@dataclass(frozen=True, slots=True)
class _RandomTensors:
    """A source of weights (`kernels.weights.TensorSource`) that are drawn as they are asked for."""

    formats: Mapping[str, WeightFormat]
    shapes: Mapping[str, tuple[int, ...]]

    def tensor(self, name: str) -> RawTensor:
        """Random, finite."""
        weight_format, shape = self.formats[name], self.shapes[name]
        blocks = random_blocks(weight_format, prod(shape) // weight_format.block_size)
        return RawTensor(weight_format, shape, blocks.data.cast("B"))


def _probe_spec(*, num_layers: int, hidden_size: int, num_heads: int) -> ModelSpec:
    """A decoder like many: heads of 64, four query heads to a key-value head, an MLP three times as wide."""
    head_dim, num_kv_heads, mlp_size = 64, max(1, num_heads // 4), 3 * hidden_size

    def layer(index: int) -> Layer:
        def linear(name: str, in_features: int, out_features: int) -> Linear:
            return Linear(f"{index}.{name}", in_features, out_features)

        attention = Attention(
            query=linear("query", hidden_size, num_heads * head_dim),
            key=linear("key", hidden_size, num_kv_heads * head_dim),
            value=linear("value", hidden_size, num_kv_heads * head_dim),
            output=linear("output", num_heads * head_dim, hidden_size),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=Rope(10000.0, head_dim, RopeStyle.HALF),
        )
        mlp = GatedMlp(
            gate=linear("gate", hidden_size, mlp_size),
            up=linear("up", hidden_size, mlp_size),
            down=linear("down", mlp_size, hidden_size),
            activation=Activation.SILU,
        )
        norms = (Norm(f"{index}.{name}", hidden_size, 1e-5) for name in ("attention_norm", "mlp_norm"))
        return Layer(next(norms), attention, next(norms), mlp)

    return ModelSpec(
        architecture="probe",
        embedding=Embedding("embedding", _PROBE_VOCABULARY, hidden_size),
        layers=tuple(layer(index) for index in range(num_layers)),
        norm=Norm("norm", hidden_size, 1e-5),
        head=Linear("embedding", hidden_size, _PROBE_VOCABULARY),
        context_length=_FAR_POSITION + STEP_TOKENS,
    )
