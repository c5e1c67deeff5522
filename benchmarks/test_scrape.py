"""What a scrape of /metrics costs: reading the values, which stops the loop, and writing the text, beside it."""

import asyncio

import pytest

from chatcore_ext.durations import DurationHistogram
from chatcore_server.metrics import Exposition
from crowd import Crowd
from measuring import Measure
from support.scrapes import FORMATS, Scrape

pytest_plugins = "measuring_plugin"

VALUES = 100  # readings of a batch


@pytest.mark.parametrize("connections", [1, 10_000])
def test_read_values(measure: Measure, connections: int) -> None:
    """The same however many there are."""
    with Crowd(connections) as crowd:

        def batch() -> None:
            for _ in range(VALUES):
                crowd.hub.counters()
                crowd.hub.histograms()

        measure(batch, VALUES)
        assert crowd.hub.counters()["connections_ready"] == connections


@pytest.mark.parametrize("accepted", FORMATS, ids=["text", "openmetrics"])
def test_scrape(measure: Measure, accepted: str) -> None:
    """The whole answer, the process's own metrics included."""
    nothing = DurationHistogram().snapshot()
    with Crowd(1) as crowd, asyncio.Runner() as runner:
        exposition = Exposition(
            crowd.hub.counters,
            lambda: crowd.hub.histograms() | {"loop_lag": nothing, "log_commit": nothing},
            version="1",
        )
        text, content_type = measure(lambda: runner.run(exposition.scrape(accepted)), 1)
        scraped = Scrape(text.decode(), is_openmetrics="openmetrics" in content_type)
        assert scraped.value("chatcore_connections", state="ready") == 1
