"""A conversation at the terminal: entries in, answers out, a few commands that begin with a slash."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from abaci.cli.answer import Answer, AnswerWriter, StreamingModel, stream_answer
from abaci.cli.interrupts import Interrupts
from abaci.cli.keyboard import QUOTES, Entry, LineReader, read_entry
from abaci.errors import AbaciError, ContextLengthError, UsageError
from abaci.generation import FinishReason, SamplingParams

HELP = '''\
/help             this list
/clear            forget the conversation; the system message stays
/system [TEXT]    show or set the system message; "/system none" removes it
/set [NAME VALUE] show or change a sampling parameter; the value "none" restores the model's own
                  several texts for "stop" are parted by blanks, a text with blanks is put in quotes
/stats            figures of the last answer
/exit             leave (also Ctrl-D)
"""TEXT"""        a message of several lines, or one that begins like a command
Ctrl-C stops an answer.'''

_TAKE_NOTHING = ("/help", "/?", "/clear", "/stats", "/exit")
_AS_MESSAGE = f"A message that begins so is put between {QUOTES}."

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
    """State of a conversation and what an entry does to it.

    `new_writer` makes a place for one answer; `say` prints a remark; `describe` gives the figures of an answer.
    """

    model: StreamingModel
    params: SamplingParams
    system: str | None
    new_writer: Callable[[], AnswerWriter]
    say: Callable[[str], None]
    say_error: Callable[[AbaciError], None]
    describe: Callable[[Answer], str]
    interrupts: Interrupts = field(default_factory=Interrupts)
    _turns: list[dict[str, str]] = field(default_factory=list)
    _last: str | None = None

    def run(self, read_line: LineReader) -> None:
        """Take entries until the user leaves. Ctrl-C, whenever it comes, ends an answer or an entry, and no more."""
        with self.interrupts:
            while self._goes_on(read_line):
                self.interrupts.forget()

    def take(self, entry: Entry) -> None:
        """Do what an entry says. Raises UsageError for a command that is none, and whatever the model raises."""
        if entry.is_command:
            self._command(entry.text)
        elif entry.text.strip():
            self._ask(entry.text)

    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, the system message first."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self._turns]

    def _goes_on(self, read_line: LineReader) -> bool:
        """After the next entry."""
        try:
            entry = self.interrupts.during(partial(read_entry, read_line))
            if entry == Entry("/exit", is_command=True):
                return False
            self.take(entry)
        except EOFError:
            return False
        except KeyboardInterrupt:
            self.say("\n(/exit or Ctrl-D to leave)")
        except UnicodeDecodeError:
            self.say_error(UsageError("the line is not UTF-8", hint="Type it in a terminal that is set to UTF-8."))
        except AbaciError as error:
            self.say_error(error)
        return True

    def _ask(self, question: str) -> None:
        asked = {"role": "user", "content": question}
        try:
            answer = stream_answer(
                self.model, [*self.messages(), asked], self.params, self.new_writer(), self.interrupts
            )
        except ContextLengthError as error:
            if not self._turns:
                raise
            raise ContextLengthError(
                error.message, hint="/clear makes room: the whole conversation is read."
            ) from error
        if answer.finish_reason is FinishReason.CANCELLED and not answer.text:
            self.say("(stopped before the answer began; the question is forgotten)")
            return
        self._turns += [asked, {"role": "assistant", "content": answer.text}]
        self._last = self.describe(answer)
        self.say(self._last)

    def _command(self, line: str) -> None:
        name, *rest = line.split(maxsplit=1)
        argument = rest[0] if rest else ""
        if argument and name in _TAKE_NOTHING:
            raise UsageError(f"nothing can follow {name}", hint=_AS_MESSAGE)
        match name:
            case "/help" | "/?":
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
                raise UsageError(
                    f"there is no command {name}", hint=f"/help lists them; between {QUOTES} it is a message."
                )

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
