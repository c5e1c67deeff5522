"""Where settings come from: defaults, under the file, under the environment, under the flags.

Every layer is taken apart into single keys, so that an error names the key and where it was set. Reads the
configuration file; never what a setting names.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from chatcore_server.nearest import nearest
from chatcore_server.setting import PREFIX, Definition, Table, definitions, variable_of
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.settings_check import check

CONFIG_VARIABLE = "CHATCORE_CONFIG"  # names the file where --config does not
DEFAULT = "default"  # set it
_LOG_FIELDS = ("replay_window_ms", "chain_idle_ms")  # that the embedded store shares with the other readers


class Given(NamedTuple):
    """A value as TOML has it, and who set it: a file, a variable, a flag."""

    value: object
    origin: str


Layer = Mapping[str, Given]  # by key
AnyTable = TypeVar("AnyTable", bound=Table)


class Resolved(NamedTuple):
    """The effective settings, and for each key that is not the default who set it."""

    settings: ServerSettings
    origins: dict[str, str]

    def explained(self, error: SettingsError) -> str:
        """With who set what is wrong, if the text does not say it."""
        return f"{error}{_by(self.origins.get(error.key, DEFAULT) if error.key else '')}"


@cache
def all_settings() -> dict[str, Definition]:
    """Every setting by its key, in the order of the file."""
    return {definition.key: definition for definition in definitions(ServerSettings)}


def load_settings(*tables: Mapping[str, object]) -> ServerSettings:
    """The defaults with each layer laid over the one before, key by key. Raises SettingsError."""
    return resolve(*(layer_of(table, "") for table in tables)).settings


def resolve(*layers: Layer) -> Resolved:
    """Later layers win, key by key. Raises SettingsError."""
    values, origins = {}, {}
    for layer in layers:
        for key, given in layer.items():  # what is overruled, too: a mistake must not wait for the day when it is not
            values[key] = _read(all_settings()[key], given)
            origins[key] = given.origin
    settings = with_values(ServerSettings(), {all_settings()[key].path: value for key, value in values.items()})
    agreed = {name: getattr(settings.log, name) for name in _LOG_FIELDS}
    settings = msgspec.structs.replace(settings, embedded=msgspec.structs.replace(settings.embedded, **agreed))
    check(settings, lambda key: described(key, settings, origins.get(key, DEFAULT)))
    return Resolved(settings, origins)


def described(key: str, settings: ServerSettings, origin: str = "") -> str:
    """A key with its value and who set it, for what is said of several."""
    definition = all_settings()[key]
    return f"{key} ({', '.join(filter(None, (definition.kind.show(definition.value_in(settings)), origin)))})"


def _read(definition: Definition, given: Given) -> object:
    try:
        return definition.kind.read(given.value)
    except ValueError as problem:
        raise SettingsError(
            f"{definition.key} {problem}, not {_shown(definition, getattr(problem, 'entry', given.value))}"
            f"{_by(given.origin)}"
        ) from None


def _shown(definition: Definition, value: object) -> str:
    return "what it is (a secret)" if definition.kind.is_secret else repr(value)


def _by(origin: str) -> str:
    return f" ({origin})" if origin else ""


def with_values(table: AnyTable, values: Mapping[tuple[str, ...], object]) -> AnyTable:
    """The table with other values in the fields that the paths lead to."""
    changes: dict[str, object] = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        within = {path[1:]: value for path, value in values.items() if path[0] == name}
        changes[name] = with_values(getattr(table, name), within)
    return msgspec.structs.replace(table, **changes)


# ---- Layers ----------------------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, object]:
    """The configuration file's tables. Raises SettingsError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from None
    # ValueError: not UTF-8, not TOML, or a number of thousands of digits; the last: lists in lists in lists.
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def layer_of(table: Mapping[str, object], origin: str) -> dict[str, Given]:
    """Tables in tables, as a file has them. Raises SettingsError for what is no setting."""
    return dict(_flattened(table, "", origin))


def _flattened(table: Mapping[str, object], prefix: str, origin: str) -> Iterable[tuple[str, Given]]:
    for name, value in table.items():
        key = prefix + name
        if key in all_settings():
            yield key, Given(value, origin)
        elif not isinstance(value, Mapping):
            raise _unknown(key, origin)
        elif key not in _tables():
            raise SettingsError(f"unknown table [{key}]{_nearest_table(key)}{_by(origin)}")
        else:
            yield from _flattened(value, f"{key}.", origin)


def _unknown(key: str, origin: str) -> SettingsError:
    if key in _tables():
        return SettingsError(f"{key} is a table, [{key}], and not a value{_by(origin)}")
    return SettingsError(f"unknown setting {key}{suggestion(key)}{_by(origin)}")


@cache
def _tables() -> frozenset[str]:
    return frozenset(key.rpartition(".")[0] for key in all_settings()) - {""}


def environment_layer(environment: Mapping[str, str]) -> dict[str, Given]:
    """Every `CHATCORE_*` in it. Raises SettingsError for those that are no setting."""
    settings = {definition.variable: definition for definition in all_settings().values()}
    layer = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
            continue
        if _is_of_kubernetes(name, text):
            raise SettingsError(
                f"{name}={text} was put there by Kubernetes, for a Service that has the server's name: set"
                " enableServiceLinks: false in the pod's specification"
            )
        if name not in settings:
            raise SettingsError(f"unknown variable {name}{_nearest_variable(name)}")
        layer[settings[name].key] = Given(settings[name].kind.from_text(text), name)
    return layer


_NOT_SETTINGS = {CONFIG_VARIABLE, "CHATCORE_BUILD"}  # the latter is setup.py's
# What Kubernetes tells each pod about each Service, https://kubernetes.io/docs/concepts/services-networking/service/
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?$")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def _is_of_kubernetes(name: str, text: str) -> bool:
    return bool(_SERVICE_LINK.search(name) or (name.endswith("_PORT") and _SERVICE_ADDRESS.match(text)))


def assignments_layer(assignments: Iterable[str], origin: str) -> dict[str, Given]:
    """Of "KEY=VALUE" each, the value as in the environment. Raises SettingsError."""
    layer = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not key or not equals:
            raise SettingsError(f"{assignment} is not KEY=VALUE{_by(origin)}")
        if key not in all_settings():
            raise _unknown(key, origin)
        layer[key] = Given(all_settings()[key].kind.from_text(text), origin)
    return layer


class Sources(NamedTuple):
    """Where a process has its settings from; `resolve` may be called again when the file has changed."""

    file: Path | None
    assignments: Sequence[str] = ()  # of --set
    flags: Layer = MappingProxyType({})  # those that were given

    def resolve(self, environment: Mapping[str, str] = os.environ) -> Resolved:
        """Raises SettingsError."""
        file = self.file
        if file is None and environment.get(CONFIG_VARIABLE):
            file = Path(environment[CONFIG_VARIABLE])
        return resolve(
            {} if file is None else layer_of(read_config(file), str(file)),
            environment_layer(environment),
            assignments_layer(self.assignments, "--set"),
            self.flags,
        )


# ---- The nearest key -------------------------------------------------------------------------------------------------


def suggestion(key: str) -> str:
    """ "; did you mean …?", or nothing if no key is near."""
    return _did_you_mean(nearest(key, _names()))


@cache
def _names() -> list[tuple[str, str]]:
    """What people may call each key: as it is, and as its field, which has the unit."""
    return [(name, each.key) for each in all_settings().values() for name in (each.key, ".".join(each.path))]


def _nearest_variable(name: str) -> str:
    """Without the prefix, which would make all of them near."""
    names = ((variable_of(called).removeprefix(PREFIX), variable_of(key)) for called, key in _names())
    return _did_you_mean(nearest(name.removeprefix(PREFIX), names))


def _nearest_table(name: str) -> str:
    found = nearest(name, ((table, table) for table in _tables()))
    return _did_you_mean(f"[{found}]" if found else "")


def _did_you_mean(name: str) -> str:
    return f"; did you mean {name}?" if name else ""
