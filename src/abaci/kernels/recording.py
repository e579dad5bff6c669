"""Records a decoder's operations and turns them into instructions of the step program.

Three things happen between recording and emission, all of them about memory traffic and none about values:
an addition to the output of a matrix product becomes the product's starting value; an input of a quantised matrix is
quantised by the operation that makes it; and values whose lives do not overlap share a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from abaci.models.spec import Activation, Attention, Embedding, Linear, Norm, Rope

QUANTISATION_GROUP = 32
"""Consecutive activations that share a scale."""


@dataclass(eq=False, slots=True)
class Value:
    """A (tokens, columns) array of the step. `quantised`: some quantised matrix reads it."""

    columns: int
    quantised: bool = False
    slot: int | None = None
    """Assigned at emission."""
    alias: "Value | None" = None
    """The value whose slot this one takes over."""

    def root(self) -> "Value":
        """The value that owns the slot."""
        value = self
        while value.alias is not None:
            value = value.alias
        return value


@dataclass(frozen=True, slots=True)
class Heads:
    """A value seen as heads, with the norm and rotation that the attention will apply first."""

    value: Value
    norm: Norm | None = None
    rope: Rope | None = None


Operand = Value | Heads


@dataclass(eq=False, slots=True)
class EmbedStep:
    embedding: Embedding
    out: Value


@dataclass(eq=False, slots=True)
class NormStep:
    x: Value
    norm: Norm
    out: Value


@dataclass(eq=False, slots=True)
class QuantiseStep:
    x: Value


@dataclass(eq=False, slots=True)
class LinearStep:
    x: Value
    linears: tuple[Linear, ...]
    outs: tuple[Value, ...]
    accumulate: bool = False


@dataclass(eq=False, slots=True)
class AttentionStep:
    query: Heads
    key: Heads
    value: Value
    attention: Attention
    layer: int
    out: Value

    @property
    def quantises(self) -> bool:
        """Whether the attention itself quantises its output, one group of query heads at a time."""
        columns = self.out.columns // self.attention.num_kv_heads
        return self.out.quantised and columns % QUANTISATION_GROUP == 0


@dataclass(eq=False, slots=True)
class GatedStep:
    gate: Value
    up: Value
    activation: Activation
    out: Value


@dataclass(eq=False, slots=True)
class AddStep:
    x: Value
    y: Value
    out: Value


@dataclass(eq=False, slots=True)
class HeadStep:
    x: Value
    head: Linear


RecordedStep = EmbedStep | NormStep | QuantiseStep | LinearStep | AttentionStep | GatedStep | AddStep | HeadStep


@dataclass(slots=True)
class Recorder:
    """Implements `models.ops.Ops`: every call appends a step and returns the value it will make."""

    is_quantised: "frozenset[str]"
    """Names of the matrices that read int8 activations."""
    steps: list[RecordedStep] = field(default_factory=list)

    def embed(self, embedding: Embedding) -> Operand:
        out = Value(embedding.hidden_size)
        self.steps.append(EmbedStep(embedding, out))
        return out

    def rms_norm(self, x: Operand, norm: Norm) -> Operand:
        out = Value(norm.size)
        self.steps.append(NormStep(_plain(x), norm, out))
        return out

    def head_norm(self, x: Operand, norm: Norm) -> Operand:
        heads = _heads(x)
        if heads.norm is not None or heads.rope is not None:
            raise NotImplementedError("heads are normed once, before rotation")
        return Heads(heads.value, norm)

    def linear(self, x: Operand, linears: Sequence[Linear]) -> tuple[Operand, ...]:
        source = _plain(x)
        outs = tuple(Value(linear.out_features) for linear in linears)
        if any(linear.weight in self.is_quantised for linear in linears):
            self._quantise(source)
        self.steps.append(LinearStep(source, tuple(linears), outs))
        return outs

    def rope(self, x: Operand, rope: Rope, head_dim: int) -> Operand:
        heads = _heads(x)
        if heads.rope is not None:
            raise NotImplementedError("heads are rotated once")
        return Heads(heads.value, heads.norm, rope)

    def attention(self, query: Operand, key: Operand, value: Operand, attention: Attention, layer: int) -> Operand:
        out = Value(attention.num_heads * attention.head_dim)
        self.steps.append(AttentionStep(_heads(query), _heads(key), _plain(value), attention, layer, out))
        return out

    def gated(self, gate: Operand, up: Operand, activation: Activation) -> Operand:
        out = Value(_plain(gate).columns, alias=_plain(gate))
        self.steps.append(GatedStep(_plain(gate), _plain(up), activation, out))
        return out

    def add(self, x: Operand, y: Operand) -> Operand:
        left, right = _plain(x), _plain(y)
        out = Value(left.columns, alias=left)
        last = self.steps[-1]
        if isinstance(last, LinearStep) and last.outs == (right,) and not last.accumulate:
            # The product starts from x instead of zero, in x's own slot.
            last.outs = (out,)
            last.accumulate = True
        else:
            self.steps.append(AddStep(left, right, out))
        return out

    def logits(self, x: Operand, head: Linear) -> None:
        self.steps.append(HeadStep(_plain(x), head))

    def _quantise(self, value: Value) -> None:
        if value.quantised:
            return
        value.quantised = True
        maker = self.steps[-1]
        made_quantised = (isinstance(maker, NormStep | GatedStep) and maker.out is value) or (
            isinstance(maker, AttentionStep) and maker.out is value and maker.quantises
        )
        if not made_quantised:
            self.steps.append(QuantiseStep(value))


def _plain(x: Operand) -> Value:
    if isinstance(x, Heads):
        raise NotImplementedError("normed or rotated heads go to attention only")
    return x


def _heads(x: Operand) -> Heads:
    return x if isinstance(x, Heads) else Heads(x)


def values_read(step: RecordedStep) -> tuple[Value, ...]:
    """The values a step reads, or writes over."""
    match step:
        case EmbedStep():
            return ()
        case NormStep(x=x) | QuantiseStep(x=x) | HeadStep(x=x):
            return (x,)
        case LinearStep(x=x, outs=outs, accumulate=accumulate):
            return (x, *outs) if accumulate else (x,)
        case AttentionStep(query=query, key=key, value=value):
            return (query.value, key.value, value)
        case GatedStep(gate=gate, up=up):
            return (gate, up)
        case AddStep(x=x, y=y):
            return (x, y)


def values_made(step: RecordedStep) -> tuple[Value, ...]:
    """The values a step writes."""
    match step:
        case LinearStep(outs=outs):
            return outs
        case QuantiseStep() | HeadStep():
            return ()
        case EmbedStep(out=out) | NormStep(out=out) | AttentionStep(out=out) | GatedStep(out=out) | AddStep(out=out):
            return (out,)


def assign_slots(steps: Sequence[RecordedStep]) -> list[int]:
    """Gives every value a slot, shared by values of one width whose lives do not overlap; returns the slots' widths."""
    last_use: dict[int, int] = {}
    for index, step in enumerate(steps):
        for value in (*values_read(step), *values_made(step)):
            last_use[id(value.root())] = index
    widths: list[int] = []
    free: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        for value in values_made(step):
            root = value.root()
            if root.slot is None:
                spare = free.get(root.columns)
                if spare:
                    root.slot = spare.pop()
                else:
                    root.slot = len(widths)
                    widths.append(root.columns)
            value.slot = root.slot
        touched = {id(value.root()): value.root() for value in (*values_read(step), *values_made(step))}
        for key, root in touched.items():
            if last_use[key] == index and root.slot is not None:
                free.setdefault(root.columns, []).append(root.slot)
    return widths
