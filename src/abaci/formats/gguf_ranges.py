"""The header of a GGUF file that is somewhere else, read by ranges of bytes: as much as the header takes, no more.

Knows no network: it is given a function that reads a range.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from abaci.errors import FileFormatError
from abaci.formats.gguf import GgufHeader, PrefixTooShortError, read_header

ReadRange = Callable[[int, int], bytes]
"""The file's bytes from begin up to and without end: all of them, or an error."""

FIRST_BYTES: Final = 4 << 20
"""Most vocabularies end within twice that."""
MAX_HEADER_BYTES: Final = 64 << 20
"""Several times the largest published header."""


def read_header_by_ranges(
    name: str,
    file_bytes: int,
    read_range: ReadRange,
    *,
    file_index: int = 0,
    first_bytes: int = FIRST_BYTES,
    limit_bytes: int = MAX_HEADER_BYTES,
) -> GgufHeader:
    """The header of the file `name`, fetched in pieces that double, so that no byte is fetched twice.

    Raises FileFormatError where the header is longer than `limit_bytes` or a range comes short; what `read_header` and
    `read_range` raise.
    """
    prefix = b""
    wanted = min(first_bytes, limit_bytes, file_bytes)
    while True:
        piece = read_range(len(prefix), wanted)
        if len(piece) != wanted - len(prefix):
            raise FileFormatError(f"{name}: of {wanted - len(prefix)} bytes asked for, {len(piece)} came")
        prefix += piece
        try:
            return read_header(Path(name), prefix, file_bytes, file_index)
        except PrefixTooShortError:
            if len(prefix) == min(limit_bytes, file_bytes):
                raise FileFormatError(
                    f"{name}: the header is longer than {limit_bytes:,} bytes, more than any model has"
                ) from None
        wanted = min(2 * len(prefix), limit_bytes, file_bytes)
