"""Which files of a repository make a model. Knows names and sizes, and no hub in particular.

Of a repository of GGUF files one quantisation is taken, all its shards; of any other the folder that a reader needs:
configuration, tokenizer, safetensors. Formats that run code when they are opened (pickle, in `.bin`, `.pt` ...) are
never fetched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from abaci.errors import ModelNotFoundError, UnsupportedModelError, UsageError
from abaci.hub.sources import Source
from abaci.hub.wanted import Digest, WantedFile, WantedModel, checked_path

_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
_SAFETENSORS_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_QUANTISATION: Final = re.compile(
    r"(?<![A-Za-z0-9])"
    r"((?:UD-)?(?:I?Q\d(?:_[0-9KMSLX]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|F32|FP16|FP32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PREFERRED: Final = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q4_K_L", "MXFP4", "Q6_K", "Q8_0", "BF16", "F16")
"""What to take where nobody says: the usual trade of size and quality first."""
_FOLDER_FILES: Final = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template"
    r"|processor_config|preprocessor_config|adapter_config|quantize_config|quant_config|params|tekken"
    r"|1_Pooling/config|modules|config_sentence_transformers|sentence_bert_config)\.json"
    r"|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja"
    r"|merges\.txt|vocab\.txt|tokenizer\.model|[^/]+\.safetensors|[^/]+\.safetensors\.index\.json"
    r"|README\.md|(LICEN[SC]E|NOTICE|USE_POLICY)[^/]{0,40}",
)
_UNSAFE: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".npz", ".joblib", ".msgpack")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a hub lists it."""

    path: str
    num_bytes: int
    digest: Digest | None
    """None where the place says nothing of its bytes."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit. What it says of itself is its publisher's word."""

    repository: str
    commit: str
    files: tuple[ListedFile, ...]
    source: Source
    licence: str = ""
    """The licence tag; empty where there is none."""
    licence_name: str = ""
    """What the tag `other` stands for."""
    base_models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def wanted_model(name: str, listing: Listing, quantisation: str | None = None) -> WantedModel:
    """The model of a repository, to be kept under `name`.

    Raises ModelNotFoundError where there is none, or none of that quantisation; UsageError where it must be named;
    UnsupportedModelError for weights in a format that is not opened.
    """
    models = gguf_models(listing.files)
    has_safetensors = any(file.path.endswith(".safetensors") for file in listing.files)
    if models and (quantisation is not None or not has_safetensors):
        chosen = _choose(models, listing.repository, quantisation)
    elif quantisation is not None:
        raise ModelNotFoundError(
            f"{listing.repository} has no GGUF files, so no {quantisation}", hint="Leave out the quantisation."
        )
    else:
        chosen = folder_files(listing)
    files = tuple(WantedFile(file.path, file.num_bytes, file.digest, (listing.source,)) for file in chosen)
    return WantedModel(name, files, listing.licence_name or listing.licence, listing.base_models)


def gguf_models(files: Sequence[ListedFile]) -> dict[str, tuple[ListedFile, ...]]:
    """The GGUF models of a repository by their path without the shard; shards in order, incomplete sets left out."""
    groups: dict[str, list[ListedFile]] = {}
    for file in files:
        name = file.path.rpartition("/")[2].lower()
        if name.endswith(".gguf") and not name.startswith(("mmproj", "imatrix")):
            groups.setdefault(_SHARD.sub("", file.path), []).append(file)
    return {path: tuple(sorted(group, key=lambda file: file.path)) for path, group in groups.items() if _whole(group)}


def quantisation_of(path: str) -> str | None:
    """The quantisation in a file's name, in capitals; None where it names none."""
    found = _QUANTISATION.findall(path.rpartition("/")[2]) or _QUANTISATION.findall(path)
    return found[-1].upper() if found else None


def folder_files(listing: Listing) -> tuple[ListedFile, ...]:
    """What a reader of the folder needs, the small files first. Raises UnsupportedModelError, ModelNotFoundError."""
    files = [file for file in listing.files if _FOLDER_FILES.fullmatch(file.path)]
    weights = [file for file in files if file.path.endswith(".safetensors")]
    if not weights:
        unsafe = [file.path for file in listing.files if file.path.lower().endswith(_UNSAFE)]
        if unsafe:
            raise UnsupportedModelError(
                f"{listing.repository} has its weights in {unsafe[0]}, a format that can run code when it is opened",
                hint="Choose a repository with safetensors or GGUF files.",
            )
        raise ModelNotFoundError(
            f"{listing.repository} holds no model: neither GGUF nor safetensors files",
            hint="Check the name of the repository.",
        )
    names = {file.path for file in weights}
    if any(name.startswith("model") for name in names):  # beside the same weights under their first names
        names = {name for name in names if not name.startswith("consolidated")}
    _check_shards(listing.repository, names)
    chosen = [file for file in files if not file.path.endswith(".safetensors") or file.path in names]
    return tuple(sorted(chosen, key=lambda file: (file.path in names, file.path)))


def _whole(group: list[ListedFile]) -> bool:
    shards = [_SHARD.search(file.path) for file in group]
    if shards[0] is None:
        return len(group) == 1
    numbers = sorted(int(shard[1]) for shard in shards if shard is not None)
    return numbers == list(range(1, int(shards[0][2]) + 1))


def _choose(
    models: dict[str, tuple[ListedFile, ...]], repository: str, quantisation: str | None
) -> tuple[ListedFile, ...]:
    by_quantisation: dict[str, list[str]] = {}
    for path in models:
        by_quantisation.setdefault(quantisation_of(path) or path, []).append(path)
    if quantisation is None:
        known = [name for name in _PREFERRED if name in by_quantisation]
        paths = by_quantisation[known[0]] if known else list(models) if len(models) == 1 else []
        if not paths:
            raise UsageError(
                f"{repository} holds several models", hint=f"Name one: {', '.join(sorted(by_quantisation))}."
            )
    else:
        paths = by_quantisation.get(quantisation.upper()) or [path for path in models if path == quantisation]
    if not paths:
        raise ModelNotFoundError(
            f"{repository} has no {quantisation}", hint=f"It has {', '.join(sorted(by_quantisation))}."
        )
    if len(paths) > 1:
        raise UsageError(
            f"{repository} has several files of that quantisation", hint=f"Name one: {', '.join(sorted(paths))}."
        )
    return models[paths[0]]


def _check_shards(repository: str, names: set[str]) -> None:
    for name in names:
        shard = _SAFETENSORS_SHARD.search(name)
        if shard is None:
            continue
        stem, total = name[: shard.start()], int(shard[2])
        missing = [
            number for number in range(1, total + 1) if f"{stem}-{number:05}-of-{total:05}.safetensors" not in names
        ]
        if missing:
            raise ModelNotFoundError(
                f"{repository} lacks shard {missing[0]} of {total} of {stem}",
                hint="Look at the repository's page, or choose another.",
            )


def is_sound_path(path: str) -> bool:
    """Whether a listed file may be kept at all; a repository's hidden files and odd names are not listed."""
    try:
        checked_path(path)
    except UsageError:
        return False
    return True
