"""The metering table as entries of what ran here, for reports that join it with what ran outside the server."""

from collections.abc import Iterator
from datetime import date

from abaci.runtime.journal import UsedModel
from abaci.server.database import Database
from abaci.server.usage_report import Dimension, report_usage


def used_models(database: Database, *, since: date | None = None, key_id: str | None = None) -> Iterator[UsedModel]:
    """What each key has used of each model on each day; of one key, or of all. Synchronous."""
    for row in report_usage(database, list(Dimension), since=since, key_id=key_id).rows:
        assert row.day is not None and row.model is not None
        counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
        yield UsedModel(row.day, row.model, *counts, key=row.key)
