"""A model's footprint from the little that is at hand: the header of its file, else the shape in the catalog.

No weights are read, and nothing is fetched but the header.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from abaci import hub
from abaci.errors import DownloadError, FileFormatError, ModelNotFoundError, OfflineError, UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf import join_headers
from abaci.formats.gguf_ranges import read_header_by_ranges
from abaci.formats.opening import open_checkpoint
from abaci.hub.network import Network
from abaci.hub.planning import plan
from abaci.hub.reading import read_range
from abaci.hub.wanted import WantedFile, WantedModel
from abaci.kernels.footprint import Footprint, footprint
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.runtime.shape_footprint import shape_footprint
from abaci.tensor import CacheType, TensorInfo


class Basis(StrEnum):
    """What a description was made from."""

    FILE = "the file on this machine"
    HEADER = "the header of the file, fetched"
    CATALOG = "the shape in the catalog, which tells the file's size within some percent"


class NoHeaderError(UnsupportedModelError):
    """Files of which no header says all that is needed."""


@dataclass(frozen=True, slots=True)
class DescribedModel:
    """A model as a forecast needs it."""

    name: str
    footprint: Footprint
    basis: Basis
    path: Path | None = None
    """Of its file, where that is here."""


def describe_model(name: str, network: Network, cache_type: CacheType = CacheType.F16) -> DescribedModel:
    """What is known of a model: its file's header if that can be had, else what the catalog says. Its cache would be
    of `cache_type`.

    Raises ModelNotFoundError, with near names; UnsupportedModelError for one that this version cannot run;
    FileFormatError; OfflineError and DownloadError where only the network could tell; UsageError.
    """
    try:
        resolved = hub.resolve(name, download=False)
    except ModelNotFoundError:
        pass
    else:
        return describe_file(resolved.path, resolved.name, cache_type)
    try:
        return describe_remote(plan(hub.known_name(name), network), network, cache_type)
    except (DownloadError, OfflineError, NoHeaderError):
        described = describe_catalog_model(name, cache_type=cache_type)
        if described is None:
            raise
        return described


def describe_file(path: Path, name: str, cache_type: CacheType = CacheType.F16) -> DescribedModel:
    """A model file or folder that is here. Raises FileFormatError, UnsupportedModelError."""
    checkpoint = open_checkpoint(path, sorts_columns=True)
    try:
        spec = _spec(checkpoint.metadata, checkpoint.tensors, str(path))
        counted = footprint(
            spec,
            {name: tensor.format for name, tensor in checkpoint.tensors.items()},
            embedding_is_stored=all(checkpoint.is_stored(checkpoint.tensors[t.weight]) for t in spec.row_tables()),
            cache_type=cache_type,
        )
    finally:
        checkpoint.close()
    return DescribedModel(name, counted, Basis.FILE, path)


def describe_remote(wanted: WantedModel, network: Network, cache_type: CacheType = CacheType.F16) -> DescribedModel:
    """A model that is not here, by the headers of its GGUF files alone.

    Raises DownloadError, OfflineError, FileFormatError; UnsupportedModelError for one that cannot be run; NoHeaderError
    for files that are no GGUF.
    """
    if not all(file.name.endswith(".gguf") for file in wanted.files):
        raise NoHeaderError(
            f"{wanted.name} is not one of GGUF files: what it takes is known when it is here",
            hint=f"Fetch it, then: abaci fit {wanted.name}",
        )
    headers = [
        read_header_by_ranges(file.name, file.num_bytes, partial(_read_range, file, network), file_index=index)
        for index, file in enumerate(wanted.files)
    ]
    header = join_headers(headers)
    spec = _spec(header.metadata, header.tensors, wanted.name)
    formats = {name: tensor.format for name, tensor in header.tensors.items()}
    counted = footprint(spec, formats, cache_type=cache_type)
    return DescribedModel(wanted.name, counted, Basis.HEADER)


def _read_range(file: WantedFile, network: Network, begin: int, end: int) -> bytes:
    return read_range(file, begin, end, network)


def describe_catalog_model(
    name: str, catalog: hub.Catalog | None = None, cache_type: CacheType = CacheType.F16
) -> DescribedModel | None:
    """A model of the catalog by its shape; None where the catalog does not know the name or the shape."""
    found = (hub.load_catalog() if catalog is None else catalog).find(name)
    if found is None or found.model.shape is None or found.variant is None:
        return None
    context = found.model.context
    num_tokens = _UNKNOWN_CONTEXT if context is None else context.num_tokens
    counted = shape_footprint(found.model.shape, found.variant.quantisation, num_tokens, cache_type)
    return None if counted is None else DescribedModel(name, counted, Basis.CATALOG)


_UNKNOWN_CONTEXT = 8192
"""Every model of the last years was made for so many tokens at least."""


def _spec(metadata: Mapping[str, MetadataValue], tensors: Mapping[str, TensorInfo], where: str) -> ModelSpec:
    try:
        return spec_from_gguf(metadata, tensors)
    except FileFormatError as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
