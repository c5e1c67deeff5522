"""Reading /metrics as Prometheus does, by the parsers of prometheus-client, the strict one for OpenMetrics."""

import asyncio
import urllib.request
from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
FORMATS = [TEXT, OPENMETRICS]


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str, *, is_openmetrics: bool) -> None:
        """Raises ValueError for what is not well-formed."""
        parse = parse_openmetrics if is_openmetrics else parse_text
        self.families: dict[str, Metric] = {}
        for family in parse(text):
            assert family.name not in self.families, f"{family.name} is there twice"
            self.families[family.name] = family
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in self.families.values():
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"{key} is there twice"
                self.samples[key] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def values(self, name: str) -> Mapping[str, float]:
        """Of all samples of a name with one label, by its value."""
        return {next(iter(labels))[1]: value for (found, labels), value in self.samples.items() if found == name}


async def scrape(http_port: int, accepted: str = TEXT) -> Scrape:
    request = urllib.request.Request(f"http://127.0.0.1:{http_port}/metrics", headers={"Accept": accepted})

    def get() -> tuple[str, str]:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read().decode(), response.headers["Content-Type"]

    text, content_type = await asyncio.to_thread(get)
    assert content_type.startswith(accepted.replace(";", "; ")), content_type
    return Scrape(text, is_openmetrics=accepted == OPENMETRICS)
