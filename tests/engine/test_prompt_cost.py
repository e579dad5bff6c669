"""What a prompt's token costs, held against the steps that are recorded for the kernels."""

import pytest
from golden_models import GOLDEN_NAMES, golden_path

from abaci.engine.prompt_cost import ATTENTION_COST, doubling_position
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.footprint import footprint
from abaci.models.families import spec_from_gguf


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_at_the_doubling_position_attention_costs_what_the_matrices_cost(name: str) -> None:
    with GgufCheckpoint.open(golden_path(name)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        model = footprint(spec, {info.name: info.format for info in checkpoint.tensors.values()})
    growing = sum(layer.operations for layer in model.attention if layer.window is None)
    matrices = sum(product.operations for product in model.products[:-1])  # but the head
    assert growing > 0
    assert doubling_position(spec) == pytest.approx(matrices / (ATTENTION_COST * growing), abs=1)
