"""AWQ, GPTQ, compressed-tensors, FP8 and MXFP4 folders: the values are those that the formats' definitions give.

What is packed here is packed value by value, from the definitions; no code is shared with the reader.
"""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import golden_folder
from numpy.typing import NDArray
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.integer_blocks import float8_e4m3
from abaci.formats.safetensors import SafetensorsFile, write_safetensors
from abaci.kernels.dequantise import dequantise
from abaci.tensor import WeightFormat

MODULE = "model.layers.0.mlp.down_proj"
TENSOR = "blk.0.ffn_down.weight"
ROWS, COLUMNS = 32, 256
AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)

Parts = dict[str, tuple[str, NDArray[Any]]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def folder_with(tmp_path: Path, parts: Parts, quantization_config: dict[str, Any] | None) -> Path:
    """A golden folder with an MLP of 256 values, one of whose weights is stored in parts."""
    folder = Path(shutil.copytree(golden_folder("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = COLUMNS
    if quantization_config is not None:
        config["quantization_config"] = quantization_config
    (folder / "config.json").write_text(json.dumps(config))
    file = SafetensorsFile.open(folder / "model.safetensors")
    tensors: dict[str, Any] = {
        name: (stored.dtype, stored.shape, [bytes(file.data(stored))]) for name, stored in file.tensors.items()
    }
    file.close()
    for layer in range(2):
        for part in ("gate_proj", "up_proj"):
            tensors[f"model.layers.{layer}.mlp.{part}.weight"] = ("BF16", (COLUMNS, 32), [bytes(COLUMNS * 64)])
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"] = ("BF16", (32, COLUMNS), [bytes(COLUMNS * 64)])
    del tensors[f"{MODULE}.weight"]
    for name, (dtype, array) in parts.items():
        tensors[f"{MODULE}.{name}"] = (dtype, array.shape, [np.ascontiguousarray(array).tobytes()])
    write_safetensors(folder / "model.safetensors", [(name, *entry) for name, entry in tensors.items()])
    return folder


def read(folder: Path) -> tuple[WeightFormat, NDArray[np.float32], tuple[str, ...]]:
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        info = checkpoint.tensors[TENSOR]
        assert info.shape == (ROWS, COLUMNS)
        assert not checkpoint.is_stored(info)
        data = checkpoint.data(info)
        assert data.nbytes == info.num_bytes
        checkpoint.release(info)
        return info.format, dequantise(info.format, info.shape, data), checkpoint.notes


def words(
    codes: NDArray[Any], bits: int, axis: int, place: Callable[[int], int] = lambda nibble: nibble
) -> NDArray[np.int32]:
    """Codes in 32-bit words along an axis: nibble i of a word holds code `place(i)` of its eight (or four)."""
    per_word = 32 // bits
    moved = np.moveaxis(codes.astype(object), axis, -1)
    packed = np.zeros((*moved.shape[:-1], moved.shape[-1] // per_word), np.uint32)
    for index in np.ndindex(packed.shape):
        word = 0
        for nibble in range(per_word):
            word |= int(moved[index[:-1]][index[-1] * per_word + place(nibble)]) << (bits * nibble)
        packed[index] = word
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def integers(rng: np.random.Generator, groups: int, bits: int = 4) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Codes (rows, columns), float16 scales and zero points (rows, groups)."""
    top = 1 << bits
    codes = rng.integers(0, top, (ROWS, COLUMNS))
    scales = rng.uniform(0.001, 0.01, (ROWS, groups)).astype(np.float16)
    return codes, scales, rng.integers(0, top, (ROWS, groups))


def values(
    codes: NDArray[Any], scales: NDArray[Any], zeros: NDArray[Any], group_of: Callable[[int], int] | None = None
) -> NDArray[np.float32]:
    size = codes.shape[1] // scales.shape[1]
    result = np.empty(codes.shape, np.float32)
    for row, column in np.ndindex(codes.shape):
        group = column // size if group_of is None else group_of(column)
        exact = (int(codes[row, column]) - int(zeros[row, group])) * Fraction(float(scales[row, group]))
        result[row, column] = float(exact)
    return result


@pytest.mark.parametrize(
    ("groups", "expected"), [(2, WeightFormat.INT4_128), (8, WeightFormat.INT4), (1, WeightFormat.INT4_128)]
)
def test_awq(tmp_path: Path, rng: np.random.Generator, groups: int, expected: WeightFormat) -> None:
    codes, scales, zeros = integers(rng, groups)
    parts: Parts = {
        "qweight": ("I32", words(codes.T, 4, 1, AWQ_NIBBLES.__getitem__)),
        "qzeros": ("I32", words(zeros.T, 4, 1, AWQ_NIBBLES.__getitem__)),
        "scales": ("F16", scales.T),
    }
    found, result, notes = read(folder_with(tmp_path, parts, {"quant_method": "awq", "bits": 4, "version": "gemm"}))
    assert found is expected
    np.testing.assert_array_equal(result, values(codes, scales, zeros))
    assert notes == ()


def gptq_parts(codes: NDArray[Any], scales: NDArray[Any], stored_zeros: NDArray[Any], bits: int) -> Parts:
    return {
        "qweight": ("I32", words(codes.T, bits, 0)),
        "qzeros": ("I32", words(stored_zeros.T, bits, 1)),
        "scales": ("F16", scales.T),
        "g_idx": ("I32", (np.arange(COLUMNS) // (COLUMNS // scales.shape[1])).astype(np.int32)),
    }


@pytest.mark.parametrize(("layout", "offset"), [("gptq", 1), ("gptq_v2", 0)])
def test_gptq(tmp_path: Path, rng: np.random.Generator, layout: str, offset: int) -> None:
    codes, scales, zeros = integers(rng, 4)
    parts = gptq_parts(codes, scales, (zeros - offset) % 16, 4)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "checkpoint_format": layout}
    found, result, notes = read(folder_with(tmp_path, parts, config))
    assert found is WeightFormat.INT4
    np.testing.assert_array_equal(result, values(codes, scales, zeros))
    assert notes == ()


def test_gptq_of_eight_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, _ = integers(rng, 2, bits=8)
    zeros = np.full((ROWS, 2), 128)
    parts = gptq_parts(codes, scales, zeros - 1, 8)
    found, result, _ = read(folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": 8}))
    assert found is WeightFormat.INT8
    np.testing.assert_array_equal(result, values(codes, scales, zeros))


def test_gptq_with_act_order_keeps_its_values(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros = integers(rng, 4)
    group_of_column = rng.permutation(np.arange(COLUMNS) // 64).astype(np.int32)
    parts = gptq_parts(codes, scales, (zeros - 1) % 16, 4) | {"g_idx": ("I32", group_of_column)}
    found, result, notes = read(folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": 4, "desc_act": True}))
    assert found is WeightFormat.F32
    np.testing.assert_array_equal(result, values(codes, scales, zeros, lambda column: int(group_of_column[column])))
    assert any("act-order" in note and note.startswith("1 weights") for note in notes)


def read_sorted(folder: Path) -> tuple[WeightFormat, NDArray[np.float32], tuple[str, ...]]:
    """As the engine asks for it, with the columns put back by the order beside it."""
    with HuggingFaceCheckpoint.open(folder, sorts_columns=True) as checkpoint:
        info = checkpoint.tensors[TENSOR]
        stored = dequantise(info.format, info.shape, checkpoint.data(info))
        order_info = checkpoint.tensors.get("blk.0.ffn_down.order")
        if order_info is None:
            return info.format, stored, checkpoint.notes
        assert (order_info.format, order_info.shape) == (WeightFormat.F32, (COLUMNS,))
        order = np.frombuffer(checkpoint.data(order_info), np.float32).astype(int)
        result = np.empty_like(stored)
        result[:, order] = stored
        return info.format, result, checkpoint.notes


@pytest.mark.parametrize(("bits", "expected"), [(4, WeightFormat.INT4), (8, WeightFormat.INT8)])
def test_gptq_with_act_order_stays_small_in_an_order_of_its_own(
    tmp_path: Path, rng: np.random.Generator, bits: int, expected: WeightFormat
) -> None:
    codes, scales, zeros = integers(rng, 4, bits)
    zeros = zeros if bits == 4 else np.full_like(zeros, 128)
    group_of_column = rng.permutation(np.arange(COLUMNS) // 64).astype(np.int32)
    parts = gptq_parts(codes, scales, (zeros - 1) % (1 << bits), bits) | {"g_idx": ("I32", group_of_column)}
    folder = folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": bits, "desc_act": True})
    found, result, notes = read_sorted(folder)
    assert found is expected
    np.testing.assert_array_equal(result, values(codes, scales, zeros, lambda column: int(group_of_column[column])))
    assert notes == ()


def test_a_folder_with_act_order_is_shown_as_it_is_run(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros = integers(rng, 4)
    group_of_column = rng.permutation(np.arange(COLUMNS) // 64).astype(np.int32)
    parts = gptq_parts(codes, scales, zeros, 4) | {"g_idx": ("I32", group_of_column)}
    folder = folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": 4, "desc_act": True})
    shown = json.loads(CliRunner().invoke(app, ["show", str(folder), "--json"]).stdout)
    assert shown["tensors"]["INT4"]["num_tensors"] == 1
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert shown["num_parameters"] == sum(np.prod(info.shape) for info in checkpoint.tensors.values())
    assert shown["notes"] == []


def test_groups_of_different_sizes_are_kept_in_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, scales, zeros = integers(rng, 4)
    group_of_column = rng.permutation(np.arange(COLUMNS) // 64).astype(np.int32)
    group_of_column[np.flatnonzero(group_of_column == 3)[0]] = 0
    parts = gptq_parts(codes, scales, (zeros - 1) % 16, 4) | {"g_idx": ("I32", group_of_column)}
    found, result, notes = read_sorted(folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": 4}))
    assert found is WeightFormat.F32
    np.testing.assert_array_equal(result, values(codes, scales, zeros, lambda column: int(group_of_column[column])))
    assert any("different sizes" in note for note in notes)


def pack_quantized(bits: int, **weights: object) -> dict[str, Any]:
    scheme = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def bfloat16(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    """By cutting; the values are chosen so that nothing is lost."""
    return (floats.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("with_zeros", [False, True])
def test_compressed_tensors_of_four_bits(tmp_path: Path, rng: np.random.Generator, with_zeros: bool) -> None:
    codes, _, zeros = integers(rng, 2)
    if not with_zeros:
        zeros = np.full_like(zeros, 8)
    scales = (rng.integers(128, 256, zeros.shape) / 2**15).astype(np.float32)
    parts: Parts = {
        "weight_packed": ("I32", words(codes, 4, 1)),
        "weight_scale": ("BF16", bfloat16(scales)),
        "weight_shape": ("I64", np.array([ROWS, COLUMNS])),
    }
    if with_zeros:
        parts["weight_zero_point"] = ("I32", words(zeros, 4, 0))
    found, result, notes = read(folder_with(tmp_path, parts, pack_quantized(4)))
    assert found is WeightFormat.INT4_128
    np.testing.assert_array_equal(result, values(codes, scales, zeros))
    assert notes == ()


def test_scales_that_no_block_holds_are_kept_in_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    codes, _, _ = integers(rng, 2)
    scales = rng.uniform(0.001, 0.01, (ROWS, 2)).astype(np.float32)
    parts: Parts = {"weight_packed": ("I32", words(codes, 4, 1)), "weight_scale": ("F32", scales)}
    found, result, notes = read(folder_with(tmp_path, parts, pack_quantized(4)))
    assert found is WeightFormat.F32
    np.testing.assert_allclose(result, values(codes, scales, np.full((ROWS, 2), 8)), rtol=1e-7)
    assert any("kept as float32" in note for note in notes)


def test_compressed_tensors_of_eight_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    codes = rng.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, (ROWS, 1)).astype(np.float32)
    config = pack_quantized(8, strategy="channel") | {"format": "int-quantized"}
    parts: Parts = {"weight": ("I8", codes), "weight_scale": ("F32", scales)}
    found, result, _ = read(folder_with(tmp_path, parts, config))
    assert found is WeightFormat.INT8
    np.testing.assert_array_equal(result, codes.astype(np.float32) * scales)


def test_packed_eight_bits_are_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    codes = rng.integers(0, 256, (ROWS, COLUMNS))
    scales = rng.uniform(0.001, 0.01, (ROWS, 1)).astype(np.float32)
    parts: Parts = {"weight_packed": ("I32", words(codes, 8, 1)), "weight_scale": ("F32", scales)}
    found, result, _ = read(folder_with(tmp_path, parts, pack_quantized(8, strategy="channel")))
    assert found is WeightFormat.INT8
    np.testing.assert_array_equal(result, (codes - 128).astype(np.float32) * scales)


def e4m3(code: int) -> Fraction | None:
    """One FP8 number, from its definition; None is not a number."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return None
    size = (
        Fraction(mantissa, 8) * Fraction(1, 64) if exponent == 0 else (1 + Fraction(mantissa, 8)) * _two(exponent - 7)
    )
    return -size if sign else size


def _two(power: int) -> Fraction:
    return Fraction(2) ** power


def test_every_number_of_float8() -> None:
    table = float8_e4m3(np.arange(256, dtype=np.uint8))
    assert table[0x7E] == 448
    assert table[0x38] == 1
    for code in range(256):
        expected = e4m3(code)
        assert np.isnan(table[code]) if expected is None else Fraction(float(table[code])) == expected


@pytest.mark.parametrize(
    ("scale_shape", "name"), [((1, 2), "weight_scale_inv"), ((ROWS, 1), "weight_scale"), ((), "weight_scale")]
)
def test_float8_is_rounded_once_to_bfloat16(
    tmp_path: Path, rng: np.random.Generator, scale_shape: tuple[int, ...], name: str
) -> None:
    codes = rng.integers(0, 0x7F, (ROWS, COLUMNS)).astype(np.uint8) | rng.choice([0, 128], (ROWS, COLUMNS)).astype(
        np.uint8
    )
    scales = np.asarray(rng.uniform(0.001, 0.01, scale_shape), np.float32)
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    parts: Parts = {"weight": ("F8_E4M3", codes), name: ("F32", scales)}
    found, result, notes = read(folder_with(tmp_path, parts, config))
    assert found is WeightFormat.BF16
    spread = np.repeat(scales, 128, axis=1) if scale_shape == (1, 2) else scales
    exact = np.array([float(e4m3(int(code)) or 0) for code in codes.flat], np.float32).reshape(codes.shape) * spread
    error = np.abs(result - exact)
    assert (error <= np.abs(exact) / 256).all()
    assert (error > 0).any()
    assert any("bfloat16" in note for note in notes)


CACHE_SCALES = {
    "k_scale": np.ones(1, np.float32),
    "attn.v_scale": np.ones((), np.float32),
    "k_proj.k_scale": np.ones(1, np.float32),
    "v_proj.output_scale": np.ones(1, np.float32),
    "k_zero_point": np.zeros(1, np.float32),
}


def add_to_attention(folder: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
    file = SafetensorsFile.open(folder / "model.safetensors")
    tensors = [(n, t.dtype, t.shape, [bytes(file.data(t))]) for n, t in file.tensors.items()]
    file.close()
    for name, array in arrays.items():
        tensors.append((f"model.layers.1.self_attn.{name}", "F32", array.shape, [array.tobytes()]))
    write_safetensors(folder / "model.safetensors", tensors)


def test_scales_of_the_originals_cache_are_left_out(tmp_path: Path) -> None:
    config, parts = packed_zeros({"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"}})
    folder = folder_with(tmp_path, parts, config)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        names = list(checkpoint.tensors)
    add_to_attention(folder, CACHE_SCALES)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert list(checkpoint.tensors) == names
        (note,) = checkpoint.notes
    assert "8-bit cache are left out" in note


@pytest.mark.parametrize("name", ["o_proj.output_scale", "k_proj.scale", "q_proj.k_scale", "k_scaled"])
def test_other_scales_are_refused(tmp_path: Path, name: str) -> None:
    config, parts = packed_zeros({})
    folder = folder_with(tmp_path, parts, config)
    add_to_attention(folder, {name: np.ones(1, np.float32)})
    with pytest.raises(UnsupportedModelError, match=name):
        HuggingFaceCheckpoint.open(folder)


def float8_parts(rng: np.random.Generator, scale_shape: tuple[int, ...]) -> tuple[Parts, NDArray[Any], NDArray[Any]]:
    """Scales are powers of two, so that no product is rounded. Also values without scales, and the scales."""
    codes = rng.integers(0, 0x7F, (ROWS, COLUMNS)).astype(np.uint8)
    scales = np.exp2(rng.integers(-8, 0, scale_shape)).astype(np.float32)
    exact = np.array([float(e4m3(int(code)) or 0) for code in codes.flat], np.float32).reshape(codes.shape)
    return {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", scales)}, exact, scales


def float8_blocks(block: object) -> dict[str, Any]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}


def float8_groups(block: object) -> dict[str, Any]:
    config = pack_quantized(8, type="float", strategy="block", block_structure=block)
    return config | {"format": "float-quantized"}


@pytest.mark.parametrize(
    "block", [(16, 16), (24, 96), (1, 128), (32, 100), (128, 128), (16, 1000), (128, 32), (1000, 1000), (16, 256)]
)
@pytest.mark.parametrize("config_of", [float8_blocks, float8_groups])
def test_float8_blocks_are_as_large_as_the_settings_say(
    tmp_path: Path, rng: np.random.Generator, block: tuple[int, int], config_of: Callable[[object], dict[str, Any]]
) -> None:
    shape = (-(-ROWS // block[0]), -(-COLUMNS // block[1]))
    parts, exact, scales = float8_parts(rng, shape)
    _, result, _ = read(folder_with(tmp_path, parts, config_of(list(block))))
    row_blocks, column_blocks = np.arange(ROWS) // block[0], np.arange(COLUMNS) // block[1]
    np.testing.assert_array_equal(result, exact * scales[row_blocks][:, column_blocks])


def test_older_words_for_float8_blocks(tmp_path: Path, rng: np.random.Generator) -> None:
    parts, exact, scales = float8_parts(rng, (2, 4))
    _, result, _ = read(folder_with(tmp_path, parts, float8_groups("16x64")))
    np.testing.assert_array_equal(result, exact * np.repeat(np.repeat(scales, 16, 0), 64, 1))


@pytest.mark.parametrize("shape", [(1, 2), (2, 4), (ROWS, 2), (2,), (COLUMNS, 1), (1, 4, 1)])
def test_float8_scales_that_do_not_fit_are_refused(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    parts, _, _ = float8_parts(rng, shape)
    with pytest.raises(FileFormatError, match="in blocks of 128 by 64"):
        HuggingFaceCheckpoint.open(folder_with(tmp_path, parts, float8_blocks([128, 64])))


@pytest.mark.parametrize("block", [[128], [0, 128], [128, 1.5], "128", "0x128", {"rows": 1}, 128])
def test_float8_blocks_of_no_size_are_refused(tmp_path: Path, rng: np.random.Generator, block: object) -> None:
    parts, _, _ = float8_parts(rng, (1, 2))
    with pytest.raises(FileFormatError, match="weight_block_size"):
        HuggingFaceCheckpoint.open(folder_with(tmp_path, parts, float8_blocks(block)))


def test_float8_blocks_of_several_sizes_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    config = float8_groups([128, 128])
    config["config_groups"]["group_1"] = float8_groups([64, 64])["config_groups"]["group_0"]
    with pytest.raises(UnsupportedModelError, match="several sizes"):
        HuggingFaceCheckpoint.open(folder_with(tmp_path, float8_parts(rng, (1, 2))[0], config))


def test_mxfp4_experts(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = Path(shutil.copytree(golden_folder("gpt_oss"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    file = SafetensorsFile.open(folder / "model.safetensors")
    tensors: dict[str, Any] = {n: (t.dtype, t.shape, [bytes(file.data(t))]) for n, t in file.tensors.items()}
    file.close()
    experts = "model.layers.0.mlp.experts"
    num_experts, inner, hidden = config["num_local_experts"], config["intermediate_size"], config["hidden_size"]
    expected: dict[str, NDArray[np.float32]] = {}
    for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        blocks = rng.integers(0, 256, (num_experts, rows, columns // 32, 16)).astype(np.uint8)
        exponents = rng.integers(118, 126, blocks.shape[:3]).astype(np.uint8)
        del tensors[f"{experts}.{name}"]
        tensors[f"{experts}.{name}_blocks"] = ("U8", blocks.shape, [blocks.tobytes()])
        tensors[f"{experts}.{name}_scales"] = ("U8", exponents.shape, [exponents.tobytes()])
        expected[name] = mxfp4_values(blocks, exponents)
    write_safetensors(folder / "model.safetensors", [(name, *entry) for name, entry in tensors.items()])
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        found = {
            name: dequantise(info.format, info.shape, checkpoint.data(info))
            for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
            if (info := checkpoint.tensors[f"blk.0.{name}.weight"]).format is WeightFormat.MXFP4
        }
    np.testing.assert_array_equal(found["ffn_gate_exps"], expected["gate_up_proj"][:, ::2])
    np.testing.assert_array_equal(found["ffn_up_exps"], expected["gate_up_proj"][:, 1::2])
    np.testing.assert_array_equal(found["ffn_down_exps"], expected["down_proj"])


def mxfp4_values(blocks: NDArray[np.uint8], exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Two neighbouring values a byte, low half first: E2M1 times a power of two for each 32."""
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    result = np.empty((*blocks.shape[:3], 32), np.float32)
    for index in np.ndindex(blocks.shape):
        for half in range(2):
            code = int(blocks[index]) >> (4 * half) & 15
            size = sizes[code & 7] * 2.0 ** (int(exponents[index[:3]]) - 127)
            result[(*index[:3], 2 * index[3] + half)] = -size if code & 8 else size
    return result.reshape(*blocks.shape[:2], -1)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes"),
        ({"load_in_8bit": False}, "None"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": 4}, "'4'"),
        ({}, "None"),
        ({"quant_method": "awq", "bits": 3}, "3 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {}}, "marlin-24"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": []}, "bits"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "e5m2"),
        (pack_quantized(4) | {"transform_config": {"config_groups": {"R4": {"type": "hadamard"}}}}, "transform_config"),
        (pack_quantized(4) | {"transform_config": [1]}, "transform_config"),
        (pack_quantized(4) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        (pack_quantized(4) | {"sparsity_config": "2:4"}, "2:4"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, config: dict[str, Any], complaint: str) -> None:
    parts: Parts = {"weight": ("BF16", np.zeros((ROWS, COLUMNS), np.uint16))}
    with pytest.raises(UnsupportedModelError, match=complaint) as caught:
        HuggingFaceCheckpoint.open(folder_with(tmp_path, parts, config))
    assert caught.value.hint


def packed_zeros(config: dict[str, Any]) -> tuple[dict[str, Any], Parts]:
    codes = np.full((ROWS, COLUMNS), 8)
    parts: Parts = {
        "weight_packed": ("I32", words(codes, 4, 1)),
        "weight_scale": ("F16", np.ones((ROWS, 2), np.float16)),
    }
    return pack_quantized(4) | config, parts


@pytest.mark.parametrize("config", [{"transform_config": {}}, {"transform_config": {"config_groups": {}}}])
@pytest.mark.parametrize("sparsity", [None, {}, {"format": "dense", "sparsity_structure": "unstructured"}])
def test_empty_settings_are_no_cause_to_refuse(tmp_path: Path, config: dict[str, Any], sparsity: object) -> None:
    whole = {"kv_cache_scheme": None, "ignore": ["lm_head"], "version": "0.9", "quantization_status": "compressed"}
    settings, parts = packed_zeros({**config, **whole, "sparsity_config": sparsity})
    _, _, notes = read(folder_with(tmp_path, parts, settings))
    assert notes == ()


def test_settings_of_quantisation_that_are_not_known_are_named(tmp_path: Path) -> None:
    config, parts = packed_zeros({"rotation": "r", "damp_percent": 0.1})
    group = config["config_groups"]["group_0"]
    group["weights"]["codebook"], group["when"] = "c", 1
    _, _, notes = read(folder_with(tmp_path, parts, config))
    (note,) = notes
    assert note.endswith(": config_groups.weights.codebook, config_groups.when, damp_percent, rotation")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_each_method_has_settings_of_its_own(tmp_path: Path, method: str) -> None:
    parts: Parts = {"weight": ("BF16", np.zeros((ROWS, COLUMNS), np.uint16))}
    config = {"quant_method": method, "bits": 4, "group_size": 64, "config_groups": {}, "new": None}
    with HuggingFaceCheckpoint.open(folder_with(tmp_path, parts, config)) as checkpoint:
        assert any(note.endswith(": config_groups, new") for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"qzeros": None}, "qzeros is missing"),
        ({"scales": None}, "scales is missing"),
        ({"scales": ("F16", np.zeros((3, ROWS), np.float16))}, "3"),
        ({"scales": ("F16", np.zeros((0, ROWS), np.float16))}, "not a matrix"),
        ({"scales": ("I32", np.zeros((4, ROWS), np.int32))}, "I32"),
        ({"qweight": ("I32", np.zeros(COLUMNS // 8 * ROWS, np.int32))}, "not a matrix"),
        ({"qweight": ("F32", np.zeros((COLUMNS // 8, ROWS), np.float32))}, None),
        ({"g_idx": ("I32", np.full(COLUMNS, 4, np.int32))}, "not among the 4"),
        ({"g_idx": ("I32", np.full(COLUMNS, -1, np.int32))}, "not among the 4"),
        ({"g_idx": ("I32", np.zeros(COLUMNS - 8, np.int32))}, "expected"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, Any], complaint: str | None
) -> None:
    codes, scales, zeros = integers(rng, 4)
    parts = gptq_parts(codes, scales, zeros, 4)
    for name, part in change.items():
        if part is None:
            del parts[name]
        else:
            parts[name] = part
    folder = folder_with(tmp_path, parts, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(FileFormatError, match=complaint):
        read(folder)
