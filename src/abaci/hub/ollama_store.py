"""The store of Ollama on this machine, read in place: manifests name files by their SHA-256.

    OLLAMA_MODELS, else ~/.ollama/models
    ├── manifests/registry.ollama.ai/library/llama3.2/3b   an image manifest, JSON
    └── blobs/sha256-<hash>                                its layers: model, template, licence ...

Nothing is copied or changed. The template of a layer is one of Go's, which is not run; the model's own is used.
"""

import json
from pathlib import Path
from typing import Any, Final

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError, UsageError
from abaci.hub.elsewhere import ollama_folder
from abaci.hub.names import OllamaName
from abaci.hub.wanted import Digest, WantedFile, WantedModel

_REGISTRY: Final = "registry.ollama.ai"
_MODEL_LAYER: Final = "application/vnd.ollama.image.model"
_UNSUPPORTED_LAYERS: Final = {
    "application/vnd.ollama.image.adapter": "an adapter",
    "application/vnd.ollama.image.projector": "an image encoder",
}
_MAX_MANIFEST_BYTES: Final = 1 << 20


def wanted_model(name: OllamaName) -> WantedModel:
    """The model of a manifest, its file to be found in the same store.

    Raises ModelNotFoundError, with the models that are there; FileFormatError; UnsupportedModelError for a model that
    is more than its weights, as what would be left out changes what it says.
    """
    path = ollama_folder() / "manifests" / _REGISTRY / name.repository.organisation / name.repository.name / name.tag
    layers = _layers(path, name)
    for media_type, what in _UNSUPPORTED_LAYERS.items():
        if media_type in (kind for kind, _, _ in layers):
            raise UnsupportedModelError(f"{name} has {what}, which is not used from an Ollama store")
    models = [(digest, size) for kind, digest, size in layers if kind == _MODEL_LAYER]
    if len(models) != 1:
        raise UnsupportedModelError(f"{name} has {len(models)} files of weights, not one")
    digest, size = models[0]
    return WantedModel(str(name), (WantedFile(f"{name.repository.name}-{name.tag}.gguf", size, digest),))


def names_here() -> list[str]:
    """What the store has, as it is typed here."""
    folder = ollama_folder() / "manifests" / _REGISTRY
    found = []
    for manifest in sorted(folder.glob("*/*/*")):
        organisation, repository, tag = manifest.relative_to(folder).parts
        owner = "" if organisation == "library" else f"{organisation}/"
        found.append(f"ollama/{owner}{repository}:{tag}")
    return found


def _layers(path: Path, name: OllamaName) -> list[tuple[str, Digest, int]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        names = names_here()
        where = f"There is no store in {ollama_folder()}; OLLAMA_MODELS names another."
        hint = f"It has {', '.join(names[:12])}." if names else where
        raise ModelNotFoundError(f"{name} is not in Ollama's store on this machine", hint=hint) from error
    try:
        document = json.loads(text) if len(text) <= _MAX_MANIFEST_BYTES else None
        return [_layer(layer) for layer in document["layers"]]  # type: ignore[index]
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise FileFormatError(f"{path} is not a manifest", hint="Let Ollama fetch the model again.") from error


def _layer(layer: Any) -> tuple[str, Digest, int]:
    kind, digest, size = layer["mediaType"], layer["digest"], layer["size"]
    if not (isinstance(kind, str) and isinstance(digest, str) and type(size) is int and size >= 0):
        raise TypeError("layer")
    return kind, Digest.sha256(digest.removeprefix("sha256:")), size
