"""A file from a server that only ever sends the whole of it; and what an answer says of the file it belongs to."""

import time
from typing import Final

from abaci.hub.network import Answer, HttpStatusError, Request
from abaci.hub.pace import MOST_PATIENCE_SECONDS, Patience
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import Transfer

_PIECE_BYTES: Final = 1 << 18


class UnfitError(SourceUnavailableError):
    """What the source has cannot be the file: asking again is no use."""


def check_size(answer: Answer, total_bytes: int) -> None:
    """Raise UnfitError where an answer says that its file has another size than wanted."""
    if answer.status == 206:
        found = answer.headers.get("content-range", "").rpartition("/")[2].strip()
    else:
        found = answer.headers.get("content-length", "")
    if found.isascii() and found.isdigit() and len(found) < 19 and int(found) != total_bytes:
        raise UnfitError(f"its file has {int(found):,} bytes, not {total_bytes:,}")


def range_begin(answer: Answer) -> int | None:
    """Where the part begins that an answer brings; None where it does not say."""
    unit, _, rest = answer.headers.get("content-range", "").strip().partition(" ")
    begin = rest.strip().partition("-")[0]
    return int(begin) if unit == "bytes" and begin.isascii() and begin.isdigit() and len(begin) < 19 else None


def fetch_stream(request: Request, transfer: Transfer, patience: Patience) -> None:
    """Append what is missing; what is here already is read and thrown away. Raises SourceUnavailableError."""
    num_failures = 0
    while True:
        before, asked_seconds = transfer.partial.num_bytes, None
        try:
            _append(request, transfer)
            return
        except UnfitError:
            raise
        except HttpStatusError as error:
            if not error.may_pass or (error.retry_after_seconds or 0.0) > MOST_PATIENCE_SECONDS:
                raise
            asked_seconds, failure = error.retry_after_seconds, error
        except SourceUnavailableError as error:
            failure = error  # type: ignore[assignment]
        num_failures = 1 if transfer.partial.num_bytes > before else num_failures + 1
        if num_failures >= patience.num_attempts:
            raise failure
        time.sleep(patience.wait_seconds(num_failures, asked_seconds))


def _append(request: Request, transfer: Transfer) -> None:
    skip = transfer.partial.num_bytes
    with transfer.network.open(request) as answer:
        check_size(answer, transfer.total_bytes)
        while transfer.partial.num_bytes < transfer.total_bytes:
            piece = answer.read(_PIECE_BYTES)
            if not piece:
                raise SourceUnavailableError("ended early")
            skipped, skip = min(skip, len(piece)), max(0, skip - len(piece))
            wanted = piece[skipped : skipped + transfer.total_bytes - transfer.partial.num_bytes]
            transfer.partial.write(wanted)
            transfer.show_bytes(transfer.partial.num_bytes)
