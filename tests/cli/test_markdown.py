"""Markdown on a terminal: what is drawn, and that nothing an answer says is lost."""

import io
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from abaci.cli.markdown import markdown_lines

PIECES = st.lists(
    st.sampled_from(
        [
            *("word ", "x", "7", " ", "\n", "\n\n", "    ", "\t", "é", "漢字", "&lt;", "&", "a" * 50),
            *(
                "*",
                "**",
                "***",
                "_",
                "__",
                "~~",
                "`",
                "``",
                "```\n",
                "~~~\n",
                "```py\n",
                "```two words\n",
                "\\",
                "\\\n",
            ),
            *("- ", "+ ", "* ", "1. ", "10) ", "> ", ">>> ", "# ", "## ", "---\n", "===\n", "\n- ", "\n> ", "\n3. "),
            *("|", "| a | b |\n|---|---|\n", "\n| c || d |\n", "<b>", "</b>", "List<T>", "<!-- c -->", "<div>\n"),
            *(
                "[t](u)",
                "![i](j)",
                "[r]: http://x\n",
                "http://a_b_/c",
                "<http://x>",
                "std::<std::s>",
                "$",
                "$$",
                "$x_1$",
            ),
            *("\\(", "\\)", "\\[", "\\]", "\\[\n", "\n\\]", "\\begin{a}\n", "\\end{a}", "\u2028"),
        ]
    ),
    max_size=25,
).map("".join)


LANGUAGE = re.compile(r"(?:`{3}|~{3}) *([\w+#.-]+) *\n")


def shown(text: str, width: int = 60) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    return ["".join(part.text for part in line).rstrip() for line in markdown_lines(console, text)]


def letters_and_digits(text: str) -> Counter[str]:
    return Counter(character for character in text if character.isalnum())


@given(PIECES, st.sampled_from([16, 40, 80]))
def test_no_letter_or_digit_is_lost_or_added(text: str, width: int) -> None:
    there, seen = letters_and_digits(text), letters_and_digits("".join(shown(text, width)))
    languages = letters_and_digits("".join(LANGUAGE.findall(text)))
    assert there - seen - languages == Counter()
    assert seen - there == Counter()


@pytest.mark.parametrize(
    "line",
    [
        "Use List<String> or Map<K, V>, Vec<u8>, std::vector<std::string> and #include <stdio.h>.",
        "<think>hm</think> and <br> a <script>alert(1)</script> &lt;tag&gt; &copy;",
        "2*3*4 = 24, x**2 + y**2 = z**2, and a*b*c",
        "__init__, _private, snake_case_name and a_b_c",
        r"\(y\), \[z\], $x_1 * y_1 * z$, \alpha \, \{1\}, \d+\.txt, \\server\share, C:\*.txt",
        r"$\mathbf{x}_i + a_{3}$ costs $5 and $10",
        "[text](http://a_b_/c_d_), ![image](a.png), [1]: http://x/_a_b_",
        "[1]: http://example.org/ 'title'",
        ">>> print(1)",
        "1986. A year.",
    ],
)
def test_a_line_is_shown_as_it_is_written(line: str) -> None:
    assert "\n".join(shown(line, width=200)).strip() == line


@pytest.mark.parametrize(
    "text",
    [
        "Rain on the roof,\n  rain on the road,\nrain in the gutter,\nand I go home.",
        "int main() {\n  int x = 1;\n\n  return x;\n}",
        "  return x;\n}",
        "<div>\n<p>text</p>\n</div>",
        "Title\n=====",
        "\\[\nx\n= 1\n- 2\n+ 3\n\\]",
        "$$\n- a_1 * b_1 * c\n$$",
        "\\begin{aligned}\n- a &= b \\\\\n- c &= d\n\\end{aligned}",
        "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main",
        "| or | a || b |\n| more | than | the | header |",
        "| a | b |\n|---|---|\n| x || y | z |",
        "cost: $5\nprice: $6\\",
        " 1) one\n 2) two",
        " 3. three\n 2. two\n 1. one",
    ],
)
def test_lines_are_kept_as_they_are_written(text: str) -> None:
    assert shown(text) == text.split("\n")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("**bold**, *leaning*, ~~gone~~ and `a*b`", ["bold, leaning, gone and a*b"]),
        ("这是**重要**的", ["这是重要的"]),
        ("- a\n    - b\n\n      more\n- c", [" • a", "    • b", "      more", " • c"]),
        ("- old\n+ new", [" • old", "", " + new"]),
        ("> a\n> b", ["▌ a", "▌ b"]),
        ("9. a\n10. b", ["  9. a", " 10. b"]),
        ("| a | b |\n|---|---|\n| 1 | x\\|y |", [" a  b", " ──────", " 1  x|y"]),
        ("where:\n\\[\nx\n\\]\nso", ["where:", "", "\\[", "x", "\\]", "", "so"]),
        ("```python\nx = 1\n```", [" x = 1"]),
        ("```42\n```", [" 42"]),
        ("```the answer is\n42\n```", [" the answer is", " 42"]),
        ("# Title #1", ["Title #1".center(60).rstrip()]),
        ("a\n\n---\n\nb", ["a", "", "-" * 60, "", "b"]),
        ("", []),
    ],
)
def test_what_is_drawn(text: str, lines: list[str]) -> None:
    assert shown(text) == lines


def test_a_word_wider_than_its_column_goes_on_below() -> None:
    text = f"| {'a' * 30} | b |\n|---|---|\n| {'c' * 50} | d |"
    assert letters_and_digits("".join(shown(text, width=20))) == letters_and_digits(text)


def test_what_is_nested_too_deep_to_draw_is_shown_as_it_is() -> None:
    text = "> " * 100 + "deep"
    assert "".join(shown(text)).replace(" ", "") == text.replace(" ", "")
