"""Under which licences a model comes: what the catalog, its repository and its file say, and what it was made from.

A quantisation, a fine-tune and a merge carry the terms of what they were made from: the licences of the bases are
joined with AND to the model's own. Where the voices disagree, all they name is taken to hold, and that is told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from abaci.hub.licences.expressions import Expression, all_of, ids_of, read_expression
from abaci.hub.licences.expressions import write_expression as written
from abaci.hub.licences.licence import LicenceBook, plain_name
from abaci.hub.licences.publishers import PublishedModel, published_as, repository_of

MAX_BASE_MODELS: Final = 64
"""That a file may name; merges name a handful."""
_MAX_DEPTH: Final = 16
_MAX_NAME_CHARACTERS: Final = 200
_REPOSITORY: Final = "its repository"
_FILE: Final = "the file"
_TAGS: Final = (_REPOSITORY, _FILE)
_SAYS_NOTHING: Final = frozenset({"", "other", "unknown", "none", "noassertion", "n/a"})
_FORMS: Final = re.compile(
    r"(-(gguf|i1|imatrix|mlx|awq|gptq|bnb|exl[23]|hf|quantized|[2-8]bit|int[48]|w\d{1,2}a\d{1,2}|b?f16|fp16|f32|fp8"
    r"|nvfp4|mxfp4|ud|i?q[1-8]|[0-9kml]|x{0,2}[sl]|nl))*"
)
"""What is added to a model's name where it is only written down otherwise."""
_MULTIMODAL_ARCHITECTURES: Final = frozenset({"llama4", "mllama"})


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that another was made from."""

    name: str
    """A repository (`organisation/name`) or, where only that is known, a title."""
    licence: str | None = None
    """As whoever named the base wrote it; None: not said."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model's licence, and by whom. None: that voice is silent."""

    name: str
    catalog: str | None = None
    """The catalog's licence."""
    repository_licence: str | None = None
    """The licence tag of its repository at a hub."""
    metadata: str | None = None
    """What the file itself says (`general.license`)."""
    licence_file: str | None = None
    """The licence whose text lies beside the weights."""
    repository: str | None = None
    """`organisation/name` where it is published."""
    title: str | None = None
    """The file's own name for it (`general.name`)."""
    base_models: tuple[BaseModel, ...] = ()
    multimodal: bool | None = None
    """Whether it reads more than text; None: not known."""


@dataclass(frozen=True, slots=True)
class ModelLicences:
    """The answer. `doubts` and `remarks` are sentences for people."""

    expression: Expression
    base_models: tuple[BaseModel, ...] = ()
    """All of them, the bases' own included; their licences as SPDX expressions."""
    doubts: tuple[str, ...] = ()
    """What must be settled by a person: voices that disagree, bases of which nothing is known."""
    remarks: tuple[str, ...] = ()


def with_metadata(facts: ModelFacts, metadata: Mapping[str, object]) -> ModelFacts:
    """The facts, and what a GGUF file's metadata adds (keys `general.*`)."""
    return replace(
        facts,
        metadata=declared_licence(_text(metadata, "general.license"), _text(metadata, "general.license.name")),
        title=_text(metadata, "general.name"),
        base_models=tuple(dict.fromkeys((*facts.base_models, *_base_models(metadata)))),
        multimodal=is_multimodal(_text(metadata, "general.architecture"))
        if facts.multimodal is None
        else facts.multimodal,
    )


def is_multimodal(architecture: str | None) -> bool | None:
    """Whether models of that architecture read more than text; None: not known."""
    return None if architecture is None else architecture in _MULTIMODAL_ARCHITECTURES


def declared_licence(tag: str | None, name: str | None) -> str | None:
    """What a model card's `license` and `license_name` say together: the name counts where the tag is `other`."""
    for text in (tag, name):
        if text is not None and text.strip().lower() not in _SAYS_NOTHING:
            return text
    return None


def find_licences(facts: ModelFacts, book: LicenceBook, publishers: tuple[PublishedModel, ...]) -> ModelLicences:
    """Every licence that holds for a model."""
    published = _published(facts, publishers)
    voices = _voices(facts, published, book)
    bases = _all_bases((*facts.base_models, *_bases_of(published)), book, publishers)
    inherited = [read_expression(base.licence, book) for base in bases if base.licence is not None]
    trusted = list(voices.values())[:1]
    agreed = all_of([*trusted, *inherited])
    return ModelLicences(
        expression=all_of([*voices.values(), *inherited]),
        base_models=bases,
        doubts=(*_disagreements(voices, agreed), *_gaps(facts, voices, bases)),
        remarks=_remarks(voices, bases, agreed),
    )


def _voices(facts: ModelFacts, published: PublishedModel | None, book: LicenceBook) -> dict[str, Expression]:
    """Who names which licence, the most trusted first."""
    said = {
        "the catalog": facts.catalog,
        _called(published): None if published is None else published.licence,
        "its LICENSE file": facts.licence_file,
        _REPOSITORY: facts.repository_licence,
        _FILE: facts.metadata,
    }
    return {
        voice: read_expression(text, book)
        for voice, text in said.items()
        if text is not None and text.strip().lower() not in _SAYS_NOTHING
    }


def _called(published: PublishedModel | None) -> str:
    return "its name" if published is None else f"its name, as {published.publisher} publishes it,"


def _published(facts: ModelFacts, publishers: tuple[PublishedModel, ...]) -> PublishedModel | None:
    for name in (facts.repository, facts.title):
        if name is not None and (found := published_as(name, publishers)) is not None:
            return found
    return None


def _bases_of(published: PublishedModel | None) -> tuple[BaseModel, ...]:
    return () if published is None else tuple(BaseModel(name) for name in published.bases)


def _all_bases(
    named: tuple[BaseModel, ...], book: LicenceBook, publishers: tuple[PublishedModel, ...]
) -> tuple[BaseModel, ...]:
    """The bases, their bases and so on, each once, with what licence each has."""
    found: dict[str, BaseModel] = {}
    level = named[:MAX_BASE_MODELS]
    for _ in range(_MAX_DEPTH):
        next_level: list[BaseModel] = []
        for base in level:
            name = _printable(repository_of(base.name))
            if name in found:
                continue
            published = published_as(name, publishers)
            next_level.extend(_bases_of(published))
            said = [text for text in (base.licence, None if published is None else published.licence) if text]
            expression = all_of([read_expression(text, book) for text in said])
            found[name] = BaseModel(name, written(expression) if said else None)
        level = tuple(next_level)
    return tuple(found.values())


def _gaps(facts: ModelFacts, voices: Mapping[str, Expression], bases: tuple[BaseModel, ...]) -> tuple[str, ...]:
    """What nobody says, unless the catalog vouches for the whole. Another form of a model has the model's licence."""
    if facts.catalog is not None:
        return ()
    gaps = [
        f"it is made from {base.name}, whose licence is not known"
        for base in bases
        if base.licence is None and not _is_form_of(facts, base)
    ]
    if not voices and bases and not any(_is_form_of(facts, base) for base in bases):
        gaps.append("nothing says under which licence it comes itself")
    return tuple(gaps)


def _is_form_of(facts: ModelFacts, base: BaseModel) -> bool:
    """Whether a model is, by its name, the base in another format or quantisation."""
    base_name = plain_name(base.name.rpartition("/")[2])
    own_names = (plain_name(name.rpartition("/")[2]) for name in (facts.repository, facts.title) if name is not None)
    return any(
        name.startswith(base_name) and _FORMS.fullmatch(name.removeprefix(base_name)) is not None for name in own_names
    )


def _disagreements(voices: Mapping[str, Expression], agreed: Expression) -> tuple[str, ...]:
    """A voice agrees if all it names holds anyway: it may leave out what the bases bring."""
    if not voices:
        return ()
    first, first_expression = next(iter(voices.items()))
    return tuple(
        f"{voice} says {written(expression)}, {first} says {written(first_expression)}"
        for voice, expression in voices.items()
        if not set(ids_of(expression)) <= set(ids_of(agreed))
    )


def _remarks(voices: Mapping[str, Expression], bases: tuple[BaseModel, ...], agreed: Expression) -> tuple[str, ...]:
    """What a reader of the tags alone would miss: terms that only the bases bring, and who leaves them out."""
    named = {licence_id for expression in voices.values() for licence_id in ids_of(expression)}
    adding = [base for base in bases if base.licence is not None and base.licence not in named]
    remarks = [f"it is made from {base.name}, whose terms hold too: {base.licence}" for base in adding]
    remarks += [
        f"{voice} names only {written(expression)}"
        for voice, expression in voices.items()
        if adding and voice in _TAGS and set(ids_of(expression)) < set(ids_of(agreed))
    ]
    return tuple(remarks)


def _base_models(metadata: Mapping[str, object]) -> list[BaseModel]:
    count = metadata.get("general.base_model.count")
    if not isinstance(count, int) or isinstance(count, bool):
        return []
    bases = []
    for index in range(min(max(count, 0), MAX_BASE_MODELS)):
        key = f"general.base_model.{index}"
        url = _text(metadata, f"{key}.repo_url")
        organisation, name = _text(metadata, f"{key}.organization"), _text(metadata, f"{key}.name")
        if url is not None:
            bases.append(BaseModel(repository_of(url)))
        elif name is not None:
            bases.append(BaseModel(name if organisation is None else f"{organisation}/{name}"))
    return bases


def _printable(name: str) -> str:
    """A name that anybody may have written, as it may be shown on a terminal."""
    return "".join(character if character.isprintable() else " " for character in name[:_MAX_NAME_CHARACTERS])


def _text(metadata: Mapping[str, object], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value.strip() else None
