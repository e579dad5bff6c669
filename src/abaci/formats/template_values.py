"""What a chat template may ask of a value: an allow-list per type, and the methods of text that need a meter.

A type that is not listed here offers nothing: numbers, generators, functions, whatever a caller puts into a message.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from markupsafe import EscapeFormatter, Markup

from abaci.formats.given_text import GivenText, as_parted, is_given, made_of, marks_of
from abaci.formats.template_meter import LimitError, Meter, most_lines

_TEXT: Final = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii"),
        *("isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip"),
        *("partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip"),
        *("split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"),
    }
)
_ATTRIBUTES: Final[tuple[tuple[type, frozenset[str]], ...]] = (
    (str, _TEXT),
    (Mapping, frozenset({"copy", "get", "items", "keys", "values"})),
    (list, frozenset({"copy", "count", "index"})),
    (tuple, frozenset({"count", "grouper", "index", "list"})),  # two of them are names in what `groupby` gives
    (
        LoopContext,
        frozenset(
            {
                *("changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length"),
                *("nextitem", "previtem", "revindex", "revindex0"),
            }
        ),
    ),
    (Macro, frozenset({"arguments", "caller", "catch_kwargs", "catch_varargs", "name"})),
)
_SOUGHT_FROM_THE_END: Final = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
"""Python takes the product of both lengths for these, where others take the sum."""
_WIDE_FIELD: Final = re.compile(r"\d{3}|\*")


def is_offered(owner: object, attribute: str) -> bool:
    """Whether a template may use this attribute of a value."""
    if isinstance(owner, Namespace):
        return not attribute.startswith("_")
    return any(isinstance(owner, kind) and attribute in names for kind, names in _ATTRIBUTES)


def text_method(meter: Meter, text: str, name: str) -> Callable[..., Any]:
    """A method of a text that stays within the meter's limits even before its result is charged."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        if name in _SOUGHT_FROM_THE_END:
            meter.check_sought(args[0] if args else kwargs.get("sep"))
        if name == "splitlines":
            meter.check_items(most_lines(text))
        return getattr(text, name)(*args, **kwargs)

    special: dict[str, Callable[..., Any]] = {
        "join": lambda parts: meter.join(text, parts),
        "replace": lambda *args, **kwargs: replaced(meter, text, *args, **kwargs),
        "split": lambda sep=None, maxsplit=-1: text.split(sep, _pieces(meter, maxsplit)),
        "rsplit": lambda sep=None, maxsplit=-1: limited(sep, _pieces(meter, maxsplit)),
    }
    return special.get(name, limited)


def _pieces(meter: Meter, most: int) -> int:
    """One more than may be kept is as good as all of them: the meter refuses the result."""
    return min(most, meter.limits.max_items) if most >= 0 else meter.limits.max_items


def replaced(meter: Meter, text: str, old: str, new: str, count: int | None = -1) -> str:
    """`text.replace`, stopped before it is too long."""
    meter.check_characters(len(text) + text.count(old) * len(new))
    if isinstance(new, GivenText) and not isinstance(text, GivenText | Markup):
        text = GivenText(text, marks_of(text))
    return made_of(text.replace(old, new, -1 if count is None else count), text, new)  # type: ignore[no-any-return]


def check_fields(text: str) -> None:
    """Refuse wide fields ("%999999d"), which would make text of any size in one operation."""
    if _WIDE_FIELD.search(text):
        raise LimitError("formats text in a field wider than allowed")


class Formatter(SandboxedFormatter):
    """`str.format` in the sandbox: each field's width is looked at before, and the length of all after each."""

    def __init__(self, environment: SandboxedEnvironment, meter: Meter, **kwargs: Any) -> None:
        super().__init__(environment, **kwargs)
        self._meter = meter
        self._num_characters = 0
        self._fields: list[str] = []

    def marked(self, layout: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """`layout` with its fields filled, which knows what of it was given."""
        text = self.vformat(layout, args, kwargs)
        if not is_given((layout, self._fields)):
            return text
        literals = list(self.parse(layout))
        has_nested = len(self._fields) != sum(name is not None for _, name, _, _ in literals)
        if has_nested or isinstance(layout, GivenText):
            return GivenText(text)
        fields = iter(self._fields)
        parts = [part for literal, name, _, _ in literals for part in (literal, "" if name is None else next(fields))]
        return as_parted(text, parts)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """`!r` and the like."""
        self._meter.charge([value])
        return made_of(super().convert_field(value, conversion), value)

    def format_field(self, value: Any, format_spec: str) -> str:
        """One field's text."""
        check_fields(format_spec)
        self._meter.charge([value])
        text: str = made_of(super().format_field(value, format_spec), value)
        self._num_characters += len(text)
        self._meter.check_characters(self._num_characters)
        self._fields.append(text)
        return text


class EscapingFormatter(Formatter, EscapeFormatter):
    """For the format of text that is marked as HTML."""


class TemplateNamespace(Namespace):
    """A namespace without names like `__class__`, by which it would pass for something else."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for given in (*args[1:], kwargs):
            if not isinstance(given, Mapping):
                raise SecurityError("a namespace is made of names and values")
            for name in given:
                _check_attribute(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def dictionary(meter: Meter, given: Mapping[Any, Any] | Iterable[Any] = (), /, **more: Any) -> dict[Any, Any]:
    """`dict`, on the meter pair by pair: keys may be chosen such that each takes longer than the one before."""
    made = dict(given) if isinstance(given, Mapping) else {key: value for key, value in meter.each(given)}
    return made | more
