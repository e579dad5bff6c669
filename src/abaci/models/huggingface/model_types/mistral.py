"""Mistral 7B, Nemo, Small and the like: Llama under another name, some with a sliding window in every layer."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PAIRED_PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import Window
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="mistral",
    class_name="MistralForCausalLM",
    architecture="llama",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=14336, num_layers=32, num_heads=32, context=131072),
        KeyValueHeads(8),
        HeadSizes(),
        Rope(),
        Window(4096),
        Only("hidden_act", "silu"),
    ),
    tensors=(*ENDS, *PAIRED_PROJECTIONS, *NORMS, *GATED_MLP),
)
