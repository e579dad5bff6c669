"""From a name to the files it stands for: which, how large, with which hashes and from where. Fetches no weights."""

import fnmatch
import re
from typing import Final

from abaci.errors import DownloadError, ModelNotFoundError, UsageError
from abaci.hub import huggingface, lm_studio, modelscope, ollama_store
from abaci.hub.catalog import CatalogModel, Variant, WeightsFormat, entry_of, load_catalog
from abaci.hub.http_source import UrlSource, look_at
from abaci.hub.names import (
    CatalogName,
    FileUrl,
    HuggingFaceName,
    LMStudioName,
    LocalPath,
    ModelName,
    ModelScopeName,
    OllamaName,
)
from abaci.hub.network import Network
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.repositories import Listing, folder_files, gguf_models, wanted_model
from abaci.hub.wanted import Digest, WantedFile, WantedModel

_FIRST_SHARD: Final = re.compile(r"-00001-of-(\d{5})\.gguf$")
_MAX_SHARDS: Final = 1000


def plan(name: ModelName, network: Network) -> WantedModel:
    """The files of a model, to be fetched; a hub is asked where only it can tell.

    Raises ModelNotFoundError, DownloadError where the hub does not answer, OfflineError, UsageError for a name that is
    a path or leaves a choice, UnsupportedModelError.
    """
    try:
        match name:
            case CatalogName(text):
                return _of_catalog(text, network)
            case HuggingFaceName(repository, quantisation):
                listing = huggingface.list_repository(str(repository), "main", network)
                return wanted_model(str(name), listing, quantisation)
            case ModelScopeName(repository, quantisation):
                listing = modelscope.list_repository(str(repository), modelscope.USUAL_REVISION, network)
                return wanted_model(str(name), listing, quantisation)
            case OllamaName():
                return ollama_store.wanted_model(name)
            case LMStudioName():
                return lm_studio.wanted_model(name)
            case FileUrl():
                return _of_url(name, network)
            case LocalPath(path):
                raise UsageError(
                    f"{path} is a path: there is nothing to fetch",
                    hint="Check the path, or see the catalog: abaci search",
                )
    except SourceUnavailableError as error:
        raise DownloadError(f"{name}: {error}", hint="Check the name and the network.") from error


def _of_catalog(text: str, network: Network) -> WantedModel:
    found = load_catalog().find(text)
    if found is None or found.variant is None:
        raise ModelNotFoundError(f"the catalog knows no files of {text!r}", hint="See what it has: abaci search")
    entry = entry_of(found.model, found.variant)
    if entry is not None:
        file = WantedFile(entry.file_name, entry.num_bytes, Digest.sha256(entry.sha256), entry.sources)
        return WantedModel(entry.name, (file,), entry.licence)
    listing = huggingface.list_repository(str(found.variant.repository), found.variant.revision, network)
    return _of_variant(found.model, found.variant, listing)


def _of_variant(model: CatalogModel, variant: Variant, listing: Listing) -> WantedModel:
    name = model.name if variant is model.variant() else f"{model.name}-{variant.quantisation.lower()}"
    if variant.format is WeightsFormat.SAFETENSORS:
        chosen = folder_files(listing)
    else:
        matching = [file for file in listing.files if fnmatch.fnmatchcase(file.path, variant.pattern)]
        models = list(gguf_models(matching).values())
        if len(models) != 1:
            raise ModelNotFoundError(
                f"{listing.repository} has {len(models)} models that match {variant.pattern}, not one",
                hint=f"Name its file: abaci pull hf.co/{listing.repository}:{variant.quantisation}",
            )
        chosen = models[0]
    files = tuple(WantedFile(file.path, file.num_bytes, file.digest, (listing.source,)) for file in chosen)
    return WantedModel(name, files, model.licence.expression, tuple(str(base) for base in model.bases))


def _of_url(name: FileUrl, network: Network) -> WantedModel:
    """One file, or all shards of which the first was named. A hub's token goes along where it is the hub's URL."""
    files = []
    for url in _shard_urls(name.url):
        source = UrlSource(url, huggingface.credentials())
        found = look_at(source.request(""), network)
        digest = None if found.sha256 is None else Digest.sha256(found.sha256)
        files.append(WantedFile(FileUrl(url).file_name, found.num_bytes, digest, (source,)))
    return WantedModel(name.url, tuple(files))


def _shard_urls(url: str) -> list[str]:
    path, mark, query = url.partition("?")
    shard = _FIRST_SHARD.search(path)
    if shard is None:
        return [url]
    total = int(shard[1])
    if not 1 <= total <= _MAX_SHARDS:
        raise UsageError(f"{url} is one of {total} shards", hint=f"Give a model of at most {_MAX_SHARDS}.")
    stem = path[: shard.start()]
    return [f"{stem}-{number:05}-of-{total:05}.gguf{mark}{query}" for number in range(1, total + 1)]
