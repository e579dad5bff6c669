"""`GET /usage/top`: what ran here over time, as JSON. A key of the database sees its own, others see all that ran."""

from dataclasses import asdict
from datetime import UTC, date, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci import hub
from abaci.runtime.journal import Journal, UsedModel
from abaci.runtime.top import By, TopReport, report_top
from abaci.server.database import Database
from abaci.server.services import Services
from abaci.server.usage_report import first_day
from abaci.server.used_models import used_models
from abaci.server.wire import ParameterError

_MAX_DAYS = 36_500


async def top(request: Request, services: Services) -> Response:
    """Models, families or keys, most tokens first: `?by=family&since=30d`."""
    query = request.query_params
    unknown = set(query) - {"by", "since"}
    if unknown:
        name = min(unknown)
        raise ParameterError(name[:64], f"unknown parameter {name[:64]!r}", hint="There are by and since.")
    database = services.accounts.database
    report = await database.run(
        _report, database, _by(query.get("by", By.MODEL)), _since(query.get("since")), request.state.caller.key_id
    )
    return JSONResponse(asdict(report))


def _report(database: Database, by: By, since: date | None, key_id: str | None) -> TopReport:
    """In the database's thread. What ran outside the server is for those who see everything."""
    used: list[UsedModel] = list(used_models(database, since=since, key_id=key_id))
    journal = Journal.of_this_user() if key_id is None else None
    if journal is not None:
        used += journal.read(since)
    return report_top(used, by, hub.load_catalog(), since=since, until=datetime.now(UTC).date())


def _by(name: str) -> By:
    try:
        return By(name)
    except ValueError:
        raise ParameterError("by", f"by must be {', '.join(By)}, not {name[:64]!r}") from None


def _since(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return first_day(text, _MAX_DAYS)
    except ValueError:
        raise ParameterError("since", f"since {text[:64]!r} is not a day", hint="2026-01-31, or 7d") from None
