"""The compiled extension (csrc/python)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS: int
LOGIT_ROW_BYTES: int
HISTORY_BYTES: int
BIAS_BYTES: int
LAYOUT_VERSION: int

def targets() -> list[str]: ...
def pin_current_thread(processor: int) -> bool: ...
def trim_memory() -> None: ...
def read_bandwidth(pool: ThreadPool, target: str, num_bytes: int, repeats: int) -> float: ...
def int8_peak(pool: ThreadPool, target: str, repeats: int) -> float: ...
def pack_all(pool: ThreadPool, parts: Sequence[tuple[Matrix, memoryview, int]]) -> int: ...
def quantise_weights(
    pool: ThreadPool, target: str, format: str, values: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> NDArray[np.uint8]: ...
def packed_bytes(format: int, rows: int, columns: int) -> int: ...
def code_grid(name: str) -> NDArray[np.uint16]: ...
def rope_frequencies(theta: float, dim: int, linear_scale: float) -> NDArray[np.float32]: ...

class ThreadPool:
    def __init__(self, num_threads: int, processors: Sequence[int]) -> None: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def processors(self) -> list[int]: ...

class Matrix:
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def format(self) -> int: ...
    @property
    def panel_bytes(self) -> int: ...
    @property
    def offset(self) -> int: ...
    def pack(self, pool: ThreadPool, source: memoryview, first_row: int = 0) -> bool: ...
    def unpack_row(self, row: int) -> NDArray[np.float32]: ...

class WeightArena:
    def __init__(self, num_bytes: int) -> None: ...
    @property
    def num_bytes(self) -> int: ...
    def allocate(self, format: int, rows: int, columns: int) -> Matrix: ...
    def spill(self, descriptor: int, begin: int, end: int) -> bool: ...
    def map(self, descriptor: int) -> bool: ...

class Kernels:
    def __init__(self, target: str) -> None: ...
    def quantise(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]: ...
    def matmul(
        self, matrix: Matrix, x: NDArray[np.float32], pool: ThreadPool, repeats: int = 1
    ) -> tuple[NDArray[np.float32], float]: ...
    def choose_experts(
        self,
        logits: NDArray[np.float32],
        pool: ThreadPool,
        num_active: int,
        sigmoid: bool,
        choice_bias: NDArray[np.float32],
        num_groups: int,
        top_groups: int,
        group_best: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
    def exp(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def rms_norm(self, x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]: ...
    def gated(self, gate: NDArray[np.float32], up: NDArray[np.float32], kind: int) -> NDArray[np.float32]: ...

class Heads:
    def __init__(self, slot: int, count: int, norm: NDArray[np.float32] | None, epsilon: float, rope: int) -> None: ...

class StepProgram:
    def __init__(
        self,
        pool: ThreadPool,
        target: str,
        max_tokens: int,
        vocab_size: int,
        windows: Sequence[int],
        cache_type: int = 0,
    ) -> None: ...
    def add_slot(self, columns: int, rows_per_token: int = 1) -> int: ...
    def add_rope(
        self,
        theta: float,
        dim: int,
        linear_scale: float,
        factors: NDArray[np.float32] | None,
        interleaved: bool,
        magnitude: float = 1.0,
        yarn_factor: float = 0.0,
        yarn_context: float = 0.0,
        yarn_fast: float = 0.0,
        yarn_slow: float = 0.0,
        yarn_truncate: bool = True,
    ) -> int: ...
    def add_cache_layer(self, group: int, num_heads: int, head_dim: int, has_values: bool) -> int: ...
    def add_routing(
        self,
        num_experts: int,
        num_active: int,
        sigmoid: bool,
        normalise: bool,
        choice_bias: NDArray[np.float32] | None,
        num_groups: int,
        top_groups: int,
        group_best: int,
        scale: float,
        expert_scales: NDArray[np.float32] | None = None,
    ) -> int: ...
    def embed(self, table: Matrix, scale: float, out: int) -> None: ...
    def embed_from_file(
        self, descriptor: int, offset: int, format: int, columns: int, scale: float, out: int
    ) -> None: ...
    def rms_norm(self, x: int, out: int, weight: NDArray[np.float32], epsilon: float, quantise: bool) -> None: ...
    def quantise(self, slot: int) -> None: ...
    def reorder(self, x: int, out: int, order: Sequence[int], quantise: bool) -> None: ...
    def linear(
        self,
        x: int,
        matrices: Sequence[Matrix],
        outs: Sequence[int],
        biases: Sequence[NDArray[np.float32] | None],
        accumulate: bool,
    ) -> None: ...
    def prepare_heads(
        self,
        query: Heads,
        key: Heads | None,
        value: Heads | None,
        layer: int,
        head_dim: int,
        scale_beta: float = 0.0,
        scale_period: int = 1,
    ) -> None: ...
    def attention(
        self,
        query: int,
        out: int,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        window: int,
        sinks: NDArray[np.float32] | None,
        quantise: bool,
    ) -> None: ...
    def head_norm(self, slot: int, weight: NDArray[np.float32], epsilon: float) -> None: ...
    def head_linear(self, x: int, stack: Matrix, num_heads: int, out: int) -> None: ...
    def latent_attention(
        self,
        *,
        query: int,
        absorbed: int,
        compressed: int,
        out: int,
        layer: int,
        rope: int,
        norm: NDArray[np.float32],
        epsilon: float,
        scale: float,
        num_heads: int,
        nope_dim: int,
    ) -> None: ...
    def delta_net(
        self,
        *,
        x: int,
        beta: int,
        alpha: int,
        convolved: int,
        factors: int,
        out: int,
        kernel: NDArray[np.float32],
        decay: NDArray[np.float32],
        time_bias: NDArray[np.float32],
        num_key_heads: int,
        num_value_heads: int,
        key_dim: int,
        value_dim: int,
        tiled_heads: bool,
    ) -> None: ...
    def observe(self, slot: int, routing: int) -> int: ...
    def observed(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
    def choose(self, logits: int, routing: int) -> None: ...
    def dispatch(self, x: int, routing: int, out: int, floats: bool, quantise: bool) -> None: ...
    def expert_linear(
        self,
        x: int,
        routing: int,
        stacks: Sequence[Matrix],
        outs: Sequence[int],
        biases: Sequence[NDArray[np.float32] | None],
    ) -> None: ...
    def combine(self, x: int, routing: int, shared: int, shared_gate: int, out: int) -> None: ...
    def gated(self, gate: int, up: int, up_begin: int, out: int, kind: int, quantise: bool) -> None: ...
    def add(self, x: int, y: int, out: int, scale: float = 1.0) -> None: ...
    def keep_asked(self, slot: int) -> None: ...
    def scale(self, slots: Sequence[int], factors: Sequence[float]) -> None: ...
    def head(self, x: int, matrix: Matrix, bias: NDArray[np.float32] | None, soft_cap: float = 0.0) -> None: ...
    def allocate_cache(self, num_pages: Sequence[int], num_states: int = 0) -> None: ...
    def state_bytes(self) -> int: ...
    def page_bytes(self, group: int) -> int: ...
    def workspace_bytes(self) -> int: ...
    def step(
        self,
        token_ids: NDArray[Any],
        sequence_offsets: NDArray[Any],
        first_positions: NDArray[Any],
        page_tables: tuple[NDArray[Any], ...],
        logit_rows: NDArray[Any],
        history: NDArray[Any],
        bias: NDArray[Any],
        masks: NDArray[Any],
        token_out: NDArray[Any],
        logprob_out: NDArray[Any],
        top_ids_out: NDArray[Any],
        top_logprobs_out: NDArray[Any],
        hidden_rows: NDArray[Any],
        hidden_out: NDArray[Any],
        states: NDArray[Any],
    ) -> None: ...
