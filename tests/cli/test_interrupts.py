"""Ctrl-C at any moment of a conversation: it goes on, and what it remembers makes sense."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest
from scripted_model import ScriptedModel, ScriptedStream

from abaci.cli.conversation import Conversation
from abaci.cli.interrupts import Interrupts
from abaci.cli.writers import SilentWriter
from abaci.errors import AbaciError
from abaci.generation import SamplingParams


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored() -> Iterator[None]:
    """As it is where the tests run in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@dataclass
class Presser:
    """A trace function that presses Ctrl-C once, when the conversation has run through `moment` lines of code.

    What comes before its first entry and after its last one is the program's, which may end there.
    """

    moment: int
    num_lines: int = 0
    is_on: bool = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code.co_name in ("_goes_on", "__exit__"):
            self.is_on = code.co_name == "_goes_on"
        if not self.is_on or not any(part in code.co_filename for part in ("abaci/cli/", "tests/cli/")):
            return None
        if event == "line":
            self.num_lines += 1
            if self.num_lines == self.moment:
                press()
        return self


class ImpatientStream(ScriptedStream):
    def close(self) -> None:
        press()
        super().close()
        press()


class ImpatientModel(ScriptedModel):
    """Whoever talks to it presses Ctrl-C also while an answer is taken apart."""

    def stream(self, prompt: Any, params: SamplingParams) -> ScriptedStream:
        return ImpatientStream(self, super().stream(prompt, params).events)


class ImpatientWriter(SilentWriter):
    def write(self, text: str) -> None:
        press()

    def finish(self) -> None:
        press()


@dataclass
class Talk:
    """Three questions to a scripted model; three answers of two pieces, of which Ctrl-C may take some."""

    model: ScriptedModel
    said: list[str] = field(default_factory=list)
    errors: list[AbaciError] = field(default_factory=list)
    num_left: int = 3

    def read_line(self, prompt: str) -> str:
        if not self.num_left:
            raise EOFError
        self.num_left -= 1
        return "why?"

    def talk(self, writer: type[SilentWriter] = SilentWriter) -> list[dict[str, str]]:
        conversation = Conversation(
            model=self.model,
            params=SamplingParams(),
            system=None,
            new_writer=writer,
            say=self.said.append,
            say_error=self.errors.append,
            describe=lambda answer: answer.text,
        )
        conversation.run(self.read_line)
        assert (self.num_left, self.errors) == (0, [])
        messages = conversation.messages()
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        return messages


def answers() -> list[list[str | BaseException]]:
    return [["A", "."], ["B", "."], ["C", "."]]


@pytest.fixture
def _own_trace() -> Iterator[None]:
    before = sys.gettrace()
    yield
    sys.settrace(before)


@pytest.mark.usefixtures("_own_trace")
def test_a_conversation_outlives_ctrl_c_at_any_line() -> None:
    moment, num_lines = 0, 1
    outcomes: set[tuple[str, ...]] = set()
    while moment < num_lines:
        moment += 1
        talk, presser = Talk(ScriptedModel(answers())), Presser(moment)
        sys.settrace(presser)
        try:
            messages = talk.talk()
        finally:
            sys.settrace(None)
        assert all(message["content"] for message in messages)
        outcomes.add(tuple(message["content"] for message in messages if message["role"] == "assistant"))
        num_lines = max(num_lines, presser.num_lines)
    assert outcomes == {
        ("A.", "B.", "C."),
        ("A", "B.", "C."),
        ("A.", "B", "C."),
        ("A.", "B.", "C"),
        ("B.", "C."),
        ("A.", "C."),
        ("A.", "B."),
    }


def test_pressing_again_and_again_stops_each_answer_and_nothing_else() -> None:
    talk = Talk(ImpatientModel(answers()))
    messages = talk.talk(ImpatientWriter)
    assert [message["content"] for message in messages] == ["why?", "A", "why?", "B", "why?", "C"]
    assert talk.model.num_cancelled == 3


def test_a_press_while_a_question_is_read_by_the_model_forgets_the_question() -> None:
    class SlowModel(ScriptedModel):
        def stream(self, prompt: Any, params: SamplingParams) -> ScriptedStream:
            stream = super().stream(prompt, params)
            if len(self.asked) == 2:
                press()
            return stream

    talk = Talk(SlowModel(answers()))
    contents = [message["content"] for message in talk.talk()]
    assert contents == ["why?", "A.", "why?", "C."]
    assert talk.said == ["A.", "(stopped before the answer began; the question is forgotten)", "C."]


def test_what_was_pressed_elsewhere_is_raised_where_it_is_waited_for() -> None:
    with Interrupts() as interrupts:
        press()
        with pytest.raises(KeyboardInterrupt):
            interrupts.during(lambda: pytest.fail("done in spite of Ctrl-C"))
        assert interrupts.during(lambda: 1) == 1
        press()
        interrupts.forget()
        assert interrupts.during(lambda: 2) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            assert interrupts.during(press) is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
