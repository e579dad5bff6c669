"""What an error tells people to do: every one has a hint, and all hints are of one form."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import abaci
from abaci import errors
from abaci.errors import AbaciError

SOURCE = Path(abaci.__file__).parent
SCOPE = [
    *(SOURCE / "cli").rglob("*.py"),
    *(SOURCE / "hub").rglob("*.py"),
    *(
        SOURCE / "runtime" / f"{name}.py"
        for name in ("describing", "fit", "fit_gate", "quality", "recommending", "top")
    ),
]
"""Where no error may lack a hint: what people meet on the command line before a model runs."""

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AbaciError)]
FORM = re.compile(r"[^a-z].*(?:[.?]|: [^ ].*)", re.DOTALL)
"""A sentence, or one that ends with what can be typed."""


def test_every_error_says_what_to_do() -> None:
    hintless = {kind.__name__ for kind in KINDS if kind.usual_hint is None}
    without = [
        f"{path}:{call.lineno}"
        for path in SCOPE
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in hintless
        and not any(keyword.arg == "hint" for keyword in call.keywords)
    ]
    assert without == []


def test_hints_are_of_one_form() -> None:
    found = [text for path in SOURCE.rglob("*.py") for text in hints(ast.parse(path.read_text("utf-8")))]
    found += [kind.usual_hint for kind in KINDS if kind.usual_hint is not None]
    assert len(found) > 200
    assert [text for text in found if FORM.fullmatch(text) is None] == []


def hints(tree: ast.Module) -> Iterator[str]:
    named: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                named.setdefault(name, []).append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                named.setdefault(name, []).append(value)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            values = named.get(node.value.id, []) if isinstance(node.value, ast.Name) else [node.value]
            for value in values:
                yield from texts(value)


def texts(expression: ast.expr) -> Iterator[str]:
    """What an expression can come to, as far as it stands there, with … for what does not."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.IfExp(body=first, orelse=second):
            yield from texts(first)
            yield from texts(second)
        case ast.BoolOp(values=choices):
            for choice in choices:
                yield from texts(choice)
