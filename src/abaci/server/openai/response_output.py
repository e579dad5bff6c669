"""An answer as output items of the Responses API, and the events that tell of them as they grow."""

from collections.abc import Mapping, Sequence
from typing import Any

from abaci.chat.answer import AnswerDelta, ToolCallDelta
from abaci.generation import FinishReason
from abaci.server.openai.response_items import new_id

Event = dict[str, Any]


class ResponseOutput:
    """Turns deltas into events without their sequence numbers, and keeps the items. One item is open at a time."""

    def __init__(self) -> None:
        self.items: list[Event] = []
        """Those begun so far; all are complete after the last delta."""
        self._text: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []
        self._new_logprobs: list[Mapping[str, Any]] = []
        self._is_open = False

    def push(self, delta: AnswerDelta, logprobs: Sequence[Mapping[str, Any]] = ()) -> list[Event]:
        """Events of what is new; `logprobs` are those of the delta's tokens, for the text they are in."""
        events: list[Event] = []
        if delta.reasoning:
            self._grow(events, "reasoning", delta.reasoning)
        else:
            self._new_logprobs += logprobs
        if delta.content:
            self._grow(events, "message", delta.content)
        for call in delta.tool_calls:
            self._push_call(events, call)
        if delta.finish_reason is not None:
            self._close(events, "incomplete" if delta.finish_reason is FinishReason.LENGTH else "completed")
        return events

    @property
    def _item(self) -> Event:
        return self.items[-1]

    def _push_call(self, events: list[Event], call: ToolCallDelta) -> None:
        if call.name is not None:
            self._close(events)
            named = {"call_id": call.id, "name": call.name, "arguments": ""}
            self._open(events, {"id": new_id("fc"), "type": "function_call", **named})
        if call.arguments:
            self._text.append(call.arguments)
            events.append(self._event("response.function_call_arguments.delta", delta=call.arguments))

    def _grow(self, events: list[Event], kind: str, text: str) -> None:
        if not self._is_open or self._item["type"] != kind:
            self._close(events)
            self._open(events, _empty_item(kind))
            events.append(self._part_event("added", _part(kind, "", [])))
        self._text.append(text)
        if kind == "reasoning":
            events.append(self._event("response.reasoning_text.delta", content_index=0, delta=text))
            return
        logprobs, self._new_logprobs = self._new_logprobs, []
        self._logprobs += logprobs
        events.append(self._event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs))

    def _open(self, events: list[Event], item: Event) -> None:
        self.items.append({**item, "status": "in_progress"})
        self._text, self._logprobs, self._is_open = [], [], True
        events.append(
            {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": dict(self._item)}
        )

    def _close(self, events: list[Event], status: str = "completed") -> None:
        if not self._is_open:
            return
        self._is_open = False
        text, item = "".join(self._text), self._item
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = text
            events.append(self._event("response.function_call_arguments.done", arguments=text, name=item["name"]))
        else:
            part = _part(item["type"], text, self._logprobs)
            item["content"] = [part]
            if item["type"] == "reasoning":
                events.append(self._event("response.reasoning_text.done", content_index=0, text=text))
            else:
                logprobs = self._logprobs
                events.append(self._event("response.output_text.done", content_index=0, text=text, logprobs=logprobs))
            events.append(self._part_event("done", part))
        events.append({"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": dict(item)})

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "item_id": self._item["id"], "output_index": len(self.items) - 1, **fields}

    def _part_event(self, what: str, part: Event) -> Event:
        return self._event(f"response.content_part.{what}", content_index=0, part=part)


def _empty_item(kind: str) -> Event:
    if kind == "reasoning":
        return {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": []}
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []}


def _part(kind: str, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Event:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
