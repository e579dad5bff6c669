"""A histogram for what happens once per token. Knows Prometheus' exposition, not what is measured.

prometheus_client's own takes two locks and walks through its bounds for every value, which for every token of every
stream adds up. This one is written on one thread.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observations:
    """Values counted by the bucket they fall into. `bounds` are the buckets' upper ends, ascending."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """What has been counted so far, as a sample of `family`."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(ends, accumulate(self._counts), strict=True)), self._sum)


class TokenHistogram(Collector):
    """Observations by label. A scrape reads them on the thread that writes them."""

    def __init__(self, name: str, description: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self._name = name
        self._description = description
        self._bounds = bounds
        self._label_names = labels
        self._by_labels: dict[tuple[str, ...], Observations] = {}

    def labels(self, *values: str) -> Observations:
        """Where values with these labels are counted; to be asked for once, not per value."""
        found = self._by_labels.get(values)
        if found is None:
            found = self._by_labels[values] = Observations(self._bounds)
        return found

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._description, labels=self._label_names)
        if not self._label_names:
            self.labels()
        for labels, observations in self._by_labels.items():
            observations.add_to(family, labels)
        return [family]
