"""Taking in a later catalog: fetched with its signature, checked as a whole, and only then put in place of the last.

In this order: size, signature, form, version. Nothing that is not signed is parsed, and a version never goes back, so
whoever answers in the publisher's name can neither slip in a file nor bring an old one back.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abaci.errors import DownloadError, IntegrityError, NotFoundError, ResourceError, UsageError
from abaci.hub.catalog.loading import MAX_CATALOG_BYTES, load_packaged_catalog, load_update, parse_catalog, update_path
from abaci.hub.catalog.schema import Catalog
from abaci.hub.catalog.signing import check_signature
from abaci.hub.network import Network, Request
from abaci.hub.reach import SourceUnavailableError

KEY_VARIABLE = "ABACI_CATALOG_KEY"
SIGNATURE_SUFFIX = ".minisig"

_MAX_SIGNATURE_BYTES = 4_096


def update_catalog(source: str, key: str | None, network: Network, home: Path | None = None) -> Catalog:
    """Take in the catalog at `source`, a file or an address, whose signature is beside it with `.minisig` at its end.

    `key`: who must have signed it, see `check_signature`; None: what ABACI_CATALOG_KEY says. Returns the new catalog.

    Raises UsageError, DownloadError, OfflineError, IntegrityError for a signature that is not by the key or a version
    that is not higher than what is here, FileFormatError, ResourceError for a folder that cannot be written to.
    """
    key = key or os.environ.get(KEY_VARIABLE)
    if not key:
        raise UsageError(
            "nobody's signature on a catalog is trusted yet",
            hint=f"Set {KEY_VARIABLE}, or give --key, to the minisign key of the catalog's publisher.",
        )
    data = _read(source, MAX_CATALOG_BYTES, network)
    check_signature(data, _read(source + SIGNATURE_SUFFIX, _MAX_SIGNATURE_BYTES, network), key)
    catalog = parse_catalog(data)
    path = update_path(home)
    with _locked(path.parent):
        _check_version(catalog, home)
        _replace(path, data)
    return catalog


def reset_catalog(home: Path | None = None) -> None:
    """Go back to the catalog that comes with the package."""
    update_path(home).unlink(missing_ok=True)


def _check_version(catalog: Catalog, home: Path | None) -> None:
    known = (load_packaged_catalog(), load_update(home))
    present = max(earlier.version for earlier in known if earlier is not None)
    if catalog.version <= present:
        raise IntegrityError(
            f"the catalog has version {catalog.version}, and version {present} is here",
            hint="The catalog in use was left as it is; get a later one from its publisher.",
        )


def _read(source: str, most_bytes: int, network: Network) -> bytes:
    if source.startswith(("https://", "http://")):
        try:
            with network.open(Request(source)) as answer:
                return answer.read_all(most_bytes)
        except SourceUnavailableError as error:
            raise DownloadError(f"{source}: {error}", hint="Check the address and the network.") from error
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", hint="Give a catalog's file or address.") from error
    if len(data) > most_bytes:
        raise DownloadError(
            f"{path} has more than {most_bytes:,} bytes",
            hint="Neither catalogs nor signatures are so long: give another file.",
        )
    return data


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ResourceError(
            f"{folder}: {error.strerror}", hint="Set ABACI_HOME to a folder you may write to."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, data: bytes) -> None:
    """The bytes are on the disk before the name leads to them."""
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
