"""What stands in `quantization_config` beside what is read: what changes nothing, what is refused, what is not known.

A way to store weights says here which keys it has. Knows no tensors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from abaci.errors import FileFormatError, UnsupportedModelError

_OF_TRANSFORMERS: Final = frozenset({"dequantize", "modules_to_not_convert", "quant_method", "run_compressed"})
"""How another program loads the weights; which are quantised is told by their tensors."""

_KNOWN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "awq": "backend bits desc_act do_fuse exllama_config format fuse_max_seq_len group_size modules_to_fuse "
        "q_group_size sym version w_bit zero_point",
        "gptq": "act_group_aware backend batch_size bits block_name_to_quantize cache_block_outputs checkpoint_format "
        "damp_auto_increment damp_percent dataset desc_act dynamic exllama_config format group_size is_marlin_format "
        "lm_head max_input_length meta model_file_base_name model_name_or_path model_seqlen "
        "module_name_preceding_first_block modules_in_block_to_quantize mse pack_dtype pad_token_id quantizer "
        "static_groups sym tokenizer true_sequential use_cuda_fp16 use_exllama",
        "compressed-tensors": "config_groups format global_compression_ratio ignore kv_cache_scheme "
        "quantization_status sparsity_config transform_config version",
        "fp8": "activation_scheme fmt ignored_layers scale_fmt weight_block_size",
    }
)
"""By method: what the scheme reads, and how the weights came about."""

_KNOWN_OF_GROUP: Final = frozenset({"format", "input_activations", "output_activations", "targets", "weights"})
_KNOWN_OF_WEIGHTS: Final = (
    "actorder block_structure dynamic group_size num_bits observer observer_kwargs scale_dtype strategy symmetric "
    "type zp_dtype"
)


def quantization_config(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object in a `config.json`, if it is there. Raises FileFormatError."""
    config = values.get("quantization_config", values.get("compression_config"))
    if config is not None and not isinstance(config, dict):
        raise FileFormatError("quantization_config is not an object")
    return config


def unknown_settings(config: Mapping[str, Any]) -> list[str]:
    """Keys that this version does not know and does not follow; sorted."""
    method = config.get("quant_method")
    unknown = set(config) - set(_KNOWN.get(str(method), "").split()) - _OF_TRANSFORMERS
    for group in _groups(config):
        unknown |= {f"config_groups.{key}" for key in set(group) - _KNOWN_OF_GROUP}
    for weights in weight_settings(config):
        unknown |= {f"config_groups.weights.{key}" for key in set(weights) - set(_KNOWN_OF_WEIGHTS.split())}
    return sorted(unknown)


def weight_settings(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How each of compressed-tensors' groups of modules has its weights."""
    weights = [group.get("weights") for group in _groups(config)]
    return [settings for settings in weights if isinstance(settings, dict)]


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = config.get("config_groups")
    return [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []


def refuse_what_changes_weights(config: Mapping[str, Any]) -> None:
    """Of compressed-tensors: what is done to weights beside rounding them. Raises UnsupportedModelError."""
    transforms = config.get("transform_config")
    if transforms and transforms != {"config_groups": {}}:
        raise UnsupportedModelError(
            "compressed-tensors with transform_config (weights that fit inputs which are rotated first) "
            "are not supported",
            hint="Use the original weights with --quantize, or a file of the model without transforms.",
        )
    sparsity = config.get("sparsity_config")
    layout = sparsity.get("format", "dense") if isinstance(sparsity, dict) else sparsity
    if layout not in (None, "dense"):
        raise UnsupportedModelError(
            f"compressed-tensors with sparsity_config of the format {str(layout)[:60]!r} are not supported",
            hint="Use the original weights with --quantize, or a file of the model whose weights are dense.",
        )
