"""Chat templates: the Jinja program a model ships that turns messages into its prompt format.

Templates come from strangers. They run in an immutable sandbox with an allow-list of filters and string methods, and on
a meter: every loop turn, call, filter and concatenation is charged by the size of what it makes, so that a template can
neither run long nor grow large. The environment offers what `apply_chat_template` of `transformers` does: trimmed
blocks, `break` and `continue`, `raise_exception`, `strftime_now`, `tojson` without escapes, `generation` blocks.

Knows nothing of tokens; messages are plain mappings here.
"""

import functools
import json
import re
import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from abaci.errors import FileFormatError, UsageError

MAX_SOURCE_CHARACTERS: Final = 1 << 20
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a model that ships no template: what most would understand."""

_MAX_INTEGER_BITS: Final = 4096
_CHARACTERS_PER_COST: Final = 256
_ITEMS_PER_COST: Final = 32
_HINT: Final = "Give another chat template, or send the prompt as plain text."

_SURROUNDINGS: Final = ("_loop_vars", "_block_vars")
"""What Jinja itself passes with calls in loops and blocks, and takes out again before the call."""

_FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format", "groupby"),
    *(
        "indent",
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
    ),
    *("safe", "select", "selectattr", "sort", "title", "trim", "truncate", "unique", "upper"),
)

_TEXT_METHODS: Final = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii"),
        *("isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip"),
        *("partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip"),
        *("split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"),
    }
)

# Wide fields ("%999999d", "{:>{w}}") would make text of any size in one operation.
_WIDE_FIELD: Final = re.compile(r"\d{3}|\*|\{[^{}]*\{")


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What one rendering may use. The defaults stop a hostile template within seconds and leave an honest one room for
    a conversation of a million tokens."""

    max_characters: int = 1 << 23
    """Of the prompt, and of every value on the way there."""
    max_items: int = 1 << 20
    """Of a list, with all lists in it."""
    max_cost: int = 1 << 19
    """Operations; one that makes something long counts for several."""
    max_seconds: float = 5.0
    """Second line of defence, where operations are slower than their count says."""


class ChatTemplate:
    """A compiled template. May be used from any thread; renderings of one template take turns."""

    __slots__ = ("_environment", "_lock", "_template", "_variables", "source")

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", limits: TemplateLimits | None = None
    ) -> None:
        """Compile. Raises FileFormatError if it is not a template we can run."""
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise FileFormatError(f"the chat template is {len(source)} characters long, over the limit", hint=_HINT)
        self.source = source
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._environment = _Environment(limits or TemplateLimits())
        self._lock = threading.Lock()
        try:
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError, SyntaxError, ValueError, OverflowError, MemoryError) as error:
            number = getattr(error, "lineno", None)
            line = "" if number is None else f" (line {number})"
            raise FileFormatError(f"the chat template does not compile: {error}{line}", hint=_HINT) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation. `variables` are further names the template may ask for.

        Raises UsageError where the template refuses the messages, FileFormatError where it exceeds its limits.
        """
        given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        with self._lock:
            self._environment.meter.restart()
            try:
                return self._collect(self._template.generate({**self._variables, **variables, **given}))
            except _LimitError as error:
                raise FileFormatError(f"the chat template {error}", hint=_HINT) from None
            except _RefusedError as error:
                raise UsageError(
                    f"the chat template refuses the messages: {error}", hint="Change the messages."
                ) from None
            except SecurityError as error:
                raise FileFormatError(f"the chat template does what it must not: {error}", hint=_HINT) from None
            except RecursionError:
                raise FileFormatError("the chat template calls itself too deeply", hint=_HINT) from None
            except Exception as error:  # whatever a template's own mistake raises
                raise UsageError(
                    f"the chat template cannot render these messages: {type(error).__name__}: {error}", hint=_HINT
                ) from None

    def _collect(self, parts: Iterator[str]) -> str:
        texts: list[str] = []
        length = 0
        for text in parts:
            length += len(text)
            self._environment.meter.check_characters(length)
            texts.append(text)
        return "".join(texts)


class _LimitError(Exception):
    """A template wants more time or space than it may have."""


class _RefusedError(Exception):
    """`raise_exception` in a template."""


class _Meter:
    """What the current rendering has used."""

    __slots__ = ("_cost", "_deadline_seconds", "_limits")

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self.restart()

    def restart(self) -> None:
        self._cost = 0
        self._deadline_seconds = time.monotonic() + self._limits.max_seconds

    def charge(self, value: object = None) -> None:
        """Pay for an operation that made `value`."""
        self._cost += 1 + self._size_cost(value)
        if self._cost > self._limits.max_cost or time.monotonic() > self._deadline_seconds:
            raise _LimitError("runs too long")

    def check_characters(self, num_characters: int) -> None:
        if num_characters > self._limits.max_characters:
            raise _LimitError("makes too much text")

    def check_items(self, num_items: int) -> None:
        if num_items > self._limits.max_items:
            raise _LimitError("makes too many values")

    def _size_cost(self, value: object) -> int:
        """For a value, all the way down: lists that share parts count as if written out."""
        if isinstance(value, str):
            self.check_characters(len(value))
            return len(value) // _CHARACTERS_PER_COST
        if value is None or isinstance(value, int | float):
            return 0
        num_characters = num_items = 0
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                num_characters += len(item)
                continue
            if isinstance(item, dict):
                pending += item.keys()
                pending += item.values()
            elif isinstance(item, list | tuple | KeysView | ItemsView | ValuesView):
                pending += item
            elif isinstance(item, Namespace) and item is not value:
                raise _LimitError("puts a namespace into a list")
            num_items += 1
            self.check_items(num_items + len(pending))
            self.check_characters(num_characters)
        return num_characters // _CHARACTERS_PER_COST + num_items // _ITEMS_PER_COST


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, metered. Filters with a space in their name cannot be named in a template."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, limits: TemplateLimits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would compute them unmetered
            finalize=self._printable,
            extensions=[LoopControlExtension, _GenerationExtension],
        )
        self.meter = _Meter(limits)
        own = {
            "each turn": self._each_turn,
            "list of": list,
            "tuple of": tuple,
            "map of": dict,
            "format": self._format,
            "indent": self._indent,
            "join": self._join_values,
            "replace": self._replace,
            "string": self._text,
            "text of all": lambda values: self._join("", map(self._text, values)),
            "tojson": _to_json,
        }
        allowed = {name: self.filters[name] for name in _FILTERS} | own
        self.filters = {name: self._metered(function) for name, function in allowed.items()}
        self.globals = {
            "dict": _dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "range": self.globals["range"],
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metering().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Text offers only the methods that templates need."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's own guard of `format`, and ours against wide fields."""
        text = getattr(value, "__self__", None)
        if isinstance(text, str) and getattr(value, "__name__", "") == "format":
            _check_fields(text)
        return super().wrap_str_format(value)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call a template makes."""
        given = (*args, *(value for name, value in kwargs.items() if name not in _SURROUNDINGS))
        self.meter.charge(given if __obj is not _Namespace else None)
        text, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(text, str) and method == "replace":
            result: Any = self._replace(text, *args, **kwargs)
        elif isinstance(text, str) and method == "join":
            result = self._join(text, *args)
        else:
            result = super().call(__context, __obj, *args, **kwargs)
        self.meter.charge(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make something large of something small."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str) and isinstance(times, int):
                    self.meter.check_characters(len(many) * times)
                if isinstance(many, list | tuple) and isinstance(times, int):
                    self.meter.check_items(len(many) * times)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
            if bits > _MAX_INTEGER_BITS:
                raise _LimitError("computes too large a number")
        if operator == "%" and isinstance(left, str):
            return self._format(left, *right) if isinstance(right, tuple) else self._format(left, right)
        result = super().call_binop(context, operator, left, right)
        self.meter.charge(result)
        return result

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # keeps the marks by which Jinja knows what to pass
        def metered(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.meter.charge(result)
            return result

        return metered

    def _each_turn(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.meter.charge()
            yield item

    def _printable(self, value: Any) -> Any:
        return value if isinstance(value, str | Undefined) else self._text(value)

    def _text(self, value: Any) -> str:
        if isinstance(value, Namespace):
            raise _LimitError("prints a namespace")
        self.meter.charge(value)
        return str(value)

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        whole, part, other = self._text(text), self._text(old), self._text(new)
        self.meter.check_characters(len(whole) + whole.count(part) * len(other))
        return whole.replace(part, other, -1 if count is None else count)

    def _join(self, separator: str, parts: Iterable[str]) -> str:
        texts: list[str] = []
        length = 0
        for part in parts:
            length += len(part) + len(separator)
            self.meter.check_characters(length)
            texts.append(part)
        return separator.join(texts)

    def _join_values(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return self._join(self._text(d), map(self._text, values))

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._text(text)
        self.meter.check_characters((text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
        return do_indent(text, width, first, blank)

    def _format(self, text: Any, *args: Any, **kwargs: Any) -> str:
        text = self._text(text)
        _check_fields(text)
        for value in (*args, *kwargs.values()):
            self._text(value)
        result: str = text % (kwargs or args)
        self.meter.charge(result)
        return result


class _Metering(NodeTransformer):
    """Rewrites a parsed template so that loops, literals and concatenations go through the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "each turn")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "list of")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "tuple of") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "map of")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "text of all")


def _filtered(value: Any, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _GenerationExtension(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what an assistant said for training: here just its text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Namespace(Namespace):
    """A namespace without names like `__class__`, by which it would pass for something else."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check_attribute(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _check_fields(text: str) -> None:
    if _WIDE_FIELD.search(text):
        raise _LimitError("formats text in a field wider than allowed")


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _strftime_now(layout: str) -> str:
    _check_fields(layout)
    return datetime.now().astimezone().strftime(layout)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if (indent or 0) > 16 or any(len(separator) > 16 for separator in separators or ()):
        raise _LimitError("indents JSON by more than allowed")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
