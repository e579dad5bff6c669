"""Mixtral: Mistral over experts. GGUF keeps it under Llama's name."""

from abaci.models.huggingface.changes import AsFloats
from abaci.models.huggingface.dense import ENDS, NORMS, PAIRED_PROJECTIONS, decoder_settings
from abaci.models.huggingface.experts import ROUTER_TRAINING
from abaci.models.huggingface.layers import Window
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only, TensorRule, Unused, Whole
from abaci.models.huggingface.rope import Rope

_MOE = "model.layers.{layer}.block_sparse_moe"

MAPPING = ModelMapping(
    model_type="mixtral",
    class_name="MixtralForCausalLM",
    architecture="llama",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=14336, num_layers=32, num_heads=32, context=131072, epsilon=1e-5),
        KeyValueHeads(8),
        HeadSizes(),
        Rope(theta=1000000.0),
        Whole("num_local_experts", "expert_count", 8),
        Whole("num_experts_per_tok", "expert_used_count", 2),
        Window(None),
        Only("hidden_act", "silu"),
        Unused(ROUTER_TRAINING),
    ),
    tensors=(
        *ENDS,
        *PAIRED_PROJECTIONS,
        *NORMS,
        TensorRule(f"{_MOE}.gate.weight", "blk.{layer}.ffn_gate_inp.weight", AsFloats()),
        TensorRule(f"{_MOE}.experts.{{expert}}.w1", "blk.{layer}.ffn_gate_exps"),
        TensorRule(f"{_MOE}.experts.{{expert}}.w3", "blk.{layer}.ffn_up_exps"),
        TensorRule(f"{_MOE}.experts.{{expert}}.w2", "blk.{layer}.ffn_down_exps"),
    ),
)
