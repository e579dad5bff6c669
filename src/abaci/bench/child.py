"""The process that a contender lives in: `python -m abaci.bench.child NAME`, spoken to through its standard streams."""

import os
import sys
from functools import partial
from importlib import import_module

from abaci.bench.contender import CALLS
from abaci.bench.protocol import Handlers, serve
from abaci.errors import AbaciError

_CONTENDERS = {
    "abaci": ("abaci.bench.abaci_contender", "AbaciContender"),
    "llama.cpp": ("abaci.bench.llama_cpp_library", "contender"),
    "ik_llama.cpp": ("abaci.bench.ik_llama_library", "contender"),
}
NAMES = tuple(_CONTENDERS)
_INSTALLATION = {
    "llama.cpp": 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install "abaci[bench]"',
    "ik_llama.cpp": 'pip install "abaci[bench-ik]", and see docs/performance.md for one built for this processor',
}


def main() -> None:
    """Serve calls until standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints must not land among the answers
        serve(sys.stdin, answers, _handlers(sys.argv[1]))


def _handlers(name: str) -> Handlers:
    module, make = _CONTENDERS[name]
    try:
        contender = getattr(import_module(module), make)()
    except ImportError as error:
        return {"start": partial(_report_missing, name, error)}
    can_do = {call: getattr(contender, call) for call in CALLS if hasattr(contender, call)}
    return {"start": lambda: None, **can_do}


def _report_missing(name: str, error: ImportError) -> None:
    raise AbaciError(
        f"{name} cannot be imported: {error}",
        hint=f"Install what is measured against: {_INSTALLATION[name]}",
    )


if __name__ == "__main__":
    main()
