"""Calls over pipes, with a scripted other side."""

import io
import json
import os
import threading

import pytest

from abaci.bench.protocol import Caller, serve
from abaci.errors import AbaciError, ResourceError


def gone():
    return AbaciError("gone", hint="its last words")


@pytest.fixture
def served():
    """A caller whose calls are answered by handlers in another thread."""
    questions_in, questions_out = os.pipe()
    answers_in, answers_out = os.pipe()

    def fail_as_told(message):
        raise ResourceError(message, hint="add memory")

    handlers = {
        "double": lambda numbers: [2 * number for number in numbers],
        "fail": fail_as_told,
        "break": lambda: 1 // 0,
    }

    def answer():
        with os.fdopen(questions_in, encoding="utf-8") as reader, os.fdopen(answers_out, "w") as writer:
            serve(reader, writer, handlers)

    thread = threading.Thread(target=answer)
    thread.start()
    with os.fdopen(answers_in, encoding="utf-8") as reader:
        with os.fdopen(questions_out, "w") as writer:
            yield Caller(reader, writer, gone)
        thread.join()


def test_calls_are_answered_in_order(served):
    assert served.call("double", numbers=[1, 2]) == [2, 4]
    assert served.call("double", numbers=[]) == []


def test_an_error_comes_with_its_hint_and_the_next_call_works(served):
    with pytest.raises(AbaciError, match="too little") as caught:
        served.call("fail", message="too little")
    assert caught.value.hint == "add memory"
    assert served.call("double", numbers=[3]) == [6]


def test_a_defect_of_the_other_side_is_an_error_that_names_the_call(served, capsys):
    with pytest.raises(AbaciError, match="break: ZeroDivisionError"):
        served.call("break")
    assert "Traceback" in capsys.readouterr().err


def test_what_is_written_is_one_object_a_line():
    questions = io.StringIO()
    answers = io.StringIO('{"result": 1}\n')
    assert Caller(answers, questions, gone).call("name", text="two\nlines") == 1
    (line,) = questions.getvalue().splitlines()
    assert json.loads(line) == {"call": "name", "arguments": {"text": "two\nlines"}}


@pytest.mark.parametrize("answer", ["", '{"result": 1'], ids=["nothing", "half a line"])
def test_a_peer_that_ends_is_reported_with_its_last_words(answer):
    with pytest.raises(AbaciError, match="gone") as caught:
        Caller(io.StringIO(answer), io.StringIO(), gone).call("anything")
    assert caught.value.hint == "its last words"
