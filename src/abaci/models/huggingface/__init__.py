"""Published model types: how Hugging Face names and arranges what the family files read under GGUF's names.

One mapping per `model_type`, as data that works both ways (`mapping`), in `model_types`.
"""

import importlib
import pkgutil

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface import model_types
from abaci.models.huggingface.mapping import ModelMapping


def known_model_types() -> tuple[str, ...]:
    """Sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(model_types.__path__)))


def mapping_of(model_type: str) -> ModelMapping:
    """The mapping of a published type. Raises UnsupportedModelError for one that is not known."""
    known = known_model_types()
    if model_type not in known:
        raise UnsupportedModelError(
            f"models of the type {model_type[:60]!r} are not supported", hint=f"Supported types: {', '.join(known)}."
        )
    module = importlib.import_module(f"{model_types.__name__}.{model_type}")
    mapping: ModelMapping = module.MAPPING
    return mapping


def mappings_of_architecture(architecture: str) -> tuple[ModelMapping, ...]:
    """All published types that a GGUF architecture serves."""
    mappings = (mapping_of(model_type) for model_type in known_model_types())
    return tuple(mapping for mapping in mappings if mapping.architecture == architecture)
