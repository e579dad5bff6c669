"""The lines of a batch as clients write them and as its output says what became of them: OpenAI's JSONL. Pure."""

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_MAX_ID_CHARACTERS: Final = 512
_MAX_SHOWN_ERRORS: Final = 100


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much batches may ask for."""

    num_lines: int = 50_000
    line_bytes: int = 4 << 20
    num_open: int = 32
    """Batches of one owner that have not ended."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch; `position` is its line in the input, from 0. `body` is JSON."""

    position: int
    custom_id: str
    body: str


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line, from 1 as people count; None where it is the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class _BadLineError(Exception):
    """A line that cannot be run."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class LineReader:
    """Reads the lines of one input, remembers what was wrong, and stops after too many mistakes."""

    def __init__(self, endpoint: str, limits: BatchLimits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._seen_ids: set[str] = set()
        self.errors: list[LineError] = []

    def read(self, lines: Iterable[bytes]) -> Iterator[BatchLine]:
        """The good lines; blank ones do not count. Look at `errors` afterwards."""
        for position, raw in enumerate(lines):
            if not raw.strip():
                continue
            if len(self._seen_ids) >= self._limits.num_lines:
                self.errors.append(LineError("too_many_lines", f"more than {self._limits.num_lines:,} requests"))
            if self.errors and (len(self.errors) >= _MAX_SHOWN_ERRORS or self.errors[-1].line is None):
                return
            try:
                yield self._parse(position, raw)
            except _BadLineError as error:
                self.errors.append(LineError(error.code, str(error), position + 1, error.param))
        if not self._seen_ids and not self.errors:
            self.errors.append(LineError("empty_file", "the file has no requests"))

    def _parse(self, position: int, raw: bytes) -> BatchLine:
        if len(raw) > self._limits.line_bytes:
            raise _BadLineError("line_too_long", f"the line is longer than {self._limits.line_bytes:,} bytes")
        try:
            line = json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise _BadLineError("invalid_json_line", "the line is not valid JSON") from None
        if not isinstance(line, dict):
            raise _BadLineError("invalid_json_line", "the line is not a JSON object")
        custom_id = self._custom_id(line.get("custom_id"))
        if line.get("method") != "POST":
            raise _BadLineError("invalid_method", "method must be POST", "method")
        if line.get("url") != self._endpoint:
            raise _BadLineError("mismatched_url", f"url must be the batch's endpoint, {self._endpoint}", "url")
        body = line.get("body")
        if not isinstance(body, dict):
            raise _BadLineError("missing_required_parameter", "body must be a JSON object", "body")
        if body.get("stream"):
            raise _BadLineError("invalid_body", "a batch has nobody to stream to", "stream")
        # ASCII only, so that no database stumbles over halves of characters.
        return BatchLine(position, custom_id, json.dumps(body))

    def _custom_id(self, given: Any) -> str:
        if not isinstance(given, str) or not 1 <= len(given) <= _MAX_ID_CHARACTERS or not given.isprintable():
            raise _BadLineError(
                "invalid_custom_id",
                f"custom_id must be a text of 1 to {_MAX_ID_CHARACTERS} printable characters",
                "custom_id",
            )
        if given in self._seen_ids:
            raise _BadLineError("duplicate_custom_id", f"custom_id {given!r} occurs twice", "custom_id")
        self._seen_ids.add(given)
        return given


def answer_line(custom_id: str, request_id: str, status: int, body: Any) -> bytes:
    """A line of the output: the response to one request."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _result_line(custom_id, response, None)


def unanswered_line(custom_id: str, code: str, message: str) -> bytes:
    """A line of the errors: a request that was never run."""
    return _result_line(custom_id, None, {"code": code, "message": message})


def _result_line(custom_id: str, response: Any, error: Any) -> bytes:
    result = {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(result).encode() + b"\n"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
