"""Makes tests/golden/llama-cpp.gguf: a tiny model whose weights llama.cpp itself quantised, and its own logits for it.

    python scripts/make_llama_cpp_golden.py     needs the extras `golden` and `bench`; the result is committed

The file holds one matrix or more of every type below, all chosen with an importance of inputs as llama.cpp's own files
of few bits are; `gguf` reads these types but writes none of them. llama-cpp.npz has `tokens` and `logits`.
"""

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from llama_cpp import Llama, llama_cpp
from make_golden import GOLDEN, TinyModel, vocabulary, write_model

NUM_TOKENS = 24
SOURCE = TinyModel(
    "quantised by llama.cpp",
    "llama",
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    mlp_size=64,
    rope_theta=10000.0,
    hidden_size=256,
    types={},
)

TYPES = {
    "token_embd": Type.Q3_K,
    "blk.0.attn_q": Type.Q2_K,
    "blk.0.attn_k": Type.Q3_K,
    "blk.0.attn_v": Type.IQ4_XS,
    "blk.0.attn_output": Type.IQ4_NL,
    "blk.0.ffn_gate": Type.IQ3_S,
    "blk.0.ffn_up": Type.IQ3_XXS,
    "blk.0.ffn_down": Type.MXFP4,
    "blk.1.attn_q": Type.IQ2_S,
    "blk.1.attn_k": Type.IQ2_XS,
    "blk.1.attn_v": Type.Q4_K,
    "blk.1.attn_output": Type.IQ4_NL,
    "blk.1.ffn_gate": Type.IQ2_XS,
    "blk.1.ffn_up": Type.IQ2_XXS,
    "blk.1.ffn_down": Type.MXFP4,
}
"""Rows of 256 values, one block of the types of 256, but for attn_output and ffn_down: of 64, two blocks of 32."""


def main() -> None:
    rng = np.random.default_rng(0)
    tokens = vocabulary(SOURCE.architecture)
    path = GOLDEN / "llama-cpp.gguf"
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.gguf"
        write_model(source, SOURCE, rng, tokens)
        quantise(source, path, rng)
    found = {tensor.name: tensor.tensor_type for tensor in GGUFReader(path).tensors}
    wrong = [name for name, wanted in TYPES.items() if found[f"{name}.weight"] != wanted]
    if wrong:
        raise SystemExit(f"llama.cpp chose other types for {', '.join(wrong)}")
    token_ids = rng.integers(0, len(tokens), NUM_TOKENS)
    logits = logits_of(path, token_ids.tolist())
    np.savez_compressed(path.with_suffix(".npz"), tokens_0=token_ids.astype(np.int32), logits_0=logits)
    print(f"{path.name}: {path.stat().st_size} bytes, logits within +-{np.abs(logits).max():.1f}")


def quantise(source: Path, destination: Path, rng: np.random.Generator) -> None:
    """Have llama.cpp write every matrix in its type of `TYPES`."""
    overrides = (llama_cpp.llama_model_tensor_override * (len(TYPES) + 1))()
    for override, (name, wanted) in zip(overrides, TYPES.items(), strict=False):
        override.pattern, override.type = f"^{name}\\.weight$".replace("blk.", "blk\\.").encode(), int(wanted)
    matrices = [tensor for tensor in GGUFReader(source).tensors if len(tensor.shape) == 2]
    importance = (llama_cpp.llama_model_imatrix_data * (len(matrices) + 1))()
    kept = [np.square(rng.normal(0, 1, int(tensor.shape[0]))).astype(np.float32) for tensor in matrices]
    for entry, tensor, values in zip(importance, matrices, kept, strict=False):
        entry.name, entry.size = tensor.name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.nthread, settings.ftype = 1, llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K
    settings.imatrix = ctypes.cast(importance, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    settings.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(llama_cpp.llama_model_tensor_override))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(destination).encode(), ctypes.byref(settings)) != 0:
        raise SystemExit("llama.cpp could not quantise")


def logits_of(path: Path, token_ids: Sequence[int]) -> np.ndarray:
    """What llama.cpp computes after each token, with a cache of float32: (tokens, vocab) float32."""
    float32 = int(Type.F32)
    model = Llama(str(path), n_ctx=64, logits_all=True, n_threads=1, type_k=float32, type_v=float32, verbose=False)
    model.eval(token_ids)
    logits = np.array(model.scores[: len(token_ids)], np.float32)
    model.close()
    return logits


if __name__ == "__main__":
    main()
