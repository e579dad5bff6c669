"""What pydantic finds wrong, in words: what and where, and apart from it what to send instead."""

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from abaci.server.wire import WireBody, error_document, explain


class Body(WireBody):
    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    order: Literal["asc", "desc"] = "asc"
    stop: list[str] = Field(default_factory=list, max_length=2)
    even: int = 0

    @field_validator("even")
    @classmethod
    def _check_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an even number is wanted")
        return value


@pytest.mark.parametrize(
    ("given", "parameter", "message", "hint"),
    [
        ({}, "model", "model is missing", "Send it as well; GET /openapi.json has what a body needs."),
        ({"temperature": "hot"}, "temperature", "temperature is 'hot'", "It should be a valid number."),
        ({"temperature": 3}, "temperature", "temperature is 3", "It should be less than or equal to 2."),
        ({"order": "up"}, "order", "order is 'up'", "It should be 'asc' or 'desc'."),
        ({"stop": ["a", 1]}, "stop", "stop.1 is 1", "It should be a valid string."),
        (
            {"stop": ["a", "b", "c"]},
            "stop",
            "stop is ['a', 'b', 'c']",
            "List should have at most 2 items after validation, not 3.",
        ),
        ({"even": 3}, "even", "even is 3", "An even number is wanted."),
    ],
)
def test_a_request_that_cannot_be_read(given: dict[str, Any], parameter: str, message: str, hint: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Body.model_validate({"model": "m"} | given if given else {})
    error = explain(raised.value)
    assert (error.parameter, error.message, error.hint) == (parameter, message, hint)
    assert error_document(error, "/v1/chat/completions")["error"]["message"] == f"{message} ({hint})"
