"""Which settings go together: what the error names, and that every number that may be set is one a hub runs with."""

import tomllib
from typing import Any

import pytest

from chatcore_server.setting import Count
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_layers import Given, all_settings, layer_of, resolve
from chatcore_server.worker import _hub_limits, _make_hub

NUMBERS = {key: each.kind for key, each in all_settings().items() if isinstance(each.kind, Count)}
CERTIFICATE = {"certificate_file": "x.pem"}


def extreme(key: str, which: str) -> Given:
    """A number at its "lowest" or "highest", as a file has it."""
    kind = NUMBERS[key]
    return Given(tomllib.loads(f"value = {kind.show(getattr(kind, which))}")["value"], which)


def run_hub(settings: ServerSettings) -> None:
    """Made, limited anew as by SIGHUP, and drained as by SIGTERM."""
    hub = _make_hub(settings, 1, lambda channel, connections: None, lambda channel, offset, time, body: None)
    hub.set_limits(**_hub_limits(settings))
    hub.goaway(settings.drain.goaway_ms, settings.drain.reconnect_window_ms)
    hub.check_invariants()
    hub.close()


@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_a_hub_runs_with_all_numbers_at_their_bounds(which: str) -> None:
    layer = {key: extreme(key, which) for key in NUMBERS if not key.endswith("port")}
    run_hub(resolve(layer).settings)


@pytest.mark.parametrize("which", ["lowest", "highest"])
@pytest.mark.parametrize("key", NUMBERS)
def test_a_hub_runs_with_any_number_at_its_bounds_or_it_is_refused_by_name(key: str, which: str) -> None:
    try:
        settings = resolve({key: extreme(key, which)}).settings
    except SettingsError as error:
        assert f"{key} (" in str(error)
        assert f", {which})" in str(error)
        return
    run_hub(settings)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({"limits": {"body_size": "40KiB"}},
         'limits.body_size ("40KiB", file) must be at most 4083B: limits.frame_size ("4KiB", default) holds no more'),
        ({"limits": {"frame_size": "1KiB"}},
         'limits.body_size ("4000B", default) must be at most 1011B: limits.frame_size ("1KiB", file) holds no more'),
        ({"limits": {"pause_size": "8KiB"}},
         'limits.pause_size ("8KiB", file) must be at least limits.sync_size ("64KiB", default)'),
        ({"limits": {"frame_size": "1MiB"}},
         'limits.pause_size ("128KiB", default) must be at least limits.frame_size ("1MiB", file)'),
        ({"limits": {"pending_size": "200KiB"}},
         'limits.pending_size ("200KiB", file) must be at least twice limits.pause_size ("128KiB", default)'),
        ({"limits": {"total_pending_size": "1KiB"}},
         'limits.total_pending_size ("1KiB", file) must be at least limits.pending_size ("256KiB", default)'),
        ({"tls": {"enabled": True}},
         "tls.certificate_file must name the server's certificate: tls.enabled (true, file)"),
        ({"websocket": {"enabled": True, "tls": True}},
         "tls.certificate_file must name the server's certificate: websocket.tls (true, file)"),
        ({"tls": {"client_certificates": "required"}},
         "tls.client_ca_file must name who signs the clients' certificates:"
         ' tls.client_certificates ("required", file)'),
        ({"websocket": {"path": "chat"}},
         """websocket.path ("chat", file) must begin with a slash and have no '?'"""),
        ({"websocket": {"path": "/a?b"}},
         """websocket.path ("/a?b", file) must begin with a slash and have no '?'"""),
        ({"http_port": 7400},
         "port (7400, default) and http_port (7400, file) must differ, or be 0 for any free one"),
        ({"port": 1, "http_port": 1, "http_host": "0.0.0.0"},
         "port (1, file) and http_port (1, file) must differ, or be 0 for any free one"),
        ({"port": 7444, "websocket": {"enabled": True}},
         "port (7444, file) and websocket.port (7444, default) must differ, or be 0 for any free one"),
        ({"tls": {"enabled": True, "port": 7400, **CERTIFICATE}},
         "port (7400, default) and tls.port (7400, file) must differ, or be 0 for any free one"),
        ({"host": "0.0.0.0"}, "refusing to listen on 0.0.0.0 with the development secret"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_named_with_who_set_it(table: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(layer_of(table, "file"))
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    "table",
    [
        {"port": 0, "http_port": 0, "websocket": {"enabled": True, "port": 0}},
        {"port": 7444, "websocket": {"enabled": False}},
        {"port": 1, "http_port": 1, "http_host": "127.0.0.2"},
        {"host": "0.0.0.0", "authentication": {"secret_file": "x"}},
        {"limits": {"frame_size": "4013B"}},
        {"tls": {"enabled": True, "client_certificates": "required", "client_ca_file": "x", **CERTIFICATE}},
    ],
)
def test_what_goes_together(table: dict[str, Any]) -> None:
    resolve(layer_of(table, "file"))
