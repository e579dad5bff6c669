"""Exponentials, norms and gates: how near the truth, and the same bytes on every target at every length and address."""

import os

import numpy as np
import pytest
from numpy.typing import NDArray

from abaci.kernels import _native, native

Floats = NDArray[np.float32]

TARGETS = native.targets()
IS_REDUCED = os.environ.get("ABACI_TEST_REDUCED") == "1"
"""Set where the same tests run slowly, under sanitizers."""
NUM_EXPONENTS = 20_000 if IS_REDUCED else 2_000_000
LENGTHS = range(1, 51)
SILU, GELU_TANH = 0, 1
EXTREME = np.array(
    [0, -0.0, 1e-40, -1e-40, 2.0**-126, 1e-30, 87.2, 87.4, 88, 88.1, 89, 103, 1e4, 1e30, 3.4e38, np.inf], np.float32
)
EXTREME = np.concatenate([EXTREME, -EXTREME])


def misaligned(values: Floats, offset: int) -> Floats:
    """A copy whose first element lies `offset` floats past a 64-byte boundary."""
    memory = np.empty(len(values) + 32, np.float32)
    first = (-memory.ctypes.data // 4) % 16 + offset
    copy = memory[first : first + len(values)]
    copy[:] = values
    assert copy.ctypes.data % 64 == 4 * offset % 64
    return copy


def error_in_ulp(actual: Floats, expected: NDArray[np.float64]) -> float:
    ulp = np.spacing(np.maximum(np.abs(expected).astype(np.float32), np.float32(2.0**-126)))
    return float((np.abs(actual - expected) / ulp).max())


@pytest.mark.parametrize("target", TARGETS)
def test_exp_is_within_2_ulp(target: str) -> None:
    x = np.linspace(-87.3, 88.0, NUM_EXPONENTS, dtype=np.float32)
    x = np.concatenate([x, np.ldexp(np.float32(1), np.arange(-126, 5)), -np.ldexp(np.float32(1), np.arange(-126, 7))])
    x = np.clip(x, np.float32(-87.3), np.float32(88))
    assert error_in_ulp(_native.Kernels(target).exp(x), np.exp(x.astype(np.float64))) < 2


@pytest.mark.parametrize("target", TARGETS)
def test_exp_at_the_ends(target: str) -> None:
    exp = _native.Kernels(target).exp
    below, above = np.nextafter(np.float32(-87.3), np.float32(-88)), np.float32(88)
    x = np.array([below, -100, -3e38, -np.inf, 0, -0.0, 1e-40], np.float32)
    assert exp(x).tolist() == [0, 0, 0, 0, 1, 1, 1]
    x = np.array([above, 89, 3e38, np.inf], np.float32)
    assert exp(x).tolist() == [exp(x)[0]] * 4
    assert np.isfinite(exp(x)).all()


def test_exp_is_the_same_everywhere() -> None:
    random = np.random.default_rng(1)
    x = np.concatenate([EXTREME, random.uniform(-90, 90, 5000), random.normal(size=5000)]).astype(np.float32)
    whole = _native.Kernels(TARGETS[0]).exp(x)
    for target in TARGETS:
        kernels = _native.Kernels(target)
        assert kernels.exp(x).tobytes() == whole.tobytes(), target
        for length in LENGTHS:
            begin = 7 * length
            part = kernels.exp(misaligned(x[begin : begin + length], length % 16))
            assert part.tobytes() == whole[begin : begin + length].tobytes(), (target, length)


def rows_of_every_kind(length: int, random: np.random.Generator) -> list[Floats]:
    usual = random.normal(size=length)
    return [
        row.astype(np.float32)
        for row in (usual, 1e15 * usual, 1e-15 * usual, 1e-40 * usual, 0 * usual, np.resize([0.0, 1e18], length))
    ]


@pytest.mark.parametrize("length", LENGTHS)
def test_rms_norm(length: int) -> None:
    random = np.random.default_rng(length)
    weight = random.normal(size=length).astype(np.float32)
    for x in rows_of_every_kind(length, random):
        expected = _native.Kernels(TARGETS[0]).rms_norm(x, weight, 1e-6)
        exact = x / np.sqrt(np.mean(x.astype(np.float64) ** 2) + 1e-6) * weight
        np.testing.assert_allclose(expected, exact, rtol=1e-6, atol=1e-36)
        for target in TARGETS:
            actual = _native.Kernels(target).rms_norm(misaligned(x, 3), misaligned(weight, 7), 1e-6)
            assert actual.tobytes() == expected.tobytes(), target


def exact_gate(x: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
    if kind == SILU:
        return x / (1 + np.exp(-x))
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("kind", [SILU, GELU_TANH])
@pytest.mark.parametrize("length", LENGTHS)
def test_gated(length: int, kind: int) -> None:
    random = np.random.default_rng(length)
    gate, up = (3 * random.normal(size=(2, length))).astype(np.float32)
    expected = _native.Kernels(TARGETS[0]).gated(gate, up, kind)
    np.testing.assert_allclose(expected, exact_gate(gate.astype(np.float64), kind) * up, rtol=2e-5, atol=1e-30)
    for target in TARGETS:
        actual = _native.Kernels(target).gated(misaligned(gate, 5), misaligned(up, 11), kind)
        assert actual.tobytes() == expected.tobytes(), target


@pytest.mark.parametrize("kind", [SILU, GELU_TANH])
def test_gates_of_extreme_values(kind: int) -> None:
    finite = EXTREME[np.isfinite(EXTREME)]
    ones = np.ones_like(finite)
    results = {target: _native.Kernels(target).gated(finite, ones, kind) for target in TARGETS}
    first = results[TARGETS[0]]
    assert {result.tobytes() for result in results.values()} == {first.tobytes()}
    is_large = finite > 100
    np.testing.assert_array_equal(first[is_large], finite[is_large])
    is_tiny = np.abs(finite) < 1e-30
    assert (np.abs(first[is_tiny]) <= 1e-30).all()
    # Far below zero a gate is shut, up to the least value that exp keeps.
    assert (np.abs(first[finite < -100]) <= np.abs(finite[finite < -100]) * 1e-38).all()
