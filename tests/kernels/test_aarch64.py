"""The kernels compiled for ARM and run by an emulator: the bytes that the targets of this processor give.

Needs Debian's g++-aarch64-linux-gnu and qemu-user. Without them the tests are skipped; where ABACI_TEST_AARCH64 is 1
they fail.
"""

import os
import platform
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from building import ROOT, built, run

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
CROSS = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
LEAST_KERNELS = 64

Hashes = Mapping[str, Mapping[str, str]]
"""By target, then by kernel."""


def parse(printed: str) -> Hashes:
    hashes: dict[str, dict[str, str]] = defaultdict(dict)
    for line in printed.splitlines():
        target, kernel, value = line.split()
        assert kernel not in hashes[target]
        hashes[target][kernel] = value
    return dict(hashes)


def program_for_x86() -> Path:
    """Of the extension's own objects where it was installed from here: they are compiled, and what users run."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    installed = f"{version}-{version}-linux_x86_64"
    is_here = (ROOT / "build" / installed / "build.ninja").exists()
    folder = built(installed, target="kernel_hashes") if is_here else built("hashes-x86_64", "-DABACI_EXTENSION=OFF")
    return folder / "kernel_hashes"


@pytest.fixture(scope="module", name="program_for_arm")
def _program_for_arm() -> Path:
    if MISSING and os.environ.get("ABACI_TEST_AARCH64") != "1":
        pytest.skip(f"no {' and no '.join(MISSING)} here: apt-get install g++-aarch64-linux-gnu qemu-user")
    assert not MISSING, f"ABACI_TEST_AARCH64 is 1, but there is no {' and no '.join(MISSING)}"
    return built("hashes-aarch64", "-DABACI_EXTENSION=OFF", *CROSS) / "kernel_hashes"


@pytest.fixture(scope="module", name="arm")
def _arm(program_for_arm: Path) -> Hashes:
    return parse(run(EMULATOR, "-cpu", "max", program_for_arm))


@pytest.mark.timeout(900)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="this processor is no x86")
def test_arm_gives_the_bytes_that_x86_gives(arm: Hashes) -> None:
    x86 = parse(run(program_for_x86()))
    assert set(arm) == {"neon_dotprod", "portable"}
    expected = x86["portable"]
    assert len(expected) >= LEAST_KERNELS
    for hashes in (*x86.values(), *arm.values()):
        assert hashes == expected


@pytest.mark.timeout(900)
def test_a_processor_without_dot_products_runs_the_portable_kernels(program_for_arm: Path, arm: Hashes) -> None:
    assert parse(run(EMULATOR, "-cpu", "cortex-a53", program_for_arm)) == {"portable": arm["portable"]}
