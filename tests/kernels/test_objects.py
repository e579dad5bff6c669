"""The build's own check that a kernel's object cannot lend code compiled for one processor to another."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "cmake" / "check_kernel_objects.cmake"

CLEAN = "namespace { int twice(int x) { return 2 * x; } } int (*kernel())(int) { return twice; }"
WEAK = "inline int twice(int x) { return 2 * x; } int (*kernel())(int) { return twice; }"
UNIQUE = "template <class> struct Once { static inline int x = 3; }; int* kernel() { return &Once<int>::x; }"
ALLOCATES = "int* kernel() { return new int[9]; }"
THROWS = "void kernel() { throw 3; }"
STANDARD_LIBRARY = "#include <stdexcept>\nvoid kernel(const std::exception& e) { std::runtime_error copy(e.what()); }"


def check(*objects: str) -> subprocess.CompletedProcess[str]:
    arguments = [f"-DNM={shutil.which('nm')}", f"-DOBJECTS={';'.join(objects)}", "-P", CHECK]
    return subprocess.run(
        [Path(sys.executable).parent / "cmake", *arguments], capture_output=True, text=True, check=False
    )


def check_source(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile the source and run the check on its object, between two clean ones."""
    objects = []
    for name, text in (("first", CLEAN), ("second", source), ("third", CLEAN)):
        (folder / f"{name}.cpp").write_text(text)
        objects.append(str(folder / f"{name}.o"))
        subprocess.run(["c++", "-std=c++20", "-O1", "-c", folder / f"{name}.cpp", "-o", objects[-1]], check=True)
    return check(*objects)


def test_objects_that_keep_to_themselves_pass(tmp_path: Path) -> None:
    result = check_source(CLEAN, tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("source", [WEAK, UNIQUE, ALLOCATES, THROWS, STANDARD_LIBRARY])
def test_shared_symbols_and_the_runtime_are_found(source: str, tmp_path: Path) -> None:
    result = check_source(source, tmp_path)
    assert result.returncode != 0
    assert "second.o has weak symbols or uses the C++ runtime" in " ".join(result.stderr.split())


def test_an_object_that_cannot_be_read_fails(tmp_path: Path) -> None:
    (tmp_path / "not-an-object.o").write_text("text")
    assert check(str(tmp_path / "not-an-object.o")).returncode != 0
