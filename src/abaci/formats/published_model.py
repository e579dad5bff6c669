"""What a folder's `config.json` says: the model's mapping, its settings under GGUF's names, and what to tell of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.packed_weights import scheme_of
from abaci.formats.quantization_settings import quantization_config, unknown_settings
from abaci.formats.weight_parts import Scheme
from abaci.models.huggingface import mapping_of
from abaci.models.huggingface.mapping import ModelMapping
from abaci.models.huggingface.published_config import PublishedConfig


@dataclass(slots=True)
class PublishedModel:
    """What `config.json` says: the text model's own settings, its mapping, and where its tensors are named."""

    mapping: ModelMapping
    values: Mapping[str, Any]
    config: PublishedConfig
    settings: Mapping[str, Any]
    """Under GGUF's names, without the architecture."""
    is_tied: bool
    """As the settings say, the outer ones before the text model's own; a head that is there all the same is used."""
    has_other_parts: bool
    scheme: Scheme | None
    """How weights are quantised."""
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        inner = values.get("text_config")
        own = inner if isinstance(inner, dict) else values
        model_type = own.get("model_type", values.get("model_type"))
        if not isinstance(model_type, str):
            raise FileFormatError(f"config.json: model_type = {model_type!r} is not a string")
        mapping = _mapping(model_type, own)
        config = PublishedConfig(own, mapping.defaults)
        settings: dict[str, Any] = {}
        for rule in mapping.settings:
            settings |= rule.to_gguf(config)
        inner_tied = own.get("tie_word_embeddings", mapping.is_tied_by_default)
        is_tied = values.get("tie_word_embeddings", inner_tied)
        if not isinstance(is_tied, bool):
            raise FileFormatError(f"config.json: tie_word_embeddings = {is_tied!r} is not true or false")
        scheme = scheme_of(own) or scheme_of(values)
        model = cls(mapping, own, config, settings, is_tied, own is not values, scheme)
        if unknown := config.unread():
            model.notes.append(
                f"config.json has settings that this version does not know and does not follow: {', '.join(unknown)}"
            )
        quantisation = quantization_config(own) or quantization_config(values) or {}
        if unknown := unknown_settings(quantisation):
            model.notes.append(
                "quantization_config has settings that this version does not know and does not follow: "
                + ", ".join(unknown)
            )
        if "auto_map" in values:
            model.notes.append("the folder brings code of its own, which is not run")
        return model


def _mapping(model_type: str, values: Mapping[str, Any]) -> ModelMapping:
    try:
        return mapping_of(model_type)
    except UnsupportedModelError as error:
        if "auto_map" not in values:
            raise
        raise UnsupportedModelError(
            f"{error.message}; code that a folder brings is never run", hint=error.hint
        ) from None
