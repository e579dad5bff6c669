"""Records a decoder's operations and turns them into instructions of the step program.

A product with adapters becomes several: A x, the matrix's own, and B times the former added onto the latter. Inputs
of a matrix whose columns are stored in another order are put into that order first.

Three things happen between recording and emission, all of them about memory traffic and none about values:
an addition to the output of a matrix product becomes the product's starting value; an input of a quantised matrix is
quantised by the operation that makes it; and values whose lives do not overlap share a slot.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    Embedding,
    ExpertLinear,
    HeadLinear,
    LatentAttention,
    Linear,
    LowRank,
    Norm,
    PositionScale,
    Rope,
    Router,
)

QUANTISATION_GROUP = 32
"""Consecutive activations that share a scale."""


@dataclass(eq=False, slots=True)
class Value:
    """A (tokens, columns) array of the step. `quantised`: some quantised matrix reads it.

    A dispatched value has `rows_per_token` rows for each token instead of one.
    """

    columns: int
    rows_per_token: int = 1
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
    """A value seen as heads, with the norm, rotation and scale that the attention will apply first."""

    value: Value
    norm: Norm | None = None
    rope: Rope | None = None
    scale: PositionScale | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some columns of a value, from `begin` on: what a gate multiplies."""

    value: Value
    begin: int


@dataclass(eq=False, slots=True)
class Choice:
    """Which experts the step's tokens see. `number`: of the routing in the program, assigned at emission."""

    router: Router
    number: int | None = None


Operand = Value | Heads | Part | Choice


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
class ReorderStep:
    """The columns of `x` in the order that the tensor `order` gives."""

    x: Value
    order: str
    out: Value


@dataclass(eq=False, slots=True)
class LinearStep:
    x: Value
    linears: tuple[Linear, ...]
    outs: tuple[Value, ...]
    accumulate: bool = False


@dataclass(eq=False, slots=True)
class AttentionStep:
    """`layer`: whose cache it reads, and writes where there are key and value."""

    query: Heads
    key: Heads | None
    value: Heads | None
    attention: Attention
    layer: int
    out: Value

    @property
    def quantises(self) -> bool:
        """Whether the attention itself quantises its output, one group of query heads at a time."""
        columns = self.out.columns // self.attention.num_kv_heads
        return self.out.quantised and columns % QUANTISATION_GROUP == 0


@dataclass(eq=False, slots=True)
class HeadNormStep:
    """The norm of each head of `x`, in place."""

    x: Value
    norm: Norm
    out: Value


@dataclass(eq=False, slots=True)
class HeadLinearStep:
    """Each head's part of `x` times its own matrix."""

    x: Value
    linear: HeadLinear
    out: Value


@dataclass(eq=False, slots=True)
class LatentStep:
    """Norm and rotation of the compressed key in place, and of the query; then attention among latents.

    `query` holds the plain and the rotated part of each head, `absorbed` the plain part in latent space.
    """

    query: Value
    absorbed: Value
    compressed: Value
    attention: LatentAttention
    layer: int
    out: Value


@dataclass(eq=False, slots=True)
class DeltaNetStep:
    query_key_value: Value
    beta: Value
    alpha: Value
    net: DeltaNet
    layer: int
    out: Value
    convolved: Value
    factors: Value
    """Of the recurrence: what each state is multiplied by, and the share of each correction."""


@dataclass(eq=False, slots=True)
class ChooseStep:
    logits: Value
    choice: Choice


@dataclass(eq=False, slots=True)
class DispatchStep:
    x: Value
    choice: Choice
    out: Value


@dataclass(eq=False, slots=True)
class ExpertLinearStep:
    x: Value
    linears: tuple[ExpertLinear, ...]
    choice: Choice
    outs: tuple[Value, ...]


@dataclass(eq=False, slots=True)
class CombineStep:
    routed: Value
    choice: Choice
    shared: Value | None
    shared_gate: Value | None
    out: Value


@dataclass(eq=False, slots=True)
class GatedStep:
    gate: Value
    up: Part
    activation: Activation
    out: Value


@dataclass(eq=False, slots=True)
class AddStep:
    x: Value
    y: Value
    out: Value
    scale: str | None


@dataclass(eq=False, slots=True)
class AskedStep:
    """The rows of `x` that the batch asks for, in its place."""

    x: Value
    out: Value


@dataclass(eq=False, slots=True)
class ScaleStep:
    """Each of `xs` times its factor, in place."""

    xs: tuple[Value, ...]
    factors: tuple[float, ...]
    outs: tuple[Value, ...]


@dataclass(eq=False, slots=True)
class HeadStep:
    x: Value
    head: Linear
    soft_cap: float | None


RecordedStep = (
    EmbedStep
    | NormStep
    | QuantiseStep
    | ReorderStep
    | LinearStep
    | AttentionStep
    | HeadNormStep
    | HeadLinearStep
    | LatentStep
    | DeltaNetStep
    | ChooseStep
    | DispatchStep
    | ExpertLinearStep
    | CombineStep
    | GatedStep
    | AddStep
    | AskedStep
    | ScaleStep
    | HeadStep
)


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
        self.steps.append(NormStep(self._plain(x), norm, out))
        return out

    def head_norm(self, x: Operand, norm: Norm) -> Operand:
        heads = _heads(x)
        if heads.norm is not None or heads.rope is not None:
            raise NotImplementedError("heads are normed once, before rotation")
        return Heads(heads.value, norm)

    def linear(self, x: Operand, linears: Sequence[Linear]) -> tuple[Operand, ...]:
        source = self._plain(x)
        latents = self._latents(source, [adapter for linear in linears for adapter in linear.adapters])
        outs = self._multiply(source, linears)
        for linear, out in zip(linears, outs, strict=True):
            for adapter in linear.adapters:
                self._multiply(latents[adapter.down, adapter.scale], (adapter.up,), (out,))
        return outs

    def _latents(self, x: Value, adapters: Sequence[LowRank]) -> dict[tuple[Linear, float], Value]:
        """scale * (A x), once for adapters that have both in common, as parts of a fused matrix do."""
        if not adapters:
            return {}
        pairs = tuple(dict.fromkeys((adapter.down, adapter.scale) for adapter in adapters))
        products = self._multiply(x, [down for down, _ in pairs])
        latents = tuple(Value(product.columns, alias=product) for product in products)
        self.steps.append(ScaleStep(products, tuple(scale for _, scale in pairs), latents))
        return dict(zip(pairs, latents, strict=True))

    def _multiply(
        self, x: Value, linears: Sequence[Linear], onto: tuple[Value, ...] | None = None
    ) -> tuple[Value, ...]:
        """The products alone, added `onto` values if given."""
        outs = onto or tuple(Value(linear.out_features) for linear in linears)
        for order in dict.fromkeys(linear.order for linear in linears):
            source = x if order is None else self._reordered(x, order)
            places = [place for place, linear in enumerate(linears) if linear.order == order]
            alike = tuple(linears[place] for place in places)
            if any(linear.matrix in self.is_quantised for linear in alike):
                self._quantise(source)
            products = tuple(outs[place] for place in places)
            self.steps.append(LinearStep(source, alike, products, accumulate=onto is not None))
        return outs

    def _reordered(self, x: Value, order: str) -> Value:
        out = Value(x.columns)
        self.steps.append(ReorderStep(x, order, out))
        return out

    def rope(self, x: Operand, rope: Rope, head_dim: int) -> Operand:
        heads = _heads(x)
        if heads.rope is not None:
            raise NotImplementedError("heads are rotated once")
        return replace(heads, rope=rope)

    def scale_by_position(self, query: Operand, scale: PositionScale) -> Operand:
        return replace(_heads(query), scale=scale)

    def attention(
        self, query: Operand, key_value: tuple[Operand, Operand] | None, attention: Attention, layer: int
    ) -> Operand:
        out = Value(attention.num_heads * attention.head_dim)
        key, value = (None, None) if key_value is None else map(_heads, key_value)
        self.steps.append(AttentionStep(_heads(query), key, value, attention, layer, out))
        return out

    def latent_attention(self, query: Operand, compressed: Operand, attention: LatentAttention, layer: int) -> Operand:
        heads, key = self._plain(query), self._plain(compressed)
        absorbed = self._head_linear(heads, attention.key_up)
        mixed = Value(attention.num_heads * attention.latent_dim)
        self.steps.append(LatentStep(heads, absorbed, key, attention, layer, mixed))
        return self._head_linear(mixed, attention.value_up)

    def _head_linear(self, x: Value, linear: HeadLinear) -> Value:
        out = Value(linear.num_heads * linear.out_features)
        if linear.matrix in self.is_quantised:
            self._quantise(x)
        self.steps.append(HeadLinearStep(x, linear, out))
        return out

    def delta_net(self, query_key_value: Operand, beta: Operand, alpha: Operand, net: DeltaNet, layer: int) -> Operand:
        out = Value(net.num_value_heads * net.value_dim)
        values = self._plain(query_key_value), self._plain(beta), self._plain(alpha)
        convolved, factors = Value(net.channels), Value(2 * net.num_value_heads)
        self.steps.append(DeltaNetStep(*values, net, layer, out, convolved, factors))
        return out

    def choose_experts(self, logits: Operand, router: Router) -> Operand:
        choice = Choice(router)
        self.steps.append(ChooseStep(self._plain(logits), choice))
        return choice

    def dispatch(self, x: Operand, choice: Operand) -> Operand:
        source, routing = self._plain(x), _choice(choice)
        out = Value(source.columns, routing.router.num_active)
        self.steps.append(DispatchStep(source, routing, out))
        return out

    def expert_linear(self, x: Operand, linears: Sequence[ExpertLinear], choice: Operand) -> tuple[Operand, ...]:
        source, routing = self._plain(x), _choice(choice)
        outs = tuple(Value(linear.out_features, source.rows_per_token) for linear in linears)
        if any(linear.matrix in self.is_quantised for linear in linears):
            self._quantise(source)
        self.steps.append(ExpertLinearStep(source, tuple(linears), routing, outs))
        return outs

    def combine(self, routed: Operand, choice: Operand, shared: Operand | None, shared_gate: Operand | None) -> Operand:
        rows = self._plain(routed)
        out = Value(rows.columns)
        own = None if shared is None else self._plain(shared)
        gate = None if shared_gate is None else self._plain(shared_gate)
        self.steps.append(CombineStep(rows, _choice(choice), own, gate, out))
        return out

    def gated(self, gate: Operand, up: Operand, activation: Activation) -> Operand:
        value = self._plain(gate)
        other = up if isinstance(up, Part) else Part(self._plain(up), 0)
        out = Value(value.columns, value.rows_per_token, alias=value)
        self.steps.append(GatedStep(value, other, activation, out))
        return out

    def part(self, x: Operand, begin: int, size: int) -> Operand:
        return Part(self._plain(x), begin)

    def add(self, x: Operand, y: Operand, scale: str | None = None) -> Operand:
        left, right = self._plain(x), self._plain(y)
        out = Value(left.columns, alias=left)
        products = self._last_products(right)
        starts = bool(products) and not products[0].accumulate and products[0].linears[0].bias is None
        if starts and scale is None:
            # The product starts from x instead of zero, in x's own slot.
            products[0].accumulate = True
            for product in products:
                product.outs = (out,)
        else:
            self.steps.append(AddStep(left, right, out, scale))
        return out

    def _last_products(self, value: Value) -> list[LinearStep]:
        """The last steps, as far as they are products that add up to the value: a matrix's and its adapters'."""
        products: list[LinearStep] = []
        for step in reversed(self.steps):
            if not isinstance(step, LinearStep) or step.outs != (value,):
                break
            products.insert(0, step)
        return products

    def asked_rows(self, x: Operand) -> Operand:
        value = self._plain(x)
        out = Value(value.columns, alias=value)
        self.steps.append(AskedStep(value, out))
        return out

    def logits(self, x: Operand, head: Linear, soft_cap: float | None) -> None:
        self.steps.append(HeadStep(self._plain(x), head, soft_cap))

    def _quantise(self, value: Value) -> None:
        if value.quantised:
            return
        value.quantised = True
        index = next(i for i in reversed(range(len(self.steps))) if value in values_made(self.steps[i]))
        maker = self.steps[index]
        if isinstance(maker, DispatchStep):
            self._quantise(maker.x)
        elif not (
            isinstance(maker, NormStep | GatedStep | ReorderStep)
            or (isinstance(maker, AttentionStep) and maker.quantises)
        ):
            self.steps.insert(index + 1, QuantiseStep(value))

    def _plain(self, x: Operand) -> Value:
        """The value itself; normed heads that no attention takes are normed here."""
        if isinstance(x, Value):
            return x
        if isinstance(x, Choice | Part) or x.norm is None or x.rope is not None or x.scale is not None:
            raise NotImplementedError("rotated heads go to attention only, parts of values to gates")
        out = Value(x.value.columns, alias=x.value)
        self.steps.append(HeadNormStep(x.value, x.norm, out))
        return out


def _heads(x: Operand) -> Heads:
    if isinstance(x, Choice | Part):
        raise NotImplementedError("a choice of experts, or a part of a value, is no value")
    return x if isinstance(x, Heads) else Heads(x)


def _choice(x: Operand) -> Choice:
    if not isinstance(x, Choice):
        raise NotImplementedError("not a choice of experts")
    return x


_MADE = ("out", "outs", "convolved", "factors")


def values_read(step: RecordedStep) -> tuple[Value, ...]:
    """The values a step reads, or writes over."""
    accumulates = isinstance(step, LinearStep) and step.accumulate
    return _values(getattr(step, part.name) for part in fields(step) if accumulates or part.name not in _MADE)


def values_made(step: RecordedStep) -> tuple[Value, ...]:
    """The values a step writes."""
    return _values(getattr(step, part.name) for part in fields(step) if part.name in _MADE)


def _values(parts: Iterable[object]) -> tuple[Value, ...]:
    """The values among what a step holds."""
    found: list[Value] = []
    for part in parts:
        if isinstance(part, Value):
            found.append(part)
        elif isinstance(part, Heads | Part):
            found.append(part.value)
        elif isinstance(part, tuple):
            found.extend(_values(part))
    return tuple(found)


def assign_slots(steps: Sequence[RecordedStep]) -> list[tuple[int, int]]:
    """Gives every value a slot, shared by values of one shape whose lives do not overlap.

    Returns the slots' columns and rows per token.
    """
    last_use: dict[int, int] = {}
    for index, step in enumerate(steps):
        for value in (*values_read(step), *values_made(step)):
            last_use[id(value.root())] = index
    shapes: list[tuple[int, int]] = []
    free: dict[tuple[int, int], list[int]] = {}
    for index, step in enumerate(steps):
        for value in values_made(step):
            root = value.root()
            if root.slot is None:
                shape = root.columns, root.rows_per_token
                spare = free.get(shape)
                if spare:
                    root.slot = spare.pop()
                else:
                    root.slot = len(shapes)
                    shapes.append(shape)
            value.slot = root.slot
        touched = {id(value.root()): value.root() for value in (*values_read(step), *values_made(step))}
        for key, root in touched.items():
            if last_use[key] == index and root.slot is not None:
                free.setdefault((root.columns, root.rows_per_token), []).append(root.slot)
    return shapes
