"""/metrics without a server: well-formed, named by Prometheus's conventions, and the same as docs/metrics.md says."""

import asyncio
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatcore_ext.error_codes import ErrorCode, error_text
from chatcore_server.metric_families import FAMILIES, PREFIX
from chatcore_server.metrics import Exposition
from support.hub_world import World
from support.scrapes import FORMATS, OPENMETRICS, Scrape

CODE_PREFIXES = ("closed_", "refused_", "logins_failed_", "resumes_failed_", "token_refreshes_failed_", "lost_")
ROOT = Path(__file__).parent.parent.parent
EMPTY = ([(0.5, 0), (math.inf, 0)], 0.0)
HISTOGRAMS = {str(family.source): EMPTY for family in FAMILIES if family.kind == "histogram"}


def exposed(counters: dict[str, int], histograms: dict[str, Any] | None = None, accepted: str = OPENMETRICS) -> Scrape:
    async def text() -> bytes:
        exposition = Exposition(lambda: counters, lambda: HISTOGRAMS | (histograms or {}), version='1"\\\n2')
        return (await exposition.scrape(accepted))[0]

    return Scrape(asyncio.run(text()).decode(), is_openmetrics=accepted == OPENMETRICS)


@pytest.mark.parametrize("accepted", FORMATS)
def test_values_are_those_of_the_counters(accepted: str) -> None:
    counters = Counter({"acks": 3, "refused_rate_limited": 2**63, "connections_ready": 4})
    scraped = exposed(counters, {"ack_latency": ([(0.5, 1), (1.0, 3), (math.inf, 4)], 7.25)}, accepted)
    assert scraped.value("chatcore_acks_total") == 3
    assert scraped.value("chatcore_refusals_total", code="rate_limited") == 2**63
    assert scraped.value("chatcore_refusals_total", code="overloaded") == 0
    assert scraped.values("chatcore_connections") == {"half_open": 0, "ready": 4, "closing": 0}
    assert scraped.values("chatcore_ack_latency_seconds_bucket") == {"0.5": 1, "1.0": 3, "+Inf": 4}
    assert scraped.value("chatcore_ack_latency_seconds_sum") == 7.25
    assert scraped.value("chatcore_ack_latency_seconds_count") == 4
    assert scraped.value("chatcore_build_info", version='1"\\\n2') == 1


def test_names_follow_the_conventions() -> None:
    names = [family.exposed_name for family in FAMILIES]
    assert len(set(names)) == len(names)
    units = {"milliseconds", "ms", "microseconds", "us", "minutes", "kilobytes", "kib", "mb", "megabytes", "percent"}
    for family in FAMILIES:
        words = family.name.split("_")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert not units & set(words), "base units"
        assert words[-1] not in {"total", "count", "sum", "bucket", "created", "info"}, "a suffix with a meaning"
        assert family.label not in family.name.split("_") or not family.label, "a label says it already"
        assert re.fullmatch(r"[a-z]*", family.label)
        assert bool(family.label) == (not isinstance(family.source, str))
        assert family.text.endswith(".") and "\n" not in family.text
    for metric in exposed({}).families.values():
        assert metric.unit == "" or metric.name.endswith(f"_{metric.unit}"), metric.name
        if metric.name.startswith(PREFIX) and metric.name.endswith(("_seconds", "_bytes")):
            assert metric.unit == metric.name.rpartition("_")[2]


def test_every_code_has_its_series_before_it_is_used() -> None:
    scraped = exposed({})
    codes = {error_text(code) for code in ErrorCode}
    assert set(scraped.values("chatcore_connections_closed_total")) == codes | {"by_peer"}
    assert set(scraped.values("chatcore_refusals_total")) == {error_text(code) for code in ErrorCode if code >= 200}


def test_every_source_is_something_that_is_counted() -> None:
    """A misspelt one would read 0 for ever: the hub's are all there from the start, but for codes."""
    with World() as world:
        known = set(world.hub.counters())
    known |= {"connections_refused_by_server", "sends_under_way", "ready"}  # the worker's and the server's
    known |= {"proxy_headers_refused", "tls_handshakes_failed", "door_accept_pauses"}  # the doors'
    known |= {"log_queue_records", "log_queue_bytes", "log_commit_failures"}  # the store's
    known |= {"keys", "key_reads", "key_reads_failed", "logins_new", "logins_resumed", "resumes_replaced"}  # Python's
    known |= {"token_refreshes", "admin_requests", "admin_requests_refused"}
    for family in FAMILIES:
        if family.kind == "histogram":
            continue
        sources = [family.source] if isinstance(family.source, str) else family.source.values()
        for source in sources:
            prefix = next((each for each in CODE_PREFIXES if source.startswith(each)), "")
            is_code = prefix and source.removeprefix(prefix) in map(error_text, ErrorCode)
            assert source in known or is_code, source


# ---- The page and the rules ------------------------------------------------------------------------------------------

Row = tuple[str, str, frozenset[str]]


def rows_of_the_page() -> set[Row]:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|\n]*)\|([^|\n]*)\|", page, re.MULTILINE)
    assert all(meaning.strip() for *_, meaning in rows)
    return {(name, kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels, _ in rows}


def rows_exposed() -> set[Row]:
    rows = set()
    for family in exposed({}).families.values():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        rows.add((name, family.type, labels & {"version"} if name == "python_info" else labels))
    return rows


def test_the_page_lists_what_is_exposed_and_nothing_else() -> None:
    assert rows_of_the_page() == rows_exposed()


def test_the_page_names_only_label_values_that_exist() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    for family in FAMILIES:
        if family.label in {"step", "limit", "state", "door"}:
            assert not isinstance(family.source, str)
            (row,) = re.findall(rf"^\| `{family.exposed_name}` .*$", page, re.MULTILINE)
            for value in family.source:
                assert f"`{value}`" in row, (family.name, value)


def series() -> set[str]:
    return {name for name, _ in exposed({}).samples} | {"up"}


def used_in(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression."""
    return set(re.findall(r"\b(?:chatcore|process|python)_\w+|\bup\b", re.sub(r'"[^"]*"', "", expression)))


def test_queries_and_rules_use_what_is_there() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    (queries,) = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    assert used_in(queries) <= series()
    for rule in rules():
        assert used_in(rule["expr"]), rule["alert"]
        assert used_in(rule["expr"]) <= series(), rule["alert"]
        for label, value in re.findall(r'(\w+)=~?"([^"]+)"', rule["expr"]):
            values = {dict(labels).get(label) for _, labels in exposed({}).samples}
            assert label == "job" or set(value.split("|")) <= values, (rule["alert"], label, value)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_page_lists_the_rules_with_what_they_look_at() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    told = re.findall(r"^\| `(Chatcore\w+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert len(told) == len(rules())
    looks_at = {name: (severity, set(re.findall(r"`(\w+)`", metrics))) for name, severity, metrics in told}
    for rule in rules():
        metrics = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used_in(rule["expr"])}
        assert looks_at[rule["alert"]] == (rule["labels"]["severity"], metrics)


# ---- All pages -------------------------------------------------------------------------------------------------------

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*")])
# Names of counters inside the server that are words or settings, too.
ORDINARY = {"channels", "connections", "gaps", "keys", "players", "ready", "sessions", "subscriptions"}


def labels_exposed() -> dict[str, set[tuple[str, str]]]:
    """The pairs of label and value by the name that /metrics has."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name, labels in exposed({}).samples:
        found.setdefault(re.sub(r"_(bucket|sum|count)$", "", name), set()).update(labels)
        found.setdefault(name, set()).update(labels)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_metrics_as_they_are_exposed(page: Path) -> None:
    known = labels_exposed()
    internal = {f"{prefix}CODE" for prefix in CODE_PREFIXES}
    for family in FAMILIES:
        internal |= {family.source} if isinstance(family.source, str) else set(family.source.values())
    text = page.read_text()
    assert set(re.findall(r"`(\w+)`", text)) & internal <= ORDINARY, "names that /metrics does not have"
    for name, labels in re.findall(r"`(chatcore_\w+)(?:\{([^}]*)\})?", text):
        if name in ("chatcore_ext", "chatcore_server"):
            continue
        assert name in known
        assert set(re.findall(r'(\w+)="(\w+)"', labels)) <= known[name], (name, labels)


def test_rules_are_of_the_form_that_prometheus_takes() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 5
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"[A-Z]\w+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
        for opening, closing in ("()", "{}", "[]"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing), rule["alert"]
