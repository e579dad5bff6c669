"""What a model folder says beside the weights: tokenizer, chat templates, pooling, as GGUF's keys.

Templates: `chat_template.jinja` before what `tokenizer_config.json` holds, as `transformers` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.checkpoint import TEMPLATE_KEY, MetadataValue
from abaci.formats.generation_config import sampling_metadata, unfollowed_advice
from abaci.formats.json_file import read_object, read_text
from abaci.formats.tokenizer import Tokenizer
from abaci.formats.tokenizer_keys import tokenizer_keys

TEMPLATES_KEY: Final = "tokenizer.chat_templates"

_POOLINGS: Final = {
    "pooling_mode_mean_tokens": 1,
    "pooling_mode_lasttoken": 3,
    "pooling_mode_cls_token": None,
    "pooling_mode_max_tokens": None,
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
}
"""Of `sentence-transformers`, and GGUF's numbers for those we have."""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The files of a folder that turn text into tokens and back, as they stand there."""

    folder: Path
    tokenizer_json: str | None
    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    context_length: object
    """As `config.json` says, of whatever type."""

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """All but the parsing of `tokenizer.json`. `config` names the end tokens where nothing else does."""
        generation_config = read_object(folder / "generation_config.json") or {}
        if generation_config.get("eos_token_id") is None:
            generation_config |= {"eos_token_id": config.get("eos_token_id")}
        return cls(
            folder,
            read_text(folder / "tokenizer.json"),
            read_object(folder / "tokenizer_config.json") or {},
            generation_config,
            config.get("max_position_embeddings"),
        )

    def metadata(self) -> dict[str, MetadataValue]:
        """Chat templates and sampling defaults. Raises FileFormatError."""
        return template_metadata(self.folder, self.tokenizer_config) | sampling_metadata(
            self.folder, self.generation_config
        )

    def notes(self) -> list[str]:
        """What the user should know. Raises FileFormatError."""
        return unfollowed_advice(self.folder, self.generation_config, self.context_length)

    def tokenizer(self, vocab_size: int) -> Tokenizer:
        """For a model of so many tokens. Raises FileFormatError, UnsupportedModelError."""
        return Tokenizer.from_huggingface(
            self._description(), self.tokenizer_config, self.generation_config, vocab_size=vocab_size
        )

    def tokenizer_keys(self, vocab_size: int) -> dict[str, MetadataValue]:
        """The `tokenizer.ggml.*` keys. Raises as `tokenizer` does."""
        return tokenizer_keys(self._description(), self.tokenizer_config, self.generation_config, vocab_size=vocab_size)

    def _description(self) -> str:
        if self.tokenizer_json is None:
            raise UnsupportedModelError(
                f"{self.folder}: no tokenizer.json; tokenizers in other files are not read",
                hint="Use a folder that has one; `transformers` writes it with AutoTokenizer.save_pretrained.",
            )
        return self.tokenizer_json


def template_metadata(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """The default chat template, and others under their names. Raises FileFormatError."""
    named = _configured_templates(folder, tokenizer_config)
    own_file = read_text(folder / "chat_template.jinja")
    if own_file is not None:
        named["default"] = own_file
    metadata: dict[str, MetadataValue] = {}
    if "default" in named:
        metadata[TEMPLATE_KEY] = named.pop("default")
    metadata |= {f"{TEMPLATE_KEY}.{name}": template for name, template in named.items()}
    if named:
        metadata[TEMPLATES_KEY] = sorted(named)
    return metadata


def _configured_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """By name: text, or a list of names with templates, or an object of them."""
    value = tokenizer_config.get("chat_template")
    if value is None:
        value = (read_object(folder / "chat_template.json") or {}).get("chat_template")
    match value:
        case None:
            return {}
        case str():
            return {"default": value}
        case list():
            pairs = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
        case dict():
            pairs = list(value.items())
        case _:
            pairs = []
    if not pairs or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise FileFormatError(f"{folder / 'tokenizer_config.json'}: chat_template is neither text nor named texts")
    return {str(name): str(text) for name, text in pairs}


def pooling_metadata(folder: Path, architecture: str) -> dict[str, MetadataValue]:
    """How a model for embeddings pools its hidden states, as `sentence-transformers` keeps it beside the weights.

    Raises UnsupportedModelError for another way than the mean or the last token.
    """
    path = folder / "1_Pooling" / "config.json"
    modes = {name for name, is_used in (read_object(path) or {}).items() if name in _POOLINGS and is_used is True}
    if not modes:
        return {}
    kinds = [_POOLINGS[name] for name in modes]
    if len(kinds) > 1 or kinds[0] is None:
        raise UnsupportedModelError(
            f"{path}: {', '.join(sorted(modes))} is not supported", hint="Choose another model."
        )
    return {f"{architecture}.pooling_type": kinds[0]}
