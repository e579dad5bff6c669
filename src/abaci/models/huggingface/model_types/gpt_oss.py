"""gpt-oss: attention with sinks and biases, a window in every other layer, clamped experts, mostly in MXFP4.

Experts are published with gate and up in turns, in MXFP4 as blocks beside scales (row by row), in floats transposed.
"""

from abaci.models.huggingface.changes import AsFloats, Halves, Transpose
from abaci.models.huggingface.dense import ENDS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.experts import ROUTER_TRAINING
from abaci.models.huggingface.layers import Pattern, WindowedLayers
from abaci.models.huggingface.mapping import (
    Copied,
    HeadSizes,
    KeyValueHeads,
    ModelMapping,
    Only,
    SplitRule,
    TensorRule,
    Unused,
    Whole,
)
from abaci.models.huggingface.rope import Rope

_EXPERTS = "model.layers.{layer}.mlp.experts"
_GATE_AND_UP = ("blk.{layer}.ffn_gate_exps.weight", "blk.{layer}.ffn_up_exps.weight")

_STRETCHED = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

MAPPING = ModelMapping(
    model_type="gpt_oss",
    class_name="GptOssForCausalLM",
    architecture="gpt-oss",
    settings=(
        *decoder_settings(hidden_size=2880, mlp_size=2880, num_layers=36, num_heads=64, context=131072, epsilon=1e-5),
        Copied("intermediate_size", "expert_feed_forward_length"),
        KeyValueHeads(8),
        HeadSizes(64),
        Rope(theta=150000.0, truncates=False, default=_STRETCHED),
        Whole("num_local_experts", "expert_count", 128),
        Whole("num_experts_per_tok", "expert_used_count", 4),
        WindowedLayers(default_window=128, default_period=2, pattern=Pattern.IMPLIED),
        Only("hidden_act", "silu"),
        Only("attention_bias", True),
        Only("swiglu_limit", 7.0),
        Only("swiglu_alpha", 1.702),
        Unused((*ROUTER_TRAINING, "experts_per_token", "initial_context_length")),
    ),
    tensors=(
        *ENDS,
        *PROJECTIONS,
        TensorRule("model.layers.{layer}.self_attn.sinks", "blk.{layer}.attn_sinks.weight"),
        TensorRule("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
        TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.post_attention_norm"),
        TensorRule("model.layers.{layer}.mlp.router.weight", "blk.{layer}.ffn_gate_inp.weight", AsFloats()),
        TensorRule("model.layers.{layer}.mlp.router.bias", "blk.{layer}.ffn_gate_inp.bias"),
        SplitRule(f"{_EXPERTS}.gate_up_proj", _GATE_AND_UP, Halves(is_interleaved=True, is_transposed=True)),
        SplitRule(f"{_EXPERTS}.gate_up_proj_blocks", _GATE_AND_UP, Halves(is_interleaved=True)),
        SplitRule(
            f"{_EXPERTS}.gate_up_proj_bias",
            ("blk.{layer}.ffn_gate_exps.bias", "blk.{layer}.ffn_up_exps.bias"),
            Halves(is_interleaved=True, is_vector=True),
        ),
        TensorRule(f"{_EXPERTS}.down_proj", "blk.{layer}.ffn_down_exps.weight", Transpose()),
        TensorRule(f"{_EXPERTS}.down_proj_blocks", "blk.{layer}.ffn_down_exps.weight"),
        TensorRule(f"{_EXPERTS}.down_proj_bias", "blk.{layer}.ffn_down_exps.bias", AsFloats()),
    ),
)
