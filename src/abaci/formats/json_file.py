"""JSON and text files of a model folder, read within bounds."""

import json
from pathlib import Path
from typing import Any, Final

from abaci.errors import FileFormatError

_MAX_BYTES: Final = 256 << 20
"""The largest published tokenizers take some tens of megabytes."""

_HINT: Final = "The file is damaged or incomplete: fetch it again."


def read_text(path: Path) -> str | None:
    """The file's text, or None if there is no such file. Raises FileFormatError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise FileFormatError(f"{path}: more than {_MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not valid UTF-8 at byte {error.start}", hint=_HINT) from None


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None if there is no such file. Raises FileFormatError."""
    text = read_text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: not valid JSON: {error}", hint=_HINT) from None
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: not a JSON object", hint=_HINT)
    return value
