"""Before a model is fetched: whether it could run on this machine at all, with the arithmetic where it could not.

What other programs hold now does not count, they may end; a model is refused that the whole machine has no room for, or
that this version cannot run. Where nothing can be known beforehand, nothing is refused.
"""

from typing import Final

from abaci import hub
from abaci.errors import DownloadError, FileFormatError, NotFoundError, ResourceError, UnsupportedModelError, UsageError
from abaci.hub.network import Network
from abaci.runtime.describing import DescribedModel, NoHeaderError, describe_catalog_model, describe_model
from abaci.runtime.fit import Memory, MemoryForecast, Verdict, forecast_memory

SMALLEST_CONTEXT: Final = 2048
"""Tokens with which a model must run to be worth fetching."""


def check_fit(name: str, network: Network, memory: Memory | None = None) -> None:
    """Raise ResourceError for a model that is too large for this machine, UnsupportedModelError for one that this
    version cannot run. A catalog model is judged by its shape, any other by the header of its file.
    """
    try:
        described = describe_catalog_model(name) or describe_model(name, network)
    except NoHeaderError:
        return
    except UnsupportedModelError as error:
        raise UnsupportedModelError(error.message, hint=f"{error.hint} --force fetches it all the same.") from error
    except (DownloadError, FileFormatError, NotFoundError, UsageError):
        return  # whoever fetches it says so
    forecast = forecast_memory(
        described.footprint,
        min(SMALLEST_CONTEXT, described.footprint.context_length),
        memory or Memory.of_this_machine(),
    )
    if forecast.verdict is Verdict.TOO_LARGE:
        raise ResourceError(_explain(described, forecast), hint=_hint(name))


def _explain(described: DescribedModel, forecast: MemoryForecast) -> str:
    parts = (
        (forecast.weight_bytes, "weights"),
        (forecast.cache_bytes, f"cache for {forecast.context_length:,} tokens"),
        (forecast.workspace_bytes, "workspace"),
        (forecast.process_bytes, "process"),
    )
    added = " + ".join(f"{num_bytes / 1e6:,.0f} MB {what}" for num_bytes, what in parts)
    return (
        f"{described.name} cannot run here: {added} = {forecast.total_bytes / 1e6:,.0f} MB, and this machine has "
        f"{forecast.memory.total_bytes / 1e6:,.0f} MB"
    )


def _hint(name: str) -> str:
    found = hub.load_catalog().find(name)
    tasks = () if found is None else found.model.tasks
    task = f" --task {tasks[0]}" if tasks else ""
    return f"`abaci recommend{task}` names models that fit; --force fetches this one all the same."
