"""The original implementation of a GGUF file's model: `transformers` in float32 over the file's exact values.

An oracle of its own: it reads with the `gguf` package and shares no code with Abaci. Needs the extra `golden`.
"""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

GEMMA3_PERIOD = 6

TOP_LEVEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA3_BLOCK_NAMES = BLOCK_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def load_model(path: Path) -> PreTrainedModel:
    """The model of a GGUF file of architecture llama, qwen2 or gemma3, in float32 with eager attention."""
    reader = GGUFReader(path)
    architecture = str(reader.fields["general.architecture"].contents())
    weights = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    settings = _Settings(reader, architecture, weights)
    model = _build(settings)
    frequency_factors = weights.pop("rope_freqs.weight", None)
    state = {_original_name(name, architecture): _original_values(name, w, settings) for name, w in weights.items()}
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict({name: torch.tensor(values) for name, values in state.items()}, strict=True)
    if frequency_factors is not None:
        model.model.rotary_emb.inv_freq /= torch.from_numpy(frequency_factors)
    return model.eval()


@torch.no_grad()
def all_logits(model: PreTrainedModel, token_ids: list[int]) -> np.ndarray:
    """Logits at every position of one sequence, (tokens, vocab) float32."""
    return model(torch.tensor([token_ids]), use_cache=False).logits[0].float().numpy()


@torch.no_grad()
def final_hidden(model: PreTrainedModel, token_ids: list[int], cache: DynamicCache | None = None) -> np.ndarray:
    """What enters the head at every position of one sequence, (tokens, hidden) float32."""
    output = model.model(torch.tensor([token_ids]), past_key_values=cache, use_cache=cache is not None)
    return output.last_hidden_state[0].float().numpy()


def head_matrix(model: PreTrainedModel) -> np.ndarray:
    """The matrix from hidden states to logits, (vocab, hidden) float32."""
    return model.lm_head.weight.detach().float().numpy()


@torch.no_grad()
def greedy_continuation(model: PreTrainedModel, prompt: list[int], num_tokens: int) -> list[int]:
    """The likeliest next token, again and again; end tokens do not end it."""
    cache = DynamicCache(config=model.config)
    fed, continuation = prompt, []
    for _ in range(num_tokens):
        logits = model(torch.tensor([fed]), past_key_values=cache, use_cache=True).logits[0, -1]
        fed = [int(logits.argmax())]
        continuation += fed
    return continuation


class _Settings:
    """The file's numbers, under the names GGUF gives them."""

    def __init__(self, reader: GGUFReader, architecture: str, weights: dict[str, np.ndarray]) -> None:
        self.architecture = architecture
        self.vocab_size = weights["token_embd.weight"].shape[0]
        self.is_tied = "output.weight" not in weights
        self._values = {
            name.removeprefix(f"{architecture}."): field.contents()
            for name, field in reader.fields.items()
            if name.startswith(f"{architecture}.")
        }

    def __getitem__(self, key: str) -> int | float:
        return self._values[key]

    @property
    def head_dim(self) -> int:
        return self._values.get("attention.key_length", self["embedding_length"] // self["attention.head_count"])


def _build(settings: _Settings) -> PreTrainedModel:
    model_class, config_class = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
        "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
    }[settings.architecture]
    config = config_class(**_config_arguments(settings))
    config._attn_implementation = "eager"
    return model_class(config).float()


def _config_arguments(settings: _Settings) -> dict[str, object]:
    rope = {"rope_type": "default", "rope_theta": settings["rope.freq_base"]}
    arguments = {
        "vocab_size": settings.vocab_size,
        "hidden_size": settings["embedding_length"],
        "intermediate_size": settings["feed_forward_length"],
        "num_hidden_layers": settings["block_count"],
        "num_attention_heads": settings["attention.head_count"],
        "num_key_value_heads": settings["attention.head_count_kv"],
        "head_dim": settings.head_dim,
        "max_position_embeddings": settings["context_length"],
        "rms_norm_eps": settings["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": settings.is_tied,
        "rope_parameters": rope,
    }
    if settings.architecture != "gemma3":
        return arguments
    layer_types = [
        "full_attention" if (layer + 1) % GEMMA3_PERIOD == 0 else "sliding_attention"
        for layer in range(settings["block_count"])
    ]
    return arguments | {
        "query_pre_attn_scalar": settings.head_dim,
        "sliding_window": settings["attention.sliding_window"],
        "layer_types": layer_types,
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }


def _original_name(name: str, architecture: str) -> str:
    if name in TOP_LEVEL_NAMES:
        return TOP_LEVEL_NAMES[name]
    _, layer, part, kind = name.split(".")
    names = GEMMA3_BLOCK_NAMES if architecture == "gemma3" else BLOCK_NAMES
    return f"model.layers.{layer}.{names[part]}.{kind}"


def _original_values(name: str, weight: np.ndarray, settings: _Settings) -> np.ndarray:
    """Undo what conversion to GGUF did: Llama's permuted query and key rows, Gemma's norms with the one added."""
    if settings.architecture == "gemma3" and name.endswith("norm.weight"):
        return weight - np.float32(1)
    if settings.architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
        rows = weight.reshape(-1, settings.head_dim // 2, 2, weight.shape[1])
        return rows.swapaxes(1, 2).reshape(weight.shape)
    return weight
