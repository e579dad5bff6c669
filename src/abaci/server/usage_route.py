"""`GET /usage`: what was used, as JSON or CSV. A key of the database sees its own figures, others see all of them."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from abaci.server.services import Services
from abaci.server.usage_query import check_names, first_day_asked
from abaci.server.usage_report import Dimension, report_as_csv, report_as_json, report_usage
from abaci.server.wire import ParameterError


async def usage(request: Request, services: Services) -> Response:
    """Usage and cost by key, model or day: `?by=key&by=model&since=7d&format=csv`."""
    query = request.query_params
    check_names(query, ("by", "since", "format"))
    layout = query.get("format", "json")
    if layout not in ("json", "csv"):
        raise ParameterError("format", f"format is {layout[:64]!r}", hint="Choose one of: json, csv.")
    by = [_dimension(name) for name in query.getlist("by")] or [Dimension.KEY, Dimension.MODEL]
    database = services.accounts.database
    report = await database.run(
        report_usage,
        database,
        by,
        since=first_day_asked(query),
        key_id=request.state.caller.key_id,
        hourly_price=services.config.hourly_price,
    )
    if layout == "csv":
        return PlainTextResponse(report_as_csv(report), media_type="text/csv; charset=utf-8")
    return JSONResponse(report_as_json(report))


def _dimension(name: str) -> Dimension:
    try:
        return Dimension(name)
    except ValueError:
        raise ParameterError("by", f"by is {name[:64]!r}", hint=f"Choose one of: {', '.join(Dimension)}.") from None
