"""Settings as people read them: the effective ones, the example file, the tables of the page for operators.

All from the definitions; knows no single setting. Shows no secret.
"""

import json
import re
import textwrap
from itertools import groupby
from typing import Any

from chatcore_server.setting import Definition, Table
from chatcore_server.settings import ServerSettings
from chatcore_server.settings_layers import DEFAULT, Resolved, all_settings
from chatcore_server.units import DURATIONS, SIZES

MASK = "********"
_WIDTH = 100  # of the comments in the example file
_PASSWORD = re.compile(r"(://[^/?#@:\s\"]*:)[^/?#\s\"]*(@)")  # of a URL: RFC 3986, 3.2.1


def shown(definition: Definition, value: Any) -> str:
    """As it stands in a TOML file, unless it is secret: those and the passwords in URLs are masked."""
    text = definition.kind.show(value)
    if definition.kind.is_secret:
        return json.dumps(MASK) if value else text
    return _PASSWORD.sub(rf"\1{MASK}\2", text)


def effective(resolved: Resolved) -> str:
    """One line for each setting: key, value, and where it came from as a comment; so it is TOML, too."""
    lines = [
        (f"{each.key} = {shown(each, each.value_in(resolved.settings))}", resolved.origins.get(each.key, DEFAULT))
        for each in all_settings().values()
    ]
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:<{width}}  # {origin}" for line, origin in lines)


def effective_as_json(resolved: Resolved) -> str:
    """{key: {"value": as TOML has it, "origin": text}}"""
    settings = {
        each.key: {
            "value": json.loads(shown(each, each.value_in(resolved.settings))),  # TOML's values are JSON's
            "origin": resolved.origins.get(each.key, DEFAULT),
        }
        for each in all_settings().values()
    }
    return json.dumps(settings, indent=2, ensure_ascii=False)


# ---- From the definitions alone --------------------------------------------------------------------------------------


def _by_table() -> list[tuple[str, list[Definition]]]:
    grouped = groupby(all_settings().values(), lambda each: each.key.rpartition(".")[0])
    return [(table, list(settings)) for table, settings in grouped]


def _about(table: str) -> str:
    """The first paragraph of the table's own docstring."""
    owner: Any = ServerSettings()
    for name in filter(None, table.split(".")):
        owner = getattr(owner, name)
    assert isinstance(owner, Table)
    return " ".join((owner.__doc__ or "").partition("\n\n")[0].split())


def example() -> str:
    """A configuration file with every setting, each commented out with its default."""
    lines = [
        "# Every setting of chatcore with its default. Take away the # in front of what you change; the rest may go.",
        f"# A duration is a string with its unit ({', '.join(DURATIONS)}), and so is a size ({', '.join(SIZES)}).",
        "# [live]: a running server takes a change up on SIGHUP. `chatcore config --config FILE` checks a file.",
    ]
    for table, settings in _by_table():
        if table:
            lines += ["", "", *_comment(_about(table)), f"[{table}]"]
        for each in settings:
            lines += ["", *_comment(_full_about(each) + (" [live]" if each.kind.is_live else ""))]
            lines.append(f"#{each.key.rpartition('.')[2]} = {each.kind.show(each.default)}")
    return "\n".join(lines) + "\n"


def _full_about(definition: Definition) -> str:
    return f"{definition.kind.about} {definition.kind.values}".rstrip()


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]


def page_tables() -> str:
    """Every setting as tables in Markdown."""
    lines = []
    for table, settings in _by_table():
        title = f"`[{table}]`: {_about(table)}" if table else "At the top of the file:"
        lines += [title, "", "| setting | default | live | |", "| --- | --- | --- | --- |"]
        for each in settings:
            name, live = each.key.rpartition(".")[2], "yes" if each.kind.is_live else ""
            lines.append(f"| `{name}` | `{each.kind.show(each.default)}` | {live} | {_cell(_full_about(each))} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
