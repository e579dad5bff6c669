"""What an error tells people to do: every one has a hint, and all hints are of one form."""

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import abaci
from abaci import errors
from abaci.errors import AbaciError, RateLimitedError, copy_of

SOURCE = Path(abaci.__file__).parent
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AbaciError)]
FORM = re.compile(r"[^a-z].*(?:[.?]|: [^ ].*)", re.DOTALL)
"""A sentence, or one that ends with what can be typed."""


def test_every_error_says_what_to_do() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")}
    hintless = names_without_hint(trees.values())
    without = [
        f"{path}:{call.lineno}"
        for path, tree in trees.items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in hintless
        and not any(keyword.arg == "hint" for keyword in call.keywords)
    ]
    assert {"UsageError", "ParameterError", "GrammarError"} <= hintless
    assert without == []


def test_a_copy_says_the_same_and_has_its_own_traceback() -> None:
    original = RateLimitedError("too much", retry_after_seconds=2.5, hint="Wait.")
    cause = original.__cause__ = ValueError("why")
    copied = copy_of(original)
    for error in (copied, copied):
        with suppress(RateLimitedError):
            raise error
    assert (type(copied), str(copied), copied.hint, copied.retry_after_seconds) == (
        RateLimitedError,
        "too much",
        "Wait.",
        2.5,
    )
    assert copied.__cause__ is cause
    assert copied.__traceback__ is not None
    assert original.__traceback__ is None


def test_a_copy_may_be_of_any_error() -> None:
    original = OSError(2, "gone", "file")
    copied = copy_of(original)
    assert (type(copied), str(copied), copied.errno) == (FileNotFoundError, str(original), 2)


def test_hints_are_of_one_form() -> None:
    found = [text for path in SOURCE.rglob("*.py") for text in hints(ast.parse(path.read_text("utf-8")))]
    found += [kind.usual_hint for kind in KINDS if kind.usual_hint is not None]
    assert len(found) > 200
    assert [text for text in found if FORM.fullmatch(text) is None] == []


def names_without_hint(trees: Iterable[ast.Module]) -> set[str]:
    """Classes of errors that bring no hint of their own, also those that modules derive for themselves."""
    without = {kind.__name__ for kind in KINDS if kind.usual_hint is None}
    own = {kind.__name__ for kind in KINDS}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    derived = [node for node in classes if node.name not in own]
    while True:
        more = {node.name for node in derived if any(isinstance(b, ast.Name) and b.id in without for b in node.bases)}
        if more <= without:
            return without
        without |= more


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
