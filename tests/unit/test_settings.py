"""Settings: definitions, layers, units, and errors that name the key."""

import tomllib
from pathlib import Path

import pytest

from chatcore_ext import constants
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_layers import all_settings, load_settings, read_config, suggestion


def test_defaults_are_the_constants() -> None:
    settings = load_settings()
    assert settings == ServerSettings()
    assert settings.limits.frame_bytes == constants.DEFAULT_MAX_FRAME_SIZE
    assert settings.limits.body_bytes < constants.DEFAULT_MAX_FRAME_SIZE - constants.SEND_PREFIX_SIZE
    assert settings.ticket_lifetime_ms == constants.DEFAULT_REPLAY_WINDOW_MS * 4 // 5
    assert (settings.host, settings.port, settings.http_port) == ("127.0.0.1", 7400, 7480)


def test_every_default_is_one_that_may_be_set() -> None:
    for definition in all_settings().values():
        written = tomllib.loads(f"value = {definition.kind.show(definition.default)}")["value"]
        assert definition.kind.read(written) == definition.default, definition.key
        assert definition.value_in(ServerSettings()) == definition.default, definition.key


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    config = tmp_path / "chatcore.toml"
    config.write_text(
        'port = 1\n[limits]\nframe_size = "5KiB"\nheartbeat = "99ms"\n[sessions]\non_excess = "newest_wins"\n'
    )
    settings = load_settings(read_config(config), {"port": 2, "limits": {"frame_size": "6KiB"}})
    assert settings.port == 2
    assert settings.limits.frame_bytes == 6144
    assert settings.limits.heartbeat_ms == 99
    assert settings.sessions.on_excess == "newest_wins"
    assert settings.limits.channels == constants.DEFAULT_MAX_CHANNELS_PER_CONNECTION


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"prot": 1}, ["unknown setting prot; did you mean port?"]),
        ({"limits": {"frame_byts": 1}}, ["unknown setting limits.frame_byts; did you mean limits.frame_size?"]),
        ({"limts": {"frame_size": 1}}, ["unknown table [limts]; did you mean [limits]?"]),
        ({"zzz": {"frame_size": 1}}, ["unknown table [zzz]"]),
        ({"limits": {"frame_size": "4k"}}, ['limits.frame_size must be a size with its unit', '"64KiB"', "not '4k'"]),
        ({"limits": {"frame_size": 4096}}, ['limits.frame_size must be a size with its unit', "not 4096"]),
        ({"limits": {"heartbeat": 5}}, ['limits.heartbeat must be a duration with its unit', '"5s"', "not 5"]),
        ({"limits": {"heartbeat": False}}, ["limits.heartbeat must be a duration"]),
        ({"limits": {"heartbeat": 0}}, ["limits.heartbeat must be 1ms to", "not 0"]),
        ({"limits": {"frame_size": "100B"}}, ["limits.frame_size must be 256B to"]),
        ({"limits": {"heartbeat": "30d"}}, ["limits.heartbeat must be 1ms to 7d, not '30d'"]),
        ({"limits": {"heartbeat": "9007199254740991ms"}}, ["limits.heartbeat must be 1ms to 7d"]),
        ({"limits": {"hello_timeout": "99999999999999999999d"}}, ["limits.hello_timeout must be 1ms to 7d"]),
        ({"drain": {"reconnect_window": "3650d"}}, ["drain.reconnect_window must be 0s to 7d"]),
        ({"limits": {"channels": 2**31 - 1}}, ["limits.channels must be 1 to 65535"]),
        ({"limits": {"connections": 0}}, ["limits.connections must be 1 to"]),
        ({"limits": {"connections": "7"}}, ["limits.connections must be a whole number, not '7'"]),
        ({"limits": {"connections": True}}, ["limits.connections must be a whole number"]),
        ({"limits": {"frame_burst": 2_147_484}}, ["limits.frame_burst must be 1 to 2147483"]),
        ({"port": 65_536}, ["port must be 0 to 65535"]),
        ({"host": 5}, ["host must be a text"]),
        ({"data": "a\0b"}, ["data must be a text", "without NUL"]),
        ({"websocket": {"origins": ["\udcff"]}}, ["websocket.origins must be a list of texts, of valid characters"]),
        *(
            ({"websocket": {"origins": ["https://game.example", origin]}},
             ["websocket.origins must be origins", '"https://game.example"', f"not {origin!r}"])
            for origin in ("game.example", "", "a", "https://game.example/", "https://game.example/chat", "https://",
                           "HTTPS://game.example", "https://Game.example", "https://game.example:443",
                           "http://game.example:80", "https://user@game.example", "https://gäme.example",
                           "https://game.example\n", "https://*.example")
        ),
        ({"engine": "select"}, ['engine must be one of "epoll", "transport"']),
        ({"engine": ["epoll"]}, ["engine must be one of"]),
        ({"websocket": {"enabled": "yes"}}, ["websocket.enabled must be true or false"]),
        ({"websocket": {"origins": "https://a.example"}}, ["websocket.origins must be a list"]),
        ({"embedded": {"partitions": 0}}, ["embedded.partitions"]),
        ({"embedded": {"partitions": 2000}}, ["embedded.partitions must be 1 to 1024"]),
        ({"embedded": {"retry": "-1s"}}, ["embedded.retry"]),
        ({"embedded": {"replay_window": "5s"}}, ["embedded.replay_window; did you mean log.replay_window?"]),
        ({"limits": 5}, ["limits is a table"]),
        ({"port": {"limits": 5}}, ["port must be a whole number"]),
        ({"limits": {"unlimited_addresses": ["10.0.0.0/8"] * 65}}, ["limits.unlimited_addresses must be at most 64"]),
        ({"proxy_protocol": {"trusted": ["::1", "10.0.0.1/8"]}},
         ['proxy_protocol.trusted must be addresses or networks such as "10.0.0.0/8", not \'10.0.0.1/8\'']),
        ({"proxy_protocol": {"trusted": ["192.168.7.9/24"]}}, ['such as "192.168.7.0/24", not']),
        ({"proxy_protocol": {"trusted": ["10.0.0.1", "nope"]}}, ['such as "10.0.0.0/8", not \'nope\'']),
    ],
)  # fmt: skip
def test_errors_name_the_key(layer: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(layer)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("limits.frame_bytes", "limits.frame_size"),  # as it was called once, and as its field is
        ("limits.hello_timeout_ms", "limits.hello_timeout"),
        ("limits.resume_grace", "sessions.resume_grace"),  # in the wrong table
        ("heartbeat", "limits.heartbeat"),
        ("resume_grase", "sessions.resume_grace"),
        ("LIMITS.Channels", "limits.channels"),
    ],
)
def test_the_nearest_key(wrong: str, right: str) -> None:
    assert suggestion(wrong) == f"; did you mean {right}?"


def test_nothing_near_is_nothing_said() -> None:
    assert suggestion("colour") == suggestion("") == ""


def test_readers_of_the_log_agree() -> None:
    settings = load_settings({"log": {"replay_window": "7ms", "chain_idle": "8ms"}})
    assert (settings.embedded.replay_window_ms, settings.embedded.chain_idle_ms) == (7, 8)


def test_origins_that_browsers_send() -> None:
    origins = [
        "https://game.example",
        "http://localhost:8080",
        "https://[::1]:444",
        "capacitor://localhost",
        "null",
        "*",
    ]
    assert load_settings({"websocket": {"origins": origins}}).websocket.origins == tuple(origins)


def test_unreadable_configurations(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = ")
    with pytest.raises(SettingsError, match="not valid TOML"):
        read_config(broken)
    for content in (b"a = " + b"[" * 5_000 + b"]" * 5_000, b"port = " + b"9" * 5_000, b"host = '\xff'"):
        broken.write_bytes(content)
        with pytest.raises(SettingsError, match="not valid TOML"):
            read_config(broken)
