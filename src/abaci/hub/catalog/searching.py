"""Models of the catalog that fit a few words and conditions, and names near a wrong one. Opens nothing."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from abaci.hub.catalog.schema import Catalog, CatalogModel, Task


@dataclass(frozen=True, slots=True)
class SearchConditions:
    """What a model must meet; None: anything."""

    words: tuple[str, ...] = ()
    """Each must be part of a name, an alias, the title, the family, the publisher, a task or the repository."""
    task: Task | None = None
    most_parameters: int | None = None
    """A model of which nobody says how many it has does not meet this."""
    licence: str | None = None
    """A part of the licence's identifier, in whatever case."""


def search(catalog: Catalog, conditions: SearchConditions) -> list[CatalogModel]:
    """Models that meet all conditions, in the catalog's order of families, the smallest first."""
    found = [model for model in catalog.models.values() if _meets(model, conditions)]
    families = list(dict.fromkeys(model.family for model in found))
    return sorted(found, key=lambda model: (families.index(model.family), _num_parameters(model)))


def near_names(typed: str, names: Iterable[str], most: int = 8) -> list[str]:
    """Those of `names` that a person may have meant, nearest first: of that family, or alike in most letters."""
    typed, names = typed.lower(), list(names)
    stem, colon, _ = typed.partition(":")
    family = [name for name in names if name.partition(":")[0] == stem]
    alike = difflib.get_close_matches(typed, names, n=most, cutoff=0.6)
    begun = [name for name in names if stem and name.startswith(stem)]
    near = [*alike, *family, *begun] if colon else [*family, *begun, *alike]
    return list(dict.fromkeys(near))[:most]


def _meets(model: CatalogModel, conditions: SearchConditions) -> bool:
    return (
        all(_mentions(model, word.lower()) for word in conditions.words)
        and conditions.task in (None, *model.tasks)
        and (conditions.most_parameters is None or _num_parameters(model) <= conditions.most_parameters)
        and (conditions.licence is None or conditions.licence.lower() in model.licence.expression.lower())
    )


def _mentions(model: CatalogModel, word: str) -> bool:
    texts = (
        model.name,
        *model.aliases,
        model.title,
        model.family,
        model.publisher,
        *model.tasks,
        str(model.repository),
    )
    return any(word in text.lower() for text in texts)


def _num_parameters(model: CatalogModel) -> float:
    return float("inf") if model.parameters is None else model.parameters.total
