"""Where settings come from: file, environment, flags; which wins; and what each error names."""

from pathlib import Path

import pytest

from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_layers import (
    Given,
    Resolved,
    Sources,
    all_settings,
    assignments_layer,
    environment_layer,
    resolve,
)


def resolved(environment: dict[str, str] | None = None, *assignments: str, file: Path | None = None) -> Resolved:
    return Sources(file, assignments).resolve(environment or {})


def error_of(environment: dict[str, str] | None = None, *assignments: str, file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        resolved(environment, *assignments, file=file)
    return str(caught.value)


def test_each_layer_wins_over_those_before_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "chatcore.toml"
    file.write_text('host = "::1"\nport = 1\nhttp_port = 1\n[limits]\nchannels = 1\nheartbeat = "1s"\n')
    sources = Sources(file, ["limits.channels=3", "http_port=3"], {"http_port": Given(4, "--http-port")})
    settings, origins = sources.resolve({"CHATCORE_PORT": "2", "CHATCORE_LIMITS_CHANNELS": "2", "HOME": "/"})
    assert (settings.host, settings.port, settings.limits.channels, settings.http_port) == ("::1", 2, 3, 4)
    assert origins == {
        "host": str(file),
        "port": "CHATCORE_PORT",
        "limits.channels": "--set",
        "limits.heartbeat": str(file),
        "http_port": "--http-port",
    }


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file, other = tmp_path / "a.toml", tmp_path / "b.toml"
    file.write_text("port = 1\n")
    other.write_text("port = 2\n")
    assert resolved({"CHATCORE_CONFIG": str(file)}).settings.port == 1
    assert resolved({"CHATCORE_CONFIG": str(file)}, file=other).settings.port == 2
    assert resolved({"CHATCORE_CONFIG": ""}) == resolved() == Resolved(ServerSettings(), {})


def test_no_two_settings_share_a_variable() -> None:
    variables = [definition.variable for definition in all_settings().values()]
    assert len(set(variables)) == len(variables)
    assert "CHATCORE_LIMITS_HELLO_TIMEOUT" in variables


def test_every_setting_can_be_set_by_the_environment_and_by_a_flag() -> None:
    for each in all_settings().values():
        text = each.kind.show(each.default).strip('"[]').replace('", "', ",")
        for layer in (environment_layer({each.variable: text}), assignments_layer([f"{each.key}={text}"], "--set")):
            assert each.kind.read(layer[each.key].value) == each.default, each.key


def test_lists_and_switches_as_text() -> None:
    settings = resolved(
        {"CHATCORE_WEBSOCKET_ORIGINS": "https://a, https://b", "CHATCORE_WEBSOCKET_TLS": "False"}
    ).settings
    assert settings.websocket.origins == ("https://a", "https://b")
    assert settings.websocket.tls is False
    assert resolved({"CHATCORE_LIMITS_UNLIMITED_ADDRESSES": ""}).settings.limits.unlimited_addresses == ()
    assert resolved(None, "data=a=b").settings.data == "a=b"
    assert error_of(None, "websocket.origins=https://a,,https://b").endswith("not '' (--set)")


@pytest.mark.parametrize(
    ("variable", "right"),
    [
        ("CHATCORE_LIMITS_HELO_TIMEOUT", "CHATCORE_LIMITS_HELLO_TIMEOUT"),
        ("CHATCORE_LIMITS_FRAME_BYTES", "CHATCORE_LIMITS_FRAME_SIZE"),
        ("CHATCORE_HTTPPORT", "CHATCORE_HTTP_PORT"),
        ("CHATCORE_PROT", "CHATCORE_PORT"),
        ("CHATCORE_HEARTBEAT", "CHATCORE_LIMITS_HEARTBEAT"),
    ],
)
def test_an_unknown_variable(variable: str, right: str) -> None:
    assert error_of({variable: "1"}) == f"unknown variable {variable}; did you mean {right}?"


def test_an_unknown_variable_that_is_like_none() -> None:
    assert error_of({"CHATCORE_FOO": "1"}) == "unknown variable CHATCORE_FOO"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATCORE_PORT", "tcp://10.0.0.1:7400"),
        ("CHATCORE_HTTP_PORT", "tcp://10.0.0.1:80"),  # of a Service named chatcore-http
        ("CHATCORE_SERVICE_HOST", "10.0.0.1"),
        ("CHATCORE_SERVICE_PORT", "7400"),
        ("CHATCORE_SERVICE_PORT_CHAT", "7400"),
        ("CHATCORE_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
        ("CHATCORE_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("CHATCORE_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_what_kubernetes_puts_into_the_environment(name: str, value: str) -> None:
    error = error_of({name: value})
    assert name in error
    assert "enableServiceLinks: false" in error


def test_what_is_not_the_servers() -> None:
    assert resolved({"CHATCORE_BUILD": "debug", "CHATCORES": "1", "chatcore_port": "x"}).origins == {}


def test_errors_name_what_set_it(tmp_path: Path) -> None:
    assert error_of({"CHATCORE_PORT": "x"}) == "port must be a whole number, not 'x' (CHATCORE_PORT)"
    assert error_of({"CHATCORE_PORT": ""}) == "port must be a whole number, not '' (CHATCORE_PORT)"
    assert error_of(None, "limits.heartbeat=5").endswith("not '5' (--set)")
    assert error_of(None, "limits.heart=5s") == "unknown setting limits.heart; did you mean limits.heartbeat? (--set)"
    assert error_of(None, "limits=5") == "limits is a table, [limits], and not a value (--set)"
    assert error_of(None, "=5") == "=5 is not KEY=VALUE (--set)"
    assert error_of(None, "port=" + "9" * 25) == f"port must be 0 to 65535, not {'9' * 25} (--set)"
    assert error_of(None, "limits.heartbeat") == "limits.heartbeat is not KEY=VALUE (--set)"
    file = tmp_path / "chatcore.toml"
    file.write_text("[limits]\nheart = 5\n")
    assert error_of(file=file) == f"unknown setting limits.heart; did you mean limits.heartbeat? ({file})"


def test_what_is_overruled_is_checked_all_the_same(tmp_path: Path) -> None:
    """A mistake must not lie in wait for the day on which a flag is left out."""
    file = tmp_path / "chatcore.toml"
    file.write_text("port = -1\n")
    assert "port must be 0 to 65535, not -1" in error_of({"CHATCORE_PORT": "7"}, file=file)


def test_nothing_given_is_the_defaults() -> None:
    assert resolve() == Resolved(ServerSettings(), {})
