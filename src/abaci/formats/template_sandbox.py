"""The environment chat templates run in: Jinja's immutable sandbox with allow-lists, on a meter.

Every loop turn, call, filter, comparison, slice and concatenation of a template passes through here. What makes a value
is charged by the value's size, what may take long looks at the clock, and what could be large is judged
before it is made.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import TemplateAssertionError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import do_indent, do_mark_safe, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from abaci.formats.given_text import GivenText, formatted, made_of, plain
from abaci.formats.template_meter import LimitError, Meter, TemplateLimits, most_lines
from abaci.formats.template_values import (
    EscapingFormatter,
    Formatter,
    TemplateNamespace,
    check_fields,
    dictionary,
    is_offered,
    replaced,
    text_method,
)

_MAX_LAYOUT_CHARACTERS: Final = 256
_SURROUNDINGS: Final = ("_loop_vars", "_block_vars")
"""What Jinja itself passes with calls in loops and blocks, and takes out again before the call."""

_FILTERS: Final = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby", "int"),
    *("items", "last", "length", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select"),
    *("selectattr", "sort", "title", "trim", "truncate", "unique", "upper"),
)
_MAKE_TEXT: Final = frozenset(
    {
        *("capitalize", "e", "escape", "format", "indent", "join", "lower", "replace", "safe", "string", "title"),
        *("text of all", "tojson", "trim", "truncate", "upper"),
    }
)
"""Filters whose result is a text of their making, where others hand on values or parts of them."""
_TAKE_TEXT_APART: Final = frozenset({"groupby", "list", "sort", "title"})


class RefusedError(Exception):
    """`raise_exception` in a template."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, metered. Filters with a space in their name are what the parsed template is rewritten to use."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, limits: TemplateLimits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would compute them unmetered
            finalize=self._printable,
            extensions=[LoopControlExtension, _GenerationExtension],
        )
        self.meter = Meter(limits)
        own = {
            "each turn": iter,
            "list of": list,
            "tuple of": tuple,
            "map of": functools.partial(dictionary, self.meter),
            "text of all": lambda values: self.meter.join("", map(self._text, values)),
            "value": lambda value: value,
            "format": self._format,
            "indent": self._indent,
            "join": self._join_values,
            "list": list,
            "replace": self._replace,
            "safe": lambda value: value if isinstance(value, GivenText) else do_mark_safe(value),
            "string": self._text,
            "tojson": self._to_json,
        }
        allowed = {name: self.filters[name] for name in _FILTERS} | own
        self.filters = {name: self._metered(name, function) for name, function in allowed.items()}
        tests: dict[str, Callable[..., Any]] = self.tests  # type: ignore[assignment]  # named as `function`
        self.tests = {name: self._timed(function) for name, function in tests.items()}
        self.globals = {
            "dict": functools.partial(dictionary, self.meter),
            "namespace": TemplateNamespace,
            "raise_exception": _raise_exception,
            "range": self.globals["range"],
            "strftime_now": _strftime_now,
        }

    def concat(self, parts: Iterable[str]) -> str:
        """What Jinja joins the text of a macro or a block with."""
        text = self.meter.join("", parts)
        self.meter.charge(text)
        return text

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only what the allow-list of the value's type has."""
        return is_offered(obj, attr) and bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The `format` of a text, in Jinja's guard and ours."""
        text = getattr(value, "__self__", None)
        if not isinstance(text, str) or getattr(value, "__name__", "") != "format":
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            formatter = (
                EscapingFormatter(self, self.meter, escape=text.escape)
                if isinstance(text, Markup)
                else Formatter(self, self.meter)
            )
            result = formatter.marked(text, args, kwargs)
            return result if isinstance(result, GivenText) else type(text)(result)

        return formatted

    def call(self, __context: Context, __obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call a template makes."""
        given = (*args, *(value for name, value in kwargs.items() if name not in _SURROUNDINGS))
        self.meter.charge(given if __obj is not TemplateNamespace else None)
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            __obj = text_method(self.meter, text, __obj.__name__)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop goes through these
            args = (self.meter.each(args[0]), *args[1:])
        result = super().call(__context, __obj, *args, **kwargs)
        self.meter.charge(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make something large of something small."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str) and isinstance(times, int):
                    self.meter.check_characters(len(many) * times)
                elif isinstance(times, int) and hasattr(many, "__len__"):
                    self.meter.check_items(len(many) * times)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            self.meter.check_integer(
                left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
            )
        if operator == "%" and isinstance(left, str | bytes | bytearray):
            return self._format(left, *right) if isinstance(right, tuple) else self._format(left, right)
        result = made_of(super().call_binop(context, operator, left, right), left, right)
        self.meter.charge(result)
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metering().visit(super()._parse(source, name, filename))
        return tree

    def _metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, paid for by what it makes; what it makes bit by bit is paid for bit by bit."""

        def metered(*args: Any, **kwargs: Any) -> Any:
            if name in _TAKE_TEXT_APART:
                for value in args:
                    self.meter.check_items(len(value) if isinstance(value, str) else 0)
            if name == "trim":
                self.meter.check_sought(args[1] if len(args) > 1 else kwargs.get("chars"))
            result = function(*args, **kwargs)
            if name in _MAKE_TEXT:
                result = made_of(result, args, kwargs)
            self.meter.charge(result)
            return self.meter.each(result) if isinstance(result, Iterator) else result

        return _marked_as(function, metered)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A test makes nothing, but `in` may search long."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.meter.check_time()
            return function(*args, **kwargs)

        return _marked_as(function, timed)

    @pass_context  # also keeps Jinja from working constants out beforehand
    def _printable(self, _context: Context, value: Any) -> Any:
        return value if isinstance(value, str | Undefined) else self._text(value)

    def _text(self, value: Any) -> str:
        if isinstance(value, Namespace):
            raise LimitError("prints a namespace")
        self.meter.charge(value)
        text: str = made_of(str(value), value)
        return text

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        return replaced(self.meter, self._text(text), self._text(old), self._text(new), count)

    def _join_values(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return self.meter.join(self._text(d), map(self._text, values))

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._text(text)
        num_characters = width if isinstance(width, int) else len(width)
        self.meter.check_characters(len(text) + (most_lines(text) + 1) * num_characters)
        return do_indent(plain(text), plain(width), first, blank)

    def _format(self, text: Any, /, *args: Any, **kwargs: Any) -> str:
        text = self._text(text)
        check_fields(text)
        longest = max((len(self._text(value)) for value in (*args, *kwargs.values())), default=0)
        self.meter.check_characters(len(text) + text.count("%") * longest)
        result = formatted(text, kwargs or args)
        self.meter.charge(result)
        return result

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if (indent or 0) > 16 or any(len(separator) > 16 for separator in separators or ()):
            raise LimitError("indents JSON by more than allowed")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return encoder.encode(value) if indent is None else self.meter.join("", encoder.iterencode(value))


class _Metering(NodeTransformer):
    """Rewrites a parsed template so that what Jinja would do by itself goes through the meter."""

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
        pairs = [nodes.Tuple([pair.key, pair.value], "load", lineno=pair.lineno) for pair in node.items]
        return _filtered(nodes.List(pairs, lineno=node.lineno), "map of")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "text of all")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return nodes.Test(node, "true", [], [], None, None, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "value") if isinstance(node.arg, nodes.Slice) else node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _filtered(node.dyn_args, "each turn")
        return node

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier) -> nodes.Node:  # noqa: N802
        raise TemplateAssertionError("a prompt is no HTML: autoescape is not supported", node.lineno)

    visit_ScopedEvalContextModifier = visit_EvalContextModifier  # noqa: N815
    visit_Filter = visit_Test = visit_Call  # noqa: N815


def _filtered(value: Any, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _marked_as(function: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper, with the marks by which Jinja knows what to pass."""
    return functools.update_wrapper(wrapper, function) if hasattr(function, "__dict__") else wrapper


class _GenerationExtension(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what an assistant said for training: here just its text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _raise_exception(message: object) -> NoReturn:
    raise RefusedError(message)


def _strftime_now(layout: str) -> str:
    check_fields(layout)
    if len(layout) > _MAX_LAYOUT_CHARACTERS:
        raise SecurityError("a layout of the date that is too long")
    made: str = made_of(datetime.now().astimezone().strftime(layout), layout)
    return made
