"""What running a model will take, from its description alone: bytes of weights, activations and cache, work per step.

It counts what `native.py` and csrc/program.cpp will allocate and run, and allocates nothing: a model of any size can be
asked about. Tests hold it against a real executor. Must not know any machine's speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from abaci.kernels import _native
from abaci.kernels.batch import PAGE_TOKENS
from abaci.kernels.recording import (
    QUANTISATION_GROUP,
    AddStep,
    AttentionStep,
    EmbedStep,
    GatedStep,
    HeadStep,
    LinearStep,
    NormStep,
    QuantiseStep,
    RecordedStep,
    Recorder,
    assign_slots,
)
from abaci.models import decoder
from abaci.models.spec import Linear, ModelSpec
from abaci.tensor import WeightFormat

_PANEL_ROWS: Final = 32
_CACHE_VALUE_BYTES: Final = 2
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix, or several of one format, that every token is multiplied with."""

    weight_format: WeightFormat
    num_bytes: int
    """Packed."""
    operations: int
    """For one token; a multiplication and an addition count as two."""
    is_head: bool = False
    """Only tokens whose logits are wanted are multiplied with it."""


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


def footprint(spec: ModelSpec, formats: Mapping[str, WeightFormat], *, embedding_is_stored: bool = True) -> Footprint:
    """The footprint of a model whose tensors are stored in these formats; an untied embedding is read from its file
    row by row if it is stored as it is needed, else packed. Raises KeyError for a tensor without a format.
    """
    shapes = dict(spec.tensors())
    reads_rows = embedding_is_stored and spec.embedding.weight != spec.head.weight
    matrices = {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 2 and not (reads_rows and name == spec.embedding.weight)
    }
    recorder = Recorder(frozenset(name for name in matrices if formats[name].is_quantised))
    decoder.forward(recorder, spec)
    widths = assign_slots(recorder.steps)
    head_bytes = _slot_bytes(spec.head.in_features, formats[spec.head.weight].is_quantised)
    return Footprint(
        weight_bytes=sum(_packed_bytes(formats[name], *shape) for name, shape in matrices.items()),
        vector_bytes=_FLOAT_BYTES * sum(shape[0] for shape in shapes.values() if len(shape) == 1),
        row_bytes=_row_bytes(recorder.steps, widths),
        logit_row_bytes=head_bytes + _slot_bytes(spec.head.out_features, False),
        page_bytes=tuple(_page_bytes(spec, group.layers) for group in spec.cache_groups()),
        windows=tuple(group.window for group in spec.cache_groups()),
        products=tuple(_products(recorder.steps, formats)),
        attention=tuple(_layer_attention(spec, index) for index in range(len(spec.layers))),
        num_operations=len(recorder.steps) + len(spec.layers),  # heads are prepared in an operation of their own
        values_per_token=sum(_values_made(step) for step in recorder.steps),
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
    )


def workspace_bytes(model: Footprint, max_step_tokens: int, max_logit_rows: int) -> int:
    """Activations of a step of so many tokens, of which so many bring logits."""
    return model.row_bytes * max_step_tokens + model.logit_row_bytes * max_logit_rows


def _packed_bytes(weight_format: WeightFormat, rows: int, columns: int) -> int:
    return _native.packed_bytes(list(WeightFormat).index(weight_format), rows, columns)


def _slot_bytes(columns: int, is_quantised: bool) -> int:
    """A row of a slot: floats to whole panels; where it is quantised, int8 values, a scale and two sums per group."""
    floats = -(-columns // _PANEL_ROWS) * _PANEL_ROWS * _FLOAT_BYTES
    groups = columns // QUANTISATION_GROUP
    return floats + (columns + 3 * _FLOAT_BYTES * groups if is_quantised else 0)


def _row_bytes(steps: Sequence[RecordedStep], widths: Sequence[int]) -> int:
    quantised = _quantised_slots(steps)
    return sum(_slot_bytes(columns, slot in quantised) for slot, columns in enumerate(widths))


def _quantised_slots(steps: Sequence[RecordedStep]) -> set[int | None]:
    slots: set[int | None] = set()
    for step in steps:
        match step:
            case QuantiseStep(x=x):
                slots.add(x.slot)
            case AttentionStep(out=out) if step.quantises:
                slots.add(out.slot)
            case NormStep(out=out) | GatedStep(out=out) if out.quantised:
                slots.add(out.slot)
    return slots


def _page_bytes(spec: ModelSpec, layers: Iterable[int]) -> int:
    return sum(_position_bytes(spec, layer) for layer in layers) * PAGE_TOKENS


def _position_bytes(spec: ModelSpec, layer: int) -> int:
    attention = spec.layers[layer].attention
    return 2 * attention.num_kv_heads * attention.head_dim * _CACHE_VALUE_BYTES


def _layer_attention(spec: ModelSpec, layer: int) -> LayerAttention:
    attention = spec.layers[layer].attention
    operations = 4 * attention.num_heads * attention.head_dim
    return LayerAttention(attention.window, operations, _position_bytes(spec, layer))


def _products(steps: Iterable[RecordedStep], formats: Mapping[str, WeightFormat]) -> Iterable[Product]:
    def product(linear: Linear, is_head: bool) -> Product:
        weight_format, rows, columns = formats[linear.weight], linear.out_features, linear.in_features
        return Product(weight_format, _packed_bytes(weight_format, rows, columns), 2 * rows * columns, is_head)

    for step in steps:
        if isinstance(step, LinearStep):
            yield from (product(linear, False) for linear in step.linears)
        elif isinstance(step, HeadStep):
            yield product(step.head, True)


def _values_made(step: RecordedStep) -> int:
    """Per token, by an operation that is neither a product nor attention."""
    match step:
        case EmbedStep(out=out) | NormStep(out=out) | GatedStep(out=out) | AddStep(out=out):
            return out.columns
        case QuantiseStep(x=x):
            return x.columns
        case AttentionStep(query=query, key=key, value=value):  # normed, rotated and put into the cache
            return query.value.columns + key.value.columns + value.columns
        case LinearStep() | HeadStep():
            return 0
        case _:
            assert_never(step)
