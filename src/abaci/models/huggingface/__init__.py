"""Published model types: how Hugging Face names and arranges what the family files read under GGUF's names.

One mapping per `model_type`, as data that works both ways (`mapping`), in `model_types`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface import model_types
from abaci.models.huggingface.mapping import ModelMapping

_ALIASES: Mapping[str, str] = MappingProxyType({"kimi_k2": "deepseek_v3"})
"""Types that are published under a name of their own, and are another with other sizes."""


def known_model_types() -> tuple[str, ...]:
    """Sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(model_types.__path__)))


def mapping_of(model_type: str) -> ModelMapping:
    """The mapping of a published type. Raises UnsupportedModelError for one that is not known."""
    known = known_model_types()
    module_name = _ALIASES.get(model_type, model_type)
    if module_name not in known:
        raise UnsupportedModelError(
            f"models of the type {model_type[:60]!r} are not supported",
            hint=f"Supported types: {', '.join((*known, *_ALIASES))}.",
        )
    module = importlib.import_module(f"{model_types.__name__}.{module_name}")
    mapping: ModelMapping = module.MAPPING
    return mapping


def mappings_of_architecture(architecture: str) -> tuple[ModelMapping, ...]:
    """All published types that a GGUF architecture serves."""
    mappings = (mapping_of(model_type) for model_type in known_model_types())
    return tuple(mapping for mapping in mappings if mapping.architecture == architecture)
