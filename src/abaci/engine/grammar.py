"""Forms that answers must have: checked and compiled when a request comes in, followed while its tokens are drawn.

Built on llguidance, which says after any tokens which ones may follow. Knows the vocabulary as bytes, and nothing of
prompts, thoughts or end tokens: those are `guide`'s.

What a constraint may cost is bounded by its size before it is read, and by the fuel of llguidance's parser and lexer
after; both count work and not seconds, so that the same constraint always fares the same. For that reason requests
also share no lexer: what one of them made of it would count against the next. A clock only stops what slips through.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import thread_time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from abaci.engine.json_schema import read_schema, split_schema
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Constraint, ConstraintKind

if TYPE_CHECKING:
    # Loaded when the first constraint comes: it takes 50 ms, which every start would pay.
    from llguidance import LLMatcher, LLTokenizer

_T = TypeVar("_T")

MAX_CHARACTERS: Final = {
    ConstraintKind.JSON_SCHEMA: 100_000,
    ConstraintKind.REGEX: 8_000,
    ConstraintKind.LARK: 100_000,
}
"""Of a source. An expression made of many stars costs the square of its length."""

START_SECONDS: Final = 0.25
TOKEN_SECONDS: Final = 0.01
"""Processor time that one sample may take at once, and on average. A hundred times the usual: ambiguous grammars get
there unseen by the parser's own limits."""

NUM_CACHED: Final = 128
"""Constraints whose check is remembered, with one matcher ready for each."""

MAX_RULES: Final = 500
"""Of a grammar: the compiler recurses along them."""

_OPTIONS: Final = '%llguidance {"no_forcing": true}\n'
"""Where only one text can follow, the model still chooses its tokens: to spell it for the model costs time by its
length at every token."""

_SIMPLIFY: Final = "Simplify it: fewer alternatives, smaller repetition counts, one way to read each text."

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

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """Everything a tokenizer knows."""
        ids = range(tokenizer.vocab_size)
        return cls([tokenizer.token_bytes(i) for i in ids], frozenset(filter(tokenizer.is_special, ids)))


class GrammarError(UsageError):
    """An answer cannot go on: its constraint leaves no token, or asks for more work than one answer may cost."""


class Matcher:
    """Follows one sample through its grammar. Belongs to one thread at a time."""

    __slots__ = ("_address", "_inner", "_seconds_left", "_tail", "_vocab_size", "_wide")

    def __init__(self, inner: "LLMatcher", vocab_size: int) -> None:
        self._inner = inner
        self._vocab_size = vocab_size
        self._seconds_left = START_SECONDS
        # One bit more than the model has tokens: llguidance needs an end token, and it shall be none of the model's.
        self._wide = np.zeros(vocab_size // 32 + 1, np.uint32)
        self._tail = np.uint32((1 << vocab_size % 32) - 1)
        self._address = self._wide.ctypes.data

    @property
    def is_complete(self) -> bool:
        """Whether what was consumed has the form already."""
        return self._inner.is_accepting()

    def allow(self, row: NDArray[np.uint32]) -> None:
        """Set the bits of exactly the tokens that may come next. Raises GrammarError where that costs too much."""
        wide = self._wide
        self._watch(self._inner.unsafe_compute_mask_ptr, self._address, wide.nbytes)
        wide[-1] &= self._tail
        row[:] = wide[: len(row)]

    def consume(self, token_id: int) -> None:
        """Go on with a token that was allowed. Raises GrammarError for another, and where that costs too much."""
        self._seconds_left += TOKEN_SECONDS
        self._watch(self._inner.consume_token, token_id)

    def copy(self) -> "Matcher":
        """Another one that stands where this one does."""
        return Matcher(self._inner.deep_copy(), self._vocab_size)

    def _watch(self, work: Callable[..., object], *arguments: int) -> None:
        begin = thread_time()
        _guarded(work, *arguments)
        self._seconds_left -= thread_time() - begin
        if self._inner.is_error():
            raise GrammarError(
                f"the constraint leaves no way on, or asks for too much work: {_brief(self._inner.get_error())}",
                hint=_SIMPLIFY,
            )
        if self._seconds_left < 0:
            raise GrammarError("the constraint takes too long to follow", hint=_SIMPLIFY)


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

    def __init__(self, ready: Matcher) -> None:
        self.ready: Matcher | None = ready
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

    def compile(self, constraint: Constraint) -> Grammar:
        """Check a constraint and make what its first sample needs.

        Raises UsageError for one that is malformed, that no text satisfies, or that is too large.
        """
        if self._vocabulary is None:
            raise UsageError(
                "this engine was given no vocabulary, so it cannot hold answers to a constraint",
                hint="Leave the constraint out, or load a model with its tokenizer.",
            )
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
        return ready or self._build(constraint)

    def _entry(self, constraint: Constraint) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(constraint)
            if entry is not None:
                self._entries.move_to_end(constraint)
            return entry

    def _remember(self, constraint: Constraint, ready: Matcher) -> None:
        with self._lock:
            self._entries[constraint] = _Entry(ready)
            self._entries.move_to_end(constraint)
            if len(self._entries) > NUM_CACHED:
                self._entries.popitem(last=False)

    def _build(self, constraint: Constraint) -> Matcher:
        name = _NAMES[constraint.kind]
        source = constraint.source
        if len(source) > MAX_CHARACTERS[constraint.kind]:
            raise UsageError(
                f"the {name} has {len(source)} characters", hint=f"Shorten it to {MAX_CHARACTERS[constraint.kind]}."
            )
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            initial_lexer_fuel=300_000, max_lexer_states=20_000, max_grammar_size=20_000, verbose_errors=False
        )
        make = partial(LLMatcher, log_level=0, limits=limits)
        inner = _guarded(make, self._tokenizer, _to_lark(constraint))
        if inner.is_error():
            raise UsageError(
                f"the {name} cannot be used: {_brief(inner.get_error())}",
                hint="Correct what it names, or try a simpler one.",
            )
        matcher = Matcher(inner, self._vocab_size)
        row = np.empty(-(-self._vocab_size // 32), np.uint32)
        try:
            matcher.allow(row)
        except GrammarError as error:
            raise UsageError(f"the {name} cannot be used: {error.message}", hint=error.hint) from None
        if not row.any() and not matcher.is_complete:
            raise UsageError(
                f"the {name} cannot be used: no text of this model's tokens satisfies it",
                hint="Allow at least one text, in characters that the model's tokens can spell.",
            )
        return matcher

    def _make_tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        assert self._vocabulary is not None
        vocabulary = self._vocabulary()
        end = self._vocab_size
        padding = [b""] * (end - len(vocabulary.token_bytes))
        tokens = _Tokens(
            tokens=[*vocabulary.token_bytes[:end], *padding, b"<end of the answer>"],
            special_token_ids=[*sorted(vocabulary.special_token_ids), end],
            eos_token_id=end,
        )
        return LLTokenizer(TokenizerWrapper(tokens), n_vocab=end + 1, eos_token=end, slices=LLTokenizer.json_slices())


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A vocabulary under the names that llguidance knows."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: int | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Tokens that must come would be spelled by this, but no grammar of ours forces tokens (`_OPTIONS`)."""
        return []


def _to_lark(constraint: Constraint) -> str:
    from llguidance import regex_to_lark

    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return f"{_OPTIONS}start: %json {read_schema(constraint.source)}\n"
        case ConstraintKind.REGEX:
            return f"{_OPTIONS}start: /(?:{regex_to_lark(constraint.source, '')})/\n"
        case ConstraintKind.LARK:
            return _OPTIONS + _checked_lark(constraint.source)


def _checked_lark(source: str) -> str:
    """The grammar, its schemas checked and its options, which would take precedence over ours, refused."""
    source = re.sub(r"^\s*%llguidance\s*\{\s*\}", "", source)
    if "%llguidance" in source:
        raise UsageError(
            "the grammar sets options with %llguidance", hint="Leave that line out: the options are the engine's own."
        )
    num_rules = len(re.findall(r"^\s*[\w.!?\[\]=-]+\s*:", source, re.MULTILINE))
    if num_rules > MAX_RULES:
        raise UsageError(
            f"the grammar has {num_rules} rules",
            hint=f"Write it in at most {MAX_RULES}, for example by joining texts to one terminal.",
        )
    before, *embedded = source.split("%json")
    pieces = [before]
    for piece in embedded:
        schema, rest = split_schema(piece)
        pieces.append(f"%json {schema}{rest}")
    return "".join(pieces)


def _guarded(work: Callable[..., _T], *arguments: Any) -> _T:
    """A defect of the library arrives as a BaseException, which would end the engine's thread."""
    try:
        return work(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise GrammarError(
            f"the constraint cannot be followed: {_brief(str(error))}",
            hint="Write it another way; the library that follows it has a defect here.",
        ) from error


def _brief(message: str) -> str:
    words = " ".join(message.replace("<non-verbose/>", "").split())
    return words if len(words) <= 300 else words[:300] + " ..."
