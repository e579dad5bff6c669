"""The transformer decoder, written once. It never asks which family it runs."""

from abaci.models.ops import Ops, V
from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    GatedMlp,
    LatentAttention,
    Layer,
    Linear,
    Mixer,
    MixtureOfExperts,
    Mlp,
    ModelSpec,
    Norm,
    ParallelMlp,
    SideGate,
    SideInputs,
)


def forward(ops: Ops[V], spec: ModelSpec) -> None:
    """One step over the batch: token ids in, logits of the asked rows out."""
    x = ops.embed(spec.embedding)
    sides = None if spec.side_inputs is None else embed_sides(ops, spec.side_inputs, x)
    last = len(spec.layers) - 1
    for index, layer in enumerate(spec.layers):
        x = decoder_layer(ops, layer, index, x, sides, is_last=index == last)
    ops.logits(ops.rms_norm(x, spec.norm), spec.head, spec.logit_soft_cap)


def decoder_layer(ops: Ops[V], layer: Layer, index: int, x: V, sides: V | None, *, is_last: bool) -> V:
    """Mixer, then MLP, each on a normed copy and added back; then what the layer takes from the side.

    Behind the last mixer no token looks at another, so only the rows that are asked for go on.
    """
    mixed = mix(ops, layer.mixer, index, normed(ops, x, layer.mixer_norm))
    x = ops.add(x, normed(ops, mixed, layer.mixer_post_norm))
    if is_last:
        x, sides = ops.asked_rows(x), None if sides is None else ops.asked_rows(sides)
    added = normed(ops, expand(ops, layer.mlp, normed(ops, x, layer.mlp_norm)), layer.mlp_post_norm)
    if layer.side is not None and sides is not None:
        x = ops.add(x, added)
        added = side_gate(ops, layer.side, index, x, sides)
    return ops.add(x, added, layer.scale)


def embed_sides(ops: Ops[V], inputs: SideInputs, x: V) -> V:
    """All layers' side inputs, from the tokens and their embedding x."""
    embedded = ops.embed(inputs.embedding)
    (projected,) = ops.linear(x, (inputs.projection,))
    return ops.add(ops.head_norm(projected, inputs.norm), embedded)


def side_gate(ops: Ops[V], side: SideGate, index: int, x: V, sides: V) -> V:
    """The layer's own side input, gated by x."""
    size = side.gate.out_features
    (gate,) = ops.linear(x, (side.gate,))
    (output,) = ops.linear(ops.gated(gate, ops.part(sides, index * size, size), side.activation), (side.output,))
    return ops.rms_norm(output, side.norm)


def normed(ops: Ops[V], x: V, norm: Norm | None) -> V:
    """RMS norm, or x itself."""
    return x if norm is None else ops.rms_norm(x, norm)


def mix(ops: Ops[V], mixer: Mixer, index: int, x: V) -> V:
    """The part of a layer that looks at other tokens."""
    match mixer:
        case Attention():
            return attention_block(ops, mixer, index, x)
        case LatentAttention():
            return latent_attention_block(ops, mixer, index, x)
        case DeltaNet():
            return delta_net_block(ops, mixer, index, x)


def expand(ops: Ops[V], mlp: Mlp, x: V) -> V:
    """The part of a layer that looks at one token."""
    match mlp:
        case GatedMlp():
            return gated_mlp(ops, mlp, x)
        case MixtureOfExperts():
            return mixture_of_experts(ops, mlp, x)
        case ParallelMlp(first=first, second=second):
            one, other = (
                normed(ops, expand(ops, branch.mlp, normed(ops, x, branch.norm)), branch.post_norm)
                for branch in (first, second)
            )
            return ops.add(one, other)


def attention_block(ops: Ops[V], attention: Attention, index: int, x: V) -> V:
    """Project, norm, rotate, attend, gate, project back."""
    query, *others = ops.linear(x, attention.projections)
    gate = None if attention.gate is None else others.pop()
    query = _prepared(ops, query, attention.query, attention.query_norm, attention)
    if attention.query_scale is not None:
        query = ops.scale_by_position(query, attention.query_scale)
    key_value: tuple[V, V] | None = None
    if attention.key is not None and attention.value is not None:
        key, value = others
        key = _prepared(ops, key, attention.key, attention.key_norm, attention)
        key_value = key, _normed_heads(ops, value, attention.value_norm, attention.value.out_features)
    mixed = ops.attention(query, key_value, attention, index if attention.cache_of is None else attention.cache_of)
    if gate is not None:
        mixed = ops.gated(gate, mixed, Activation.SIGMOID)
    (output,) = ops.linear(mixed, (attention.output,))
    return output


def _prepared(ops: Ops[V], x: V, linear: Linear, norm: Norm | None, attention: Attention) -> V:
    """Queries or keys, normed and rotated."""
    x = _normed_heads(ops, x, norm, linear.out_features)
    return x if attention.rope is None else ops.rope(x, attention.rope, attention.head_dim)


def _normed_heads(ops: Ops[V], x: V, norm: Norm | None, columns: int) -> V:
    if norm is None:
        return x
    return ops.rms_norm(x, norm) if norm.size == columns else ops.head_norm(x, norm)


def latent_attention_block(ops: Ops[V], attention: LatentAttention, index: int, x: V) -> V:
    """Compress queries and the shared key-value, attend among latents, project back."""
    if attention.query_down is None:
        query, compressed = ops.linear(x, (attention.query_up, attention.key_value_down))
    else:
        query, compressed = ops.linear(x, (attention.query_down, attention.key_value_down))
        (query,) = ops.linear(normed(ops, query, attention.query_norm), (attention.query_up,))
    mixed = ops.latent_attention(query, compressed, attention, index)
    (output,) = ops.linear(mixed, (attention.output,))
    return output


def delta_net_block(ops: Ops[V], net: DeltaNet, index: int, x: V) -> V:
    """Project, convolve and run the recurrence, norm each head, gate, project back."""
    query_key_value, gate, beta, alpha = ops.linear(x, (net.query_key_value, net.gate, net.beta, net.alpha))
    mixed = ops.head_norm(ops.delta_net(query_key_value, beta, alpha, net, index), net.norm)
    (output,) = ops.linear(ops.gated(gate, mixed, Activation.SILU), (net.output,))
    return output


def gated_mlp(ops: Ops[V], mlp: GatedMlp, x: V) -> V:
    """down(activation(gate x) * (up x)), as in Shazeer 2020."""
    gate, up = ops.linear(x, (mlp.gate, mlp.up))
    (output,) = ops.linear(ops.gated(gate, up, mlp.activation), (mlp.down,))
    return output


def mixture_of_experts(ops: Ops[V], mlp: MixtureOfExperts, x: V) -> V:
    """Each token through the experts chosen for it, and through the shared one; as in Shazeer et al. 2017."""
    (logits,) = ops.linear(normed(ops, x, mlp.router.norm), (mlp.router.logits,))
    choice = ops.choose_experts(logits, mlp.router)
    x = normed(ops, x, mlp.norm)
    gate, up = ops.expert_linear(ops.dispatch(x, choice), (mlp.gate, mlp.up), choice)
    (routed,) = ops.expert_linear(ops.gated(gate, up, mlp.activation), (mlp.down,), choice)
    if mlp.shared is None:
        return ops.combine(routed, choice, None, None)
    shared_gate = None if mlp.shared_gate is None else ops.linear(x, (mlp.shared_gate,))[0]
    return ops.combine(routed, choice, gated_mlp(ops, mlp.shared, x), shared_gate)
