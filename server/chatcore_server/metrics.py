"""/metrics: what the server counts, as text for Prometheus and OpenMetrics.

prometheus-client writes the text and says what it knows of the process; nothing on a hot path counts with it. Values
are read once per scrape, in the loop; the text is made in a thread, because to list the descriptors of 100,000
connections takes a while.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from math import isinf

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from chatcore_ext.durations import Snapshot
from chatcore_server.metric_families import FAMILIES, PREFIX, Family

Counters = Mapping[str, int]
Histograms = Mapping[str, Snapshot]


class Exposition:
    """Reads `counters` and `histograms` at each scrape, on the loop's thread."""

    def __init__(self, counters: Callable[[], Counters], histograms: Callable[[], Histograms], *, version: str) -> None:
        self._counters = counters
        self._histograms = histograms
        self._version = version
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)
        self._turnstile = asyncio.Lock()  # scrapes one after another: none costs memory while it waits

    async def scrape(self, accepted: str) -> tuple[bytes, str]:
        """The text in the best format that an Accept header asks for, and its content type."""
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):  # it asks for a version that is no number
            encode, content_type = choose_encoder("")
        async with self._turnstile:
            values = _Values(self._counters(), self._histograms(), self._version, self._process)
            return await asyncio.to_thread(encode, values), content_type


class _Values(Collector):
    """One scrape's."""

    def __init__(self, counters: Counters, histograms: Histograms, version: str, process: CollectorRegistry) -> None:
        self._counters = counters
        self._histograms = histograms
        self._version = version
        self._process = process

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily(f"{PREFIX}build", "The version that runs.", value={"version": self._version})
        for family in FAMILIES:
            if family.kind == "histogram":
                yield _histogram(family, self._histograms)
            else:
                yield _numbers(family, self._counters)
        yield from self._process.collect()


def _numbers(family: Family, counters: Counters) -> Metric:
    """0 for what has not been counted so far, or not by this backend."""
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    labels = [family.label] if family.label else []
    metric = make(PREFIX + family.name, family.text, labels=labels, unit=family.unit)
    if isinstance(family.source, str):
        metric.add_metric([], counters.get(family.source, 0))
    else:
        for value, source in family.source.items():
            metric.add_metric([value], counters.get(source, 0))
    return metric


def _histogram(family: Family, histograms: Histograms) -> Metric:
    assert isinstance(family.source, str)
    buckets, in_all = histograms[family.source]
    named = [("+Inf" if isinf(end) else str(end), count) for end, count in buckets]
    return HistogramMetricFamily(PREFIX + family.name, family.text, buckets=named, sum_value=in_all, unit=family.unit)
