"""The kernel tests once more, on an extension built with the address and undefined-behaviour sanitizers."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from building import built, run

import abaci

KERNEL_TESTS = (
    "test_matmul.py",
    "test_elementwise.py",
    "test_sampling_native.py",
    "test_native.py",
    "test_choosing.py",
)


def library(name: str) -> str:
    """Where the compiler has a library."""
    return run("c++", f"-print-file-name={name}").strip()


@pytest.fixture(scope="module")
def sanitized_extension() -> Path:
    options = ["-DABACI_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O0", f"-DPython_EXECUTABLE={sys.executable}"]
    (extension,) = built("sanitize", *options).glob("_native*.so")
    return extension


@pytest.mark.timeout(900)
def test_kernel_tests_pass_under_the_sanitizers(sanitized_extension: Path, tmp_path: Path) -> None:
    package = tmp_path / "abaci"
    shutil.copytree(Path(abaci.__file__).parent, package, ignore=shutil.ignore_patterns("_native*.so", "__pycache__"))
    shutil.copy(sanitized_extension, package / "kernels")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        # Python itself loads neither; the sanitizer must come first and see the throwing of exceptions.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "ABACI_TEST_REDUCED": "1",
    }
    proof = "import abaci.kernels._native as native; print(native.__file__)"
    loaded = run(sys.executable, "-c", proof, environment=environment).strip()
    assert loaded == str(package / "kernels" / sanitized_extension.name)
    tests = [Path(__file__).parent / name for name in KERNEL_TESTS]
    printed = run(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=no", *tests, environment=environment
    )
    assert "runtime error" not in printed
    assert "AddressSanitizer" not in printed
    assert " passed" in printed
