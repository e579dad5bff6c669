"""How often models are fetched from the Hugging Face hub, as the hub counts."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import quote

from abaci.errors import AbaciError
from abaci.hub.http_source import read_json
from abaci.hub.huggingface import endpoint
from abaci.hub.network import Network, Request
from abaci.hub.reach import REACH_SECONDS, SourceUnavailableError, within

_MAX_ASKED: Final = 20
_NUM_THREADS: Final = 4


def download_counts(repositories: Iterable[str], network: Network) -> dict[str, int]:
    """Downloads in the last 30 days, of those among the first few repositories that the hub tells in time.

    Asks without a token: the counts are public. Nothing where the network may not be used or the hub does not answer.
    """
    asked = list(dict.fromkeys(repositories))[:_MAX_ASKED]
    if network.is_offline or not asked:
        return {}

    def ask_all() -> dict[str, int]:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            counts = zip(asked, pool.map(lambda repository: _downloads(repository, network), asked), strict=True)
            return {repository: count for repository, count in counts if count is not None}

    try:
        return within(REACH_SECONDS, ask_all)
    except SourceUnavailableError:
        return {}


def _downloads(repository: str, network: Network) -> int | None:
    url = f"{endpoint()}/api/models/{quote(repository)}?expand[]=downloads"
    try:
        document, _ = read_json(Request(url, stall_seconds=REACH_SECONDS), network)
    except (SourceUnavailableError, AbaciError):
        return None
    count = document.get("downloads") if isinstance(document, dict) else None
    return count if type(count) is int and count >= 0 else None
