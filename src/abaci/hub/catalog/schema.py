"""What the catalog says of a model, as frozen values. Data only: reading, fetching and judging are others' work.

Every block of facts names its source, the address of the text it was read in; what could not be read is None or empty.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from abaci.hub.catalog.shape import Shape
from abaci.hub.names import Repository
from abaci.hub.python_index import Package


class Task(StrEnum):
    """What a model is made for."""

    CHAT = "chat"
    CODE = "code"
    MATHEMATICS = "mathematics"
    REASONING = "reasoning"
    """Thinks before it answers."""
    TOOLS = "tools"
    VISION = "vision"
    COMPLETION = "completion"
    """Continues text; was not taught to converse."""
    EMBEDDING = "embedding"
    RERANKING = "reranking"


class WeightsFormat(StrEnum):
    """How the files of a variant are laid out."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of weights as the publisher states them, rounded as there."""

    total: int
    active: int
    """Those a token is multiplied by; `total` for a dense model."""
    source: str


@dataclass(frozen=True, slots=True)
class Context:
    """How many tokens a model was made for."""

    num_tokens: int
    """As its configuration has it."""
    num_extended_tokens: int | None
    """As the publisher states it with a change of the configuration, such as YaRN."""
    source: str


@dataclass(frozen=True, slots=True)
class StatedLicence:
    """The licence as its publisher states it."""

    expression: str
    """SPDX, with LicenseRef- for what SPDX has not: see `abaci.hub.licences`."""
    source: str


@dataclass(frozen=True, slots=True)
class Score:
    """One published result."""

    benchmark: str
    """A name in `benchmarks.toml`."""
    value: float
    """In the benchmark's own unit, mostly percent."""
    is_thinking: bool
    """Whether the model thought before it answered."""
    source: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What scores of one name measure."""

    name: str
    tasks: tuple[Task, ...]
    """What a good score is a sign of."""
    highest: float
    description: str


@dataclass(frozen=True, slots=True)
class Pin:
    """The one file of a variant when its bytes are known: whichever source delivers it, the hash decides."""

    file_name: str
    num_bytes: int
    sha256: str
    packages: tuple[Package, ...]
    """Wheels of the Python index that carry it in parts."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantisation of a model in one repository of the Hugging Face hub."""

    quantisation: str
    """As GGUF files are called, e.g. Q4_K_M, BF16; upper case."""
    format: WeightsFormat
    repository: Repository
    revision: str
    pattern: str
    """A glob over the repository's files that matches this variant's, shards included, and no others'."""
    source: str
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One published model."""

    name: str
    aliases: tuple[str, ...]
    title: str
    family: str
    publisher: str
    architecture: str
    """As GGUF files call it."""
    repository: Repository | None
    """The publisher's own."""
    bases: tuple[Repository, ...]
    """What it was made from; empty for a model trained from nothing, or where nobody says."""
    licence: StatedLicence
    tasks: tuple[Task, ...]
    parameters: Parameters | None
    context: Context | None
    shape: Shape | None
    scores: tuple[Score, ...]
    variants: tuple[Variant, ...]
    """The preferred one first."""
    chat_template_path: Path | None = None
    """A template for files that lack one."""

    def variant(self, quantisation: str | None = None) -> Variant | None:
        """The variant of that quantisation, in whatever case; without one, the preferred. None if there is none."""
        if quantisation is None:
            return self.variants[0] if self.variants else None
        wanted = quantisation.upper()
        return next((variant for variant in self.variants if variant.quantisation == wanted), None)

    def score(self, benchmark: str, *, is_thinking: bool | None = None) -> Score | None:
        """Its published result, or None; of a model that has two, the one asked for, else the better one."""
        matching = (
            score for score in self.scores if score.benchmark == benchmark and is_thinking in (None, score.is_thinking)
        )
        return max(matching, key=lambda score: score.value, default=None)


@dataclass(frozen=True, slots=True)
class NamedVariant:
    """What a catalog name stands for: a model, and a variant if it has any."""

    model: CatalogModel
    variant: Variant | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models, by name. `version` grows with every publication; `default` is the name for "just show me"."""

    version: int
    default: str
    models: Mapping[str, CatalogModel]
    benchmarks: Mapping[str, Benchmark]
    names: Mapping[str, str]
    """Every name and alias -> the model's name."""

    def find(self, text: str) -> NamedVariant | None:
        """What a name, an alias, or either with `-QUANTISATION` after it stands for; None if nothing."""
        for name, quantisation in _splits(text.lower()):
            model = self.models.get(self.names.get(name, ""))
            if model is None:
                continue
            variant = model.variant(quantisation)
            if quantisation is None or variant is not None:
                return NamedVariant(model, variant)
        return None

    def of_repository(self, repository: Repository) -> CatalogModel | None:
        """The model that a repository holds, in the publisher's form or another variant; None for unknown ones."""
        wanted = str(repository).lower()
        for model in self.models.values():
            own = [] if model.repository is None else [model.repository]
            if any(
                str(known).lower() == wanted for known in (*own, *(variant.repository for variant in model.variants))
            ):
                return model
        return None


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """The whole, then every way to cut a quantisation off its end, the longest name first."""
    yield text, None
    end = len(text)
    while (end := text.rfind("-", 0, end)) > 0:
        yield text[:end], text[end + 1 :]
