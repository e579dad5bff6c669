"""Reads a `config.json`: checked values in, and a memory of which keys were read.

Knows no model type. Raises FileFormatError, naming key and value, for what is missing or of the wrong kind.
"""

from collections.abc import Mapping

from abaci.errors import FileFormatError, UnsupportedModelError

_BOOKKEEPING = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "resid_pdrop",
        "return_dict",
        "sep_token_id",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unsloth_fixed",
        "use_cache",
        "vocab_size",
    }
)
"""Keys that do not change what a trained model computes, or that are read elsewhere."""

_MISSING = object()
_LARGEST = 3.4e38
"""GGUF has numbers as float32."""


class PublishedConfig:
    """The settings of one model as published; dotted keys reach into nested objects.

    What the file leaves out is what its type of model has in `defaults`. Null says that there is none, also where the
    type has a default, save for objects, which it leaves out.
    """

    def __init__(self, values: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> None:
        self._values = values
        self._defaults = defaults or {}
        self._keys_read: set[str] = set()
        self._keys_passed_over: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the file has the key, and not as null."""
        return self._find(key) not in (None, _MISSING)

    def value(self, key: str, default: object = None) -> object:
        """Whatever the file has, or the type of model by default; `default` where neither has anything."""
        outer = key.partition(".")[0]
        self._keys_read.add(outer)
        found = self._find(key)
        if found is _MISSING and self._values.get(outer) is None:
            found = _reach(self._defaults, key)
        return default if found is None or found is _MISSING else found

    def integer(self, key: str, default: int | None = None) -> int:
        found = self._required(key, default)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 31:
            raise self.invalid(key, "is not a whole number in range")
        return found

    def number(self, key: str, default: float | None = None) -> float:
        found = self._required(key, default)
        if not isinstance(found, int | float) or isinstance(found, bool) or not abs(found) <= _LARGEST:
            raise self.invalid(key, "is not a finite number")
        return float(found)

    def flag(self, key: str, default: bool | None = None) -> bool:
        found = self._required(key, default)
        if not isinstance(found, bool):
            raise self.invalid(key, "is not true or false")
        return found

    def text(self, key: str, default: str | None = None) -> str:
        found = self._required(key, default)
        if not isinstance(found, str):
            raise self.invalid(key, "is not a string")
        return found

    def items(self, key: str, default: list[object] | None = None) -> list[object]:
        found = self._required(key, default)
        if not isinstance(found, list):
            raise self.invalid(key, "is not a list")
        return found

    def numbers(self, key: str) -> list[float]:
        found = self.items(key)
        if not all(isinstance(item, int | float) and abs(item) <= _LARGEST for item in found):
            raise self.invalid(key, "is not a list of finite numbers")
        return [float(item) for item in found if isinstance(item, int | float)]

    def keys(self, key: str) -> set[str]:
        """Names inside a nested object; none if it is absent."""
        found = self.value(key, {})
        if not isinstance(found, Mapping):
            raise self.invalid(key, "is not an object")
        return set(found)

    def pass_over(self, key: str) -> None:
        """The original does not follow the key in this type of model, though it asks for something."""
        self._keys_passed_over.add(key)

    def unread(self) -> list[str]:
        """Keys that no rule read or follows and that are not known to be without effect; sorted."""
        return sorted((set(self._values) - self._keys_read - _BOOKKEEPING) | self._keys_passed_over)

    def invalid(self, key: str, complaint: str) -> FileFormatError:
        """The error for a setting that cannot be right."""
        return FileFormatError(f"{key} = {self._shown(key)} {complaint}")

    def unsupported(self, key: str, complaint: str) -> UnsupportedModelError:
        """The error for a setting that asks for what this version lacks."""
        return UnsupportedModelError(f"{key} = {self._shown(key)} {complaint}")

    def _shown(self, key: str) -> str:
        shown = repr(self.value(key))
        return shown if len(shown) <= 60 else shown[:57] + "..."

    def _required(self, key: str, default: object) -> object:
        found = self.value(key, default)
        if found is None:
            raise FileFormatError(f"the setting {key} is missing")
        return found

    def _find(self, key: str) -> object:
        return _reach(self._values, key)


def _reach(values: Mapping[str, object], key: str) -> object:
    found: object = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found
