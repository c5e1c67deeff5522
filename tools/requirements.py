"""Prints requirements out of pyproject.toml, one a line: the build's, the project's, and those of one dependency group.

pip reads dependency groups (PEP 735) only from version 25.1 on, and Debian's is older. Installs nothing itself.
"""

import sys
import tomllib
from pathlib import Path


def main(group: str) -> None:
    settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    wanted = [*settings["build-system"]["requires"], *settings["project"]["dependencies"]]
    print("\n".join([*wanted, *settings["dependency-groups"][group]]))


if __name__ == "__main__":
    main(sys.argv[1])
