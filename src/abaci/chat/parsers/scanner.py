"""What the tool dialects are written in: small steps over text that has not come yet.

A dialect is a generator that asks the scanner for what it expects next; a bare `yield` in here means "more text,
please". So a dialect reads like its grammar, and where the text was cut is nobody's concern but the scanner's.

Nothing is lost: from the marker that may begin a call on, text is recorded, and given back as content if it is none.
It is given back whole, never read again, so that the work stays linear in the text.
"""

import json
import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from abaci.chat.parsers.json_reader import ObjectReader
from abaci.chat.parsers.pieces import CallArguments, CallBegun, CallEnded, Content, Piece, Thought

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
"""Yields while it waits for text, returns what it found."""

MAX_NAME_CHARACTERS: Final = 128
_GAP: Final = "\n\n"
_ARGUMENT_KEYS: Final = ("arguments", "parameters")
_CALL_KEYS: Final = frozenset({"name", "type", "id", *_ARGUMENT_KEYS})


class Scanner:
    """Runs the `read` of one dialect over one answer; a `pieces.Parser`.

    `is_certain` says that a grammar holds the whole answer to calls: their arguments then flow as they come.
    Otherwise a call is held until its JSON is complete. `names` are the functions there are, `schemas` those of their
    parameters, for dialects that do not write JSON.
    """

    def __init__(
        self,
        read: "Callable[[Scanner], Steps[None]]",
        names: Collection[str],
        *,
        schemas: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        is_certain: bool = False,
    ) -> None:
        self._names = frozenset(names)
        self._schemas = schemas
        self._is_certain = is_certain
        self._unread = ""
        self._is_last = False
        self._attempt: list[str] = []
        self._pieces: list[Piece] = []
        self._has_content = False
        self._has_calls = False
        self._has_thoughts = False
        self._gap = ""
        """What stands between the text so far and the next."""
        self._steps = self._run(read)
        next(self._steps)

    def push(self, text: str) -> Sequence[Piece]:
        """What became certain with this text."""
        self._unread += text
        next(self._steps)
        return self._drain()

    def finish(self) -> Sequence[Piece]:
        """What was held back, as the text ends here."""
        self._is_last = True
        next(self._steps)
        return self._drain()

    def _run(self, read: "Callable[[Scanner], Steps[None]]") -> Steps[None]:
        yield
        yield from read(self)
        yield from self.content_until()
        yield

    def _drain(self) -> Sequence[Piece]:
        pieces = tuple(self._pieces)
        self._pieces.clear()
        return pieces

    # What a dialect asks for.

    def content_until(self, *markers: str, keeps_attempt: bool = False) -> Steps[str]:
        """Pass text on until one of the markers, which begins an attempt. Returns the marker; "" at the end.

        What was attempted before is content, unless the marker comes at once and the attempt is to go on with it.
        """
        if keeps_attempt and self._attempt and (marker := (yield from self.accept(*markers))):
            return marker
        self.give_back()
        return (yield from self._pass_until(self._say, markers))

    def paragraph_until(self, *markers: str) -> Steps[str]:
        """As `content_until`, where the text is apart from what was said before."""
        self._gap = _GAP if self._has_content else ""
        return (yield from self.content_until(*markers))

    def thought_until(self, *markers: str) -> Steps[str]:
        """As `paragraph_until`, where the text is a thought."""
        self.give_back()
        self._gap = _GAP if self._has_thoughts else ""
        return (yield from self._pass_until(self._think, markers))

    def _pass_until(self, tell: Callable[[str], None], markers: Sequence[str]) -> Steps[str]:
        anything = re.compile("|".join(map(re.escape, markers))) if markers else None
        while True:
            if anything and (found := anything.search(self._unread)):
                before = self._unread[: found.start()].rstrip()
                tell(before)
                self._attempt = [self._unread[len(before) : found.end()]]
                self._unread = self._unread[found.end() :]
                return found[0]
            if self._is_last:
                rest, self._unread = self._unread, ""
                tell("" if self._has_calls and rest.isspace() else rest)
                return ""
            certain = self._certain_length(markers)
            tell(self._unread[:certain])
            self._unread = self._unread[certain:]
            yield

    def skip_space(self) -> Steps[None]:
        """Go to what is next but for white space."""
        while True:
            self._take(len(self._unread) - len(self._unread.lstrip()))
            if self._unread or self._is_last:
                return
            yield

    def next_is(self, *options: str, after_space: bool = False) -> Steps[str]:
        """Which of the options stands next, the longest of several; "" if none does."""
        while True:
            text = self._unread.lstrip() if after_space else self._unread
            longer = (option for option in options if len(option) > len(text))
            if self._is_last or not any(option.startswith(text) for option in longer):
                return max(filter(text.startswith, options), key=len, default="")
            yield

    def accept(self, *options: str) -> Steps[str]:
        """Take the option that stands next, if one does."""
        found = yield from self.next_is(*options)
        self._take(len(found))
        return found

    def close(self, *options: str) -> Steps[str]:
        """Take the option that stands next but for white space, as belonging to the call that has ended."""
        unread_before = len(self._attempt)
        yield from self.skip_space()
        if found := (yield from self.accept(*options)):
            self._attempt.clear()
        else:
            self._unread = "".join(self._attempt[unread_before:]) + self._unread
            del self._attempt[unread_before:]
        return found

    def name_until(self, *markers: str) -> Steps[str]:
        """Take the name that stands before one of the markers; "" if there is none of a sensible length."""
        anything = re.compile("|".join(map(re.escape, markers)))
        longest = MAX_NAME_CHARACTERS + max(map(len, markers))
        while True:
            if found := anything.search(self._unread, 0, longest):
                name = self._unread[: found.start()].strip()
                self._take(found.start())
                return name
            if self._is_last or len(self._unread) >= longest:
                return ""
            yield

    def text_until(self, *markers: str) -> Steps[str | None]:
        """Take the text that stands before the first of the markers; None if the answer ends without one."""
        anything = re.compile("|".join(map(re.escape, markers)))
        longest = max(map(len, markers))
        taken: list[str] = []
        while True:
            if found := anything.search(self._unread):
                taken.append(self._unread[: found.start()])
                self._take(found.start())
                return "".join(taken)
            if self._is_last:
                self._take(len(self._unread))
                return None
            certain = max(0, len(self._unread) - longest + 1)
            taken.append(self._unread[:certain])
            self._take(certain)
            yield

    def parameters(self, name: str) -> Mapping[str, Any]:
        """The schema of a function's parameters; empty for one that is not known."""
        return self._schemas.get(name, {})

    def whole_call(self, name: str, arguments: str) -> bool:
        """Tell of a call whose arguments have been read otherwise, as JSON. True: it is one."""
        return self._end_call(_Teller(self._pieces.append), name, arguments)

    def call(self, name: str) -> Steps[bool]:
        """Read the arguments of a call of `name`. False, and everything given back, if they are no JSON object."""
        reader = ObjectReader()
        teller = _Teller(self._pieces.append)
        while True:
            self._take(reader.push(self._unread))
            if self._is_certain:
                teller.tell(name, reader.parts)
            if reader.is_complete:
                return self._end_call(teller, name, "".join(reader.parts))
            if reader.is_broken or self._is_last:
                return self._break_call(teller)
            yield

    def call_object(self, *, is_marked: bool = True) -> Steps[bool]:
        """Read a call that is an object with name and arguments. False, and everything given back, if it is none.

        Where no marker says that this is a call, it must be of a known function and have no other keys.
        """
        reader = ObjectReader(None if is_marked else self._may_be_call)
        teller = _Teller(self._pieces.append)
        while True:
            self._take(reader.push(self._unread))
            if self._is_certain and (name := _name(reader)):
                teller.tell(name, _argument_parts(reader))
            if reader.is_complete:
                return self._end_call(teller, _name(reader), _arguments(reader))
            if reader.is_broken or self._is_last:
                return self._break_call(teller)
            yield

    def call_list(self, *, is_marked: bool = True) -> Steps[bool]:
        """Read calls to the end of a list whose bracket has been taken. False if one was none."""
        while True:
            yield from self.skip_space()
            if not (yield from self.call_object(is_marked=is_marked)):
                return False
            if (yield from self.close(",", "]")) != ",":
                return True

    def is_offered(self, name: str) -> bool:
        """Whether there is a function of that name."""
        return name in self._names

    def drop_attempt(self) -> None:
        """What was attempted is neither call nor content, but told what follows."""
        self._attempt.clear()

    def give_back(self) -> None:
        """What looked like a call is content."""
        attempt = "".join(self._attempt)
        self._attempt.clear()
        self._say(attempt)

    # How it is done.

    def _take(self, num_characters: int) -> None:
        self._attempt.append(self._unread[:num_characters])
        self._unread = self._unread[num_characters:]

    def _say(self, text: str) -> None:
        """Content. White space between calls is dropped, and that between a call and the first content."""
        if self._has_calls and not self._has_content:
            text = text.lstrip()
        if text:
            self._has_content = True
            self._pieces.append(Content(self._gap + text))
            self._gap = ""

    def _think(self, text: str) -> None:
        if text:
            self._has_thoughts = True
            self._pieces.append(Thought(self._gap + text))
            self._gap = ""

    def _certain_length(self, markers: Sequence[str]) -> int:
        """Length of the unread text without the beginning of a marker, and without white space before one."""
        text = self._unread
        longest = max(map(len, markers), default=0)
        for begin in range(max(0, len(text) - longest + 1), len(text)):
            if any(marker.startswith(text[begin:]) for marker in markers):
                return len(text[:begin].rstrip())
        return len(text.rstrip()) if markers or self._has_calls else len(text)

    def _end_call(self, teller: "_Teller", name: str, arguments: str) -> bool:
        if not teller.has_begun and not (name and arguments.startswith("{")):
            return self._break_call(teller)
        teller.tell(name, [arguments] if teller.num_told == 0 else ())
        self._pieces.append(CallEnded())
        self._has_calls = True
        self._attempt.clear()
        return True

    def _break_call(self, teller: "_Teller") -> bool:
        """A call that is none is content. Of one that has begun for certain, and was cut off, nothing is told twice."""
        if teller.has_begun:
            self._has_calls = True
            self._attempt.clear()
        self.give_back()
        return False

    def _may_be_call(self, reader: ObjectReader) -> bool:
        is_named = reader.finished("name") is not None
        return reader.members.keys() <= _CALL_KEYS and (not is_named or _name(reader) in self._names)


class _Teller:
    """Tells of one call, as far as its arguments are known."""

    def __init__(self, tell: Callable[[Piece], None]) -> None:
        self._tell = tell
        self.has_begun = False
        self.num_told = 0
        """Of the parts of the arguments."""

    def tell(self, name: str, parts: Sequence[str]) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._tell(CallBegun(name))
        if new := "".join(parts[self.num_told :]):
            self.num_told = len(parts)
            self._tell(CallArguments(new))


def _name(reader: ObjectReader) -> str:
    """The function's name, "" while it is not known."""
    text = reader.finished("name")
    name = json.loads(text) if text is not None and text.startswith('"') else ""
    return name if isinstance(name, str) and _is_encodable(name) else ""


def _is_encodable(text: str) -> bool:
    """Whether there is no half of a surrogate pair in it, which JSON can spell and no text can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _argument_parts(reader: ObjectReader) -> Sequence[str]:
    return next((reader.members[key] for key in _ARGUMENT_KEYS if key in reader.members), ())


def _arguments(reader: ObjectReader) -> str:
    """The text of the arguments; none are an empty object."""
    text = "".join(_argument_parts(reader)).strip()
    return "{}" if text in ("", "null") else text
