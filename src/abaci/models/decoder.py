"""The transformer decoder, written once. It never asks which family it runs."""

from abaci.models.ops import Ops, V
from abaci.models.spec import Attention, GatedMlp, Layer, ModelSpec


def forward(ops: Ops[V], spec: ModelSpec) -> None:
    """One step over the batch: token ids in, logits of the asked rows out."""
    x = ops.embed(spec.embedding)
    for index, layer in enumerate(spec.layers):
        x = decoder_layer(ops, layer, index, x)
    ops.logits(ops.rms_norm(x, spec.norm), spec.head)


def decoder_layer(ops: Ops[V], layer: Layer, index: int, x: V) -> V:
    """Attention, then MLP, each on a normed copy and added back."""
    mixed = attention_block(ops, layer.attention, index, ops.rms_norm(x, layer.attention_norm))
    if layer.attention_post_norm is not None:
        mixed = ops.rms_norm(mixed, layer.attention_post_norm)
    x = ops.add(x, mixed)
    expanded = gated_mlp(ops, layer.mlp, ops.rms_norm(x, layer.mlp_norm))
    if layer.mlp_post_norm is not None:
        expanded = ops.rms_norm(expanded, layer.mlp_post_norm)
    return ops.add(x, expanded)


def attention_block(ops: Ops[V], attention: Attention, index: int, x: V) -> V:
    """Project, rotate, attend, project back."""
    query, key, value = ops.linear(x, (attention.query, attention.key, attention.value))
    if attention.query_norm is not None:
        query = ops.head_norm(query, attention.query_norm)
    if attention.key_norm is not None:
        key = ops.head_norm(key, attention.key_norm)
    query = ops.rope(query, attention.rope, attention.head_dim)
    key = ops.rope(key, attention.rope, attention.head_dim)
    mixed = ops.attention(query, key, value, attention, index)
    (output,) = ops.linear(mixed, (attention.output,))
    return output


def gated_mlp(ops: Ops[V], mlp: GatedMlp, x: V) -> V:
    """down(activation(gate x) * (up x)), as in Shazeer 2020."""
    gate, up = ops.linear(x, (mlp.gate, mlp.up))
    (output,) = ops.linear(ops.gated(gate, up, mlp.activation), (mlp.down,))
    return output
