"""A model's bill of materials: CycloneDX 1.6 as JSON, with the model as its subject.

The library cyclonedx-python-lib builds and writes everything but the model card (ML-BOM), for which it has no classes;
that part is added to the written document, in the form of the specification's `modelCard`
(https://cyclonedx.org/docs/1.6/json/#metadata_component_modelCard).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abaci.hub.licences.closure import BaseModel
from abaci.hub.licences.expressions import NO_ASSERTION
from abaci.version import __version__

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a bill of materials says of a model. None: not known, and left out."""

    name: str
    licences: str
    """An SPDX expression."""
    files: Sequence[ModelFile]
    base_models: Sequence[BaseModel] = ()
    title: str | None = None
    architecture: str | None = None
    repository: str | None = None
    """`organisation/name` at the Hugging Face hub."""
    source: str | None = None
    """Where the file came from, as the store has it."""
    num_parameters: int | None = None
    context_length: int | None = None
    quantisation: str | None = None


def write_sbom(model: ModelDescription) -> dict[str, Any]:
    """The document, of schema 1.6."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    subject = _model_component(model)
    bom = Bom(metadata=BomMetaData(component=subject, tools=_tools()), components=_file_components(model.files))
    bom.register_dependency(subject, bom.components)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(model)
    return document


def _model_component(model: ModelDescription) -> "Component":
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from packageurl import PackageURL

    organisation, _, name = (model.repository or "").partition("/")
    only_file = model.files[0] if len(model.files) == 1 else None
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        name=model.name,
        description=model.title,
        version=None if only_file is None else only_file.sha256[:12],
        hashes=[] if only_file is None else [HashType(alg=HashAlgorithm.SHA_256, content=only_file.sha256)],
        licenses=_licences(model.licences),
        purl=PackageURL("huggingface", organisation, name) if name else None,
        pedigree=Pedigree(ancestors=[_base_component(base) for base in model.base_models])
        if model.base_models
        else None,
        external_references=_references(model),
        properties=_properties(model),
    )


def _base_component(base: BaseModel) -> "Component":
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"base/{base.name}",
        name=base.name,
        licenses=_licences(base.licence or NO_ASSERTION),
    )


def _file_components(files: Iterable[ModelFile]) -> "list[Component]":
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(
            type=ComponentType.FILE,
            bom_ref=f"file/{file.sha256}",
            name=file.name,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
            properties=[Property(name="abaci:num_bytes", value=str(file.num_bytes))],
        )
        for file in files
    ]


def _licences(expression: str) -> list[Any]:
    from cyclonedx.model.license import LicenseExpression

    return [] if expression == NO_ASSERTION else [LicenseExpression(expression)]


def _references(model: ModelDescription) -> list[Any]:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri

    if model.repository is None:
        return []
    url = XsUri(f"https://huggingface.co/{model.repository}")
    return [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=url)]


def _properties(model: ModelDescription) -> "list[Property]":
    from cyclonedx.model import Property

    known = {
        "source": model.source,
        "num_parameters": model.num_parameters,
        "context_length": model.context_length,
        "quantisation": model.quantisation,
    }
    return [Property(name=f"abaci:{name}", value=str(value)) for name, value in known.items() if value is not None]


def _tools() -> Any:
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    return ToolRepository(components=[Component(type=ComponentType.APPLICATION, name="abaci", version=__version__)])


def _model_card(model: ModelDescription) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "task": "text-generation",
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    }
    if model.architecture is not None:
        parameters["modelArchitecture"] = model.architecture
    return {"modelParameters": parameters}
