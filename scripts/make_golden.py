"""Makes tests/golden: a tiny random GGUF model per family, complete with tokenizer, and the original's logits for it.

    python scripts/make_golden.py            needs the extra `golden`; the result is committed, so tests need no torch

Between them the files hold every weight type. Each NAME.gguf has a NAME.npz with `tokens` and `logits` per sequence,
computed by `transformers` in float32 over the very values in the file.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType, dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers_reference import all_logits, load_model

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
SEQUENCE_LENGTHS = (45, 19)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """Sizes and weight types of one golden file. `types` maps a tensor's part (attn_q, token_embd, ...) to its type."""

    name: str
    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope_theta: float
    types: dict[str, Type]
    hidden_size: int = 64
    window: int | None = None
    has_output: bool = False
    llama3_rope: dict[str, float] = field(default_factory=dict)

    @property
    def has_biases(self) -> bool:
        return self.architecture == "qwen2"

    @property
    def has_sandwich_norms(self) -> bool:
        return self.architecture == "gemma3"


MODELS = (
    TinyModel(
        "llama-float",
        "llama",
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_size=96,
        rope_theta=500000.0,
        types={"token_embd": Type.BF16, "attn_v": Type.BF16, "ffn_up": Type.F32},
        llama3_rope={
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    TinyModel(
        "llama",
        "llama",
        num_layers=2,
        num_heads=3,
        num_kv_heads=1,
        head_dim=32,
        mlp_size=128,
        rope_theta=100000.0,
        hidden_size=96,
        types=dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), Type.Q4_1)
        | {"token_embd": Type.Q8_0},
    ),
    TinyModel(
        "qwen2",
        "qwen2",
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_size=256,
        rope_theta=1000000.0,
        has_output=True,
        types={
            "token_embd": Type.Q5_0,
            "output": Type.Q8_0,
            "attn_q": Type.Q5_0,
            "attn_k": Type.Q5_1,
            "attn_v": Type.Q8_0,
            "attn_output": Type.Q4_0,
            "ffn_gate": Type.Q5_0,
            "ffn_up": Type.Q5_0,
            "ffn_down": Type.Q6_K,
        },
    ),
    TinyModel(
        "gemma3",
        "gemma3",
        num_layers=7,
        num_heads=4,
        num_kv_heads=1,
        head_dim=64,
        mlp_size=256,
        rope_theta=1000000.0,
        window=16,
        types={
            "token_embd": Type.Q8_0,
            "attn_q": Type.Q5_0,
            "attn_k": Type.Q4_0,
            "attn_v": Type.Q8_0,
            "attn_output": Type.Q4_K,
            "ffn_gate": Type.Q5_1,
            "ffn_up": Type.Q5_0,
            "ffn_down": Type.Q5_K,
        },
    ),
)


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for seed, model in enumerate(MODELS):
        path = GOLDEN / f"{model.name}.gguf"
        rng = np.random.default_rng(seed)
        tokens = vocabulary(model.architecture)
        write_model(path, model, rng, tokens)
        reference = load_model(path)
        arrays = {}
        for index, length in enumerate(SEQUENCE_LENGTHS):
            token_ids = rng.integers(0, len(tokens), length)
            arrays[f"tokens_{index}"] = token_ids.astype(np.int32)
            arrays[f"logits_{index}"] = all_logits(reference, token_ids.tolist())
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        print(f"{path.name}: {path.stat().st_size} bytes, logits within +-{np.abs(arrays['logits_0']).max():.1f}")


def write_model(path: Path, model: TinyModel, rng: np.random.Generator, tokens: list[str]) -> None:
    """Write the GGUF file: settings, tokenizer, random tensors."""
    writer = GGUFWriter(path, model.architecture)
    writer.add_name(f"tiny random {model.name}")
    writer.add_block_count(model.num_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.mlp_size)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(model.rope_theta)
    if model.window is not None:
        writer.add_sliding_window(model.window)
    if model.architecture == "gemma3":
        _add_sentencepiece_tokenizer(writer, tokens)
    else:
        _add_byte_level_tokenizer(writer, tokens)
    for name, shape in _tensor_shapes(model, len(tokens)):
        values, tensor_type = _random_tensor(name, shape, model, rng)
        writer.add_tensor(name, values, raw_dtype=tensor_type)
    if model.llama3_rope:
        writer.add_tensor("rope_freqs.weight", _llama3_frequency_factors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensor_shapes(model: TinyModel, vocab_size: int) -> list[tuple[str, tuple[int, ...]]]:
    hidden, query_size, kv_size = (
        model.hidden_size,
        model.num_heads * model.head_dim,
        model.num_kv_heads * model.head_dim,
    )
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (query_size, hidden),
        "attn_k.weight": (kv_size, hidden),
        "attn_v.weight": (kv_size, hidden),
        "attn_output.weight": (hidden, query_size),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (model.mlp_size, hidden),
        "ffn_up.weight": (model.mlp_size, hidden),
        "ffn_down.weight": (hidden, model.mlp_size),
    }
    if model.has_biases:
        block |= {"attn_q.bias": (query_size,), "attn_k.bias": (kv_size,), "attn_v.bias": (kv_size,)}
    if model.has_sandwich_norms:
        block |= {"attn_q_norm.weight": (model.head_dim,), "attn_k_norm.weight": (model.head_dim,)}
        block |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (vocab_size, hidden))]
    shapes += [(f"blk.{layer}.{name}", shape) for layer in range(model.num_layers) for name, shape in block.items()]
    shapes += [("output_norm.weight", (hidden,))]
    return [*shapes, ("output.weight", (vocab_size, hidden))] if model.has_output else shapes


def _random_tensor(
    name: str, shape: tuple[int, ...], model: TinyModel, rng: np.random.Generator
) -> tuple[np.ndarray, Type]:
    """Values of a size that keeps activations alive: norms about one, small biases, matrices that preserve variance."""
    if name.endswith("norm.weight"):
        return (1 + rng.normal(0, 0.2, shape)).astype(np.float32), Type.F32
    if name.endswith(".bias"):
        return rng.normal(0, 0.5, shape).astype(np.float32), Type.F32
    part = name.split(".")[-2]
    tensor_type = model.types.get(part, Type.F16)
    deviation = 1 / np.sqrt(shape[1])
    if tensor_type in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        return _random_k_blocks(shape, tensor_type, deviation, rng), tensor_type
    return quantize(rng.normal(0, deviation, shape).astype(np.float32), tensor_type), tensor_type


def _random_k_blocks(
    shape: tuple[int, ...], tensor_type: Type, deviation: float, rng: np.random.Generator
) -> np.ndarray:
    """Random blocks of a K-quant, which `gguf` reads but does not write: any bits are valid, only scales are set."""
    block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // block_size, block_bytes), dtype=np.uint8)
    scale_offsets = (208,) if tensor_type is Type.Q6_K else (0, 2)
    for offset in scale_offsets:
        scale = rng.uniform(0.5, 1.5, (len(blocks), 1)).astype(np.float16) * np.float16(2**-10)
        blocks[:, offset : offset + 2] = scale.view(np.uint8)
    spread = dequantize(blocks, tensor_type).std()
    for offset in scale_offsets:
        scale = blocks[:, offset : offset + 2].copy().view(np.float16) * np.float16(deviation / spread)
        blocks[:, offset : offset + 2] = scale.view(np.uint8)
    return blocks.reshape(shape[0], -1)


def _llama3_frequency_factors(model: TinyModel) -> np.ndarray:
    """How much slower than plain rope each pair turns: what converters store for Llama 3's stretched context."""
    parameters = {"rope_type": "llama3", "rope_theta": model.rope_theta} | model.llama3_rope
    config = LlamaConfig(
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        head_dim=model.head_dim,
        max_position_embeddings=256,
        rope_parameters=parameters,
    )
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = model.rope_theta ** (-np.arange(0, model.head_dim, 2) / model.head_dim)
    return (plain / stretched.numpy()).astype(np.float32)


def vocabulary(architecture: str) -> list[str]:
    """The vocabulary: specials, bytes, and some pieces made of them."""
    if architecture == "gemma3":
        specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
        letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJ", "\n", ".", ","]
        pieces = ["▁t", "he", "▁a", "in", "▁the", "er", "on", "re", "▁s", "ou", "an", "or", "ing", "ed", "is"]
        return specials + [f"<0x{byte:02X}>" for byte in range(256)] + letters + pieces
    return _byte_letters() + ["".join(merge) for merge in _merges()] + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _byte_letters() -> list[str]:
    """A printable letter for each byte, as in GPT-2: printable bytes as they are, others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _merges() -> list[tuple[str, str]]:
    pairs = "Ġ t|h e|Ġ a|i n|Ġt he|e r|o n|r e|Ġ s|o u|a n|o r|in g|e d|i s|Ġ w|Ġ b|l l|Ġ c|Ġ f|Ġ o|Ġ p|Ġ Ġ|ĠĠ ĠĠ"
    return [(first, second) for first, second in (pair.split(" ") for pair in pairs.split("|"))]


def _add_byte_level_tokenizer(writer: GGUFWriter, tokens: list[str]) -> None:
    is_special = [token.startswith("<|") for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if special else TokenType.NORMAL for special in is_special])
    writer.add_token_merges([" ".join(merge) for merge in _merges()])
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_sentencepiece_tokenizer(writer: GGUFWriter, tokens: list[str]) -> None:
    def token_type(token: str) -> TokenType:
        if token == "<unk>":
            return TokenType.UNKNOWN
        if token.startswith("<0x"):
            return TokenType.BYTE
        return TokenType.CONTROL if token.startswith("<") else TokenType.NORMAL

    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(
        [-float(index) if token_type(t) is TokenType.NORMAL else -1000.0 for index, t in enumerate(tokens)]
    )
    writer.add_token_types([token_type(token) for token in tokens])
    writer.add_bos_token_id(tokens.index("<bos>"))
    writer.add_eos_token_id(tokens.index("<eos>"))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


if __name__ == "__main__":
    main()
