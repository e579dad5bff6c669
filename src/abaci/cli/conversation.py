"""A conversation at the terminal: lines in, answers out, a few commands that begin with a slash."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from abaci.cli.answer import Answer, AnswerWriter, StreamingModel, stream_answer
from abaci.errors import AbaciError, ContextLengthError, UsageError
from abaci.generation import SamplingParams

HELP = """\
/help             this list
/clear            forget the conversation; the system message stays
/system [TEXT]    show or set the system message; "/system none" removes it
/set [NAME VALUE] show or change a sampling parameter; the value "none" restores the model's own
                  several texts for "stop" are parted by blanks, a text with blanks is put in quotes
/stats            figures of the last answer
/exit             leave (also Ctrl-D)
Ctrl-C stops an answer."""

_SETTINGS: dict[str, Callable[[str], object]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "stop": lambda value: tuple(shlex.split(value)),
}


@dataclass(slots=True)
class Conversation:
    """State of a conversation and what a line does to it.

    `new_writer` makes a place for one answer; `say` prints a remark; `describe` gives the figures of an answer.
    """

    model: StreamingModel
    params: SamplingParams
    system: str | None
    new_writer: Callable[[], AnswerWriter]
    say: Callable[[str], None]
    say_error: Callable[[AbaciError], None]
    describe: Callable[[Answer], str]
    _turns: list[dict[str, str]] = field(default_factory=list)
    _last: str | None = None

    def run(self, read_line: Callable[[], str]) -> None:
        """Take lines until the user leaves. `read_line` raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""
        while True:
            try:
                line = read_line().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self.say("\n(/exit or Ctrl-D to leave)")
                continue
            except UnicodeDecodeError:
                self.say_error(UsageError("the line is not UTF-8", hint="Type it in a terminal that is set to UTF-8."))
                continue
            if line == "/exit":
                return
            try:
                self.take(line)
            except AbaciError as error:
                self.say_error(error)

    def take(self, line: str) -> None:
        """Do what a line says. Raises UsageError for a command that is none, and whatever the model raises."""
        if line.startswith("/"):
            self._command(line)
        elif line:
            self._ask(line)

    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, the system message first."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self._turns]

    def _ask(self, question: str) -> None:
        asked = {"role": "user", "content": question}
        try:
            answer = stream_answer(self.model, [*self.messages(), asked], self.params, self.new_writer())
        except ContextLengthError as error:
            if not self._turns:
                raise
            raise ContextLengthError(
                error.message, hint="/clear makes room: the whole conversation is read."
            ) from error
        self._turns += [asked, {"role": "assistant", "content": answer.text}]
        self._last = self.describe(answer)
        self.say(self._last)

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        match name:
            case "/help":
                self.say(HELP)
            case "/clear":
                self._turns.clear()
                self.say("cleared")
            case "/system":
                self._system(argument)
            case "/set":
                self._set(argument)
            case "/stats":
                self.say(self._last or "no answer yet")
            case _:
                raise UsageError(f"there is no command {name}", hint="/help lists them.")

    def _system(self, text: str) -> None:
        if text:
            self.system = None if text == "none" else text
        self.say(f"system message: {self.system or 'none'}")

    def _set(self, argument: str) -> None:
        if argument:
            name, _, value = argument.partition(" ")
            self.params = with_setting(self.params, name, value.strip())
        self.say("\n".join(f"{name} {_shown(getattr(self.params, name))}" for name in _SETTINGS))


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    return shlex.join(value) if isinstance(value, tuple) else str(value)


def with_setting(params: SamplingParams, name: str, value: str) -> SamplingParams:
    """The parameters with one changed, as `/set NAME VALUE` asks. Raises UsageError."""
    parse = _SETTINGS.get(name)
    if parse is None:
        raise UsageError(f"there is no setting {name!r}", hint=f"Choose one of: {', '.join(_SETTINGS)}.")
    from abaci.chat.requests import check_params

    try:
        change: dict[str, Any] = {name: getattr(SamplingParams(), name) if value == "none" else parse(value)}
    except ValueError as error:
        raise UsageError(
            f"{value!r} is no value for {name}", hint=f"For example: /set {name} {'END' if name == 'stop' else 1}"
        ) from error
    changed = replace(params, **change)
    check_params(changed)
    return changed
