"""Values of a GGUF file, read front to back and checked against what is left of it."""

import mmap
import struct
from pathlib import Path
from typing import Final, NoReturn

from abaci.errors import FileFormatError
from abaci.formats.gguf.types import DAMAGED_HINT, U64
from abaci.formats.string_arrays import split_strings

_MANY_STRINGS: Final = 1000


class PrefixTooShortError(Exception):
    """The header goes on behind the bytes at hand: read more of the file and try again."""


class Cursor:
    """Reads values front to back; whatever would end behind the file's end is an error that names the place.

    `data` may be only the beginning of a file of `size` bytes; a value behind it raises PrefixTooShortError.
    """

    __slots__ = ("data", "path", "position", "size")

    def __init__(self, path: Path, data: mmap.mmap | bytes, size: int | None = None) -> None:
        self.path = path
        self.data = data
        self.size = len(data) if size is None else size
        self.position = 0

    def fail(self, problem: str, *, at: int | None = None) -> NoReturn:
        offset = self.position if at is None else at
        raise FileFormatError(f"{self.path}: at byte {offset}: {problem}", hint=DAMAGED_HINT)

    def skip(self, num_bytes: int, what: str) -> int:
        """Step over `num_bytes`; returns where they began."""
        begin = self.position
        if num_bytes > self.size - begin:
            self.fail(f"{what} takes {num_bytes} bytes, the file has {self.size - begin} left")
        if num_bytes > len(self.data) - begin:
            raise PrefixTooShortError
        self.position = begin + num_bytes
        return begin

    def number(self, layout: struct.Struct, what: str) -> int:
        begin = self.skip(layout.size, what)
        value: int = layout.unpack_from(self.data, begin)[0]
        return value

    def count(self, limit: int, min_item_bytes: int, what: str) -> int:
        """A 64-bit count of items that must all fit in the rest of the file, and be at most `limit`."""
        begin = self.position
        count = self.number(U64, what)
        if count * min_item_bytes > self.size - self.position:
            self.fail(f"{what} is {count}, more than the file's remaining bytes can hold", at=begin)
        if count > limit:
            self.fail(f"{what} is {count}, the limit is {limit}", at=begin)
        return count

    def string(self, limit_bytes: int, what: str) -> str:
        """A non-empty name of at most `limit_bytes`."""
        begin = self.position
        num_bytes = self.number(U64, f"length of {what}")
        if not 0 < num_bytes <= limit_bytes:
            self.fail(f"{what} is {num_bytes} bytes long, allowed are 1 to {limit_bytes}", at=begin)
        self.position = begin
        return self.strings(1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        """`count` strings, each a 64-bit length and UTF-8."""
        if count >= _MANY_STRINGS and (split := split_strings(self.data, self.position, count)):
            values, self.position = split
            return values
        data, available, position = self.data, len(self.data), self.position
        length_at = U64.unpack_from
        values = []
        try:
            for _ in range(count):
                begin = position + 8
                end = begin + length_at(data, position)[0]
                if end > available:
                    if end <= self.size:
                        raise PrefixTooShortError
                    self.fail(f"{what}: a string of {end - begin} bytes ends behind the file's end", at=position)
                values.append(data[begin:end].decode())
                position = end
        except struct.error:
            if position + 8 <= self.size:
                raise PrefixTooShortError from None
            self.fail(f"{what}: the file ends inside a string's length", at=position)
        except UnicodeDecodeError as error:
            self.fail(f"{what}: text is not valid UTF-8 ({error.reason})", at=begin + error.start)
        self.position = position
        return values
