"""Makes tests/models/published_defaults.json: what `transformers` takes for keys that a config.json leaves out.

    python scripts/make_published_defaults.py     needs the extra `golden`; the result is committed

Each model type has all of its settings written out.
"""

import json
from pathlib import Path
from typing import Any

import transformers as hf
from transformers import PreTrainedConfig

DESTINATION = Path(__file__).parent.parent / "tests" / "models" / "published_defaults.json"

CONFIGS: tuple[type[PreTrainedConfig], ...] = (
    hf.DeepseekV2Config,
    hf.DeepseekV3Config,
    hf.Gemma3TextConfig,
    hf.Gemma4TextConfig,
    hf.Glm4MoeConfig,
    hf.GptOssConfig,
    hf.LlamaConfig,
    hf.Ministral3Config,
    hf.MistralConfig,
    hf.MixtralConfig,
    hf.Olmo3Config,
    hf.Phi3Config,
    hf.Qwen2Config,
    hf.Qwen2MoeConfig,
    hf.Qwen3Config,
    hf.Qwen3MoeConfig,
    hf.Qwen3NextConfig,
    hf.Qwen3_5MoeTextConfig,
    hf.Qwen3_5TextConfig,
    hf.SmolLM3Config,
)
WITHOUT_DEFAULT = {"deepseek_v2": {"num_experts_per_tok": 6}}
"""Settings that `transformers` has no usable default for."""


def settings_of(config_type: type[PreTrainedConfig]) -> dict[str, Any]:
    """All settings of a file without any, as `transformers` would write them."""
    config = config_type.from_dict(dict(WITHOUT_DEFAULT.get(config_type.model_type, {})))
    settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return settings | {"model_type": config_type.model_type}


def main() -> None:
    tables = {config_type.model_type: settings_of(config_type) for config_type in CONFIGS}
    DESTINATION.write_text(json.dumps(tables, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
