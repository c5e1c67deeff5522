"""Settings as people read them, and that what follows from the definitions has been written again."""

import json
import tomllib
from pathlib import Path

import pytest

from chatcore_server.setting import Choice, Definition, Text, Texts
from chatcore_server.settings import ServerSettings
from chatcore_server.settings_layers import Sources, all_settings, layer_of, load_settings, resolve
from chatcore_server.settings_text import MASK, effective, effective_as_json, example, page_tables, shown

ROOT = Path(__file__).parents[2]
WRITE_AGAIN = "run tools/make_settings_pages.py"


def test_the_effective_settings_are_a_file_that_sets_the_same() -> None:
    sources = Sources(None, ["limits.heartbeat=7s", 'data="quoted"\\ü', "websocket.origins=https://a,null"])
    text = effective(sources.resolve({}))
    assert resolve(layer_of(tomllib.loads(text), "")).settings == sources.resolve({}).settings
    lines = {line.split(" = ")[0]: line for line in text.splitlines()}
    assert lines.keys() == all_settings().keys()
    assert lines["limits.heartbeat"].split() == ["limits.heartbeat", "=", '"7s"', "#", "--set"]
    assert lines["limits.channels"].split() == ["limits.channels", "=", "256", "#", "default"]


def test_as_json() -> None:
    settings = json.loads(effective_as_json(Sources(None, ["limits.heartbeat=7s"]).resolve({"CHATCORE_PORT": "1"})))
    assert settings.keys() == all_settings().keys()
    assert settings["limits.heartbeat"] == {"value": "7s", "origin": "--set"}
    assert settings["port"] == {"value": 1, "origin": "CHATCORE_PORT"}
    assert settings["websocket.origins"] == {"value": [], "origin": "default"}


@pytest.mark.parametrize(
    ("value", "is_shown"),
    [
        ("redis://user:pass@host:1/0?a=b", f"redis://user:{MASK}@host:1/0?a=b"),
        ("redis://:p@ss@host", f"redis://:{MASK}@host"),
        ("redis://host:1/a@b", "redis://host:1/a@b"),
        ("redis://user@host", "redis://user@host"),
        ("a:b@c", "a:b@c"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_masked(value: str, is_shown: str) -> None:
    assert shown(Definition("a", ("a",), Text(about=""), ""), value) == f'"{is_shown}"'
    assert shown(Definition("a", ("a",), Texts(about=""), ()), (value, value)) == f'["{is_shown}", "{is_shown}"]'


def test_secrets_are_masked() -> None:
    secret = Definition("a", ("a",), Text(about="", is_secret=True), "")
    assert shown(secret, "hunter2") == f'"{MASK}"'
    assert shown(secret, "") == '""', "that there is none is no secret"


def test_the_example_file_is_of_today() -> None:
    assert (ROOT / "deploy" / "chatcore.toml").read_text("utf-8") == example(), WRITE_AGAIN


def test_the_example_file_sets_nothing_and_with_its_comments_taken_away_every_default() -> None:
    assert not layer_of(tomllib.loads(example()), "")
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in example().splitlines()
    ]
    uncommented = layer_of(tomllib.loads("\n".join(lines)), "")
    assert uncommented.keys() == all_settings().keys()
    assert resolve(uncommented).settings == load_settings() == ServerSettings()


def test_every_choice_is_named_where_it_is_explained() -> None:
    for each in all_settings().values():
        if isinstance(each.kind, Choice):
            named = "One of " + ", ".join(f'"{option}"' for option in each.kind.options)
            for text in (example().replace("\n# ", " "), page_tables()):
                assert named in text, each.key


def test_the_page_for_operators_is_of_today() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page.partition("make_settings_pages.py -->\n\n")[2].partition("\n<!-- end")[0] == page_tables(), WRITE_AGAIN
    for each in all_settings().values():
        assert f"| `{each.key.rpartition('.')[2]}` | `{each.kind.show(each.default)}` |" in page
