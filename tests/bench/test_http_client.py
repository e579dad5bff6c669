"""Answers read off the wire, however they are cut."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from abaci.bench.http.client import Transcript, read_transcript

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def event(document):
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def delta(content, finish_reason=None):
    return event({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]})


EVENTS = [
    delta(""),
    b": ping\n\n",
    delta("Hel"),
    delta("lo"),
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
    event(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 5},
            },
        }
    ),
    b"data: [DONE]\n\n",
]


def chunked(payload):
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def read(*data, failure=None):
    reads = tuple((float(number), piece) for number, piece in enumerate(data, start=1))
    return read_transcript(Transcript(0.5, reads, 99.0, failure))


def test_each_text_has_the_time_at_which_it_came():
    exchange = read(CHUNKED, *(chunked(one) for one in EVENTS), b"0\r\n\r\n")
    assert exchange.error is None
    assert exchange.text == "Hello"
    assert exchange.token_seconds == (4.0, 5.0)
    assert exchange.first_token_seconds == 3.5
    assert (exchange.prompt_tokens, exchange.cached_tokens, exchange.output_tokens) == (9, 5, 2)


def test_a_body_without_chunks_ends_with_the_connection():
    exchange = read(HEAD + b"\r\n" + EVENTS[0], *EVENTS[1:])
    assert (exchange.error, exchange.text, exchange.token_seconds) == (None, "Hello", (3.0, 4.0))


@given(st.lists(st.integers(0, 1200), max_size=20), st.booleans())
def test_cuts_do_not_matter(cuts, is_chunked):
    whole = CHUNKED + b"".join(map(chunked, EVENTS)) + b"0\r\n\r\n" if is_chunked else HEAD + b"\r\n" + b"".join(EVENTS)
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < len(whole)), len(whole)]
    pieces = [whole[begin:end] for begin, end in pairwise(bounds) if end > begin]
    exchange = read(*pieces)
    assert (exchange.error, exchange.text, exchange.output_tokens) == (None, "Hello", 2)
    assert len(exchange.token_seconds) == 2


def test_what_went_wrong_is_said():
    def error_of(*data, failure=None):
        return read(*data, failure=failure).error

    assert error_of() == "not understood: the server closed the connection without an answer"
    assert error_of(failure="no end after 5 s") == "no end after 5 s"
    refusal = b'HTTP/1.1 429 Too Many Requests\r\nContent-Length: 9\r\n\r\n{"a": '
    assert error_of(refusal, b"12}") == 'not understood: status 429: {"a": 12}'
    assert error_of(CHUNKED, chunked(delta("x"))) == "the stream broke off"
    assert error_of(CHUNKED, chunked(delta("x", "stop"))) == "the stream broke off"
    assert error_of(CHUNKED, *(chunked(one) for one in (EVENTS[0], *EVENTS[4:]))) == "an answer without text"
    assert "overloaded" in error_of(CHUNKED, chunked(event({"error": {"message": "overloaded"}})))
    assert error_of(CHUNKED, chunked(b"data: {broken\n\n")).startswith("not understood")
    assert error_of(CHUNKED, b"zz\r\nwhat\r\n").startswith("not understood")
