"""Writes what follows from the settings' definitions: deploy/chatcore.toml and the tables in docs/configuration.md.

A test compares both with the definitions.
"""

from pathlib import Path

from chatcore_server.settings_text import example, page_tables

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- settings: tools/make_settings_pages.py -->\n\n", "<!-- end of settings -->"


def main() -> None:
    (ROOT / "deploy" / "chatcore.toml").write_text(example(), "utf-8")
    page = ROOT / "docs" / "configuration.md"
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    page.write_text(before + BEGIN + page_tables() + "\n" + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
