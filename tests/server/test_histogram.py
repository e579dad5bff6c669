"""The histogram of tokens says to a scrape what prometheus_client's own would."""

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from abaci.server.histogram import TokenHistogram

BOUNDS = (0.0001, 0.01, 0.25, 1.0, 640.0)

values = st.lists(st.sampled_from([*BOUNDS, 0.0, 0.5, 1e6]) | st.floats(0, 1000))


@given(st.dictionaries(st.sampled_from(["a", 'b"\n']), values))
def test_a_scrape_reads_what_was_counted(by_model: dict[str, list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = TokenHistogram("seconds", "Of a token.", BOUNDS, ("model",))
    ours.register(histogram)
    reference = Histogram("seconds", "Of a token.", ("model",), buckets=BOUNDS, registry=theirs)
    for model, observed in by_model.items():
        for value in observed:
            histogram.labels(model).observe(value)
            reference.labels(model).observe(value)
    assert _samples(ours) == _samples(theirs)


def test_without_labels_there_are_zeros_from_the_start() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ours.register(TokenHistogram("seconds", "Of a token.", BOUNDS))
    Histogram("seconds", "Of a token.", buckets=BOUNDS, registry=theirs)
    assert _samples(ours) == _samples(theirs)
    assert 'seconds_bucket{le="+Inf"} 0.0' in _samples(ours)


def _samples(registry: CollectorRegistry) -> list[str]:
    """All lines but the time at which a histogram was made."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not re.match(r"(# \w+ )?seconds_created", line)]
