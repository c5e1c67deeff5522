"""What a running server takes up: by the definitions, all or nothing."""

from typing import Any

import pytest

from chatcore_server.reloading import Reloader, plan
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_layers import load_settings


def test_nothing_has_changed() -> None:
    assert plan(load_settings(), load_settings()) == (ServerSettings(), [], [])


def test_what_is_live_is_taken_up_and_the_rest_is_named() -> None:
    wanted = load_settings(
        {"port": 1, "limits": {"channels": 7, "heartbeat": "1s"}, "logging": {"level": "debug"}, "drain": {"goaway": 0}}
    )
    settings, taken_up, left = plan(load_settings(), wanted)
    assert settings == load_settings({"limits": {"channels": 7}, "logging": {"level": "debug"}, "drain": {"goaway": 0}})
    assert taken_up == [
        "limits.channels: 256 -> 7",
        'drain.goaway: "1s" -> "0s"',
        'logging.level: "info" -> "debug"',
    ]
    assert left == ["port: 7400 -> 1", 'limits.heartbeat: "30s" -> "1s"']


@pytest.mark.parametrize(("old", "new", "is_live"), [([1], [2, 3], True), ([], [1], False), ([1], [], False)])
def test_the_first_and_the_last_load_balancer_need_a_restart(old: list[int], new: list[int], is_live: bool) -> None:
    def behind(balancers: list[int]) -> ServerSettings:
        return load_settings({"proxy_protocol": {"trusted": [f"10.0.0.{each}" for each in balancers]}})

    settings, taken_up, left = plan(behind(old), behind(new))
    assert settings == (behind(new) if is_live else behind(old))
    assert (len(taken_up), len(left)) == ((1, 0) if is_live else (0, 1))


def test_what_can_change_must_fit_with_what_cannot() -> None:
    """Each file is right by itself, but the frame size stays until the restart."""
    old = load_settings({"limits": {"frame_size": "128KiB"}})
    new = load_settings({"limits": {"frame_size": "4KiB", "pause_size": "64KiB"}})
    with pytest.raises(SettingsError) as caught:
        plan(old, new)
    assert str(caught.value) == (
        'limits.pause_size ("64KiB") must be at least limits.frame_size ("128KiB").'
        ' Without a restart limits.frame_size: "128KiB" -> "4KiB" cannot change'
    )


class Applied(list[ServerSettings]):
    """What a server would have been given; `refuses` stands for a key file that cannot be read."""

    refuses = False

    def __call__(self, settings: ServerSettings) -> None:
        if self.refuses:
            raise SettingsError("no")
        self.append(settings)


def test_each_reload_starts_from_what_the_last_one_has_applied() -> None:
    layers: list[dict[str, Any]] = [{}]
    applied = Applied()
    reloader = Reloader(load_settings(), lambda: load_settings(*layers), applied)
    layers.append({"limits": {"channels": 7}})
    reloader.reload()
    layers.append({"limits": {"chanels": 8}})
    reloader.reload()  # wrong: logged, nothing is raised or applied
    assert applied == [load_settings({"limits": {"channels": 7}})]
    layers.pop()
    layers.append({"limits": {"members": 8}})
    applied.refuses = True
    reloader.reload()
    applied.refuses = False
    layers.append({"port": 5})
    reloader.reload()
    assert applied[1:] == [load_settings({"limits": {"channels": 7, "members": 8}})]
