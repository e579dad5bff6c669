"""Qwen3, dense, its embedding models and rerankers."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, HEAD_NORMS, NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import FullAttentionOnly
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only, Present
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    architecture="qwen3",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=22016, num_layers=32, num_heads=32, context=32768),
        KeyValueHeads(32),
        HeadSizes(128),
        Rope(),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        FullAttentionOnly(),
    ),
    tensors=(*ENDS, *PROJECTIONS, *HEAD_NORMS, *NORMS, *GATED_MLP),
)
