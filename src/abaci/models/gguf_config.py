"""Reads a GGUF file's settings for the family files: checked numbers in, pieces of a spec out.

Knows the key and tensor names that all GGUF decoders share. Must not know any family, nor how a file is read: it is
given the metadata and the tensors' descriptions as plain mappings.
"""

import math
from collections.abc import Mapping, Sequence

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.models.spec import Activation, Attention, Embedding, GatedMlp, Linear, ModelSpec, Norm, Rope, RopeStyle
from abaci.tensor import TensorInfo

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
FREQUENCY_FACTORS = "rope_freqs.weight"

_DESCRIPTIVE = frozenset({"vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "pooling_type"})
"""Keys that describe the file without changing the mathematics."""

MAX_LAYERS = 1024
_MAX_WIDTH = 1 << 20
_MAX_HEAD_DIM = 1024
MAX_CONTEXT_TOKENS = 1 << 30


class GgufConfig:
    """The settings of one file, `architecture.key` by `key`. Every read is checked and remembered.

    Raises FileFormatError, naming key and value, for a setting that is missing, of the wrong type or out of range.
    """

    def __init__(self, architecture: str, metadata: Mapping[str, object], tensors: Mapping[str, TensorInfo]) -> None:
        self.architecture = architecture
        self._metadata = metadata
        self._tensors = tensors
        self._keys_read: set[str] = set()
        self.num_layers = self.integer("block_count", 1, MAX_LAYERS)
        self.hidden_size = self.integer("embedding_length", 1, _MAX_WIDTH)
        self.mlp_size = self.integer("feed_forward_length", 1, _MAX_WIDTH)
        self.context_length = self.integer("context_length", 1, MAX_CONTEXT_TOKENS)
        self.epsilon = self.number("attention.layer_norm_rms_epsilon")
        self.num_heads = self.integer("attention.head_count", 1, _MAX_WIDTH)
        self.num_kv_heads = self.integer("attention.head_count_kv", 1, _MAX_WIDTH, default=self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise self.invalid("attention.head_count", f"is not a multiple of the {self.num_kv_heads} key-value heads")
        self.head_dim = self._read_head_dim()

    def integer(self, key: str, lowest: int, highest: int, *, default: int | None = None) -> int:
        """The whole number stored under `key`, between `lowest` and `highest` inclusive."""
        value = self._read(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.invalid(key, "is not a whole number")
        if not lowest <= value <= highest:
            raise self.invalid(key, f"is not between {lowest} and {highest}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """The positive, finite number stored under `key`."""
        value = self._read(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.invalid(key, "is not a number")
        if not (math.isfinite(value) and value > 0):
            raise self.invalid(key, "is not positive and finite")
        return float(value)

    def text(self, key: str, *, default: str | None = None) -> str:
        """The string stored under `key`."""
        value = self._read(key, default)
        if not isinstance(value, str):
            raise self.invalid(key, "is not a string")
        return value

    def has_tensor(self, name: str) -> bool:
        return name in self._tensors

    def invalid(self, key: str, complaint: str) -> FileFormatError:
        """The error for a setting that cannot be right."""
        full_key = f"{self.architecture}.{key}"
        shown = repr(self._metadata.get(full_key))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return FileFormatError(f"{full_key} = {shown} {complaint}")

    def embedding(self, scale: float = 1.0) -> Embedding:
        """The token table; its rows, not a setting, say how large the vocabulary is."""
        shape = self._shape(EMBEDDING)
        if len(shape) != 2 or shape[1] != self.hidden_size:
            raise FileFormatError(
                f"tensor {EMBEDDING} has shape {shape}; {self.architecture}.embedding_length is {self.hidden_size}"
            )
        return Embedding(EMBEDDING, vocab_size=shape[0], hidden_size=self.hidden_size, scale=scale)

    def norm(self, name: str, size: int | None = None) -> Norm:
        """RMS norm with the weight `name`.weight, over the hidden size unless told."""
        return Norm(f"{name}.weight", self.hidden_size if size is None else size, self.epsilon)

    def linear(self, name: str, in_features: int, out_features: int) -> Linear:
        """The matrix `name`.weight, with `name`.bias where the file has one."""
        bias = f"{name}.bias"
        return Linear(f"{name}.weight", in_features, out_features, bias if self.has_tensor(bias) else None)

    def rope(self, style: RopeStyle) -> Rope:
        """Rotary embedding as the file's settings describe it: base, linear scaling, frequency factors."""
        factors = FREQUENCY_FACTORS if self.has_tensor(FREQUENCY_FACTORS) else None
        dim = self.integer("rope.dimension_count", 2, self.head_dim, default=self.head_dim)
        if dim % 2:
            raise self.invalid("rope.dimension_count", "is not even")
        theta = self.number("rope.freq_base", default=10000.0)
        return Rope(theta, dim, style, self._rope_linear_scale(), factors)

    def attention(
        self, layer: int, rope: Rope, *, scale: float | None = None, window: int | None = None, head_norms: bool = False
    ) -> Attention:
        """Attention of one layer; scores are divided by sqrt(head_dim) unless `scale` is given."""
        query_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return Attention(
            query=self.linear(f"blk.{layer}.attn_q", self.hidden_size, query_size),
            key=self.linear(f"blk.{layer}.attn_k", self.hidden_size, kv_size),
            value=self.linear(f"blk.{layer}.attn_v", self.hidden_size, kv_size),
            output=self.linear(f"blk.{layer}.attn_output", query_size, self.hidden_size),
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=1 / math.sqrt(self.head_dim) if scale is None else scale,
            rope=rope,
            window=window,
            query_norm=self.norm(f"blk.{layer}.attn_q_norm", self.head_dim) if head_norms else None,
            key_norm=self.norm(f"blk.{layer}.attn_k_norm", self.head_dim) if head_norms else None,
        )

    def gated_mlp(self, layer: int, activation: Activation) -> GatedMlp:
        """The MLP of one layer."""
        return GatedMlp(
            gate=self.linear(f"blk.{layer}.ffn_gate", self.hidden_size, self.mlp_size),
            up=self.linear(f"blk.{layer}.ffn_up", self.hidden_size, self.mlp_size),
            down=self.linear(f"blk.{layer}.ffn_down", self.mlp_size, self.hidden_size),
            activation=activation,
        )

    def head(self, embedding: Embedding) -> Linear:
        """The output matrix: its own, or the embedding's where the file has none."""
        weight = HEAD if self.has_tensor(HEAD) else embedding.weight
        return Linear(weight, self.hidden_size, embedding.vocab_size)

    def refuse_unread_keys(self) -> None:
        """Raise UnsupportedModelError for a setting of this architecture nobody read: it could change the output."""
        prefix = f"{self.architecture}."
        keys = {name.removeprefix(prefix) for name in self._metadata if name.startswith(prefix)}
        if unknown := sorted(keys - self._keys_read - _DESCRIPTIVE):
            raise UnsupportedModelError(
                f"the file's settings {', '.join(prefix + key for key in unknown)} are not known to this version",
                hint="Running without them could change the model's output; a newer version may support them.",
            )

    def _read(self, key: str, default: object) -> object:
        self._keys_read.add(key)
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise FileFormatError(f"the setting {self.architecture}.{key} is missing")
        return value

    def _shape(self, name: str) -> Sequence[int]:
        if name not in self._tensors:
            raise FileFormatError(f"tensor {name} is missing")
        return self._tensors[name].shape

    def _read_head_dim(self) -> int:
        divides = self.hidden_size % self.num_heads == 0
        default = self.hidden_size // self.num_heads if divides else None
        head_dim = self.integer("attention.key_length", 2, _MAX_HEAD_DIM, default=default)
        if head_dim % 2:
            raise self.invalid("attention.key_length", f"gives an odd head size of {head_dim}")
        if self.integer("attention.value_length", 2, _MAX_HEAD_DIM, default=head_dim) != head_dim:
            raise UnsupportedModelError(f"keys of {head_dim} values beside values of another size are not supported")
        return head_dim

    def _rope_linear_scale(self) -> float:
        kind = self.text("rope.scaling.type", default="none")
        factor = self.number("rope.scaling.factor", default=1.0)
        if kind == "linear":
            return factor
        if kind == "none":
            return 1.0
        raise UnsupportedModelError(f"rope scaling of type {kind!r} is not supported (known: none, linear)")


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
    """Compare a file's tensors with the spec's: each there, of the right shape, and none left over.

    Raises FileFormatError for a missing or misshapen tensor, UnsupportedModelError for one the spec does not use.
    """
    expected = dict(spec.tensors())
    for name, shape in expected.items():
        if name not in tensors:
            raise FileFormatError(f"tensor {name} is missing", hint="The file is incomplete; fetch it again.")
        if tuple(tensors[name].shape) != shape:
            raise FileFormatError(f"tensor {name} has shape {tuple(tensors[name].shape)}, expected {shape}")
    if surplus := sorted(set(tensors) - set(expected)):
        shown = ", ".join(surplus[:4]) + (f" and {len(surplus) - 4} more" if len(surplus) > 4 else "")
        raise UnsupportedModelError(
            f"the file has tensors that architecture {spec.architecture!r} does not use here: {shown}",
            hint="It is a variant this version does not know; running without them would give wrong output.",
        )
