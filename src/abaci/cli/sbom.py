"""`abaci sbom`: a model's bill of materials, CycloneDX 1.6 as JSON."""

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

from abaci.cli.terminal import ModelArgument, print_json

if TYPE_CHECKING:
    from abaci.formats.checkpoint import Checkpoint
    from abaci.hub import ResolvedModel
    from abaci.hub.sbom import ModelFile


def sbom(model: ModelArgument) -> None:
    """Print a model's bill of materials (CycloneDX, JSON).

    It has files with hashes, licences and base models, by version 1.6 of the format.
    """
    from abaci import hub
    from abaci.formats.opening import open_checkpoint
    from abaci.hub.licences import examine
    from abaci.hub.licences.model_facts import facts_of_file
    from abaci.hub.sbom import ModelDescription, write_sbom

    resolved = hub.resolve(model, download=False)
    facts = facts_of_file(resolved)
    report = examine(facts, None)
    with closing(open_checkpoint(resolved.path)) as checkpoint:
        metadata = checkpoint.metadata
        architecture = metadata.get("general.architecture")
        description = ModelDescription(
            name=resolved.name,
            licences=report.expression,
            files=_files(resolved, checkpoint),
            base_models=report.licences.base_models,
            title=facts.title,
            architecture=_or_none(architecture, str),
            repository=facts.repository,
            source=resolved.source if resolved.sha256 is not None else None,
            num_parameters=sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()),
            context_length=_or_none(metadata.get(f"{architecture}.context_length"), int),
            quantisation=_main_format(checkpoint),
        )
    print_json(write_sbom(description))


def _files(resolved: "ResolvedModel", checkpoint: "Checkpoint") -> "list[ModelFile]":
    """Of a model of the store every file, with the hashes it was checked by; of any other those that are read."""
    from abaci.hub import Store, stored_model
    from abaci.hub.partial import sha256_of
    from abaci.hub.sbom import ModelFile

    if resolved.sha256 is None:
        return [ModelFile(path.name, path.stat().st_size, sha256_of(path)) for path in checkpoint.paths]
    files = stored_model(resolved.name, Store()).files
    return [ModelFile(file.path, file.num_bytes, file.sha256) for file in files]


def _main_format(checkpoint: "Checkpoint") -> str | None:
    """The storage format that takes most bytes."""
    num_bytes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        num_bytes[tensor.format.label] = num_bytes.get(tensor.format.label, 0) + tensor.num_bytes
    return max(num_bytes, key=lambda label: num_bytes[label], default=None)


def _or_none(value: object, kind: type) -> Any:
    return value if isinstance(value, kind) else None
