"""Sources that do what a test tells them, and a catalog entry small enough to fetch in a millisecond."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from abaci.hub.catalog import CatalogEntry
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import Source, Transfer


def entry_of(content: bytes, *sources: Source) -> CatalogEntry:
    """An entry whose file is `content`."""
    return CatalogEntry(
        name="tiny:1b",
        title="Tiny",
        architecture="llama",
        licence="MIT",
        file_name="tiny.gguf",
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        sources=sources,
    )


@dataclass
class ScriptedSource:
    """Appends `content` from where the partial file stands, up to `stop_after` bytes in all, then gives up."""

    content: bytes
    label: str = "scripted"
    stop_after: int | None = None
    before: Callable[[], None] = lambda: None
    began_at: list[int] = field(default_factory=list)

    def fetch(self, transfer: Transfer) -> None:
        self.before()
        self.began_at.append(transfer.partial.num_bytes)
        transfer.partial.write(self.content[transfer.partial.num_bytes : self.stop_after])
        transfer.show_bytes(transfer.partial.num_bytes)
        if self.stop_after is not None:
            raise SourceUnavailableError("the line went dead")


@dataclass
class Recorder:
    """A listener that remembers."""

    shown: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
        self.shown.append(num_bytes)

    def noticed(self, message: str) -> None:
        self.messages.append(message)
