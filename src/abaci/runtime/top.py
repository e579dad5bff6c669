"""What ran here, most used first, and how it went over time. Knows no journal and no database: it is given entries."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from abaci.errors import UsageError
from abaci.hub.catalog import Catalog
from abaci.hub.names import CatalogName, HuggingFaceName, Repository, parse_name
from abaci.runtime.journal import UsedModel

MAX_PERIODS: Final = 60
"""Days of a report; of a longer time, so many periods of several days."""
_OTHER: Final = "other"
_NO_KEY: Final = "(no key)"


class By(StrEnum):
    """What a report tells apart."""

    MODEL = "model"
    FAMILY = "family"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class TopRow:
    """One line of a report."""

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens: tuple[int, ...]
    """Prompt and completion tokens, per period of the report."""
    repository: str | None = None
    """On the Hugging Face hub, where a model has one."""
    downloads: int | None = None
    """From there in the last 30 days, as the hub counts; None where it was not asked, or does not know."""


@dataclass(frozen=True, slots=True)
class TopReport:
    """Use between two UTC days, both included, in periods of `period_days` that begin on `periods`."""

    since: str
    until: str
    by: By
    period_days: int
    periods: tuple[str, ...]
    rows: tuple[TopRow, ...]
    """Most tokens first."""
    total: TopRow


def report_top(used: Iterable[UsedModel], by: By, catalog: Catalog, *, since: date | None, until: date) -> TopReport:
    """Put entries together. `since` None: from the first entry on; entries outside the time are left out."""
    entries = [one for one in used if one.day <= until.isoformat()]
    first = min((one.day for one in entries), default=until.isoformat()) if since is None else since.isoformat()
    begin = date.fromisoformat(first)
    period_days = -(-max(1, (until - begin).days + 1) // MAX_PERIODS)
    num_periods = -(-max(1, (until - begin).days + 1) // period_days)
    total = _Sums("all", num_periods)
    groups: dict[str, _Sums] = {}
    name_of = _naming(by, catalog)
    for one in entries:
        if one.day < first:
            continue
        period = (date.fromisoformat(one.day) - begin).days // period_days
        name = name_of(one)
        for sums in (groups.setdefault(name, _Sums(name, num_periods)), total):
            sums.add(one, period)
    ordered = sorted(groups.values(), key=lambda sums: (-sum(sums.tokens), -sums.requests, sums.name))
    return TopReport(
        since=first,
        until=until.isoformat(),
        by=by,
        period_days=period_days,
        periods=tuple((begin + timedelta(days=index * period_days)).isoformat() for index in range(num_periods)),
        rows=tuple(sums.row(_repository(sums.name, catalog) if by is By.MODEL else None) for sums in ordered),
        total=total.row(None),
    )


class _Sums:
    """A row that grows."""

    def __init__(self, name: str, num_periods: int) -> None:
        self.name = name
        self.requests = self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.tokens = [0] * num_periods

    def add(self, used: UsedModel, period: int) -> None:
        self.requests += used.requests
        self.prompt_tokens += used.prompt_tokens
        self.cached_tokens += used.cached_tokens
        self.completion_tokens += used.completion_tokens
        self.tokens[period] += used.prompt_tokens + used.completion_tokens

    def row(self, repository: Repository | None) -> TopRow:
        return TopRow(
            self.name,
            self.requests,
            self.prompt_tokens,
            self.cached_tokens,
            self.completion_tokens,
            tuple(self.tokens),
            None if repository is None else str(repository),
        )


def _naming(by: By, catalog: Catalog) -> Callable[[UsedModel], str]:
    families: dict[str, str] = {}

    def family(used: UsedModel) -> str:
        if used.model not in families:
            families[used.model] = _family(used.model, catalog) or used.architecture or _OTHER
        return families[used.model]

    match by:
        case By.MODEL:
            return lambda used: used.model
        case By.FAMILY:
            return family
        case By.KEY:
            return lambda used: used.key or _NO_KEY


def _family(model: str, catalog: Catalog) -> str | None:
    """As the catalog has it."""
    found = catalog.find(model)
    if found is not None:
        return found.model.family
    repository = _repository(model, catalog)
    known = None if repository is None else catalog.of_repository(repository)
    return None if known is None else known.family


def _repository(model: str, catalog: Catalog) -> Repository | None:
    """The publisher's, of a model that a name of the catalog or of the hub stands for."""
    try:
        name = parse_name(model)
    except UsageError:
        return None
    if isinstance(name, HuggingFaceName):
        return name.repository
    found = catalog.find(name.text) if isinstance(name, CatalogName) else None
    return None if found is None else found.model.repository
