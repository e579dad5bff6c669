"""Calls over a pair of pipes: one JSON object a line, each call answered before the next.

    {"call": "prefill", "arguments": {"token_ids": [1, 2, 3]}}
    {"result": 0.25}        or        {"error": {"message": "...", "hint": "..."}}

Knows nothing of what is called.
"""

import json
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from abaci.errors import AbaciError

Handlers = Mapping[str, Callable[..., Any]]


class Caller:
    """The side that asks. `describe_end` says why there is no answer when the other side is gone."""

    def __init__(self, reader: IO[str], writer: IO[str], describe_end: Callable[[], AbaciError]) -> None:
        self._reader = reader
        self._writer = writer
        self._describe_end = describe_end

    def call(self, name: str, **arguments: Any) -> Any:
        """The result of a call. Raises AbaciError with what the other side reports, or if it is gone."""
        try:
            _write(self._writer, {"call": name, "arguments": arguments})
            line = self._reader.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise self._describe_end()
        answer = json.loads(line)
        if "error" in answer:
            raise AbaciError(answer["error"]["message"], hint=answer["error"]["hint"])
        return answer["result"]


def serve(reader: IO[str], writer: IO[str], handlers: Handlers) -> None:
    """Answer calls until the other side closes its end. An exception is an answer too."""
    for line in reader:
        request = json.loads(line)
        try:
            answer = {"result": handlers[request["call"]](**request["arguments"])}
        except AbaciError as error:
            answer = {"error": {"message": error.message, "hint": error.hint}}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": {"message": f"{request['call']}: {error!r}", "hint": None}}
        _write(writer, answer)


def _write(writer: IO[str], value: object) -> None:
    writer.write(json.dumps(value) + "\n")
    writer.flush()
