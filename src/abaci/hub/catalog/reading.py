"""From a catalog document (tables, lists, texts and numbers, as TOML and JSON give them) to a `Catalog`, strictly.

    version, default
    benchmarks.NAME     tasks, highest, description
    families[]          family, publisher, architecture; models[]
      models[]          name, title, licence, tasks, card; what is known of the rest: see docs/catalog.md

A `source` is the address of the text that a block was read in; where a block names none, it is the model's `card`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from abaci.errors import FileFormatError
from abaci.hub.catalog.fields import WRONG, Table
from abaci.hub.catalog.schema import (
    Benchmark,
    Catalog,
    CatalogModel,
    Context,
    Parameters,
    Pin,
    Score,
    StatedLicence,
    Task,
    Variant,
    WeightsFormat,
)
from abaci.hub.catalog.shape import Experts, LatentAttention, LinearAttention, Shape, SlidingWindow
from abaci.hub.names import CatalogName, Repository
from abaci.hub.python_index import Package

_NAME = r"[a-z0-9][a-z0-9._-]{0,62}:[a-z0-9][a-z0-9._-]{0,62}"
_QUANTISATION = r"[A-Z0-9][A-Z0-9_-]{0,30}"
_PATTERN = r"(?:[A-Za-z0-9_*{}-](?:[A-Za-z0-9._*{}-]*[A-Za-z0-9_*{}-])?/)?[A-Za-z0-9_*{}-][A-Za-z0-9._*{}-]*"
_FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}"
_EXPRESSION = r"[A-Za-z0-9][A-Za-z0-9 ().+-]*"
_REPOSITORY = r"[^/ ]+/[^/ ]+"
_TASK = "|".join(Task)


@dataclass(frozen=True, slots=True)
class _Family:
    """What models of one file have in common unless they say otherwise."""

    name: str
    publisher: str
    architecture: str


def read_catalog(document: object, templates: Path) -> Catalog:
    """A whole document; chat templates that it names are files of `templates`. Raises FileFormatError."""
    table = Table(document, "the document")
    version = table.integer("version")
    default = table.text("default", _NAME)
    benchmarks = _benchmarks(table.table("benchmarks"))
    models: dict[str, CatalogModel] = {}
    names: dict[str, str] = {}
    for family in table.tables("families"):
        for model in _family(family, benchmarks, templates):
            models[model.name] = model
            for name in (model.name, *model.aliases):
                if name in names:
                    raise FileFormatError(f"catalog: {name} names two models", hint=WRONG)
                names[name] = model.name
    table.end()
    if default not in models:
        raise FileFormatError(f"catalog: the default {default} is not a model of it", hint=WRONG)
    return Catalog(version, default, MappingProxyType(models), MappingProxyType(benchmarks), MappingProxyType(names))


def _benchmarks(table: Table) -> dict[str, Benchmark]:
    benchmarks = {}
    for name in table.unread():
        fields = table.table(name)
        benchmarks[name] = Benchmark(
            name=name,
            tasks=_tasks(fields),
            highest=fields.number("highest", 1e6),
            description=fields.text("description"),
        )
        fields.end()
    return benchmarks


def _family(table: Table, benchmarks: Mapping[str, Benchmark], templates: Path) -> Iterator[CatalogModel]:
    family = _Family(table.text("family"), table.text("publisher"), table.text("architecture", _FILE_NAME))
    for fields in table.tables("models"):
        yield _model(fields, family, benchmarks, templates)
    table.end()


def _model(table: Table, family: _Family, benchmarks: Mapping[str, Benchmark], templates: Path) -> CatalogModel:
    card = table.address("card")
    repository = table.optional("repository", lambda key: _repository(table, key))
    template = table.optional("chat_template", lambda key: table.text(key, _FILE_NAME))
    if template is not None and not (templates / template).is_file():
        raise table.wrong("chat_template", "one of those that come with the package")
    model = CatalogModel(
        name=str(CatalogName(table.text("name", _NAME))),
        aliases=table.optional("aliases", lambda key: table.texts(key, _NAME)) or (),
        title=table.text("title"),
        family=family.name,
        publisher=table.optional("publisher", table.text) or family.publisher,
        architecture=table.optional("architecture", lambda key: table.text(key, _FILE_NAME)) or family.architecture,
        repository=repository,
        bases=_bases(table),
        licence=_licence(table, card),
        tasks=_tasks(table),
        parameters=table.optional("parameters", lambda key: _parameters(table.table(key), card)),
        context=table.optional("context", lambda key: _context(table.table(key), card)),
        shape=table.optional("shape", lambda key: _shape(table.table(key))),
        scores=tuple(_scores(table, benchmarks)),
        variants=_variants(table, repository, card),
        chat_template_path=None if template is None else templates / template,
    )
    table.end()
    return model


def _repository(table: Table, key: str) -> Repository:
    return table.convert(key, _repository_of, "a repository like org/name")


def _repository_of(text: str) -> Repository:
    organisation, _, name = text.partition("/")
    return Repository(organisation, name)


def _bases(table: Table) -> tuple[Repository, ...]:
    texts = table.optional("bases", lambda key: table.texts(key, _REPOSITORY)) or ()
    try:
        return tuple(_repository_of(text) for text in texts)
    except ValueError as error:
        raise table.wrong("bases", "a list of repositories like org/name") from error


def _tasks(table: Table) -> tuple[Task, ...]:
    return tuple(Task(text) for text in table.texts("tasks", _TASK))


def _licence(table: Table, card: str) -> StatedLicence:
    expression = table.text("licence", _EXPRESSION)
    return StatedLicence(expression, table.optional("licence_source", table.address) or card)


def _parameters(table: Table, card: str) -> Parameters:
    total = table.integer("total")
    active = table.optional("active", table.integer)
    parameters = Parameters(total, active or total, _source(table, card))
    table.end()
    return parameters


def _context(table: Table, card: str) -> Context:
    context = Context(table.integer("tokens"), table.optional("extended_tokens", table.integer), _source(table, card))
    table.end()
    return context


def _source(table: Table, card: str) -> str:
    return table.optional("source", table.address) or card


def _shape(table: Table) -> Shape:
    shape = Shape(
        num_layers=table.integer("layers"),
        hidden_size=table.integer("hidden"),
        num_heads=table.integer("heads"),
        num_kv_heads=table.integer("kv_heads"),
        head_size=table.integer("head"),
        mlp_size=table.integer("mlp", lowest=0),
        vocab_size=table.integer("vocab"),
        is_tied=table.flag("tied"),
        source=table.address("source"),
        experts=table.optional("experts", lambda key: _experts(table.table(key))),
        latent_attention=table.optional("latent", lambda key: _latent_attention(table.table(key))),
        linear_attention=table.optional("linear", lambda key: _linear_attention(table.table(key))),
        sliding_window=table.optional("window", lambda key: _sliding_window(table.table(key))),
        has_gated_attention=bool(table.optional("gated_attention", table.flag)),
    )
    table.end()
    return shape


def _experts(table: Table) -> Experts:
    experts = Experts(
        num_experts=table.integer("count"),
        num_experts_per_token=table.integer("per_token"),
        mlp_size=table.integer("mlp"),
        shared_mlp_size=table.optional("shared_mlp", table.integer) or 0,
        num_dense_layers=table.optional("dense_layers", table.integer) or 0,
    )
    table.end()
    return experts


def _latent_attention(table: Table) -> LatentAttention:
    latent = LatentAttention(
        key_value_rank=table.integer("kv_rank"),
        rope_head_size=table.integer("rope_head"),
        plain_head_size=table.integer("plain_head"),
        value_head_size=table.integer("value_head"),
        query_rank=table.optional("query_rank", table.integer),
    )
    table.end()
    return latent


def _linear_attention(table: Table) -> LinearAttention:
    linear = LinearAttention(
        num_layers=table.integer("layers"),
        num_key_heads=table.integer("key_heads"),
        num_value_heads=table.integer("value_heads"),
        key_head_size=table.integer("key_head"),
        value_head_size=table.integer("value_head"),
        convolution_size=table.integer("convolution"),
    )
    table.end()
    return linear


def _sliding_window(table: Table) -> SlidingWindow:
    window = SlidingWindow(num_tokens=table.integer("tokens"), num_layers=table.integer("layers"))
    table.end()
    return window


def _scores(table: Table, benchmarks: Mapping[str, Benchmark]) -> Iterator[Score]:
    seen: set[tuple[str, bool]] = set()
    for block in table.optional("scores", table.tables) or ():
        source = block.address("source")
        is_thinking = bool(block.optional("thinking", block.flag))
        values = block.table("values")
        for name in values.unread():
            if name not in benchmarks or (name, is_thinking) in seen:
                raise values.wrong(name, "a known benchmark, given once")
            seen.add((name, is_thinking))
            yield Score(name, values.number(name, benchmarks[name].highest), is_thinking, source)
        block.end()


def _variants(table: Table, own: Repository | None, card: str) -> tuple[Variant, ...]:
    """Those of the publisher's repository come last: most people want smaller ones."""
    blocks = table.optional("files", table.tables) or []
    variants = [variant for block in blocks for variant in _listed_variants(block, card)]
    weights = table.optional("weights", lambda key: table.text(key, _QUANTISATION))
    if weights is not None:
        if own is None:
            raise table.wrong("weights", "without a repository anything")
        variants.append(Variant(weights, WeightsFormat.SAFETENSORS, own, "main", "*.safetensors", card))
    if len({variant.quantisation for variant in variants}) != len(variants):
        raise table.wrong("files", "free of a quantisation that is there twice")
    return tuple(variants)


def _listed_variants(block: Table, card: str) -> Iterator[Variant]:
    repository = _repository(block, "repository")
    revision = block.optional("revision", lambda key: block.text(key, _FILE_NAME)) or "main"
    source = _source(block, card)
    quantisations = block.texts("quantisations", _QUANTISATION)
    pin = block.optional("pin", lambda key: _pin(block.table(key)))
    pattern = block.text("pattern", _PATTERN) if pin is None else pin.file_name
    block.end()
    if pin is not None and len(quantisations) != 1:
        raise block.wrong("quantisations", "one, as the pin is")
    for quantisation in quantisations:
        files = pattern.replace("{QUANTISATION}", quantisation).replace("{quantisation}", quantisation.lower())
        yield Variant(quantisation, WeightsFormat.GGUF, repository, revision, files, source, pin)


def _pin(table: Table) -> Pin:
    pin = Pin(
        file_name=table.text("file_name", _FILE_NAME),
        num_bytes=table.integer("num_bytes"),
        sha256=table.text("sha256", "[0-9a-f]{64}"),
        packages=tuple(_package(package) for package in table.optional("packages", table.tables) or ()),
    )
    if pin.packages and sum(package.num_bytes for package in pin.packages) != pin.num_bytes:
        raise table.wrong("packages", "as long together as the file")
    table.end()
    return pin


def _package(table: Table) -> Package:
    package = Package(
        name=table.text("name", "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"),
        version=table.text("version", "[0-9][A-Za-z0-9.!+]{0,40}"),
        entry=table.text("entry", "[A-Za-z0-9_][A-Za-z0-9_./-]{0,250}"),
        num_bytes=table.integer("num_bytes"),
    )
    table.end()
    return package
