"""Another Abaci server on the network as a source: it shares its files by their SHA-256 (`abaci serve --share-store`).

`ABACI_PEERS` names such servers, separated by commas; `ABACI_PEER_KEY` is the key they ask for.
"""

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from abaci.hub.http_source import checked_http_url
from abaci.hub.network import Credential, Request
from abaci.hub.ranged import fetch_ranges
from abaci.hub.sources import Transfer
from abaci.hub.wanted import Digest

PEERS_VARIABLE: Final = "ABACI_PEERS"
KEY_VARIABLE: Final = "ABACI_PEER_KEY"
BLOB_PATH: Final = "/abaci/blobs/{sha256}"


@dataclass(frozen=True, slots=True)
class PeerSource:
    """One file at one peer."""

    url: str
    sha256: str

    @property
    def label(self) -> str:
        return f"peer {urlsplit(self.url).netloc}"

    def request(self, file_name: str) -> Request:
        key = os.environ.get(KEY_VARIABLE)
        credentials = (Credential(self.url, {"Authorization": f"Bearer {key}"}),) if key else ()
        return Request(self.url.rstrip("/") + BLOB_PATH.format(sha256=self.sha256), credentials)

    def fetch(self, transfer: Transfer) -> None:
        fetch_ranges((self,), transfer)


def peer_sources(sha256: str) -> tuple[PeerSource, ...]:
    """The peers that the environment names. Raises UsageError for a URL that is none."""
    urls = [url.strip() for url in os.environ.get(PEERS_VARIABLE, "").split(",")]
    return tuple(PeerSource(checked_http_url(url), Digest.sha256(sha256).value) for url in urls if url)
