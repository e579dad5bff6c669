"""Forms that answers must have: checked and compiled when a request comes in, followed while its tokens are drawn.

Built on llguidance, which says after any tokens which ones may follow. Knows the vocabulary as bytes, and nothing of
prompts, thoughts or end tokens: those are `guide`'s.

What a constraint may cost is bounded by its size before it is read, and by the fuel of llguidance's parser and lexer
after; both count work and not seconds, so that the same constraint always fares the same. For that reason requests
also share no lexer: what one of them made of it would count against the next.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from abaci.engine.json_schema import check_schema
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Constraint, ConstraintKind

MAX_SOURCE_CHARACTERS: Final = 100_000
"""Of a schema, an expression or a grammar."""

NUM_CACHED: Final = 128
"""Constraints whose check is remembered, with one matcher ready for each."""

_JSON_WHITESPACE: Final = r" |\n[ \t]{0,64}"
"""Between tokens of JSON: a space, or a line break and what indents the next line. All usual styles, none endless."""

_NAMES: Final = {
    ConstraintKind.JSON_SCHEMA: "JSON schema",
    ConstraintKind.REGEX: "regular expression",
    ConstraintKind.LARK: "grammar",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens as bytes, by id; none for a token that stands for no text."""

    token_bytes: Sequence[bytes]
    special_token_ids: frozenset[int]
    """Tokens that no text yields; a grammar reaches them only by name."""
    encode: Callable[[str], Sequence[int]]
    """The model's own spelling of a text that goes on with another one."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """Everything a tokenizer knows."""
        ids = range(tokenizer.vocab_size)
        # A token before the text, taken away again, makes it a continuation.
        return cls(
            [tokenizer.token_bytes(i) for i in ids],
            frozenset(filter(tokenizer.is_special, ids)),
            lambda text: tokenizer.encode_pieces([0, text], add_bos=False)[1:],
        )


class GrammarError(UsageError):
    """An answer cannot go on: its constraint leaves no token, or asks for more work than one answer may cost."""


class Matcher:
    """Follows one sample through its grammar. Belongs to one thread at a time."""

    __slots__ = ("_compiler", "_inner")

    def __init__(self, inner: LLMatcher, compiler: "GrammarCompiler") -> None:
        self._inner = inner
        self._compiler = compiler

    @property
    def is_complete(self) -> bool:
        """Whether what was consumed has the form already."""
        return self._inner.is_accepting()

    def allow(self, row: NDArray[np.uint32]) -> None:
        """Set the bits of exactly the tokens that may come next. Raises GrammarError where that costs too much."""
        self._compiler.fill(self._inner, row)

    def consume(self, token_id: int) -> None:
        """Go on with a token that was allowed. Raises GrammarError for another."""
        with _panics_as_errors():
            self._inner.consume_token(token_id)
        _raise_error(self._inner)

    def copy(self) -> "Matcher":
        """Another one that stands where this one does."""
        return Matcher(self._inner.deep_copy(), self._compiler)


class Grammar:
    """A sound constraint of one request."""

    __slots__ = ("_compiler", "_constraint", "_root")

    def __init__(self, constraint: Constraint, compiler: "GrammarCompiler") -> None:
        self._constraint = constraint
        self._compiler = compiler
        self._root: Matcher | None = None

    def start(self) -> Matcher:
        """A matcher at the beginning, one for each sample. Not thread-safe."""
        if self._root is None:
            self._root = self._compiler.take(self._constraint)
        return self._root.copy()


class _Entry:
    __slots__ = ("ready",)

    def __init__(self, ready: LLMatcher | None) -> None:
        self.ready = ready
        """A matcher nobody has used."""


class GrammarCompiler:
    """Turns constraints into grammars over one vocabulary, which is asked for when the first constraint comes.

    Any thread may compile; one at a time does, so that grammars never take more than one core.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary] | None, vocab_size: int) -> None:
        self._vocabulary = vocabulary
        self._vocab_size = vocab_size
        self._entries: OrderedDict[Constraint, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._limits = LLParserLimits(
            max_items_in_row=10_000,
            initial_lexer_fuel=300_000,
            max_lexer_states=20_000,
            max_grammar_size=20_000,
            verbose_errors=False,
        )

    def compile(self, constraint: Constraint) -> Grammar:
        """Check a constraint and make what its first sample needs.

        Raises UsageError for one that is malformed, that no text satisfies, or that is too large.
        """
        if self._vocabulary is None:
            raise UsageError("this engine was given no vocabulary, so it cannot hold answers to a constraint")
        entry = self._entry(constraint)
        if entry is None or entry.ready is None:
            with self._compiling:
                entry = self._entry(constraint)
                if entry is None or entry.ready is None:
                    self._remember(constraint, self._build(constraint))
        return Grammar(constraint, self)

    def take(self, constraint: Constraint) -> Matcher:
        """An unused matcher: the one made ready, or a new one."""
        with self._lock:
            entry = self._entries.get(constraint)
            ready = None if entry is None else entry.ready
            if entry is not None:
                entry.ready = None
        return Matcher(ready or self._build(constraint), self)

    def fill(self, inner: LLMatcher, row: NDArray[np.uint32]) -> None:
        """Write which tokens may come next into a row of the vocabulary's width."""
        # One bit more than the model has tokens: llguidance needs an end token, and it shall be none of the model's.
        wide = np.empty(self._vocab_size // 32 + 1, np.uint32)
        with _panics_as_errors():
            inner.unsafe_compute_mask_ptr(wide.ctypes.data, wide.nbytes)
        _raise_error(inner)
        wide[-1] &= (1 << self._vocab_size % 32) - 1
        row[:] = wide[: len(row)]

    def _entry(self, constraint: Constraint) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(constraint)
            if entry is not None:
                self._entries.move_to_end(constraint)
            return entry

    def _remember(self, constraint: Constraint, ready: LLMatcher) -> None:
        with self._lock:
            self._entries[constraint] = _Entry(ready)
            self._entries.move_to_end(constraint)
            if len(self._entries) > NUM_CACHED:
                self._entries.popitem(last=False)

    def _build(self, constraint: Constraint) -> LLMatcher:
        name = _NAMES[constraint.kind]
        source = constraint.source
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise UsageError(f"the {name} has {len(source)} characters; at most {MAX_SOURCE_CHARACTERS} are accepted")
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        with _panics_as_errors():
            inner = LLMatcher(self._tokenizer, _to_grammar(constraint), log_level=0, limits=self._limits)
        if inner.is_error():
            raise UsageError(f"the {name} cannot be used: {_brief(inner.get_error())}")
        row = np.empty(-(-self._vocab_size // 32), np.uint32)
        try:
            self.fill(inner, row)
        except GrammarError as error:
            raise UsageError(f"the {name} cannot be used: {error.message}", hint=error.hint) from None
        if not row.any() and not inner.is_accepting():
            raise UsageError(f"the {name} cannot be used: no text of this model's tokens satisfies it")
        return inner

    def _make_tokenizer(self) -> LLTokenizer:
        assert self._vocabulary is not None
        vocabulary = self._vocabulary()
        end = self._vocab_size
        padding = [b""] * (end - len(vocabulary.token_bytes))
        tokens = _Tokens(
            tokens=[*vocabulary.token_bytes[:end], *padding, b"<end of the answer>"],
            special_token_ids=[*sorted(vocabulary.special_token_ids), end],
            eos_token_id=end,
            encode=vocabulary.encode,
        )
        wrapper = TokenizerWrapper(tokens)
        return LLTokenizer(wrapper, n_vocab=end + 1, eos_token=end, slices=LLTokenizer.json_slices())


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A vocabulary under the names that llguidance knows."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    encode: Callable[[str], Sequence[int]]
    bos_token_id: int | None = None

    def __call__(self, text: bytes) -> list[int]:
        return list(self.encode(text.decode()))


def _to_grammar(constraint: Constraint) -> str:
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            try:
                return LLMatcher.grammar_from_json_schema(
                    check_schema(constraint.source), overrides={"whitespace_pattern": _JSON_WHITESPACE}
                )
            except ValueError as error:
                raise UsageError(f"the JSON schema cannot be used: {_brief(str(error))}") from None
        case ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(constraint.source)
        case ConstraintKind.LARK:
            return LLMatcher.grammar_from_lark(constraint.source)


def _raise_error(inner: LLMatcher) -> None:
    if inner.is_error():
        raise GrammarError(
            f"the constraint leaves no way on, or asks for too much work: {_brief(inner.get_error())}",
            hint="Simplify it: fewer alternatives and smaller repetition counts.",
        )


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """A defect of the library arrives as a BaseException, which would end the engine's thread."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, AssertionError):
        raise
    except BaseException as error:
        raise GrammarError(f"the constraint cannot be followed: {_brief(str(error))}") from error


def _brief(message: str) -> str:
    words = " ".join(message.replace("<non-verbose/>", "").split())
    return words if len(words) <= 300 else words[:300] + " ..."
