"""The Hugging Face hub as a source, through `huggingface_hub`, which is imported only when something is fetched.

A file already in the library's cache is taken from there. Otherwise its bytes go straight into the partial file, so
that a download continues where any earlier one stopped, whatever its source. `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE` and the cache's variables mean what the library says they mean.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from abaci.errors import AbaciError
from abaci.hub.partial import PartialFile
from abaci.hub.sources import REACH_SECONDS, SourceUnavailableError, Transfer, append_file, within


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """One file of one repository at one revision."""

    repository: str
    revision: str

    @property
    def label(self) -> str:
        return "Hugging Face hub"

    def fetch(self, transfer: Transfer) -> None:
        import huggingface_hub

        cached = huggingface_hub.try_to_load_from_cache(self.repository, transfer.file_name, revision=self.revision)
        if isinstance(cached, str):
            append_file(Path(cached), transfer)
        elif huggingface_hub.constants.HF_HUB_OFFLINE:
            raise SourceUnavailableError("HF_HUB_OFFLINE is set and the file is not in its cache")
        else:
            self._download(transfer)

    def _download(self, transfer: Transfer) -> None:
        from huggingface_hub import file_download

        url = file_download.hf_hub_url(self.repository, transfer.file_name, revision=self.revision)
        try:
            found = within(REACH_SECONDS, lambda: file_download.get_hf_file_metadata(url, timeout=REACH_SECONDS))
            if found.size is not None and found.size != transfer.total_bytes:
                raise SourceUnavailableError(f"its file has {found.size:,} bytes, not {transfer.total_bytes:,}")
            with _without_progress_bars():
                file_download.http_get(
                    url,
                    cast(Any, _Shown(transfer)),
                    resume_size=transfer.partial.num_bytes,
                    headers=_utils().build_hf_headers(),
                    expected_size=transfer.total_bytes,
                )
        except (AbaciError, SourceUnavailableError):
            raise
        except Exception as error:
            # The library's transport, and with it the exceptions, has changed between its versions.
            raise SourceUnavailableError(_in_one_line(error)) from error


class _Shown:
    """The partial file as the library's downloader sees it: every write is shown."""

    def __init__(self, transfer: Transfer) -> None:
        self._partial: PartialFile = transfer.partial
        self._show_bytes = transfer.show_bytes
        self.tell = self._partial.tell
        self.seek = self._partial.seek
        self.truncate = self._partial.truncate

    def write(self, chunk: bytes) -> int:
        written = self._partial.write(chunk)
        self._show_bytes(self._partial.num_bytes)
        return written


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    utils = _utils()
    were_disabled = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            utils.enable_progress_bars()


def _utils() -> Any:
    """The library's documented utilities, which it does not export for type checkers."""
    return importlib.import_module("huggingface_hub.utils")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
