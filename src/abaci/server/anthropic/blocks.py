"""An answer as Anthropic's content blocks: thought, text and calls, one after the other, never two open at once."""

import json
from typing import Any

from abaci.chat.answer import AnswerDelta, ToolCallDelta

Event = dict[str, Any]
"""An event of the stream, or a part of one, before it is encoded."""

_GROWING = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""The field of each kind of delta."""


class ContentBlocks:
    """Turns deltas into the events of content blocks, and keeps the blocks."""

    def __init__(self, *, shows_thinking: bool = True) -> None:
        self._shows_thinking = shows_thinking
        self._blocks: list[Event] = []
        self._texts: list[list[str]] = []
        self._open_kind: str | None = None

    def push(self, delta: AnswerDelta) -> list[Event]:
        """Events of what is new; with the last delta the open block is closed."""
        events: list[Event] = []
        if delta.reasoning and self._shows_thinking:
            self._grow(events, {"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", delta.reasoning)
        if delta.content:
            self._grow(events, {"type": "text", "text": ""}, "text_delta", delta.content)
        for call in delta.tool_calls:
            self._push_call(events, call)
        if delta.finish_reason is not None:
            self._close(events)
        return events

    def content(self) -> list[Event]:
        """The blocks, whole."""
        return [_whole(block, "".join(texts)) for block, texts in zip(self._blocks, self._texts, strict=True)]

    def _push_call(self, events: list[Event], call: ToolCallDelta) -> None:
        if call.name is not None:
            self._close(events)
            self._open(events, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        if call.arguments:
            self._add(events, "input_json_delta", call.arguments)

    def _grow(self, events: list[Event], empty: Event, delta_kind: str, text: str) -> None:
        """Add text to the open block if it is of that kind, else to a new one."""
        if self._open_kind != empty["type"]:
            self._close(events)
            self._open(events, empty)
        self._add(events, delta_kind, text)

    def _open(self, events: list[Event], block: Event) -> None:
        events.append({"type": "content_block_start", "index": len(self._blocks), "content_block": block})
        self._blocks.append(block)
        self._texts.append([])
        self._open_kind = block["type"]

    def _add(self, events: list[Event], delta_kind: str, text: str) -> None:
        index = len(self._blocks) - 1
        delta = {"type": delta_kind, _GROWING[delta_kind]: text}
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
        self._texts[-1].append(text)

    def _close(self, events: list[Event]) -> None:
        if self._open_kind is not None:
            events.append({"type": "content_block_stop", "index": len(self._blocks) - 1})
            self._open_kind = None


def _whole(block: Event, text: str) -> Event:
    if block["type"] != "tool_use":
        return {**block, block["type"]: text}
    try:
        return {**block, "input": json.loads(text or "{}")}
    except ValueError:  # a call that the end of the answer cut off is no call
        return {"type": "text", "text": text}
