"""Model families: one module per GGUF architecture, found by its name, each with a `spec_from_config(config)`.

A family module is data: which settings and tensors make which parts of the spec. It holds no mathematics.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.models.gguf_config import GgufConfig, check_tensors
from abaci.models.spec import ModelSpec
from abaci.tensor import TensorInfo


def known_architectures() -> tuple[str, ...]:
    """Names of all families, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def check_is_model(metadata: Mapping[str, object]) -> None:
    """Raises UnsupportedModelError for a GGUF file of another kind."""
    kind = metadata.get("general.type")
    if kind == "adapter":
        raise UnsupportedModelError(
            "an adapter, which is no model by itself",
            hint="Run the model it was made for: abaci run MODEL --lora FILE.",
        )
    if kind == "imatrix":
        raise UnsupportedModelError(
            "the importance of a model's inputs, which is no model",
            hint="Quantise the model it was measured on: abaci quantize SRC DST --type TYPE --imatrix FILE.",
        )


def spec_from_gguf(
    metadata: Mapping[str, object], tensors: Mapping[str, TensorInfo], served_context: int | None = None
) -> ModelSpec:
    """The spec of a GGUF file, from its metadata and tensors (by name). The file then has all of `spec.tensors()`.

    `served_context` is the longest sequence that will run, if that is known to be shorter than the model's context.

    Raises UnsupportedModelError for an unknown architecture, setting or tensor, FileFormatError for one that is missing
    or makes no sense.
    """
    check_is_model(metadata)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FileFormatError(f"general.architecture = {architecture!r} is not a string")
    known = known_architectures()
    if architecture not in known:
        raise UnsupportedModelError(
            f"architecture {architecture!r} is not supported", hint=f"Supported architectures: {', '.join(known)}."
        )
    family = importlib.import_module(f"{__name__}.{architecture.replace('-', '_')}")
    config = GgufConfig(architecture, metadata, tensors, served_context)
    spec: ModelSpec = family.spec_from_config(config)
    config.refuse_unread_keys()
    check_tensors(spec, tensors, config.tensors_left)
    return spec
