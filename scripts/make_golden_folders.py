"""Makes tests/golden/folders: a tiny random Hugging Face folder per model type, and the original's logits for it.

    python scripts/make_golden_folders.py [NAME ...]     needs the extra `golden`; the result is committed

Folders are written by `transformers` itself, so that names, shapes and settings are what publishers' are. Each has a
`golden.npz` with `tokens_i` and `logits_i` per sequence, computed in float32 from the folder as it was written.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from transformers import PreTrainedConfig, PreTrainedModel

FOLDERS = Path(__file__).parent.parent / "tests" / "golden" / "folders"
SEQUENCE_LENGTHS = (45, 19)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.5, 2.0, 3.0],
    "original_max_position_embeddings": 16,
}

GEMMA4 = {
    "num_hidden_layers": 6,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "vocab_size_per_layer_input": 96,
    "final_logit_softcapping": 30.0,
}
SHARED_KEYS = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}


def _sizes(**changes: object) -> dict[str, object]:
    return {**SIZES, **changes}


FAMILIES: dict[str, tuple[type, PreTrainedConfig]] = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**_sizes(rope_parameters=LLAMA3_ROPE))),
    "llama-biased": (hf.LlamaForCausalLM, hf.LlamaConfig(**_sizes(attention_bias=True, mlp_bias=True))),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**_sizes(tie_word_embeddings=True))),
    "qwen2-yarn": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**_sizes(rope_parameters=YARN))),
    "gemma3_text": (
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(**_sizes(num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=16, sliding_window=16)),
    ),
    "gemma4_text": (
        hf.Gemma4ForCausalLM,
        hf.Gemma4TextConfig(
            **_sizes(**GEMMA4, num_kv_shared_layers=3, hidden_size_per_layer_input=32, use_double_wide_mlp=True)
        ),
    ),
    "gemma4_text-dense": (
        hf.Gemma4ForCausalLM,
        hf.Gemma4TextConfig(**_sizes(**GEMMA4, **SHARED_KEYS, hidden_size_per_layer_input=0)),
    ),
    "gemma4_text-mixture": (
        hf.Gemma4ForCausalLM,
        hf.Gemma4TextConfig(
            **_sizes(
                **GEMMA4,
                **SHARED_KEYS,
                hidden_size_per_layer_input=0,
                enable_moe_block=True,
                num_experts=4,
                top_k_experts=2,
                moe_intermediate_size=32,
            )
        ),
    ),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig(**_sizes(head_dim=16, sliding_window=16))),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**_sizes(head_dim=16))),
    "phi3": (
        hf.Phi3ForCausalLM,
        hf.Phi3Config(**_sizes(rope_parameters=LONG_ROPE, original_max_position_embeddings=16)),
    ),
    "smollm3": (hf.SmolLM3ForCausalLM, hf.SmolLM3Config(**_sizes(num_hidden_layers=4))),
    "olmo3": (
        hf.Olmo3ForCausalLM,
        hf.Olmo3Config(
            **_sizes(
                num_hidden_layers=4,
                sliding_window=16,
                rope_parameters={
                    "full_attention": YARN,
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            )
        ),
    ),
    "ministral3": (
        hf.Ministral3ForCausalLM,
        hf.Ministral3Config(
            **_sizes(
                head_dim=16,
                rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
            )
        ),
    ),
    "qwen2_moe": (hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig(**_sizes(**EXPERTS, shared_expert_intermediate_size=64))),
    "qwen3_moe": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig(**_sizes(**EXPERTS, head_dim=16, norm_topk_prob=True, mlp_only_layers=[0])),
    ),
    "gpt_oss": (
        hf.GptOssForCausalLM,
        hf.GptOssConfig(
            **_sizes(
                head_dim=16,
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=16,
                rope_parameters={**YARN, "truncate": False},
            )
        ),
    ),
    "deepseek_v3": (
        hf.DeepseekV3ForCausalLM,
        hf.DeepseekV3Config(
            **_sizes(
                **ROUTED_EXPERTS,
                num_key_value_heads=4,
                num_hidden_layers=3,
                first_k_dense_replace=1,
                n_group=4,
                topk_group=2,
                q_lora_rank=24,
                kv_lora_rank=32,
                qk_rope_head_dim=8,
                qk_nope_head_dim=16,
                v_head_dim=32,
                rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
            )
        ),
    ),
    "deepseek_v2": (
        hf.DeepseekV2ForCausalLM,
        hf.DeepseekV2Config(
            **_sizes(
                **ROUTED_EXPERTS,
                num_key_value_heads=4,
                num_hidden_layers=3,
                first_k_dense_replace=1,
                n_shared_experts=2,
                topk_method="group_limited_greedy",
                n_group=4,
                topk_group=2,
                q_lora_rank=None,
                kv_lora_rank=32,
                qk_rope_head_dim=8,
                qk_nope_head_dim=16,
                v_head_dim=32,
            )
        ),
    ),
    "mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig(**_sizes(num_local_experts=4, num_experts_per_tok=2))),
    "glm4_moe": (
        hf.Glm4MoeForCausalLM,
        hf.Glm4MoeConfig(**_sizes(**ROUTED_EXPERTS, num_hidden_layers=3, head_dim=16, use_qk_norm=True)),
    ),
    "qwen3_next": (
        hf.Qwen3NextForCausalLM,
        hf.Qwen3NextConfig(
            **_sizes(**EXPERTS, **DELTA_NET, num_hidden_layers=4, head_dim=16, shared_expert_intermediate_size=64)
        ),
    ),
    "qwen3_5_text": (
        hf.Qwen3_5ForCausalLM,
        hf.Qwen3_5TextConfig(**_sizes(**DELTA_NET, num_hidden_layers=4, head_dim=16)),
    ),
    "qwen3_5_moe_text": (
        hf.Qwen3_5MoeForCausalLM,
        hf.Qwen3_5MoeTextConfig(
            **_sizes(**EXPERTS, **DELTA_NET, num_hidden_layers=4, head_dim=16, shared_expert_intermediate_size=64)
        ),
    ),
}
FLOAT16 = {"gemma3_text"}
"""Stored in half precision; others in bfloat16."""
SHARDED = {"qwen2": "30KB"}


def main() -> None:
    for name in sys.argv[1:] or FAMILIES:
        folder = FOLDERS / name
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, name)
        model = read(folder, FAMILIES[name][0])
        generator = torch.Generator().manual_seed(1)
        arrays = {}
        for index, length in enumerate(SEQUENCE_LENGTHS):
            token_ids = torch.randint(0, SIZES["vocab_size"], (length,), generator=generator)
            arrays[f"tokens_{index}"] = token_ids.numpy().astype(np.int32)
            arrays[f"logits_{index}"] = logits(model, token_ids)
        np.savez_compressed(folder / "golden.npz", **arrays)
        (folder / "generation_config.json").unlink(missing_ok=True)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size} bytes, logits within +-{np.abs(arrays['logits_0']).max():.1f}")


def save(folder: Path, name: str) -> None:
    """Random weights of a size that keeps activations alive: vectors about where they start, matrices by width."""
    torch.manual_seed(0)
    model_class, config = FAMILIES[name]
    model = model_class(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
            if config.model_type == "gemma4_text" and parameter_name.endswith("q_norm.weight"):
                parameter.mul_(parameter.shape[0] ** -0.5)  # nothing else keeps its scores small
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("e_score_correction_bias", "layer_scalar")):
                buffer.add_(torch.randn_like(buffer) * 0.2)
    dtype = torch.float16 if name in FLOAT16 else torch.bfloat16
    model.to(dtype).save_pretrained(folder, max_shard_size=SHARDED.get(name, "5GB"))


def read(folder: Path, model_class: type) -> PreTrainedModel:
    """In float32 with eager attention."""
    return model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model: PreTrainedModel, token_ids: torch.Tensor) -> np.ndarray:
    """At every position of one sequence, (tokens, vocab) float32."""
    return model(token_ids[None], use_cache=False).logits[0].float().numpy()


if __name__ == "__main__":
    main()
