"""Reads a GGUF file's settings for the family files: checked numbers in, pieces of a spec out.

Knows the key and tensor names that all GGUF decoders share. Must not know any family, nor how a file is read: it is
given the metadata and the tensors' descriptions as plain mappings.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.models.spec import (
    Activation,
    Attention,
    Classifier,
    Embedding,
    ExpertLinear,
    GatedMlp,
    Layer,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Rope,
    RopeStyle,
    Router,
    Rows,
    Scoring,
    Yarn,
)
from abaci.tensor import TensorInfo

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
FREQUENCY_FACTORS = "rope_freqs.weight"

_CLASSIFIER = "cls.output.weight"

_DESCRIPTIVE = frozenset(
    {
        "vocab_size",
        "tensor_data_layout",
        "pooling_type",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "rope.dimension_sections",
    }
)
"""Keys that describe the file without changing the mathematics; sections of a rotation matter to images only."""

_NEUTRAL: Mapping[str, object] = {
    "attention.causal": True,
    "expert_shared_count": 0,
    "expert_shared_feed_forward_length": 0,
    "rope.scaling.yarn_ext_factor": 1.0,
}
"""Keys that say nothing at these values, where a family does not read them: converters write them for every family."""


def is_neutral(key: str, value: object) -> bool:
    """Whether the setting, named without its architecture, says no more than what any family does without it."""
    return key in _NEUTRAL and _NEUTRAL[key] == value


_EXPERT_SETTINGS = (
    "expert_count",
    "expert_used_count",
    "expert_gating_func",
    "expert_weights_norm",
    "expert_weights_scale",
    "expert_group_count",
    "expert_group_used_count",
    "expert_feed_forward_length",
)
"""That `experts` reads."""

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_EXPERTS = 1 << 14
_MAX_HEAD_DIM = 1024
MAX_CONTEXT_TOKENS = 1 << 30


class GgufConfig:
    """The settings of one file, `architecture.key` by `key`. Every read is checked and remembered.

    Raises FileFormatError, naming key and value, for a setting that is missing, of the wrong type or out of range.
    """

    def __init__(
        self,
        architecture: str,
        metadata: Mapping[str, object],
        tensors: Mapping[str, TensorInfo],
        served_context: int | None = None,
    ) -> None:
        self.architecture = architecture
        self._metadata = metadata
        self._tensors = tensors
        self._keys_read: set[str] = set()
        self.tensors_left: set[str] = set()
        """Tensors that this use of the model does not need."""
        num_blocks = self.integer("block_count", 1, MAX_LAYERS)
        self.num_layers = num_blocks - self.integer("nextn_predict_layers", 0, num_blocks - 1, default=0)
        """Those that predict the next token; further ones (`nextn_predict_layers`) are for speculation and not run."""
        for layer in range(self.num_layers, num_blocks):
            self._leave_speculative(f"blk.{layer}.")
        self.hidden_size = self.integer("embedding_length", 1, MAX_WIDTH)
        self.context_length = self.integer("context_length", 1, MAX_CONTEXT_TOKENS)
        self.served_context = self.context_length if served_context is None else served_context
        """The longest sequence that will run: some families stretch their rotation only if it is long."""
        self.epsilon = self.number("attention.layer_norm_rms_epsilon")
        self.num_heads = self.integer("attention.head_count", 1, MAX_WIDTH)
        self.kv_heads = self.integers("attention.head_count_kv", 1, MAX_WIDTH, default=self.num_heads)
        """Of each layer."""
        for num_kv_heads in self.kv_heads:
            if self.num_heads % num_kv_heads:
                raise self.invalid("attention.head_count", f"is not a multiple of the {num_kv_heads} key-value heads")
        self.head_dim = self._read_head_dim()

    def _leave_speculative(self, block: str) -> None:
        """Only a layer that has what such layers have: the number of them could be a slip that hides others."""
        names = {name for name in self._tensors if name.startswith(block)}
        if any(name.startswith(f"{block}nextn.") for name in names):
            self.tensors_left |= names

    def integer(self, key: str, lowest: int, highest: int, *, default: int | None = None) -> int:
        """The whole number stored under `key`, between `lowest` and `highest` inclusive."""
        value = self._read(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.invalid(key, "is not a whole number")
        if not lowest <= value <= highest:
            raise self.invalid(key, f"is not between {lowest} and {highest}")
        return value

    def integers(self, key: str, lowest: int, highest: int, *, default: int | None = None) -> tuple[int, ...]:
        """A whole number for each layer: those stored under `key`, or the one that holds for all."""
        value = self._read(key, default)
        if not isinstance(value, list):
            return (self.integer(key, lowest, highest, default=default),) * self.num_layers
        if len(value) < self.num_layers or not all(type(item) is int and lowest <= item <= highest for item in value):
            raise self.invalid(key, f"is not a whole number between {lowest} and {highest} for each layer")
        return tuple(value[: self.num_layers])

    def number(self, key: str, *, default: float | None = None) -> float:
        """The positive, finite number stored under `key`."""
        value = self._read(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.invalid(key, "is not a number")
        if not (math.isfinite(value) and value > 0):
            raise self.invalid(key, "is not positive and finite")
        return float(value)

    def factor(self, key: str, *, default: float) -> float:
        """The finite number stored under `key`, zero allowed."""
        value = self._read(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise self.invalid(key, "is not a finite number of at least 0")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """The truth value stored under `key`."""
        value = self._read(key, default)
        if not isinstance(value, bool):
            raise self.invalid(key, "is not true or false")
        return value

    def text(self, key: str, *, default: str | None = None) -> str:
        """The string stored under `key`."""
        value = self._read(key, default)
        if not isinstance(value, str):
            raise self.invalid(key, "is not a string")
        return value

    @property
    def num_kv_heads(self) -> int:
        """Of every layer. Raises UnsupportedModelError where layers differ."""
        if len(set(self.kv_heads)) > 1:
            raise UnsupportedModelError("layers with different numbers of key-value heads are not supported here")
        return self.kv_heads[0]

    def has_tensor(self, name: str) -> bool:
        return name in self._tensors

    def has(self, key: str) -> bool:
        """Whether the file has the setting."""
        return f"{self.architecture}.{key}" in self._metadata

    def windowed_layers(self, default_period: int) -> tuple[bool, ...]:
        """For each layer whether it has a sliding window: as the file lists them, or in all but every n-th."""
        key = "attention.sliding_window_pattern"
        listed = self._read(key, default_period)
        if isinstance(listed, list):
            if len(listed) < self.num_layers or not all(isinstance(item, bool) for item in listed):
                raise self.invalid(key, "is not a truth value for each layer")
            return tuple(listed[: self.num_layers])
        period = self.integer(key, 1, MAX_LAYERS, default=default_period)
        return tuple((layer + 1) % period != 0 for layer in range(self.num_layers))

    def leave(self, name: str) -> None:
        """The tensor `name` may be in the file and is not needed."""
        self.tensors_left.add(name)

    def pass_over(self, keys: Collection[str]) -> None:
        """These settings are of a part that the architecture has and no layer of this model does."""
        self._keys_read.update(keys)

    def with_biases(self, attention: Attention) -> Attention:
        """Biases of query, key and value are optional in GGUF: in a family that has them, a file without is incomplete.

        Raises FileFormatError.
        """
        for linear in attention.projections:
            if linear.bias is None:
                raise FileFormatError(f"tensor {linear.weight.removesuffix('.weight')}.bias is missing")
        return attention

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

    def linear(self, name: str, in_features: int, out_features: int, rows: Rows | None = None) -> Linear:
        """The matrix `name`.weight, with `name`.bias and `name`.order (of its columns) where there are such."""
        bias, order = (part if self.has_tensor(part) else None for part in (f"{name}.bias", f"{name}.order"))
        return Linear(f"{name}.weight", in_features, out_features, bias, rows, order)

    def fused(self, name: str, in_features: int, sizes: Sequence[int]) -> tuple[Linear, ...]:
        """Matrices that the file stores as one, `name`.weight, one after another with `sizes` outputs."""
        whole, begin, parts = self.linear(name, in_features, sum(sizes)), 0, []
        for size in sizes:
            parts.append(replace(whole, out_features=size, rows=Rows(sum(sizes), sum(sizes), begin)))
            begin += size
        return tuple(parts)

    def rope(self, style: RopeStyle, *, truncate_yarn: bool = True) -> Rope:
        """Rotary embedding as the file's settings describe it: base, size, scaling, frequency factors."""
        rope = Rope(
            theta=self.number("rope.freq_base", default=10000.0),
            dim=self.rotated("rope.dimension_count", self.head_dim),
            style=style,
            frequency_factors=FREQUENCY_FACTORS if self.has_tensor(FREQUENCY_FACTORS) else None,
        )
        kind = self.text("rope.scaling.type", default="linear")  # as llama.cpp reads files of before there were types
        factor = self.number("rope.scaling.factor", default=self.number("rope.scale_linear", default=1.0))
        if kind == "linear":
            return replace(rope, linear_scale=factor)
        if kind == "yarn":
            return self._stretched(rope, factor, truncate=truncate_yarn)
        if kind == "dynamic":
            self._refuse_stretching()
        elif kind not in ("none", "longrope"):
            raise UnsupportedModelError(
                f"rope scaling of type {kind!r} is not supported (known: none, linear, yarn, longrope, dynamic)"
            )
        return rope

    def _refuse_stretching(self) -> None:
        """Dynamic scaling is none up to the original context; beyond it every new length has another rotation, which
        keys that are kept cannot follow. No converter writes the type, and llama.cpp ends at it."""
        original = self.integer(
            "rope.scaling.original_context_length", 1, MAX_CONTEXT_TOKENS, default=self.context_length
        )
        if self.served_context > original:
            raise UnsupportedModelError(
                f"beyond {original:,} tokens rope scaling of type 'dynamic' rotates every token anew as the text "
                "grows, which is not supported",
                hint=f"Up to {original} tokens it changes nothing: --context {original}.",
            )

    def rotated(self, key: str, head_dim: int) -> int:
        """How many values of a head turn; all of them where the file does not say."""
        dim = self.integer(key, 2, head_dim, default=head_dim)
        if dim % 2:
            raise self.invalid(key, "is not even")
        return dim

    def _stretched(self, rope: Rope, factor: float, *, truncate: bool) -> Rope:
        """YaRN; a multiplier of the logarithm moves its magnitude from the rotation to whoever reads the multiplier.

        `yarn_attn_factor` is all of it, the published `attention_factor`; `attn_factor` comes on top of YaRN's own.
        """
        magnitude = 1.0 if self.yarn_log_multiplier() or factor <= 1 else 1 + 0.1 * math.log(factor)
        magnitude *= self.number("rope.scaling.attn_factor", default=1.0)
        magnitude = self.number("rope.scaling.yarn_attn_factor", default=magnitude)
        yarn = Yarn(
            factor=factor,
            original_context=self.integer(
                "rope.scaling.original_context_length", 1, MAX_CONTEXT_TOKENS, default=self.context_length
            ),
            beta_fast=self.number("rope.scaling.yarn_beta_fast", default=32.0),
            beta_slow=self.number("rope.scaling.yarn_beta_slow", default=1.0),
            truncate=self.flag("rope.scaling.yarn_truncate", default=truncate),
        )
        return replace(rope, yarn=yarn, magnitude=magnitude)

    def yarn_log_multiplier(self) -> float:
        """Of YaRN's growth of scores; 0 where the file does not say."""
        return self.factor("rope.scaling.yarn_log_multiplier", default=0.0)

    def attention(
        self,
        layer: int,
        rope: Rope | None,
        *,
        scale: float | None = None,
        window: int | None = None,
        head_norms: bool = False,
    ) -> Attention:
        """Attention of one layer; scores are divided by sqrt(head_dim) unless `scale` is given."""
        query_size, kv_size = self.num_heads * self.head_dim, self.kv_heads[layer] * self.head_dim
        block = f"blk.{layer}."
        if self.has_tensor(f"{block}attn_qkv.weight"):
            sizes = (query_size, kv_size, kv_size)
            query, key, value = self.fused(f"{block}attn_qkv", self.hidden_size, sizes)
        else:
            query = self.linear(f"{block}attn_q", self.hidden_size, query_size)
            key = self.linear(f"{block}attn_k", self.hidden_size, kv_size)
            value = self.linear(f"{block}attn_v", self.hidden_size, kv_size)
        return Attention(
            query=query,
            key=key,
            value=value,
            output=self.linear(f"{block}attn_output", query_size, self.hidden_size),
            num_heads=self.num_heads,
            num_kv_heads=self.kv_heads[layer],
            head_dim=self.head_dim,
            scale=1 / math.sqrt(self.head_dim) if scale is None else scale,
            rope=rope,
            window=window,
            query_norm=self.norm(f"{block}attn_q_norm", self.head_dim) if head_norms else None,
            key_norm=self.norm(f"{block}attn_k_norm", self.head_dim) if head_norms else None,
        )

    def window(self) -> int | None:
        """Of the layers with a sliding window; None where the file has no such setting, or one that hides nothing."""
        window = self.integer("attention.sliding_window", 0, MAX_CONTEXT_TOKENS, default=0)
        return window if 0 < window < self.context_length else None

    def gated_mlp(self, layer: int, activation: Activation, *, suffix: str = "", size: int | None = None) -> GatedMlp:
        """The MLP of one layer, `ffn_gate` and so on with `suffix`; `size` values wide, else as the file says."""
        block = f"blk.{layer}."
        if size is None:
            size = self.integers("feed_forward_length", 1, MAX_WIDTH)[layer]
        stored = self._tensors.get(f"{block}ffn_up.weight")
        if not suffix and not self.has_tensor(f"{block}ffn_gate.weight") and stored and stored.shape[0] == 2 * size:
            gate, up = self.fused(f"{block}ffn_up", self.hidden_size, (size, size))
        else:
            gate = self.linear(f"{block}ffn_gate{suffix}", self.hidden_size, size)
            up = self.linear(f"{block}ffn_up{suffix}", self.hidden_size, size)
        return GatedMlp(gate, up, self.linear(f"{block}ffn_down{suffix}", size, self.hidden_size), activation)

    def dense_mlp(self, layer: int) -> GatedMlp:
        """The MLP of a layer without experts in a model that may have some elsewhere."""
        self.pass_over(_EXPERT_SETTINGS)
        return self.gated_mlp(layer, Activation.SILU)

    def has_router(self, layer: int) -> bool:
        """Whether the layer has experts, where no setting says so."""
        return self.has_tensor(f"blk.{layer}.ffn_gate_inp.weight")

    def experts(
        self,
        layer: int,
        activation: Activation,
        *,
        scoring: Scoring = Scoring.SOFTMAX,
        normalise: bool = True,
        shared: GatedMlp | None = None,
        shared_gate: Linear | None = None,
    ) -> MixtureOfExperts:
        """The mixture of one layer; `scoring` and `normalise` are the family's where the file does not say."""
        block = f"blk.{layer}."
        num_experts = self.integer("expert_count", 1, MAX_EXPERTS)
        key, dense_key = "expert_feed_forward_length", "feed_forward_length"
        self._keys_read.add(dense_key)
        size = self.integers(key if self.has(key) else dense_key, 1, MAX_WIDTH)[layer]
        bias = f"{block}exp_probs_b.bias"
        num_groups = self.integer("expert_group_count", 0, num_experts, default=1) or 1
        if num_experts % num_groups:
            raise self.invalid("expert_group_count", f"does not divide the {num_experts} experts")
        scoring = self._scoring(scoring)
        router = Router(
            logits=self.linear(f"{block}ffn_gate_inp", self.hidden_size, num_experts),
            num_experts=num_experts,
            num_active=self.integer("expert_used_count", 1, num_experts),
            scoring=scoring,
            normalise=self.flag("expert_weights_norm", default=normalise),
            choice_bias=bias if self.has_tensor(bias) else None,
            num_groups=num_groups,
            top_groups=self.integer("expert_group_used_count", 0, num_groups, default=num_groups) or num_groups,
            group_best=2 if scoring is Scoring.SIGMOID else 1,
            scale=self.factor("expert_weights_scale", default=1.0) or 1.0,
        )
        if self.has_tensor(f"{block}ffn_gate_up_exps.weight"):
            whole = ExpertLinear(f"{block}ffn_gate_up_exps.weight", num_experts, self.hidden_size, size)
            gate, up = (replace(whole, rows=Rows(2 * size * num_experts, 2 * size, begin)) for begin in (0, size))
        else:
            gate = self._expert_linear(f"{block}ffn_gate_exps", num_experts, self.hidden_size, size)
            up = self._expert_linear(f"{block}ffn_up_exps", num_experts, self.hidden_size, size)
        return MixtureOfExperts(
            router=router,
            gate=gate,
            up=up,
            down=self._expert_linear(f"{block}ffn_down_exps", num_experts, size, self.hidden_size),
            activation=activation,
            shared=shared,
            shared_gate=shared_gate,
        )

    def _scoring(self, default: Scoring) -> Scoring:
        numbers = {1: Scoring.SOFTMAX, 2: Scoring.SIGMOID}
        number = self.integer("expert_gating_func", 0, 1 << 16, default=0)
        if number and number not in numbers:
            raise UnsupportedModelError(f"expert_gating_func {number} is not supported (known: 1 softmax, 2 sigmoid)")
        return numbers.get(number, default)

    def _expert_linear(self, name: str, num_experts: int, in_features: int, out_features: int) -> ExpertLinear:
        bias = f"{name}.bias"
        bias_name = bias if self.has_tensor(bias) else None
        return ExpertLinear(f"{name}.weight", num_experts, in_features, out_features, bias_name)

    def model(self, build_layer: Callable[[int], Layer], *, embedding_scale: float = 1.0) -> ModelSpec:
        """The whole decoder of the layers that `build_layer` makes."""
        embedding = self.embedding(embedding_scale)
        classifier = self.classifier()
        has_logits = classifier is None or self.has_tensor(HEAD)
        return ModelSpec(
            architecture=self.architecture,
            embedding=embedding,
            layers=tuple(build_layer(layer) for layer in range(self.num_layers)),
            norm=self.norm("output_norm"),
            head=self.head(embedding),
            context_length=self.context_length,
            has_head=self.flag("has_head", default=True) and has_logits,
            classifier=classifier,
        )

    def classifier(self) -> Classifier | None:
        """That of a reranker, which answers yes or no; a file that has one need not have a head."""
        if not self.has_tensor(_CLASSIFIER):
            return None
        labels = self._read("classifier.output_labels", [])
        if labels not in (["yes", "no"], ["no", "yes"]):
            raise UnsupportedModelError(
                f"{_CLASSIFIER} with the labels {labels!r:.60} is not supported",
                hint="Rerankers whose labels are yes and no are.",
            )
        assert isinstance(labels, list)
        if tuple(self._shape(_CLASSIFIER)) != (2, self.hidden_size):
            raise FileFormatError(f"{_CLASSIFIER} has not a row of {self.hidden_size} values for each of {labels}")
        self.leave(_CLASSIFIER)
        return Classifier(_CLASSIFIER, labels.index("yes"), labels.index("no"))

    def head(self, embedding: Embedding) -> Linear:
        """The output matrix: its own, or the embedding's where the file has none."""
        weight = HEAD if self.has_tensor(HEAD) else embedding.weight
        return Linear(weight, self.hidden_size, embedding.vocab_size)

    def refuse_unread_keys(self) -> None:
        """Raise UnsupportedModelError for a setting of this architecture nobody read: it could change the output."""
        prefix = f"{self.architecture}."
        settings = {
            name.removeprefix(prefix): value for name, value in self._metadata.items() if name.startswith(prefix)
        }
        unread = settings.keys() - self._keys_read - _DESCRIPTIVE
        if unknown := sorted(key for key in unread if not is_neutral(key, settings[key])):
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
        if self.has_tensor("blk.0.attn_kv_a_mqa.weight"):
            # Latent attention: keys are longer than values, and both are the family's.
            return self._key_size("attention.key_length", default)
        return self.head_size("attention.key_length", "attention.value_length", default=default)

    def head_size(self, key: str, value_key: str, *, default: int | None) -> int:
        """The size of a head, stored for keys under `key` and for values under `value_key`."""
        head_dim = self._key_size(key, default)
        if self.integer(value_key, 2, _MAX_HEAD_DIM, default=head_dim) != head_dim:
            raise UnsupportedModelError(f"keys of {head_dim} values beside values of another size are not supported")
        return head_dim

    def _key_size(self, key: str, default: int | None) -> int:
        head_dim = self.integer(key, 2, _MAX_HEAD_DIM, default=default)
        if head_dim % 2:
            raise self.invalid(key, f"gives an odd head size of {head_dim}")
        return head_dim


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo], left: Collection[str] = ()) -> None:
    """Compare a file's tensors with the spec's: each there, of the right shape, and none left over but those `left`.

    Raises FileFormatError for a missing or misshapen tensor, UnsupportedModelError for one the spec does not use.
    """
    expected = dict(spec.tensors())
    for name, shape in expected.items():
        if name not in tensors:
            raise FileFormatError(f"tensor {name} is missing", hint="The file is incomplete; fetch it again.")
        if tuple(tensors[name].shape) not in (shape, shape[1:] if shape[0] == 1 else shape):
            raise FileFormatError(f"tensor {name} has shape {tuple(tensors[name].shape)}, expected {shape}")
    if surplus := sorted(set(tensors) - set(expected) - set(left)):
        shown = ", ".join(surplus[:4]) + (f" and {len(surplus) - 4} more" if len(surplus) > 4 else "")
        raise UnsupportedModelError(
            f"the file has tensors that architecture {spec.architecture!r} does not use here: {shown}",
            hint="A variant this version does not know, or wrong settings: without them the output would be wrong.",
        )
