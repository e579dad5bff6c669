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
from abaci.server.usage_query import check_names, first_day_asked
from abaci.server.used_models import used_models
from abaci.server.wire import ParameterError


async def top(request: Request, services: Services) -> Response:
    """Models, families or keys, most tokens first: `?by=family&since=30d`."""
    query = request.query_params
    check_names(query, ("by", "since"))
    database = services.accounts.database
    report = await database.run(
        _report, database, _by(query.get("by", By.MODEL)), first_day_asked(query), request.state.caller.key_id
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
        raise ParameterError("by", f"by is {name[:64]!r}", hint=f"Choose one of: {', '.join(By)}.") from None
