"""What a person may type for a model, read strictly into one of a few frozen values. Opens, asks and fetches nothing.

    qwen2.5:7b    qwen2.5:7b-q8_0                          CatalogName
    hf.co/org/repo[:QUANT]    org/repo[:QUANT]             HuggingFaceName
    modelscope/org/repo[:QUANT]                            ModelScopeName
    ollama/name[:TAG]    ollama/namespace/name[:TAG]       OllamaName
    lmstudio/org/repo[:QUANT]                              LMStudioName
    https://host/path/file.gguf                            FileUrl
    ./file.gguf    /folder    ~/folder    file.gguf        LocalPath; a folder called `ollama` is `./ollama`

Every part of a name is checked where the value is made, so none can hold a separator, `..`, or a control character: a
path or an address put together from parts stays below the folder or host it starts from. Only LocalPath, which the user
gives for a file of theirs, may point anywhere.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from abaci.errors import UsageError

MAX_NAME_CHARACTERS: Final = 2_000
_SHOWN_CHARACTERS: Final = 120

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")
_CATALOG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?(?::[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Repository:
    """`organisation/name`, as hubs write it."""

    organisation: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.organisation, self.name):
            if _PART.fullmatch(part) is None or ".." in part or "--" in part:
                raise ValueError(f"{part!r} cannot be part of a repository's name")

    def __str__(self) -> str:
        return f"{self.organisation}/{self.name}"


@dataclass(frozen=True, slots=True)
class CatalogName:
    """A name of the form the catalog uses: lower case, perhaps a size, perhaps a quantisation after it."""

    text: str

    def __post_init__(self) -> None:
        if _CATALOG.fullmatch(self.text) is None:
            raise ValueError(f"{self.text!r} cannot be a catalog name")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class HuggingFaceName:
    """A repository of the Hugging Face hub; `quantisation` (upper case, e.g. Q4_K_M) chooses among its files."""

    repository: Repository
    quantisation: str | None = None

    def __post_init__(self) -> None:
        _check_quantisation(self.quantisation)

    def __str__(self) -> str:
        return f"hf.co/{self.repository}{_suffix(self.quantisation)}"


@dataclass(frozen=True, slots=True)
class ModelScopeName:
    """A repository of ModelScope."""

    repository: Repository
    quantisation: str | None = None

    def __post_init__(self) -> None:
        _check_quantisation(self.quantisation)

    def __str__(self) -> str:
        return f"modelscope/{self.repository}{_suffix(self.quantisation)}"


@dataclass(frozen=True, slots=True)
class LMStudioName:
    """A model in the folder of LM Studio on this machine."""

    repository: Repository
    quantisation: str | None = None

    def __post_init__(self) -> None:
        _check_quantisation(self.quantisation)

    def __str__(self) -> str:
        return f"lmstudio/{self.repository}{_suffix(self.quantisation)}"


@dataclass(frozen=True, slots=True)
class OllamaName:
    """A model in the store of Ollama on this machine; its own library is the namespace `library`."""

    repository: Repository
    tag: str = "latest"

    def __post_init__(self) -> None:
        if _TAG.fullmatch(self.tag) is None or ".." in self.tag:
            raise ValueError(f"{self.tag!r} cannot be a tag")

    def __str__(self) -> str:
        name = self.repository.name if self.repository.organisation == "library" else str(self.repository)
        return f"ollama/{name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class FileUrl:
    """The address of one `.gguf` file, or of the first of its shards."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is not an http address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address must not hold a user or password")
        if parts.fragment or any(character <= " " or character == "\x7f" for character in self.url):
            raise ValueError(f"{self.url!r} holds a fragment, space or control character")
        if _PART.fullmatch(self.file_name) is None or ".." in self.file_name or not self.file_name.endswith(".gguf"):
            raise ValueError(f"{self.url!r} does not end with the name of a .gguf file")

    @property
    def file_name(self) -> str:
        """The last part of its path."""
        return urlsplit(self.url).path.rpartition("/")[2]

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file or folder of the user's."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


ModelName = CatalogName | HuggingFaceName | ModelScopeName | LMStudioName | OllamaName | FileUrl | LocalPath
"""All that a model can be called."""


def parse_name(text: str) -> ModelName:
    """The meaning of what was typed, by its form alone: whether such a model exists is for others to say.

    Raises UsageError for a text that has none of the forms, which says which part is wrong.
    """
    if len(text) > MAX_NAME_CHARACTERS:
        raise UsageError(f"a model's name has {len(text):,} characters, more than {MAX_NAME_CHARACTERS:,}", hint=FORMS)
    try:
        return _parse(text)
    except ValueError as error:
        raise UsageError(f"no model can be called {shortened(text)!r}: {shortened(str(error))}", hint=FORMS) from error


def shortened(text: str) -> str:
    """For a message: of a long name its beginning and its end."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:60]}\N{HORIZONTAL ELLIPSIS}{text[-50:]}"


FORMS: Final = (
    "A name is like qwen2.5:7b, org/repo, hf.co/org/repo:Q4_K_M, modelscope/org/repo, ollama/name:tag, "
    "https://host/file.gguf or ./file.gguf."
)


def _parse(text: str) -> ModelName:
    place, _, rest = text.removeprefix("https://").partition("/")
    if "://" in text and (place not in _HUGGING_FACE_HOSTS or text.endswith(".gguf")):
        return FileUrl(text)
    if place in _HUGGING_FACE_HOSTS:
        return _hugging_face_name(rest)
    if place in _PLACES:
        return _PLACES[place](rest)
    if place in ("", ".", "..") or text.startswith("~") or text.endswith(".gguf"):
        return _local_path(text)
    return _hugging_face_name(text) if "/" in text else CatalogName(text.lower())


def _hugging_face_name(text: str) -> HuggingFaceName:
    return HuggingFaceName(*_repository_and_quantisation(text))


def _model_scope_name(text: str) -> ModelScopeName:
    return ModelScopeName(*_repository_and_quantisation(text))


def _lm_studio_name(text: str) -> LMStudioName:
    return LMStudioName(*_repository_and_quantisation(text))


def _ollama_name(text: str) -> OllamaName:
    path, colon, tag = text.partition(":")
    repository = _repository(path if "/" in path else f"library/{path}")
    return OllamaName(repository, tag) if colon else OllamaName(repository)


_HUGGING_FACE_HOSTS: Final = frozenset({"hf.co", "huggingface.co"})
_PLACES: Final[Mapping[str, Callable[[str], ModelName]]] = MappingProxyType(
    {"modelscope": _model_scope_name, "lmstudio": _lm_studio_name, "ollama": _ollama_name}
)


def _local_path(text: str) -> LocalPath:
    if not text:
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("a path cannot hold a null character")
    return LocalPath(Path(text))


def _repository_and_quantisation(text: str) -> tuple[Repository, str | None]:
    path, colon, quantisation = text.partition(":")
    return _repository(path), quantisation.upper() if colon else None


def _repository(path: str) -> Repository:
    parts = path.split("/")
    if len(parts) != 2:
        raise ValueError(f"{path!r} is not of the form org/repo")
    return Repository(*parts)


def _check_quantisation(quantisation: str | None) -> None:
    if quantisation is not None and (_PART.fullmatch(quantisation) is None or quantisation != quantisation.upper()):
        raise ValueError(f"{quantisation!r} cannot be a quantisation")


def _suffix(quantisation: str | None) -> str:
    return "" if quantisation is None else f":{quantisation}"
