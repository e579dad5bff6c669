"""How the cost of a prompt's token grows with its position: from a model's description alone."""

from typing import Final

from abaci.models.spec import Attention, ExpertLinear, LatentAttention, ModelSpec

ATTENTION_COST: Final = 4
"""Multiplications of a matrix in the time of one of attention, whose numbers are floats. Measured in steps of a few
dozen tokens on AVX-512 VNNI."""


def doubling_position(spec: ModelSpec) -> int | None:
    """Where in a prompt attention takes as long as all matrices; None in a model whose attention does not grow.

    Attention through windows stops growing, so it counts as nothing.
    """
    per_position = 0
    for index in spec.attending_layers():
        mixer = spec.layers[index].mixer
        if isinstance(mixer, Attention | LatentAttention) and mixer.window is None:
            per_position += mixer.position_products
    return _matrix_products(spec) // (ATTENTION_COST * per_position) if per_position else None


def _matrix_products(spec: ModelSpec) -> int:
    """Multiplications of one token with all matrices it meets; the head meets the last token of a prompt only."""
    linears = sum(linear.out_features * linear.in_features for linear in spec.linears() if linear is not spec.head)
    stacks = sum(
        stack.num_matrices * stack.out_features * stack.in_features
        for stack in spec.stacks()
        if not isinstance(stack, ExpertLinear)
    )
    experts = sum(
        mixture.router.num_active * stack.out_features * stack.in_features
        for mixture in spec.mixtures()
        for stack in (mixture.gate, mixture.up, mixture.down)
    )
    return linears + stacks + experts
