"""A byte-level vocabulary of all bytes and a few special tokens: no merges, so that a byte is a token."""

from abaci.formats.tokenizer import Tokenizer

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "<|user|>"]
IM_START, IM_END, BOS, USER = range(256, 260)


def small_tokenizer(more_special=(), user_defined=()):
    """More special tokens follow those above, then tokens of their own that are text."""
    special = [*SPECIAL, *more_special]
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    characters = [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": [*characters, *special, *user_defined],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(special) + [4] * len(user_defined),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": BOS,
            "tokenizer.ggml.eos_token_id": IM_END,
        }
    )
