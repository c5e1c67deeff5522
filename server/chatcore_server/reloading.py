"""What a running server takes up of a changed configuration, and what it says about the rest.

Decides by the definitions alone. Everything is checked before anything changes: a wrong configuration changes nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

from chatcore_server.logging import get_answering_logger
from chatcore_server.setting import Definition
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_check import check
from chatcore_server.settings_layers import all_settings, described, with_values
from chatcore_server.settings_text import shown

_log = get_answering_logger()


class Plan(NamedTuple):
    """From the settings that a server runs on to those that it is asked for."""

    settings: ServerSettings  # what it can run on without a restart
    taken_up: list[str]  # "key: old -> new" each
    left: list[str]  # the same, for what needs a restart


def plan(running: ServerSettings, wanted: ServerSettings) -> Plan:
    """Raises SettingsError if what can change does not fit with what cannot."""
    values: dict[tuple[str, ...], object] = {}
    taken_up, left = [], []
    for each in all_settings().values():
        old, new = each.value_in(running), each.value_in(wanted)
        if old == new:
            continue
        change = f"{each.key}: {shown(each, old)} -> {shown(each, new)}"
        if _can_change(each, old, new):
            taken_up.append(change)
            values[each.path] = new
        else:
            left.append(change)
    settings = with_values(running, values)
    try:
        check(settings, lambda key: described(key, settings))
    except SettingsError as problem:
        raise SettingsError(f"{problem}. Without a restart {'; '.join(left)} cannot change") from None
    return Plan(settings, taken_up, left)


def _can_change(definition: Definition, old: object, new: object) -> bool:
    # Whether there are any load balancers decides how connections are accepted; which they are does not.
    return definition.kind.is_live and (definition.key != "proxy_protocol.trusted" or bool(old) == bool(new))


class Reloader:
    """Of one server. `resolve` reads the settings anew, `apply` has the server run on others; both may raise
    SettingsError, and `apply` has then changed nothing."""

    def __init__(
        self, running: ServerSettings, resolve: Callable[[], ServerSettings], apply: Callable[[ServerSettings], None]
    ) -> None:
        self._running = running
        self._resolve = resolve
        self._apply = apply

    def reload(self) -> None:
        """Takes up what can change. Everything is told to the log, nothing is raised."""
        try:
            what = plan(self._running, self._resolve())
            self._apply(what.settings)
        except SettingsError as error:
            _log.error("configuration_rejected", reason=str(error), consequence="everything stays as it was")
            return
        self._running = what.settings
        _log.info("configuration_reloaded", changed=what.taken_up)
        if what.left:
            _log.warning("restart_to_apply", settings=what.left)
