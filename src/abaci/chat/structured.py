"""What clients write to prescribe the form of an answer, in all the dialects there are, as one Constraint.

    response_format      OpenAI: {"type": "text" | "json_object" | "json_schema", ...}
    structured_outputs   vLLM: {"json" | "json_object" | "regex" | "choice" | "grammar": ...}
    guided_*             vLLM's older names for the same
    grammar, json_schema llama.cpp: GBNF, and a schema as it is

Knows the shape of these wishes only. Whether a schema or grammar can be followed is for the engine to say, which knows
the vocabulary; it refuses what it cannot follow when the request is submitted.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llguidance.gbnf_to_lark import gbnf_to_lark

from abaci.errors import UsageError
from abaci.generation import Constraint, ConstraintKind

MAX_GBNF_CHARACTERS: Final = 20_000
"""The work to translate one grows with the square of its rules."""

_ANY_OBJECT: Final = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')
_RESPONSE_TYPES: Final = "text, json_object, json_schema"
_SCHEMA_HINT: Final = 'Send an object, for example {"type": "object", "properties": {"city": {"type": "string"}}}.'
_OUTPUT_KEYS: Final = ("json", "json_object", "regex", "choice", "grammar")
_LARK_START: Final = re.compile(r"^\s*(%llguidance\b|start\s*:(?!:=))", re.MULTILINE)


def constraint_of(
    *,
    response_format: Mapping[str, Any] | None = None,
    structured_outputs: Mapping[str, Any] | None = None,
    guided_json: Any = None,
    guided_regex: str | None = None,
    guided_choice: Sequence[str] | None = None,
    guided_grammar: str | None = None,
    grammar: str | None = None,
    json_schema: Any = None,
) -> Constraint | None:
    """The form that a request asks for, None where it asks for none; `null` anywhere is nothing asked.

    A schema is enforced whether or not `strict` is set. Raises UsageError that names the field, also where two of them
    ask for something.
    """
    wishes = {
        "response_format": None if response_format is None else _from_response_format(response_format),
        "structured_outputs": None if structured_outputs is None else _from_structured_outputs(structured_outputs),
        "guided_json": None if guided_json is None else _from_schema("guided_json", guided_json),
        "guided_regex": None if guided_regex is None else _from_regex("guided_regex", guided_regex),
        "guided_choice": None if guided_choice is None else _from_choice("guided_choice", guided_choice),
        "guided_grammar": None if guided_grammar is None else _from_grammar("guided_grammar", guided_grammar),
        "grammar": None if grammar is None else _from_grammar("grammar", grammar),
        "json_schema": None if json_schema is None else _from_schema("json_schema", json_schema),
    }
    asked = {name: wish for name, wish in wishes.items() if wish is not None}
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(asked)} each prescribe a form of the answer", hint="An answer can have one form only."
        )
    return next(iter(asked.values()), None)


def _from_response_format(given: object) -> Constraint | None:
    place = "response_format"
    fields = _mapping(place, given)
    kind = fields.get("type")
    if kind == "text":
        return None
    if kind == "json_object":  # llama.cpp takes a schema beside it
        schema = fields.get("schema")
        return _ANY_OBJECT if schema is None else _from_schema(f"{place}.schema", schema)
    if kind != "json_schema":
        raise UsageError(f"{place}.type is {kind!r}", hint=f"Choose one of: {_RESPONSE_TYPES}.")
    if fields.get("json_schema") is None and "schema" in fields:  # the same
        return _from_schema(f"{place}.schema", fields["schema"])
    place = f"{place}.json_schema"
    wrapped = _mapping(place, fields.get("json_schema"))
    if not isinstance(wrapped.get("name", ""), str):
        raise UsageError(f"{place}.name is not text", hint="Give the schema a name, or leave it out.")
    if not isinstance(wrapped.get("strict"), bool | None):
        raise UsageError(
            f"{place}.strict is neither true nor false",
            hint="Leave it out: a schema is enforced whether it is set or not.",
        )
    if wrapped.get("schema") is None:
        raise UsageError(
            f"{place}.schema is missing",
            hint='For example {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}.',
        )
    return _from_schema(f"{place}.schema", wrapped["schema"])


def _from_structured_outputs(given: object) -> Constraint | None:
    place = "structured_outputs"
    # Options that are off are as good as absent.
    fields = {key: value for key, value in _mapping(place, given).items() if value is not None and value is not False}
    if unknown := sorted(map(str, fields.keys() - set(_OUTPUT_KEYS))):
        raise UsageError(f"{place}.{unknown[0]} is not supported", hint=f"Choose one of: {', '.join(_OUTPUT_KEYS)}.")
    if len(fields) > 1:
        raise UsageError(
            f"{place} has {', '.join(sorted(fields))}", hint="An answer can have one form only: keep one of them."
        )
    for key, value in fields.items():
        field = f"{place}.{key}"
        match key:
            case "json":
                return _from_schema(field, value)
            case "json_object":
                if value is not True:
                    raise UsageError(f"{field} is neither true nor false", hint="Write true, or leave it out.")
                return _ANY_OBJECT
            case "regex":
                return _from_regex(field, value)
            case "choice":
                return _from_choice(field, value)
            case "grammar":
                return _from_grammar(field, value)
    return None


def _from_schema(place: str, given: object) -> Constraint:
    """A schema as an object, or as the text of one."""
    if isinstance(given, str):
        return Constraint(ConstraintKind.JSON_SCHEMA, given)
    if not isinstance(given, Mapping | bool):
        raise UsageError(f"{place} is not a JSON schema", hint=_SCHEMA_HINT)
    try:
        source = json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not a JSON schema: {error}", hint=_SCHEMA_HINT) from None
    return Constraint(ConstraintKind.JSON_SCHEMA, source)


def _from_regex(place: str, given: object) -> Constraint:
    return Constraint(ConstraintKind.REGEX, _text(place, given))


def _from_choice(place: str, given: object) -> Constraint:
    """One terminal of all texts: the lexer tells any number of them apart in one pass."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UsageError(
            f"{place} is not a list of at least one text",
            hint='List the answers there may be, for example ["yes", "no"].',
        )
    texts = [_text(f"{place}[{index}]", text) for index, text in enumerate(given)]
    alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))
    return Constraint(ConstraintKind.LARK, f"start: CHOICE\nCHOICE: {alternatives}\n")


def _from_grammar(place: str, given: object) -> Constraint:
    """Lark in llguidance's dialect, which has a rule `start`, or GBNF, which has a rule `root`."""
    source = _text(place, given)
    if _LARK_START.search(source):
        return Constraint(ConstraintKind.LARK, source)
    if len(source) > MAX_GBNF_CHARACTERS:
        raise UsageError(
            f"{place} has {len(source)} characters of GBNF",
            hint=f"Shorten it to {MAX_GBNF_CHARACTERS}, or write it in Lark, which may be longer.",
        )
    try:
        return Constraint(ConstraintKind.LARK, gbnf_to_lark(source))
    except RecursionError:
        raise UsageError(f"{place} is nested too deeply", hint="Give inner groups rules of their own.") from None
    except Exception as error:  # what the translator raises has no type of its own
        raise UsageError(
            f"{place} is neither GBNF nor Lark: {error}", hint="GBNF begins at a rule `root ::= ...`, Lark at `start:`."
        ) from None


def _text(place: str, given: object) -> str:
    if not isinstance(given, str) or not given:
        raise UsageError(f"{place} is not a text of at least one character", hint="Write it as text, or leave it out.")
    return given


def _mapping(place: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(f"{place} is not an object", hint='Send an object, for example {"type": "json_object"}.')
    return given
