"""From token events to answers: text, then the thought, then tool calls, each read where the one before leaves off.

One reader per sample. Tokens are read one by one, so that the same answer comes out however a generator bundles them.
Knows nothing of engines or wires.

- Stop strings act on the text as the model writes it, thought and calls included.
- Calls are read outside the thought only.
- A call is held back until its JSON is complete, since only then is it sure to be one; what does not parse is content.
  Where a grammar guarantees the calls (`ToolReading.is_certain`) their arguments flow as they come.
- White space around thoughts and calls belongs to neither content nor thought.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from abaci.chat.answer import AnswerDelta, ToolCallDelta
from abaci.chat.parsers import ToolDialect
from abaci.chat.parsers.pieces import CallArguments, CallBegun, CallEnded, Content, Piece, Thought
from abaci.chat.parsers.scanner import Scanner
from abaci.chat.parsers.think import ThinkParser
from abaci.chat.text import TextAssembler, TextDelta
from abaci.generation import FinishReason, TokenEvent

_NO_TEXT: Final = TextDelta("")


@dataclass(frozen=True, slots=True)
class ToolReading:
    """How to find tool calls in an answer.

    `names` are the functions on offer, `schemas` those of their parameters. With `is_single` the sample ends after its
    first call.
    """

    dialect: ToolDialect
    names: frozenset[str]
    is_certain: bool = False
    is_single: bool = False
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class AnswerReader:
    """Reads one sample. Push its events in order; the last delta has a `finish_reason`."""

    __slots__ = (
        "_assembler",
        "_is_finished",
        "_num_calls",
        "_num_tokens",
        "_sample_index",
        "_scanner",
        "_think",
        "_tools",
        "num_reasoning_tokens",
    )

    def __init__(
        self,
        sample_index: int,
        assembler: TextAssembler,
        *,
        think: ThinkParser | None = None,
        tools: ToolReading | None = None,
    ) -> None:
        self._sample_index = sample_index
        self._assembler = assembler
        self._think = think
        self._tools = tools
        self._scanner = None if tools is None else _scanner(tools)
        self._is_finished = False
        self._num_tokens = 0
        self._num_calls = 0
        self.num_reasoning_tokens = 0
        """Tokens of the thought so far, its tags included."""

    def push(self, event: TokenEvent) -> AnswerDelta:
        """What is new with this event. Nothing after the end: the generator may run ahead of a stop string."""
        if self._is_finished:
            return AnswerDelta(self._sample_index)
        text = _NO_TEXT
        num_read = 0
        pieces: list[Piece] = []
        for single in _one_by_one(event):
            num_read += len(single.token_ids)
            self._num_tokens += len(single.token_ids)
            text = self._assembler.push(single)
            pieces += self._parse(text)
            text = self._end_after_call(text, pieces)
            self._is_finished = text.finish_reason is not None
            if self._is_finished:
                break
        content = reasoning = ""
        for piece in pieces:
            if isinstance(piece, Content):
                content += piece.text
            elif isinstance(piece, Thought):
                reasoning += piece.text
        return AnswerDelta(
            self._sample_index,
            content,
            reasoning,
            tool_calls=() if self._tools is None else tuple(self._call_deltas(pieces, self._tools.dialect)),
            token_ids=event.token_ids[:num_read],
            logprobs=event.logprobs[:num_read],
            finish_reason=text.finish_reason,
            has_tool_calls=text.finish_reason is not None and self._num_calls > 0,
            stopped_by_string=text.stopped_by_string,
            stop_string=text.stop_string,
            error=event.error,
        )

    def _parse(self, text: TextDelta) -> Sequence[Piece]:
        """Through the parser of thoughts, then, as far as it is content, through that of calls."""
        is_last = text.finish_reason is not None
        pieces = self._parse_thought(text.text, is_last=is_last)
        if self._scanner is None:
            return pieces
        parsed: list[Piece] = []
        for piece in pieces:
            parsed += self._scanner.push(piece.text) if isinstance(piece, Content) else [piece]
        if is_last:
            parsed += self._scanner.finish()
        if self._think is None and any(isinstance(piece, Thought) for piece in parsed):
            self.num_reasoning_tokens = self._num_tokens
        return parsed

    def _parse_thought(self, text: str, *, is_last: bool) -> Sequence[Piece]:
        think = self._think
        if think is None:
            return [Content(text)] if text else []
        was_thinking = not think.has_ended
        pieces = [*think.push(text), *(think.finish() if is_last else ())]
        if think.has_thought and was_thinking:
            self.num_reasoning_tokens = self._num_tokens
        return pieces

    def _end_after_call(self, text: TextDelta, pieces: list[Piece]) -> TextDelta:
        """Where only one call is wanted, the sample ends with it, whatever the model would go on to say."""
        if self._tools is None or not self._tools.is_single or CallEnded() not in pieces:
            return text
        del pieces[pieces.index(CallEnded()) + 1 :]
        return text if text.finish_reason else TextDelta("", FinishReason.STOP, stopped_by_string=True)

    def _call_deltas(self, pieces: Iterable[Piece], dialect: ToolDialect) -> Iterator[ToolCallDelta]:
        for piece in pieces:
            if isinstance(piece, CallBegun):
                yield ToolCallDelta(self._num_calls, dialect.new_call_id(), piece.name)
                self._num_calls += 1
            elif isinstance(piece, CallArguments):
                yield ToolCallDelta(self._num_calls - 1, arguments=piece.text)


def _scanner(tools: ToolReading) -> Scanner:
    return Scanner(tools.dialect.read, tools.names, schemas=tools.schemas, is_certain=tools.is_certain)


def _one_by_one(event: TokenEvent) -> Sequence[TokenEvent]:
    """The event as events of one token each; what belongs to the end of a sample is with the last."""
    last = len(event.token_ids) - 1
    if last <= 0:
        return (event,)
    return [
        TokenEvent(
            event.request_id,
            event.sample_index,
            event.token_ids[i : i + 1],
            logprobs=event.logprobs[i : i + 1],
            finish_reason=event.finish_reason if i == last else None,
            ended_by_token=event.ended_by_token and i == last,
        )
        for i in range(last + 1)
    ]
