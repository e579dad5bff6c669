"""What the plain decoders share: Llama's names, which most published families took over."""

from abaci.models.huggingface.changes import PairRows
from abaci.models.huggingface.mapping import Number, SettingRule, TensorRule, Whole

PAIR_QUERY_ROWS = PairRows("attention.head_count")
PAIR_KEY_ROWS = PairRows("attention.head_count_kv")


def decoder_settings(
    *, hidden_size: int, mlp_size: int | None, num_layers: int, num_heads: int, context: int, epsilon: float = 1e-6
) -> tuple[SettingRule, ...]:
    """Sizes, with the values that `config.json` may leave out; `mlp_size` None where no layer is dense."""
    mlp = () if mlp_size is None else (Whole("intermediate_size", "feed_forward_length", mlp_size),)
    return (
        Whole("num_hidden_layers", "block_count", num_layers),
        Whole("max_position_embeddings", "context_length", context),
        Whole("hidden_size", "embedding_length", hidden_size),
        *mlp,
        Whole("num_attention_heads", "attention.head_count", num_heads),
        Number("rms_norm_eps", "attention.layer_norm_rms_epsilon", epsilon),
    )


ENDS = (
    TensorRule("model.embed_tokens", "token_embd"),
    TensorRule("model.norm", "output_norm"),
    TensorRule("lm_head", "output"),
)
"""Before and after the layers."""

PROJECTIONS = (
    TensorRule("model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q"),
    TensorRule("model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k"),
    TensorRule("model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v"),
    TensorRule("model.layers.{layer}.self_attn.o_proj", "blk.{layer}.attn_output"),
)

PAIRED_PROJECTIONS = (
    TensorRule("model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q", PAIR_QUERY_ROWS),
    TensorRule("model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k", PAIR_KEY_ROWS),
    *PROJECTIONS[2:],
)
"""As GGUF's `llama` has them."""

HEAD_NORMS = (
    TensorRule("model.layers.{layer}.self_attn.q_norm", "blk.{layer}.attn_q_norm"),
    TensorRule("model.layers.{layer}.self_attn.k_norm", "blk.{layer}.attn_k_norm"),
)

NORMS = (
    TensorRule("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
    TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"),
)

GATED_MLP = (
    TensorRule("model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate"),
    TensorRule("model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up"),
    TensorRule("model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"),
)
