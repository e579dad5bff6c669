"""Which licence a LICENSE file is, by its title: the text that came with the weights, whatever a tag says of it.

Only the title is read, the first lines as the publishers write them; a file whose title no record knows says nothing.
"""

from pathlib import Path
from typing import Final

from abaci.hub.licences.licence import LicenceBook

_NAMES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md")
_MAX_HEAD_BYTES: Final = 1 << 12
_TITLE_LINES: Final = 2


def licence_of_folder(folder: Path, book: LicenceBook) -> str | None:
    """The id of the licence whose text lies in a model's folder; None where there is none, or an unknown one."""
    for name in _NAMES:
        try:
            with (folder / name).open("rb") as file:
                head = file.read(_MAX_HEAD_BYTES).decode("utf-8", errors="replace")
        except OSError:
            continue
        return licence_of_text(head, book)
    return None


def licence_of_text(text: str, book: LicenceBook) -> str | None:
    """The id of the licence that a text begins with the title of."""
    lines = [line.strip(" \t\r#*_=-") for line in text.splitlines()]
    title = [line for line in lines if line][:_TITLE_LINES]
    for num_lines in range(len(title), 0, -1):
        known = book.find(" ".join(title[:num_lines]))
        if known is not None:
            return known.id
    return None
