"""What running a model will take, from its description alone: bytes of weights, activations and cache, work per step.

It counts what `native.py` and csrc/program.cpp will allocate and run, and allocates nothing: a model of any size can be
asked about. Tests hold it against a real executor. Must not know any machine's speed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from abaci.kernels import _native
from abaci.kernels.batch import PAGE_TOKENS
from abaci.kernels.packing import whole_panels
from abaci.kernels.recording import (
    QUANTISATION_GROUP,
    AskedStep,
    AttentionStep,
    DispatchStep,
    ExpertLinearStep,
    GatedStep,
    HeadLinearStep,
    HeadStep,
    LinearStep,
    NormStep,
    QuantiseStep,
    RecordedStep,
    Recorder,
    ReorderStep,
    assign_slots,
    values_made,
    values_read,
)
from abaci.models import decoder
from abaci.models.spec import Attention, HeadLinear, LatentAttention, ModelSpec
from abaci.tensor import CacheType, WeightFormat

_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix, or several of one format, that every token is multiplied with; of experts those that it meets."""

    weight_format: WeightFormat
    num_bytes: int
    """Packed."""
    operations: int
    """For one token; a multiplication and an addition count as two."""
    asked_only: bool = False
    """Only rows that are asked for are multiplied with it: the head, and what follows the last layer's mixer."""
    unmet_bytes: int = 0
    """Packed, of the experts that a single token does not meet: many tokens together meet most of them."""

    def bytes_met(self, num_tokens: int) -> float:
        """What so many tokens together meet of it, if each chooses its experts for itself."""
        whole_bytes = self.num_bytes + self.unmet_bytes
        missed_share = (self.unmet_bytes / whole_bytes) ** num_tokens if whole_bytes else 0.0
        return whole_bytes * (1 - missed_share)


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """What attention of one layer does with each position that a token sees."""

    window: int | None
    operations: int
    """Of all query heads: scores and sums, a multiplication and an addition counting as two."""
    cache_bytes: int
    """Keys and values of a position."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of one model, as this engine packs and runs it."""

    weight_bytes: int
    """Packed matrices, those that are read from the file row by row not counted."""
    vector_bytes: int
    """Norms and biases, as float32."""
    row_bytes: int
    """Activations of one token in a step: a step of n tokens needs room for n."""
    logit_row_bytes: int
    """On top of that, of a token whose logits are wanted."""
    page_bytes: tuple[int, ...]
    """A page of the KV cache, per cache group."""
    windows: tuple[int | None, ...]
    """Per cache group."""
    state_bytes: int
    """What layers with a state of fixed size keep for each sequence."""
    products: tuple[Product, ...]
    attention: tuple[LayerAttention, ...]
    num_operations: int
    """Operations of a step, after each of which its threads meet."""
    values_per_token: int
    """That operations other than products and attention make."""
    vocab_size: int
    context_length: int

    @property
    def products_bytes(self) -> int:
        """What a step reads of the weights."""
        return sum(product.num_bytes for product in self.products)


def footprint(
    spec: ModelSpec,
    formats: Mapping[str, WeightFormat],
    *,
    embedding_is_stored: bool = True,
    cache_type: CacheType = CacheType.F16,
) -> Footprint:
    """The footprint of a model whose tensors are stored in these formats; an untied embedding is read from its file
    row by row if it is stored as it is needed, else packed. Raises KeyError for a tensor without a format.
    """
    file_tables = {table.weight for table in spec.row_tables()} if embedding_is_stored else set()
    matrices = _matrices(spec, formats, file_tables)
    stored = {part.weight for part in (*spec.embeddings(), *spec.linears(), *spec.stacks())}
    vectors = [shape for name, shape in spec.tensors() if name not in stored]
    recorder = Recorder(frozenset(name for name, matrix in matrices.items() if matrix.weight_format.is_quantised))
    decoder.forward(recorder, spec)
    shapes = assign_slots(recorder.steps)
    head_bytes = _slot_bytes(spec.head.in_features, formats[spec.head.weight].is_quantised)
    return Footprint(
        weight_bytes=sum(matrix.num_bytes for matrix in matrices.values()),
        vector_bytes=_FLOAT_BYTES * sum(math.prod(shape) for shape in vectors),
        row_bytes=_row_bytes(recorder.steps, shapes),
        logit_row_bytes=head_bytes + _slot_bytes(spec.head.out_features, False),
        page_bytes=tuple(_page_bytes(spec, group.layers, cache_type) for group in spec.cache_groups()),
        windows=tuple(group.window for group in spec.cache_groups()),
        state_bytes=sum(_FLOAT_BYTES * layer.mixer.state_values for layer in spec.layers),
        products=tuple(_products(recorder.steps, matrices)),
        attention=tuple(_layer_attention(spec, layer, cache_type) for layer in spec.attending_layers()),
        num_operations=len(recorder.steps) + len(spec.layers),  # heads are prepared in an operation of their own
        values_per_token=sum(_values_made(step) for step in recorder.steps),
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
    )


def workspace_bytes(model: Footprint, max_step_tokens: int, max_logit_rows: int) -> int:
    """Activations of a step of so many tokens, of which so many bring logits."""
    return model.row_bytes * max_step_tokens + model.logit_row_bytes * max_logit_rows


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Packed; a stack of matrices counts as one."""

    weight_format: WeightFormat
    rows: int
    columns: int
    num_bytes: int


def _matrices(spec: ModelSpec, formats: Mapping[str, WeightFormat], left: Set[str]) -> dict[str, _Matrix]:
    """What is packed, by its name as a matrix: all but the tables that are `left` in the file."""
    sizes: dict[str, tuple[WeightFormat, int, int]] = {}
    for table in spec.embeddings():
        if table.weight not in left:
            sizes[table.weight] = formats[table.weight], table.vocab_size, table.hidden_size
    for linear in spec.linears():
        sizes[linear.matrix] = formats[linear.weight], linear.out_features, linear.in_features
    for stack in spec.stacks():
        stored = formats[stack.weight]
        weight_format = stack.matrix_format(stored) if isinstance(stack, HeadLinear) else stored
        sizes[stack.matrix] = weight_format, stack.num_matrices * whole_panels(stack.out_features), stack.in_features
    return {
        name: _Matrix(weight_format, rows, columns, _packed_bytes(weight_format, rows, columns))
        for name, (weight_format, rows, columns) in sizes.items()
    }


def _packed_bytes(weight_format: WeightFormat, rows: int, columns: int) -> int:
    return _native.packed_bytes(list(WeightFormat).index(weight_format), rows, columns)


def _slot_bytes(columns: int, is_quantised: bool) -> int:
    """A row of a slot: floats to whole panels; where it is quantised, int8 values, a scale and two sums per group."""
    floats = whole_panels(columns) * _FLOAT_BYTES
    groups = columns // QUANTISATION_GROUP
    return floats + (columns + 3 * _FLOAT_BYTES * groups if is_quantised else 0)


def _row_bytes(steps: Sequence[RecordedStep], shapes: Sequence[tuple[int, int]]) -> int:
    quantised = _quantised_slots(steps)
    return sum(_slot_bytes(columns, slot in quantised) * rows for slot, (columns, rows) in enumerate(shapes))


def _quantised_slots(steps: Sequence[RecordedStep]) -> set[int | None]:
    slots: set[int | None] = set()
    for step in steps:
        match step:
            case QuantiseStep(x=x):
                slots.add(x.slot)
            case AttentionStep(out=out) if step.quantises:
                slots.add(out.slot)
            case NormStep(out=out) | GatedStep(out=out) | ReorderStep(out=out) | DispatchStep(out=out) if out.quantised:
                slots.add(out.slot)
    return slots


def _page_bytes(spec: ModelSpec, layers: Iterable[int], cache_type: CacheType) -> int:
    return sum(_position_bytes(spec, layer, cache_type) for layer in layers) * PAGE_TOKENS


def _position_bytes(spec: ModelSpec, layer: int, cache_type: CacheType) -> int:
    cache = spec.layers[layer].mixer.cache
    return cache.num_heads * cache_type.head_bytes(cache.head_dim)


def _layer_attention(spec: ModelSpec, layer: int, cache_type: CacheType) -> LayerAttention:
    attention = spec.layers[layer].mixer
    assert isinstance(attention, Attention | LatentAttention)
    position_bytes = _position_bytes(spec, layer, cache_type)
    return LayerAttention(attention.window, 2 * attention.position_products, position_bytes)


def _products(steps: Iterable[RecordedStep], matrices: Mapping[str, _Matrix]) -> Iterable[Product]:
    asked_only = False

    def product(name: str, met: Fraction = Fraction(1)) -> Product:
        matrix = matrices[name]
        operations = 2 * matrix.rows * matrix.columns
        met_bytes = int(matrix.num_bytes * met)
        return Product(matrix.weight_format, met_bytes, int(operations * met), asked_only, matrix.num_bytes - met_bytes)

    for step in steps:
        match step:
            case LinearStep(linears=linears):
                yield from (product(linear.matrix) for linear in linears)
            case HeadLinearStep(linear=stack):
                yield product(stack.matrix)
            case ExpertLinearStep(linears=stacks, choice=choice):
                met = Fraction(choice.router.num_active, choice.router.num_experts)
                yield from (product(stack.matrix, met) for stack in stacks)
            case HeadStep(head=head):
                yield product(head.matrix)
            case AskedStep():
                asked_only = True


def _values_made(step: RecordedStep) -> int:
    """Per token, by an operation that is neither a product nor attention; attention puts its heads into the cache."""
    match step:
        case LinearStep() | HeadStep() | HeadLinearStep() | ExpertLinearStep():
            return 0
        case AttentionStep() | QuantiseStep():
            touched = values_read(step)
        case _:
            touched = values_made(step)
    return sum(value.columns * value.rows_per_token for value in touched)
