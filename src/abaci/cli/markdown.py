"""Markdown drawn on a terminal without losing what the answer says. Knows no stream and no cursor.

Whoever writes a web page sees it and mends it; an answer is read once, as it comes. So only marks that are hardly ever
meant as text are drawn: headings, lists, quotes, tables, rules, code, `**` and `~~`. All else stands as it is written:
HTML and type parameters, links, entities, backslashes, underscores, formulas, line breaks and indentation.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from markdown_it import MarkdownIt
from markdown_it.rules_block import blockquote, paragraph, table
from rich.markdown import ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from rich.console import Console, ConsoleOptions, RenderResult

_DRAWN = ("heading", "list", "blockquote", "table", "hr", "fence", "code", "backticks", "emphasis", "strikethrough")
_MOST_NESTING = 20
_NARROWEST_COLUMNS = 4
"""Room for a level of nesting, and for a column of a table."""

_WORD = r"[^\W\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
"""A letter or digit of a script that puts blanks between words: where none do, `**` inside a run is emphasis."""
_VERBATIM = re.compile(
    rf"""
      _+
    | (?<={_WORD})\*+(?={_WORD})                          # a product or a power
    | ://[^\s<>"`*]*                                      # what follows the scheme of an address
    | \\\(.{{1,2000}}?\\\) | \\\[.{{1,2000}}?\\\]         # formulas
    | \$\$.{{1,2000}}?\$\$ | \$(?=\S)[^$`\n]{{1,500}}?(?<=\S)\$(?!\d)
    | \\[!-/:-@\[-`{{-~]                                  # any other mark behind a backslash
    """,
    re.DOTALL | re.VERBOSE,
)
_FORMULA_ENDS = {"\\[": "\\]", "$$": "$$", "\\begin{": "\\end{"}
_LANGUAGE = re.compile(r"[\w+#.-]*")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")


def markdown_lines(console: "Console", text: str) -> "list[list[Segment]]":
    """Drawn lines with their ends, without the empty ones that rich puts around some blocks.

    text    without control characters but tab and line feed.
    """
    nesting = max(1, min(_MOST_NESTING, console.width // _NARROWEST_COLUMNS))
    tokens = _parser(nesting).parse(text, {"width": console.width})
    # The parser drops what is nested deeper than it may go.
    is_whole = all(token.level < nesting - 1 for token in tokens)
    lines = console.render_lines(_Answer(tokens) if is_whole else Text(text), pad=False, new_lines=True)
    filled = [index for index, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
    return lines[filled[0] : filled[-1] + 1] if filled else []


@lru_cache(maxsize=4)
def _parser(nesting: int) -> MarkdownIt:
    parser = MarkdownIt("zero", {"maxNesting": nesting}).enable(_DRAWN)
    blocks, inline = parser.block.ruler, parser.inline.ruler
    blocks.at("table", _table, {"alt": ["paragraph"]})
    blocks.at("blockquote", _quote, {"alt": ["paragraph", "blockquote", "list"]})
    blocks.at("paragraph", _paragraph)
    blocks.before("fence", "formula", _formula, {"alt": ["paragraph", "blockquote", "list"]})
    inline.before("backticks", "line_break", _line_break)
    inline.before("backticks", "verbatim", _verbatim)
    return parser


def _verbatim(state: "StateInline", silent: bool) -> bool:
    found = _VERBATIM.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _line_break(state: "StateInline", silent: bool) -> bool:
    """A line end is one, and the blanks after it are indentation."""
    if state.src[state.pos] != "\n":
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos += 1
    return True


def _paragraph(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
    """With the indentation of its first line, which is that of code outside a fence, or of a verse."""
    paragraph(state, start, end, silent)
    state.tokens[-2].content = state.getLines(start, state.line, state.blkIndent, False).rstrip()
    return True


def _quote(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
    """Only with a blank after its mark: `>>>` is a prompt, or the end of a conflict."""
    return _line(state, start)[1:2].strip() == "" and blockquote(state, start, end, silent)


def _table(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
    """Only where every cell has a column, and every column room: cells beyond the header's would be dropped."""
    if not table(state, start, end, True):
        return False
    num_columns = _num_cells(_line(state, start))
    if num_columns * _NARROWEST_COLUMNS > state.env["width"]:
        return False
    row = start
    while row < end and not state.isEmpty(row):
        if _num_cells(_line(state, row)) > num_columns:
            return False
        row += 1
    return table(state, start, end, silent)


def _formula(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
    """A formula over several lines, none of which is a list or a rule. One within a line is the inline rule's."""
    first = _line(state, start)
    mark = next((mark for mark in _FORMULA_ENDS if first.startswith(mark)), None)
    if mark is None or _FORMULA_ENDS[mark] in first[len(mark) :] or state.is_code_block(start):
        return False
    if silent:
        return True
    after = start + 1
    while after < end and not state.isEmpty(after) and state.sCount[after] >= state.blkIndent:
        after += 1
        if _FORMULA_ENDS[mark] in _line(state, after - 1):
            break
    state.line = after
    state.push("paragraph_open", "p", 1).map = [start, after]
    state.push("text", "", 0).content = state.getLines(start, after, state.blkIndent, False)
    state.push("paragraph_close", "p", -1)
    return True


def _line(state: "StateBlock", number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _num_cells(line: str) -> int:
    return len(_BETWEEN_CELLS.split(line.strip().removeprefix("|").removesuffix("|")))


class _Item(ListItem):
    """Behind its own number or mark: rich counts on from the first number, and draws every mark as the same dot."""

    mark = "•"

    @classmethod
    def create(cls, markdown: Markdown, token: "Token") -> MarkdownElement:
        item = cls()
        if token.info or token.markup == "+":
            item.mark = token.info + token.markup
        return item

    def render_bullet(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        yield from self._drawn(console, options, 3, "markdown.item.bullet")

    def render_number(
        self, console: "Console", options: "ConsoleOptions", number: int, last_number: int
    ) -> "RenderResult":
        yield from self._drawn(console, options, len(f" {last_number - 1}. "), "markdown.item.number")

    def _drawn(
        self, console: "Console", options: "ConsoleOptions", num_columns: int, style_name: str
    ) -> "Iterator[Segment]":
        num_columns = max(num_columns, len(self.mark) + 2)
        style = console.get_style(style_name, default="none")
        lines = console.render_lines(self.elements, options.update(width=options.max_width - num_columns)) or [[]]
        for index, line in enumerate(lines):
            yield Segment(f"{'' if index else self.mark} ".rjust(num_columns), style)
            yield from line
            yield Segment.line()


class _Table(TableElement):
    """A word wider than its column goes on below, instead of ending in dots."""

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        for drawn in super().__rich_console__(console, options):
            if isinstance(drawn, Table):
                for column in drawn.columns:
                    column.overflow = "fold"
            yield drawn


class _Answer(Markdown):
    elements: ClassVar = {**Markdown.elements, "list_item_open": _Item, "table_open": _Table}

    def __init__(self, tokens: "Sequence[Token]") -> None:
        super().__init__("")
        self.parsed = [_with_its_words(token) for token in tokens]


def _with_its_words(token: "Token") -> "Token":
    """A code fence whose first line says more than a language, or is all there is yet, keeps it as text."""
    words = token.info.strip()
    if token.type == "fence" and not (_LANGUAGE.fullmatch(words) and token.content.strip()):
        return token.copy(content=f"{words}\n{token.content}", info="")
    return token
