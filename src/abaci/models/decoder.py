"""The transformer decoder, written once. It never asks which family it runs."""

from abaci.models.ops import Ops, V
from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    GatedMlp,
    LatentAttention,
    Layer,
    Mixer,
    MixtureOfExperts,
    Mlp,
    ModelSpec,
    Norm,
)


def forward(ops: Ops[V], spec: ModelSpec) -> None:
    """One step over the batch: token ids in, logits of the asked rows out."""
    x = ops.embed(spec.embedding)
    for index, layer in enumerate(spec.layers):
        x = decoder_layer(ops, layer, index, x)
    ops.logits(ops.rms_norm(x, spec.norm), spec.head)


def decoder_layer(ops: Ops[V], layer: Layer, index: int, x: V) -> V:
    """Mixer, then MLP, each on a normed copy and added back."""
    mixed = mix(ops, layer.mixer, index, normed(ops, x, layer.mixer_norm))
    x = ops.add(x, normed(ops, mixed, layer.mixer_post_norm))
    expanded = expand(ops, layer.mlp, normed(ops, x, layer.mlp_norm))
    return ops.add(x, normed(ops, expanded, layer.mlp_post_norm))


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
    return gated_mlp(ops, mlp, x) if isinstance(mlp, GatedMlp) else mixture_of_experts(ops, mlp, x)


def attention_block(ops: Ops[V], attention: Attention, index: int, x: V) -> V:
    """Project, norm, rotate, attend, gate, project back."""
    projections = (attention.query, attention.key, attention.value)
    gate: V | None = None
    if attention.gate is None:
        query, key, value = ops.linear(x, projections)
    else:
        query, key, value, gate = ops.linear(x, (*projections, attention.gate))
    query = _normed_heads(ops, query, attention.query_norm, attention.query.out_features)
    key = _normed_heads(ops, key, attention.key_norm, attention.key.out_features)
    if attention.rope is not None:
        query = ops.rope(query, attention.rope, attention.head_dim)
        key = ops.rope(key, attention.rope, attention.head_dim)
    if attention.query_scale is not None:
        query = ops.scale_by_position(query, attention.query_scale)
    mixed = ops.attention(query, key, value, attention, index)
    if gate is not None:
        mixed = ops.gated(gate, mixed, Activation.SIGMOID)
    (output,) = ops.linear(mixed, (attention.output,))
    return output


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
    (logits,) = ops.linear(x, (mlp.router.logits,))
    choice = ops.choose_experts(logits, mlp.router)
    gate, up = ops.expert_linear(ops.dispatch(x, choice), (mlp.gate, mlp.up), choice)
    (routed,) = ops.expert_linear(ops.gated(gate, up, mlp.activation), (mlp.down,), choice)
    if mlp.shared is None:
        return ops.combine(routed, choice, None, None)
    shared_gate = None if mlp.shared_gate is None else ops.linear(x, (mlp.shared_gate,))[0]
    return ops.combine(routed, choice, gated_mlp(ops, mlp.shared, x), shared_gate)
