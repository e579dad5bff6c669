"""How models write thoughts and tool calls into their text, and how that is taken apart again.

A tool dialect is a module of `tools` with a `DIALECT`, picked by what the model's chat template says, never by the
model's name. To add one: a file there, a transcript in its test.
"""

import importlib
import pkgutil

from abaci.chat.parsers import tools
from abaci.chat.parsers.dialect import ToolDialect

__all__ = ["ToolDialect", "tool_dialect", "tool_dialects"]

_FALLBACK = "plain_json"


def tool_dialects() -> dict[str, ToolDialect]:
    """All tool dialects by the name of their module, in order."""
    names = sorted(module.name for module in pkgutil.iter_modules(tools.__path__))
    return {name: importlib.import_module(f"{tools.__name__}.{name}").DIALECT for name in names}


def tool_dialect(template_source: str) -> ToolDialect:
    """The dialect a chat template teaches; of several the first by name, plain JSON if none is known."""
    dialects = tool_dialects()
    spoken = (dialect for dialect in dialects.values() if dialect.is_spoken_by(template_source))
    return next(spoken, dialects[_FALLBACK])
