"""Which JSON schemas are accepted: what a schema says is enforced or refused by name, never passed over.

llguidance enforces the keywords it knows, refuses those it knows and lacks, and passes over the rest; it is the rest
that is looked for here, along with what would be too deep or too large to read.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from abaci.errors import UsageError

MAX_DEPTH: Final = 64
"""Levels of lists and objects in the text of a schema."""

MAX_PROPERTIES: Final = 400
"""Of one object."""

MAX_DEFINITIONS: Final = 200
"""Of a whole schema: the compiler recurses along references."""

MAX_MULTIPLE: Final = 10_000
"""The product of all that `multipleOf` asks for, without decimal point and zeros: an automaton counts in its size."""

LARGEST_NUMBER: Final = 2**53
"""The compiler reads numbers as float64, and beyond this it would take one for its neighbour."""

_WHITESPACE: Final = r" |\n[ \t]{0,64}"
"""Between tokens of JSON: a space, or a line break and what indents the next line. All usual styles, none endless."""

# fmt: off
_ENFORCED: Final = frozenset({
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions",
    "properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties",
    "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format",
})
_ANNOTATIONS: Final = frozenset({
    "$schema", "$id", "$anchor", "$comment", "title", "description", "default", "example", "examples", "deprecated",
    "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema", "discriminator",
})
# fmt: on
_NUMBERS: Final = ("enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_SCHEMAS_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS: Final = ("items", "additionalProperties", "additionalItems")


def read_schema(source: str) -> str:
    """The schema in a form that llguidance takes. Raises UsageError that names the place and the keyword."""
    schema, rest = split_schema(source)
    if rest.strip():
        raise UsageError(
            f"the JSON schema is not JSON: something follows it: {rest.strip()[:40]!r}",
            hint="Send the one object that is the schema, and nothing after it.",
        )
    return schema


def split_schema(source: str) -> tuple[str, str]:
    """The schema that `source` begins with, as `read_schema` gives it, and what follows."""
    text = source.lstrip()
    try:
        schema, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise UsageError(
            f"the JSON schema is not JSON: {error}",
            hint='Check its quotes and commas; a schema is, for example, {"type": "object"}.',
        ) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise UsageError("the JSON schema is not an object", hint='For example {"type": "object"}.')
    _check(schema)
    return json.dumps(schema | {"x-guidance": {"whitespace_pattern": _WHITESPACE}}), text[end:]


def _check(schema: dict[str, Any]) -> None:
    _check_depth(schema)
    num_definitions, multiple = 0, 1
    for place, keywords in _subschemas("schema", schema):
        _check_keywords(place, keywords)
        num_definitions += sum(_size(keywords.get(name)) for name in ("$defs", "definitions"))
        multiple *= _digits(keywords.get("multipleOf"))
    if num_definitions > MAX_DEFINITIONS:
        raise UsageError(
            f"the JSON schema has {num_definitions} definitions",
            hint=f"Keep at most {MAX_DEFINITIONS}: leave out those that nothing refers to.",
        )
    if multiple > MAX_MULTIPLE:
        raise UsageError(
            "the JSON schema asks for multipleOf of too many or too long numbers",
            hint="Leave out multipleOf, or give it fewer digits.",
        )


def _size(value: object) -> int:
    return len(value) if isinstance(value, dict) else 0


def _digits(value: object) -> int:
    """The number's digits without point and outer zeros; 1 for what is no number, which others refuse."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return 1
    return int(re.sub(r"\D", "", repr(value).partition("e")[0]).strip("0") or 1)


def _check_keywords(place: str, keywords: dict[str, Any]) -> None:
    unknown = sorted(keywords.keys() - _ENFORCED - _ANNOTATIONS)
    if refused := [name for name in unknown if not _is_extension(name)]:
        raise UsageError(
            f"the JSON schema uses what is not supported: {', '.join(map(repr, refused[:10]))} at {place}",
            hint=f"Supported are {', '.join(sorted(_ENFORCED))}.",
        )
    for name in _NUMBERS:
        if (number := _too_large(keywords.get(name))) is not None:
            raise UsageError(
                f"{name} at {place} of the JSON schema has {number}, which is beyond 2**53",
                hint="Make it a string: readers of JSON keep whole numbers exactly only up to 2**53.",
            )
    properties = keywords.get("properties")
    if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
        raise UsageError(
            f"{place} of the JSON schema has {len(properties)} properties",
            hint=f"Keep at most {MAX_PROPERTIES}: group them in objects of their own.",
        )


def _too_large(value: Any) -> int | None:
    """A whole number in a keyword's value that float64 may not hold."""
    if isinstance(value, int):
        return value if abs(value) > LARGEST_NUMBER else None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in inner if (found := _too_large(item)) is not None), None)


def _is_extension(name: str) -> bool:
    """Keywords of other tools, but for the one that would set options of the compiler."""
    return name.startswith("x-") and name != "x-guidance"


def _subschemas(place: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in which keywords stand, with its place; names of properties and values of enums are no keywords."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for keyword in _SCHEMAS_BY_NAME:
        if isinstance(named := schema.get(keyword), dict):
            for name, item in named.items():
                yield from _subschemas(f"{place}.{keyword}.{name}", item)
    for keyword in (*_LISTS_OF_SCHEMAS, *_SCHEMAS):
        value = schema.get(keyword)
        for index, item in enumerate(value) if isinstance(value, list) else ():
            yield from _subschemas(f"{place}.{keyword}[{index}]", item)
        yield from _subschemas(f"{place}.{keyword}", value)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise _too_deep()


def _too_deep() -> UsageError:
    return UsageError(
        f"the JSON schema is nested more than {MAX_DEPTH} levels deep",
        hint="Make it flatter, or put inner parts into $defs.",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
