"""Conversations: history, commands, interruptions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from scripted_model import ScriptedModel

from abaci.cli.conversation import Conversation
from abaci.cli.keyboard import Entry
from abaci.cli.writers import SilentWriter
from abaci.errors import AbaciError, ContextLengthError, UsageError
from abaci.generation import SamplingParams


@dataclass
class Screen:
    said: list[str] = field(default_factory=list)
    errors: list[AbaciError] = field(default_factory=list)


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def converse(screen: Screen) -> Callable[..., Conversation]:
    def make(*answers: list[str | BaseException], system: str | None = None) -> Conversation:
        return Conversation(
            model=ScriptedModel(list(answers)),
            params=SamplingParams(),
            system=system,
            new_writer=SilentWriter,
            say=screen.said.append,
            say_error=screen.errors.append,
            describe=lambda answer: f"figures of {answer.text}",
        )

    return make


def lines_of(*lines: str | BaseException) -> Callable[[str], str]:
    """A keyboard: the lines, then Ctrl-D."""
    left = [*lines, EOFError()]

    def read_line(prompt: str) -> str:
        line = left.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    return read_line


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_each_question_carries_what_came_before(converse: Callable[..., Conversation]) -> None:
    conversation = converse(["A", "."], ["B."], system="Be brief.")
    conversation.run(lines_of("first", "", "second"))
    system = {"role": "system", "content": "Be brief."}
    assert [prompt for prompt, _ in conversation.model.asked] == [
        [system, user("first")],
        [system, user("first"), assistant("A."), user("second")],
    ]


def test_clear_forgets_all_but_the_system_message(converse: Callable[..., Conversation]) -> None:
    conversation = converse(["A."], ["B."], system="Be brief.")
    conversation.run(lines_of("first", "/clear", "second"))
    assert conversation.model.asked[1][0] == [{"role": "system", "content": "Be brief."}, user("second")]


def test_the_system_message_can_be_changed_and_removed(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse(["A."], ["B."])
    conversation.run(lines_of("/system Speak French.", "first", "/system none", "/clear", "second", "/system"))
    assert conversation.model.asked[0][0][0] == {"role": "system", "content": "Speak French."}
    assert conversation.model.asked[1][0] == [user("second")]
    assert screen.said[-1] == "system message: none"


def test_set_changes_what_follows(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse(["A."], ["B."])
    conversation.run(lines_of("/set temperature 0.5", "/set seed 7", "first", "/set temperature none", "second"))
    assert [params for _, params in conversation.model.asked] == [
        SamplingParams(temperature=0.5, seed=7),
        SamplingParams(seed=7),
    ]
    assert "temperature 0.5" in screen.said[0]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/set temperature warm", "'warm' is no value for temperature"),
        ("/set seed", "'' is no value for seed"),
        ("/set temperature -1", "temperature"),
        ("/set stop 'END", "is no value for stop"),
        ("/set color red", "no setting 'color'"),
        ("/nothing", "no command /nothing"),
        ("/clear\nwhat is this?", "nothing can follow /clear"),
        ("/exit now", "nothing can follow /exit"),
    ],
)
def test_a_wrong_command_is_an_error_and_changes_nothing(
    converse: Callable[..., Conversation], line: str, part: str
) -> None:
    conversation = converse()
    with pytest.raises(UsageError, match=part):
        conversation.take(Entry.of_line(line))
    assert conversation.params == SamplingParams()


def test_stop_texts_are_set_and_shown_and_taken_back(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse()
    conversation.take(Entry.of_line("/set stop END 'the end'"))
    assert conversation.params == SamplingParams(stop=("END", "the end"))
    assert "stop END 'the end'" in screen.said[-1].splitlines()
    conversation.take(Entry.of_line("/set stop none"))
    assert conversation.params == SamplingParams()
    assert "stop none" in screen.said[-1].splitlines()


def test_a_line_that_is_not_utf8_is_an_error_and_no_end(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse(["A."])
    conversation.run(lines_of(UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "unexpected end of data"), "first"))
    assert [error.message for error in screen.errors] == ["the line is not UTF-8"]
    assert len(conversation.model.asked) == 1


def test_control_c_stops_the_answer_and_keeps_it(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse(["Once ", KeyboardInterrupt()], ["B."])
    conversation.run(lines_of("first", "second"))
    assert conversation.model.num_cancelled == 1
    assert conversation.model.asked[1][0] == [user("first"), assistant("Once "), user("second")]
    assert screen.said == ["figures of Once ", "figures of B."]


def test_control_c_at_the_prompt_does_not_leave(converse: Callable[..., Conversation]) -> None:
    conversation = converse(["A."])
    conversation.run(lines_of(KeyboardInterrupt(), "first"))
    assert len(conversation.model.asked) == 1


def test_exit_leaves(converse: Callable[..., Conversation]) -> None:
    conversation = converse()
    conversation.run(lines_of("/exit", "never asked"))
    assert conversation.model.asked == []


def test_a_failed_question_is_shown_and_forgotten(converse: Callable[..., Conversation], screen: Screen) -> None:
    failure = ContextLengthError("the prompt has 200 tokens, the context 128", hint="/clear")
    conversation = converse([failure], ["B."])
    conversation.run(lines_of("too long", "second"))
    assert screen.errors == [failure]
    assert conversation.model.asked[1][0] == [user("second")]


def test_a_conversation_too_long_for_the_context_is_told_how_to_go_on(
    converse: Callable[..., Conversation], screen: Screen
) -> None:
    failure = ContextLengthError("the prompt has 200 tokens, the context 128", hint="Shorten the prompt.")
    conversation = converse(["A."], [failure], ["C."])
    conversation.run(lines_of("first", "second", "third"))
    [error] = screen.errors
    assert (error.message, error.hint) == (failure.message, "/clear makes room: the whole conversation is read.")
    assert conversation.model.asked[2][0] == [user("first"), assistant("A."), user("third")]


def test_stats_repeats_the_figures(converse: Callable[..., Conversation], screen: Screen) -> None:
    converse(["A."]).run(lines_of("/stats", "first", "/stats"))
    assert screen.said == ["no answer yet", "figures of A.", "figures of A."]


def test_help_names_every_command(converse: Callable[..., Conversation], screen: Screen) -> None:
    converse().run(lines_of("/help"))
    for command in ("/help", "/clear", "/system", "/set", "/stats", "/exit", '"""'):
        assert command in screen.said[0]


def test_a_message_that_begins_with_a_path_or_is_quoted_is_asked(converse: Callable[..., Conversation]) -> None:
    conversation = converse(["A."], ["B."])
    conversation.run(lines_of("/usr/bin/env: what is this?", '"""/clear', '"""'))
    assert [prompt[-1] for prompt, _ in conversation.model.asked] == [
        user("/usr/bin/env: what is this?"),
        user("/clear"),
    ]


def test_control_c_between_quotes_forgets_the_message(converse: Callable[..., Conversation], screen: Screen) -> None:
    conversation = converse(["A."])
    conversation.run(lines_of('"""one', KeyboardInterrupt(), "two"))
    assert [prompt for prompt, _ in conversation.model.asked] == [[user("two")]]


def test_a_question_stopped_before_its_answer_is_forgotten(
    converse: Callable[..., Conversation], screen: Screen
) -> None:
    conversation = converse(["A."], [KeyboardInterrupt()], ["C."])
    conversation.run(lines_of("first", "second", "/stats", "third"))
    assert conversation.model.asked[2][0] == [user("first"), assistant("A."), user("third")]
    assert screen.said[2] == "figures of A."
