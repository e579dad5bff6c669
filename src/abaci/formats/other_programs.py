"""What a GGUF file may say that other programs do not follow, so that whoever makes one is told.

Facts of llama.cpp's sources, by architecture. Must not know how files are made.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from abaci.formats.checkpoint import Checkpoint, MetadataValue

_READS_ROPE_FACTORS: Final = frozenset({"gemma4", "llama", "mistral3"})
"""Architectures of which llama.cpp reads `rope_freqs.weight`; of any other it refuses a file that has it."""

_NORMALISES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "gemma4": True,
        "gpt-oss": True,
        "llama": True,
        "mistral3": True,
        "qwen2moe": False,
        "qwen35moe": True,
        "qwen3moe": True,
        "qwen3next": True,
    }
)
"""Whether llama.cpp makes the weights of the chosen experts sum to one, where it does not ask the file."""

_EXPERTS_IN_EVERY_LAYER: Final = frozenset({"qwen2moe", "qwen3moe", "qwen3next"})
"""Architectures of which llama.cpp refuses a file that lacks a router in some layer."""

_SOFTMAX: Final = 1
"""`expert_gating_func` of GGUF."""


def what_others_lack(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a GGUF file of this model says that other programs do not follow, a sentence each."""
    metadata, architecture = checkpoint.metadata, str(checkpoint.metadata.get("general.architecture"))
    sentences = [*_of_experts(architecture, metadata)]
    if "rope_freqs.weight" in checkpoint.tensors and architecture not in _READS_ROPE_FACTORS:
        sentences.append(
            f"llama.cpp reads no rope_freqs.weight of the architecture {architecture} and refuses the file"
        )
    if architecture in _EXPERTS_IN_EVERY_LAYER and _has_dense_layer(architecture, checkpoint):
        sentences.append(
            f"llama.cpp knows no layer without experts in the architecture {architecture} and refuses the file"
        )
    if f"{architecture}.rope.scaling.yarn_truncate" in metadata:
        sentences.append(f"llama.cpp does not read {architecture}.rope.scaling.yarn_truncate; its rope may differ")
    return tuple(sentences)


def _has_dense_layer(architecture: str, checkpoint: Checkpoint) -> bool:
    num_routers = sum(name.endswith(".ffn_gate_inp.weight") for name in checkpoint.tensors)
    return num_routers != checkpoint.metadata.get(f"{architecture}.block_count")


def _of_experts(architecture: str, metadata: Mapping[str, MetadataValue]) -> Iterator[str]:
    normalises, key = _NORMALISES.get(architecture), f"{architecture}.expert_weights_norm"
    if normalises is not None and metadata.get(key, normalises) is not normalises:
        yield (
            f"llama.cpp does not read {key}: it {'always' if normalises else 'never'} makes the weights of the chosen "
            "experts sum to one, and will answer otherwise"
        )
    groups, used = (metadata.get(f"{architecture}.expert_group{part}_count", 1) for part in ("", "_used"))
    is_softmax = architecture == "deepseek2" and metadata.get("deepseek2.expert_gating_func", _SOFTMAX) == _SOFTMAX
    if is_softmax and isinstance(groups, int) and isinstance(used, int) and 0 < used < groups:
        yield (
            "llama.cpp goes by the two best experts of each group where this model goes by the best one, and will "
            "answer otherwise"
        )
