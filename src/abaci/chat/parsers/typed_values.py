"""Arguments that a model writes as plain text, back as the JSON values that the function's schema asks for.

In dialects of tags `5` may be a number or a text, and only the schema says which. Knows nothing of the tags.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = {"True": "true", "False": "false", "None": "null"}
"""Python's, which models that write much Python mean as JSON's."""
_MAX_DEPTH: Final = 8


def typed_value(text: str, schema: Any) -> Any:
    """What the text means under the schema of its parameter: text itself, unless another type is asked for and fits.

    Without a schema that names types, what is JSON but no text is taken as that.
    """
    types = _types(schema, _MAX_DEPTH)
    if "string" in types:
        return None if "null" in types and text.strip() == "null" else text
    stripped = text.strip()
    try:
        value = json.loads(_WORDS.get(stripped, stripped))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # it must be possible to say it again
    except (ValueError, RecursionError):
        return text
    return value if not types and not isinstance(value, str) else _fitting(value, types, text)


def schema_of(parameters: Mapping[str, Any], name: str) -> Any:
    """Of one parameter of a function; None where the function does not name it."""
    properties = parameters.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def _fitting(value: Any, types: frozenset[str], text: str) -> Any:
    if "integer" in types and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if _type_names(value) & types else text


def _type_names(value: Any) -> frozenset[str]:
    """The names that JSON Schema has for a value's type."""
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return frozenset({names[type(value)]})


def _types(schema: Any, depth: int) -> frozenset[str]:
    """All types that a schema allows, as far as it names them; a choice of given values has theirs."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    given = schema.get("type")
    listed = given if isinstance(given, list) else [given]
    types = {name for name in listed if isinstance(name, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        for option in options if isinstance(options, list) else ():
            types |= _types(option, depth - 1)
    values = schema.get("enum")
    if not types and isinstance(values, list):
        types = {name for value in values if type(value) in _JSON_TYPES for name in _type_names(value)}
    return frozenset(types)


_JSON_TYPES: Final = (bool, int, float, str, list, dict, type(None))
