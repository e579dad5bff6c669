"""Multi-head latent attention (DeepSeek): sizes, and keys and values split by head for the absorbed form.

GGUF describes it as attention with one key-value head, the latent; `*_mla` are the sizes of the heads it stands for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError
from abaci.models.huggingface.changes import Array, Settings, Shape, whole_number
from abaci.models.huggingface.llama3_stretch import FREQUENCY_FACTORS
from abaci.models.huggingface.mapping import ComputedTensor, Gguf, SplitRule, TensorRule, Value
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope, RopeReader


@dataclass(frozen=True, slots=True)
class AbsorbedKeysAndValues:
    """(heads x (nope + value), latent) into keys (heads, latent, nope), transposed, and values (heads, value, latent).

    "nope" is the part of a key that does not rotate.
    """

    needs_floats = False
    moves_columns = True

    def shapes(self, shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        heads, nope_dim, value_dim = _sizes(settings)
        if len(shape) != 2 or shape[0] != heads * (nope_dim + value_dim):
            raise FileFormatError(f"shape {shape} is not {heads} heads of {nope_dim} and {value_dim} rows")
        return (heads, shape[1], nope_dim), (heads, value_dim, shape[1])

    def part(self, array: Array, index: int, settings: Settings) -> Array:
        heads, nope_dim, value_dim = _sizes(settings)
        by_head = array.reshape(heads, nope_dim + value_dim, -1)
        return by_head[:, nope_dim:] if index else by_head[:, :nope_dim].swapaxes(1, 2)

    def whole_shape(self, shapes: Sequence[Shape], settings: Settings) -> Shape:
        heads, nope_dim, value_dim = _sizes(settings)
        return heads * (nope_dim + value_dim), shapes[0][1]

    def join(self, parts: Sequence[Array], settings: Settings) -> Array:
        keys, values = parts
        joined = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        return joined.reshape(-1, joined.shape[2])


def _sizes(settings: Settings) -> tuple[int, int, int]:
    heads = whole_number(settings, "attention.head_count")
    nope_dim = whole_number(settings, "attention.key_length_mla") - whole_number(settings, "rope.dimension_count")
    if nope_dim < 1:
        raise FileFormatError("attention.key_length_mla leaves nothing beside what rotates")
    return heads, nope_dim, whole_number(settings, "attention.value_length_mla")


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Ranks and sizes; the arguments are what `config.json` may leave out. Null as the rank of queries: no latent."""

    query_rank: int
    latent: int
    rope: int
    nope: int
    value: int

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        latent, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
        heads = config.integer("num_attention_heads")
        if config.integer("num_key_value_heads", heads) != heads:
            raise config.unsupported("num_key_value_heads", "is not the number of heads, as in latent attention")
        query_rank = config.integer("q_lora_rank", 0)
        ranks = {"attention.kv_lora_rank": latent} | ({"attention.q_lora_rank": query_rank} if query_rank else {})
        return {
            **ranks,
            "attention.head_count_kv": 1,
            "attention.key_length": latent + rope,
            "attention.value_length": latent,
            "attention.key_length_mla": config.integer("qk_nope_head_dim") + rope,
            "attention.value_length_mla": config.integer("v_head_dim"),
            "rope.dimension_count": rope,
        }

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        for implied in ("attention.head_count_kv", "attention.key_length", "attention.value_length"):
            settings.get(implied)
        rope = settings.get("rope.dimension_count")
        return {
            "num_key_value_heads": settings.get("attention.head_count"),
            "q_lora_rank": settings.get("attention.q_lora_rank"),
            "kv_lora_rank": settings.get("attention.kv_lora_rank"),
            "qk_rope_head_dim": rope,
            "qk_nope_head_dim": settings.get("attention.key_length_mla") - rope,
            "v_head_dim": settings.get("attention.value_length_mla"),
        }

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {
            "q_lora_rank": self.query_rank,
            "kv_lora_rank": self.latent,
            "qk_rope_head_dim": self.rope,
            "qk_nope_head_dim": self.nope,
            "v_head_dim": self.value,
        }


def with_latent_head(settings: Settings) -> Settings:
    """Older conversions have the sizes of the heads where newer ones have those of the one latent head."""
    if "attention.key_length_mla" in settings:
        return settings
    latent = whole_number(settings, "attention.kv_lora_rank")
    return {
        **settings,
        "attention.head_count_kv": 1,
        "attention.key_length": latent + whole_number(settings, "rope.dimension_count"),
        "attention.value_length": latent,
        "attention.key_length_mla": whole_number(settings, "attention.key_length"),
        "attention.value_length_mla": whole_number(settings, "attention.value_length"),
    }


_ROPE = Rope(log_multiplier=0.1)


@dataclass(frozen=True, slots=True)
class LatentRope:
    """The rope of the part that rotates: all of its values. YaRN's multiplier stands in GGUF by a tenth."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return RopeReader(config, _ROPE.theta).turning(_ROPE)

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"rope_parameters": _ROPE.parameters(settings)}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """The table of `llama3`."""

        def factors(config: PublishedConfig) -> NDArray[np.float32] | None:
            return RopeReader(config, _ROPE.theta).frequency_factors(config.integer("qk_rope_head_dim"))

        return (ComputedTensor(FREQUENCY_FACTORS, factors),)


_ATTENTION = "model.layers.{layer}.self_attn"

LATENT_PROJECTIONS = (
    TensorRule(f"{_ATTENTION}.q_proj", "blk.{layer}.attn_q"),
    TensorRule(f"{_ATTENTION}.q_a_proj", "blk.{layer}.attn_q_a"),
    TensorRule(f"{_ATTENTION}.q_a_layernorm", "blk.{layer}.attn_q_a_norm"),
    TensorRule(f"{_ATTENTION}.q_b_proj", "blk.{layer}.attn_q_b"),
    TensorRule(f"{_ATTENTION}.kv_a_proj_with_mqa", "blk.{layer}.attn_kv_a_mqa"),
    TensorRule(f"{_ATTENTION}.kv_a_layernorm", "blk.{layer}.attn_kv_a_norm"),
    # Of older conversions. A folder's tensor goes by the last rule that has its name.
    TensorRule(f"{_ATTENTION}.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight"),
    SplitRule(
        f"{_ATTENTION}.kv_b_proj.weight",
        ("blk.{layer}.attn_k_b.weight", "blk.{layer}.attn_v_b.weight"),
        AbsorbedKeysAndValues(),
    ),
    TensorRule(f"{_ATTENTION}.o_proj", "blk.{layer}.attn_output"),
)
