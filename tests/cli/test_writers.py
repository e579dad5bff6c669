"""How answers look: markdown in blocks that never change, plain text, no control characters on a terminal."""

import io
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from abaci.cli.writers import MarkdownWriter, PlainWriter, split_blocks

MARKDOWN = st.lists(
    st.sampled_from(["word ", "\n", "\n\n", "```", "~~~", "- item", "    indented", "# ", "|", "\t", "`", "é"])
).map("".join)


@given(MARKDOWN)
def test_blocks_are_the_text(text: str) -> None:
    assert "".join(split_blocks(text)).replace("\n", "").replace(" ", "").replace("\t", "") == "".join(text.split())


@given(MARKDOWN, st.data())
def test_blocks_do_not_depend_on_how_the_text_comes(text: str, data: st.DataObject) -> None:
    blocks, growing, position = [], "", 0
    while position < len(text):
        end = data.draw(st.integers(position + 1, len(text)))
        *done, growing = split_blocks(growing + text[position:end])
        blocks += done
        position = end
    assert [*blocks, growing] == split_blocks(text)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("one\ntwo", ["one\ntwo"]),
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("one\n\n", ["one\n\n"]),
        ("- a\n\n  more of a\n\nb", ["- a\n\n  more of a\n\n", "b"]),
        ("```\nx\n\ny\n```\n\nz", ["```\nx\n\ny\n```\n\n", "z"]),
        ("~~~\n```\n\ny\n~~~\n\nz", ["~~~\n```\n\ny\n~~~\n\n", "z"]),
        ("````\n```py\n\ny\n```\n\n````\n\nz", ["````\n```py\n\ny\n```\n\n````\n\n", "z"]),
        ("```\n```py\n\ny\n```\n\nz", ["```\n```py\n\ny\n```\n\n", "z"]),
        ("```x``` y\n\nz", ["```x``` y\n\n", "z"]),
    ],
)
def test_where_blocks_are_cut(text: str, blocks: list[str]) -> None:
    assert split_blocks(text) == blocks


def screen_of(pieces: Iterable[str], height: int = 20) -> list[str]:
    """Rows left on a terminal by the writer, which only ever prints lines and erases its last ones."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=60, height=height, color_system=None)
    writer = MarkdownWriter(console, redraw_seconds=0)
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    rows: list[str] = []
    for line in output.getvalue().split("\n")[:-1]:
        erased, text = re.fullmatch(r"(?:\r(?:\x1b\[(\d+)A)?\x1b\[J)*(.*)", line).groups()
        if erased:
            assert int(erased) < height
            del rows[-int(erased) :]
        rows.append(text.strip())
    return rows


def test_markdown_is_drawn_once() -> None:
    text = "# Title\n\nSome **bold** text.\n\n- one\n- two\n\n```python\nx = 1\n```\n\nThe end."
    assert screen_of(text) == [
        "Title",
        "",
        "Some bold text.",
        "",
        "• one",
        "• two",
        "",
        "x = 1",
        "",
        "The end.",
        "",
    ]


def test_a_block_taller_than_the_screen_is_shown_whole_at_the_end() -> None:
    lines = [f"line {number}" for number in range(50)]
    text = "```\n" + "\n".join(lines) + "\n```"
    assert screen_of(text, height=10) == [*lines, ""]


def test_nothing_said_draws_nothing() -> None:
    assert screen_of([]) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_ends_its_line_once() -> None:
    for pieces, shown in ((["a", "b"], "ab\n"), (["a\n"], "a\n"), ([], "")):
        stream = io.StringIO()
        writer = PlainWriter(stream)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
        assert stream.getvalue() == shown


def test_a_terminal_gets_no_control_characters_but_a_file_gets_the_bytes() -> None:
    hostile = "a\x1b]0;title\x07b\x9b31m\r\nc\td"
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        PlainWriter(stream).write(hostile)
    assert terminal.getvalue() == "a\ufffd]0;title\ufffdb\ufffd31m\nc\td"
    assert file.getvalue() == hostile
    assert "\x1b]" not in "".join(screen_of([hostile]))
