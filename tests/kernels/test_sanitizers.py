"""The kernel tests once more, on an extension built with the address and undefined-behaviour sanitizers.

The build is kept in build/sanitize, so that only the first run compiles all of it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import abaci

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize"
KERNEL_TESTS = ("test_matmul.py", "test_elementwise.py", "test_sampling_native.py", "test_native.py")


def run(command: list[str | Path], environment: Mapping[str, str]) -> str:
    """What the command printed; fails with it where the command fails."""
    process = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert process.returncode == 0, process.stdout[-10_000:]
    return process.stdout


def library(name: str) -> str:
    """Where the compiler has a library."""
    command = ["c++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def sanitized_extension() -> Path:
    # cmake and ninja come with the tests' own packages.
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    options = ["-DABACI_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", f"-DPython_EXECUTABLE={sys.executable}"]
    run(["cmake", "-G", "Ninja", *options, "-S", ROOT, "-B", BUILD], environment)
    run(["cmake", "--build", BUILD], environment)
    (extension,) = BUILD.glob("_native*.so")
    return extension


@pytest.mark.timeout(600)
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
    assert run([sys.executable, "-c", proof], environment).strip() == str(
        package / "kernels" / sanitized_extension.name
    )
    tests = [Path(__file__).parent / name for name in KERNEL_TESTS]
    printed = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=no", *tests], environment)
    assert "runtime error" not in printed
    assert "AddressSanitizer" not in printed
    assert " passed" in printed
