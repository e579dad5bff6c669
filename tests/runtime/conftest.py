"""A model small enough to run anywhere: random weights, bytes as its vocabulary, a ChatML template."""

from pathlib import Path

import numpy as np
import pytest

from abaci.formats.chat_template import CHATML
from abaci.formats.gguf import write_gguf
from abaci.tensor import WeightFormat

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|pad|>")
CONTEXT = 256
HIDDEN, MLP, HEADS, LAYERS = 32, 64, 2, 2


def byte_tokens() -> list[str]:
    """GPT-2's spelling of the bytes 0 to 255, in this order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tensors(vocab_size: int):
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocab_size, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        matrices = {"attn_q": HIDDEN, "attn_k": HIDDEN, "attn_v": HIDDEN, "attn_output": HIDDEN}
        shapes |= {f"blk.{layer}.{name}.weight": (rows, HIDDEN) for name, rows in matrices.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (MLP, HIDDEN) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down.weight"] = (HIDDEN, MLP)
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.3, shape)
        yield name, WeightFormat.F32, shape, values.astype(np.float32).tobytes()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    tokens = [*byte_tokens(), *SPECIAL_TOKENS, "ab"]
    metadata = {
        "general.architecture": "llama",
        "general.license": "mit",
        "general.sampling.temp": 0.5,
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": MLP,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(SPECIAL_TOKENS) + [1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_gguf(path, metadata, list(tensors(len(tokens))))
    return path
