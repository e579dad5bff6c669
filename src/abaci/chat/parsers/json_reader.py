"""One JSON object, read as its text comes: checked at every character, so that what is no JSON is known at once.

Knows nothing of tool calls. The text that is kept is the model's own, except that control characters inside strings,
which models write and JSON forbids, are escaped.
"""

import json
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

MAX_DEPTH: Final = 100

_SPACE: Final = re.compile(r"[ \t\r\n]+")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')
_HEX: Final = re.compile(r"[0-9a-fA-F]")
_SCALAR_PART: Final = re.compile(r"[-+.0-9A-Za-z]+")
_SCALAR: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")


class _Expected(Enum):
    OBJECT = auto()
    KEY = auto()
    KEY_OR_CLOSE = auto()
    COLON = auto()
    VALUE = auto()
    VALUE_OR_CLOSE = auto()
    COMMA_OR_CLOSE = auto()
    STRING = auto()
    ESCAPE = auto()
    HEX = auto()
    SCALAR = auto()
    NOTHING = auto()


class ObjectReader:
    """Reads one object from pieces of text, wherever they are cut.

    `parts` joined is the object's text. `members` holds, for each key of the object itself, the parts of its value: of
    finished values and of the one that is being read (`open_key`). Of equal keys the last one counts, as for most
    readers of JSON. `accepts` is asked after each key and value of the object itself whether to read on.
    """

    __slots__ = (
        "_accepts",
        "_expected",
        "_in_key",
        "_key",
        "_num_hex",
        "_scalar",
        "_stack",
        "is_broken",
        "is_complete",
        "members",
        "open_key",
        "parts",
    )

    def __init__(self, accepts: "Callable[[ObjectReader], bool] | None" = None) -> None:
        self.parts: list[str] = []
        self.members: dict[str, list[str]] = {}
        self.open_key: str | None = None
        self.is_complete = False
        self.is_broken = False
        self._accepts = accepts
        self._expected = _Expected.OBJECT
        self._stack: list[str] = []
        self._in_key = False
        self._key = ""
        self._scalar = ""
        self._num_hex = 0

    def push(self, text: str) -> int:
        """Read on. Returns how many characters belong to the object; fewer than given if it ended or broke."""
        position = 0
        while position < len(text) and not (self.is_complete or self.is_broken):
            position += self._step(text, position)
        return position

    def finished(self, key: str) -> str | None:
        """The text of a member that has been read to its end."""
        return None if key == self.open_key or key not in self.members else "".join(self.members[key])

    def _step(self, text: str, position: int) -> int:
        """Read one token or a part of it; returns its length."""
        match self._expected:
            case _Expected.STRING:
                return self._read_string(text, position)
            case _Expected.ESCAPE:
                return self._read_escape(text[position])
            case _Expected.HEX:
                return self._read_hex(text[position])
            case _Expected.SCALAR:
                return self._read_scalar(text, position)
        if space := _SPACE.match(text, position):
            return self._keep(space[0])
        return self._read_sign(text[position])

    def _read_sign(self, sign: str) -> int:
        match self._expected, sign:
            case _Expected.COLON, ":":
                return self._begin_member(sign)
            case _Expected.KEY | _Expected.KEY_OR_CLOSE, '"':
                return self._begin_key(sign)
            case _Expected.COMMA_OR_CLOSE, ",":
                self._expected = _Expected.KEY if self._stack[-1] == "{" else _Expected.VALUE
                return self._keep(sign)
            case _Expected.KEY_OR_CLOSE | _Expected.VALUE_OR_CLOSE | _Expected.COMMA_OR_CLOSE, "}" | "]":
                return self._close(sign)
            case _Expected.OBJECT | _Expected.VALUE | _Expected.VALUE_OR_CLOSE, _:
                return self._begin_value(sign)
        return self._break()

    def _begin_key(self, sign: str) -> int:
        self._in_key = True
        self._key = ""
        self._expected = _Expected.STRING
        return self._keep(sign)

    def _begin_member(self, colon: str) -> int:
        self._keep(colon)
        self._expected = _Expected.VALUE
        if len(self._stack) == 1:
            key = str(json.loads(self._key))
            self.open_key = key
            self.members[key] = []
            self._ask()
        return 1

    def _begin_value(self, sign: str) -> int:
        if sign == "{" or (sign == "[" and self._stack):
            return self._open(sign)
        if self._expected is _Expected.OBJECT:
            return self._break()
        if sign == '"':
            self._expected = _Expected.STRING
            return self._keep(sign)
        if _SCALAR_PART.match(sign):
            self._expected = _Expected.SCALAR
            self._scalar = ""
            return 0
        return self._break()

    def _read_string(self, text: str, position: int) -> int:
        if plain := _PLAIN.match(text, position):
            return self._keep(plain[0])
        sign = text[position]
        if sign == "\\":
            self._expected = _Expected.ESCAPE
        elif sign == '"':
            self._keep(sign)
            return self._end_string()
        else:
            self._keep(json.dumps(sign)[1:-1])
            return 1
        return self._keep(sign)

    def _end_string(self) -> int:
        if self._in_key:
            self._in_key = False
            self._expected = _Expected.COLON
        else:
            self._end_value()
        return 1

    def _read_escape(self, sign: str) -> int:
        if sign == "u":
            self._num_hex = 0
            self._expected = _Expected.HEX
        elif sign in '"\\/bfnrt':
            self._expected = _Expected.STRING
        else:
            return self._break()
        return self._keep(sign)

    def _read_hex(self, sign: str) -> int:
        if not _HEX.match(sign):
            return self._break()
        self._num_hex += 1
        if self._num_hex == 4:  # \uXXXX
            self._expected = _Expected.STRING
        return self._keep(sign)

    def _read_scalar(self, text: str, position: int) -> int:
        """Numbers and words: they end where something else begins."""
        if part := _SCALAR_PART.match(text, position):
            self._scalar += part[0]
            return self._keep(part[0])
        if not _SCALAR.fullmatch(self._scalar):
            return self._break()
        self._end_value()
        return 0

    def _open(self, sign: str) -> int:
        if len(self._stack) == MAX_DEPTH:
            return self._break()
        self._stack.append(sign)
        self._expected = _Expected.KEY_OR_CLOSE if sign == "{" else _Expected.VALUE_OR_CLOSE
        return self._keep(sign)

    def _close(self, sign: str) -> int:
        if self._stack[-1] + sign not in ("{}", "[]"):
            return self._break()
        if len(self._stack) == 1:
            self.parts.append(sign)
            self._expected = _Expected.NOTHING
            self.is_complete = True
            return 1
        self._keep(sign)
        self._stack.pop()
        self._end_value()
        return 1

    def _end_value(self) -> None:
        self._expected = _Expected.COMMA_OR_CLOSE
        if len(self._stack) == 1:
            self.open_key = None
            self._ask()

    def _ask(self) -> None:
        if self._accepts is not None and not self._accepts(self):
            self.is_broken = True

    def _keep(self, text: str) -> int:
        self.parts.append(text)
        if self._in_key:
            self._key += text
        if self.open_key is not None and not self._is_before_member(text):
            self.members[self.open_key].append(text)
        return len(text)

    def _is_before_member(self, text: str) -> bool:
        return len(self._stack) == 1 and self._expected is _Expected.VALUE and text.isspace()

    def _break(self) -> int:
        self.is_broken = True
        return 0
