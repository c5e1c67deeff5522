"""Settings: layers, units, and errors that name the key."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from chatcore_ext import constants
from chatcore_server.settings import ServerSettings, SettingsError, load_settings, read_config


def test_defaults_are_the_constants() -> None:
    settings = load_settings()
    assert settings == ServerSettings()
    assert settings.limits.frame_bytes == constants.DEFAULT_MAX_FRAME_SIZE
    assert settings.limits.largest_body == settings.limits.body_bytes < constants.DEFAULT_MAX_FRAME_SIZE
    small = load_settings({"limits": {"frame_bytes": 1024}})
    assert small.limits.largest_body == 1024 - constants.SEND_PREFIX_SIZE
    assert settings.ticket_lifetime_ms == constants.DEFAULT_REPLAY_WINDOW_MS * 4 // 5
    assert (settings.host, settings.port, settings.http_port) == ("127.0.0.1", 7400, 7480)


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    config = tmp_path / "chatcore.toml"
    config.write_text(
        'port = 1\n[limits]\nframe_bytes = 512\nheartbeat_ms = 99\n[sessions]\non_excess = "newest_wins"\n'
    )
    settings = load_settings(read_config(config), {"port": 2, "limits": {"frame_bytes": 1024}})
    assert settings.port == 2
    assert settings.limits.frame_bytes == 1024
    assert settings.limits.heartbeat_ms == 99
    assert settings.sessions.on_excess == "newest_wins"
    assert settings.limits.channels == constants.DEFAULT_MAX_CHANNELS_PER_CONNECTION


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"prot": 1}, ["unknown setting prot"]),
        ({"limits": {"frame_size": 1}}, ["unknown setting limits.frame_size"]),
        ({"limits": {"frame_bytes": "4k"}}, ["limits.frame_bytes", "int"]),
        ({"limits": {"frame_bytes": 100}}, ["limits.frame_bytes", "256"]),
        ({"limits": {"connections": 0}}, ["limits.connections", "1 to"]),
        ({"port": 65_536}, ["port", "65535"]),
        ({"engine": "select"}, ["engine"]),
        ({"embedded": {"partitions": 0}}, ["partitions"]),
        ({"embedded": {"replay_window_ms": 5}}, ["embedded.replay_window_ms", "log.replay_window_ms"]),
        ({"limits": 5}, ["limits"]),
        ({"tls": {"enabled": True}}, ["tls.certificate_file"]),
        ({"websocket": {"enabled": True, "tls": True}}, ["tls.certificate_file"]),
        ({"tls": {"client_certificates": "required"}}, ["tls.client_ca_file"]),
        ({"websocket": {"path": "chat"}}, ["websocket.path", "slash"]),
        ({"proxy_protocol": {"trusted": ["10.0.0.1/8"]}}, ["proxy_protocol.trusted", "10.0.0.1/8"]),
    ],
)
def test_errors_name_the_key(layer: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(layer)
    for word in words:
        assert word in str(caught.value)


def test_readers_of_the_log_agree() -> None:
    settings = load_settings({"log": {"replay_window_ms": 7, "chain_idle_ms": 8}})
    assert (settings.embedded.replay_window_ms, settings.embedded.chain_idle_ms) == (7, 8)


def test_unreadable_configurations(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = ")
    with pytest.raises(SettingsError, match="not valid TOML"):
        read_config(broken)


def test_the_page_for_operators_names_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    documented = tomllib.loads(page.split("```toml")[1].split("```")[0])
    defaults = msgspec.json.decode(msgspec.json.encode(ServerSettings()))  # as TOML has it: lists, no tuples
    del defaults["embedded"]
    assert documented == defaults
