"""Runs requests on an engine and collects what it says of each."""

import queue


def answers(engine, *requests):
    """Tokens and log-probabilities of each request, all running together."""
    heard = queue.SimpleQueue()
    for request in requests:
        engine.submit(request, heard.put)
    found = {request.request_id: [] for request in requests}
    num_open = len(requests)
    while num_open:
        event = heard.get(timeout=200)
        assert event.error is None
        found[event.request_id].append((event.token_ids, event.logprobs))
        num_open -= event.finish_reason is not None
    return found
