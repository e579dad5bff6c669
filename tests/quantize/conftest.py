"""A float model wide enough for blocks of 256: random weights, bytes as its vocabulary."""

from pathlib import Path

import numpy as np
import pytest

from abaci.formats.gguf import write_gguf
from abaci.tensor import WeightFormat

HIDDEN, MLP, HEADS, LAYERS = 256, 512, 4, 2


def byte_tokens() -> list[str]:
    """GPT-2's spelling of the bytes 0 to 255, in this order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = [*byte_tokens(), "<|end|>", "ab"]
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{name}.weight"] = (HIDDEN, HIDDEN)
        shapes |= {f"blk.{layer}.{name}.weight": (MLP, HIDDEN) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down.weight"] = (HIDDEN, MLP)
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
    tensors = [
        (
            name,
            WeightFormat.F32,
            shape,
            (np.ones(shape) if len(shape) == 1 else random.normal(0, 0.08, shape)).astype(np.float32).tobytes(),
        )
        for name, shape in shapes.items()
    ]
    metadata = {
        "general.architecture": "llama",
        "general.name": "Small",
        "llama.block_count": LAYERS,
        "llama.context_length": 256,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": MLP,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
    }
    path = tmp_path_factory.mktemp("float") / "float.gguf"
    write_gguf(path, metadata, tensors)
    return path
