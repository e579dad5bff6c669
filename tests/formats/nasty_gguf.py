"""GGUF files that break the format, each in one way. Run as a script to write them to the folder `corpus`."""

import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
HUGE = 2**64 - 1


def string(text):
    encoded = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def entry(key, value_type, value):
    return string(key) + struct.pack("<I", value_type) + value


def array(item_type, count, items):
    return struct.pack("<IQ", item_type, count) + items


def tensor(name, dimensions, number, offset, num_dimensions=None):
    count = len(dimensions) if num_dimensions is None else num_dimensions
    return string(name) + struct.pack(f"<I{len(dimensions)}QIQ", count, *dimensions, number, offset)


def file(entries=(), tensors=(), data=b"", *, version=3, num_tensors=None, num_entries=None, alignment=32):
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(entries) if num_entries is None else num_entries,
    )
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


NAME = entry("general.name", STRING, string("x"))
SOUND = file(
    [
        entry("general.architecture", STRING, string("llama")),
        entry("llama.block_count", U32, struct.pack("<I", 1)),
        entry("llama.epsilon", F32, struct.pack("<f", 0.5)),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, string("a") + string("é"))),
        entry("tokenizer.ggml.scores", ARRAY, array(F32, 2, struct.pack("<2f", 0, -1))),
    ],
    [tensor("a", [4, 2], 0, 0), tensor("b", [32], 8, 32)],
    bytes(66),
)


def nasty_files():
    """Name of each file and its bytes."""
    two = [tensor("a", [8], 0, 0), tensor("b", [8], 0, 32)]
    return {
        "empty": b"",
        "magic_only": b"GGUF",
        "wrong_magic": b"GGML" + SOUND[4:],
        "version_0": b"GGUF" + struct.pack("<IQQ", 0, 0, 0),
        "version_1": b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(8),
        "version_4": b"GGUF" + struct.pack("<IQQ", 4, 0, 0),
        "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "huge_tensor_count": file(num_tensors=HUGE),
        "huge_metadata_count": file(num_entries=HUGE),
        "wrapping_metadata_count": file([NAME], num_entries=2**60),
        "empty_key": file([entry("", U8, b"\0")]),
        "huge_key": file([struct.pack("<Q", HUGE) + b"key"]),
        "long_key": file([entry("k" * 70000, U8, b"\0")]),
        "key_not_utf8": file([entry(b"\xff\xfe", U8, b"\0")]),
        "duplicate_key": file([NAME, NAME]),
        "unknown_value_type": file([entry("k", 13, bytes(16))]),
        "value_cut_off": file([entry("general.name", STRING, string("x" * 40))])[:70],
        "value_not_utf8": file([entry("k", STRING, string(b"\xc3("))]),
        "huge_string": file([entry("k", STRING, struct.pack("<Q", HUGE))]),
        "wrapping_string": file([entry("k", STRING, struct.pack("<Q", 2**64 - 40))]),
        "bool_2": file([entry("k", BOOL, b"\2")]),
        "bool_array_2": file([entry("k", ARRAY, array(BOOL, 3, b"\0\1\2"))]),
        "huge_array": file([entry("k", ARRAY, array(U8, HUGE, b""))]),
        "wrapping_array": file([entry("k", ARRAY, array(U64, 2**61, bytes(8)))]),
        "huge_string_array": file([entry("k", ARRAY, array(STRING, 2**61 + 1, string("x")))]),
        "string_array_not_utf8": file([entry("k", ARRAY, array(STRING, 2, string("x") + string(b"\x80")))]),
        "string_array_cut_off": file([entry("k", ARRAY, array(STRING, 3, string("x") * 2 + b"\1\0\0\0"))], alignment=1),
        "nested_array": file([entry("k", ARRAY, array(ARRAY, 1, array(U8, 1, b"\0")))]),
        "array_of_unknown": file([entry("k", ARRAY, array(99, 1, bytes(32)))]),
        "alignment_0": file([entry("general.alignment", U32, struct.pack("<I", 0))]),
        "alignment_1": file([entry("general.alignment", U32, struct.pack("<I", 1))]),
        "alignment_24": file([entry("general.alignment", U32, struct.pack("<I", 24))]),
        "alignment_text": file([entry("general.alignment", STRING, string("32"))]),
        "alignment_true": file([entry("general.alignment", BOOL, b"\1")]),
        "empty_tensor_name": file((), [tensor("", [8], 0, 0)], bytes(32)),
        "long_tensor_name": file((), [tensor("n" * 65, [8], 0, 0)], bytes(32)),
        "duplicate_tensor": file((), [tensor("a", [8], 0, 0), tensor("a", [8], 0, 32)], bytes(64)),
        "no_dimensions": file((), [tensor("a", [], 0, 0)], bytes(32)),
        "five_dimensions": file((), [tensor("a", [1, 1, 1, 1, 1], 0, 0)], bytes(32)),
        "huge_dimension_count": file((), [tensor("a", [8], 0, 0, num_dimensions=2**32 - 1)], bytes(32)),
        "zero_dimension": file((), [tensor("a", [8, 0], 0, 0)], bytes(32)),
        "huge_dimension": file((), [tensor("a", [HUGE], 0, 0)], bytes(32)),
        "wrapping_dimensions": file((), [tensor("a", [2**32, 2**32], 0, 0)], bytes(32)),
        "unknown_type": file((), [tensor("a", [8], 99, 0)], bytes(32)),
        "removed_type": file((), [tensor("a", [32], 4, 0)], bytes(32)),
        "unsupported_type": file((), [tensor("blk.0.w", [256], 19, 0)], bytes(128)),
        "broken_block": file((), [tensor("a", [33], 8, 0)], bytes(96)),
        "broken_block_rows": file((), [tensor("a", [16, 2], 2, 0)], bytes(32)),
        "unaligned_tensor": file((), [tensor("a", [8], 0, 4)], bytes(64)),
        "tensor_behind_end": file((), [tensor("a", [8], 0, 32)], bytes(32)),
        "tensor_beyond_end_by_1": file((), [tensor("a", [8], 0, 0)], bytes(31)),
        "wrapping_offset": file((), [tensor("a", [8], 0, 2**64 - 32)], bytes(32)),
        "overlapping_tensors": file((), [tensor("a", [16], 0, 0), tensor("b", [8], 0, 32)], bytes(64)),
        "same_tensor_twice": file((), [tensor("a", [8], 0, 0), tensor("b", [8], 0, 0)], bytes(32)),
        "infos_cut_off": file((), two, bytes(64))[:60],
        "data_missing": file((), two),
    }


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for name, content in nasty_files().items():
        (CORPUS / f"{name}.gguf").write_bytes(content)
