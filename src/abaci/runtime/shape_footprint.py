"""The footprint of a model of which only the published shape is known: without its file, within some percent.

A decoder of that shape is described and counted as a file's would be. Experts that a token does not meet add weights
and no work; what a shape has beyond our decoder (a latent cache, linear attention) is counted by the sizes it states.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from abaci.hub.catalog import Shape
from abaci.kernels.batch import PAGE_TOKENS
from abaci.kernels.footprint import Footprint, footprint
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
from abaci.tensor import CacheType, WeightFormat

_EMBEDDING: Final = "embedding"


@dataclass(frozen=True, slots=True)
class _Mixture:
    """Which formats the files of one quantisation are made of."""

    usual: WeightFormat
    head: WeightFormat
    better: WeightFormat | None = None
    """Of values and down projections in every other layer; None: as all others."""


def _mixtures() -> Mapping[str, _Mixture]:
    """As llama.cpp's quantiser chooses them, roughly (https://github.com/ggml-org/llama.cpp, src/llama-quant.cpp)."""
    plain = {weight_format.label: _Mixture(weight_format, weight_format) for weight_format in WeightFormat}
    of = WeightFormat
    six = of.Q6_K
    mixed = {
        **{name: _Mixture(of[name], six) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "IQ3_XXS")},
        "Q2_K": _Mixture(of.Q2_K, six, of.Q4_K),
        "Q3_K_S": _Mixture(of.Q3_K, six),
        "Q3_K_M": _Mixture(of.Q3_K, six, of.Q5_K),
        "Q3_K_L": _Mixture(of.Q3_K, six, of.Q6_K),
        "Q4_K_S": _Mixture(of.Q4_K, six),
        "Q4_K_M": _Mixture(of.Q4_K, six, six),
        "Q5_K_S": _Mixture(of.Q5_K, six),
        "Q5_K_M": _Mixture(of.Q5_K, six, six),
        "MXFP4": _Mixture(of.MXFP4, of.Q8_0),
    }
    return MappingProxyType(plain | mixed)


_FALLBACKS: Final = MappingProxyType(
    {
        WeightFormat.Q2_K: WeightFormat.Q4_0,
        WeightFormat.Q3_K: WeightFormat.Q4_0,
        WeightFormat.Q4_K: WeightFormat.Q5_0,
        WeightFormat.Q5_K: WeightFormat.Q5_1,
        WeightFormat.Q6_K: WeightFormat.Q8_0,
    }
)
"""What stands in for a format whose blocks a row is not a multiple of."""


def shape_footprint(
    shape: Shape, quantisation: str, context_length: int, cache_type: CacheType = CacheType.F16
) -> Footprint | None:
    """The footprint of a file of that quantisation, e.g. Q4_K_M; None for a quantisation that is not known here."""
    mixture = _mixtures().get(quantisation.upper())
    if mixture is None:
        return None
    spec = _decoder(shape, context_length)
    counted = footprint(spec, _formats(spec, mixture), cache_type=cache_type)
    matrices = [sizes for name, sizes in spec.tensors() if len(sizes) == 2]
    unmet_parameters = max(0, shape.num_parameters - sum(math.prod(sizes) for sizes in matrices))
    unmet_bytes = unmet_parameters * mixture.usual.block_bytes // mixture.usual.block_size
    page_bytes = _page_bytes(shape, counted.page_bytes, cache_type)
    return replace(counted, weight_bytes=counted.weight_bytes + unmet_bytes, page_bytes=page_bytes)


def _formats(spec: ModelSpec, mixture: _Mixture) -> dict[str, WeightFormat]:
    formats = dict.fromkeys((name for name, _ in spec.tensors()), WeightFormat.F32)

    def put(linear: Linear, weight_format: WeightFormat) -> None:
        if linear.in_features % weight_format.block_size:
            weight_format = _FALLBACKS.get(weight_format, WeightFormat.F16)
        formats[linear.weight] = weight_format

    for index, layer in enumerate(spec.layers):
        attention, mlp = layer.mixer, layer.mlp
        assert isinstance(attention, Attention) and isinstance(mlp, GatedMlp)
        assert attention.key is not None and attention.value is not None
        for linear in (attention.query, attention.key, attention.output, mlp.gate, mlp.up):
            put(linear, mixture.usual)
        for linear in (attention.value, mlp.down):
            put(linear, mixture.better if mixture.better is not None and index % 2 else mixture.usual)
    put(Linear(spec.embedding.weight, spec.hidden_size, spec.vocab_size), mixture.usual)
    put(spec.head, mixture.head)
    return formats


def _decoder(shape: Shape, context_length: int) -> ModelSpec:
    """A decoder in which a token meets as many weights as in that shape."""
    layers = tuple(_layer(shape, index) for index in range(shape.num_layers))
    head = _EMBEDDING if shape.is_tied else "head"
    return ModelSpec(
        architecture="shape",
        embedding=Embedding(_EMBEDDING, shape.vocab_size, shape.hidden_size),
        layers=layers,
        norm=_norm("norm", shape),
        head=Linear(head, shape.hidden_size, shape.vocab_size),
        context_length=context_length,
    )


def _layer(shape: Shape, index: int) -> Layer:
    def linear(name: str, in_features: int, out_features: int) -> Linear:
        return Linear(f"{index}.{name}", in_features, out_features)

    query_size, kv_size = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    mlp_size = _met_mlp_size(shape, index)
    window = shape.sliding_window
    attention = Attention(
        query=linear("query", shape.hidden_size, query_size * (2 if shape.has_gated_attention else 1)),
        key=linear("key", shape.hidden_size, kv_size),
        value=linear("value", shape.hidden_size, kv_size),
        output=linear("output", query_size, shape.hidden_size),
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        scale=1.0,
        rope=Rope(10000.0, shape.head_size, RopeStyle.HALF),
        window=window.num_tokens if window is not None and index < window.num_layers else None,
    )
    mlp = GatedMlp(
        gate=linear("gate", shape.hidden_size, mlp_size),
        up=linear("up", shape.hidden_size, mlp_size),
        down=linear("down", mlp_size, shape.hidden_size),
        activation=Activation.SILU,
    )
    return Layer(_norm(f"{index}.attention_norm", shape), attention, _norm(f"{index}.mlp_norm", shape), mlp)


def _norm(name: str, shape: Shape) -> Norm:
    return Norm(name, shape.hidden_size, 1e-5)


def _met_mlp_size(shape: Shape, layer: int) -> int:
    """Of the MLP that a token passes: with experts, all that are chosen for it side by side."""
    experts = shape.experts
    if experts is None or layer < experts.num_dense_layers:
        return shape.mlp_size
    return experts.num_experts_per_token * experts.mlp_size + experts.shared_mlp_size


def _page_bytes(shape: Shape, counted: tuple[int, ...], cache_type: CacheType) -> tuple[int, ...]:
    """A latent cache keeps one vector per position and layer; layers of linear attention keep none."""
    if shape.latent_attention is not None:
        latent = shape.latent_attention
        position_bytes = cache_type.head_bytes(latent.key_value_rank + latent.rope_head_size)
        return (shape.num_layers * position_bytes * PAGE_TOKENS,)
    if shape.linear_attention is not None:
        num_cached = shape.num_layers - shape.linear_attention.num_layers
        return tuple(num_bytes * num_cached // shape.num_layers for num_bytes in counted)
    return counted
