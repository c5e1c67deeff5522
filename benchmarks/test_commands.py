"""The measurements that are commands of their own, as short as can be: each runs to its end, so none rots."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    "doors.py --receivers=20 --messages=20 --rounds=1",
    "hostile.py --runs=1 --seconds=1",
    "hot_rooms.py window --runs=1 --seconds=0.3",
    "hot_rooms.py silent --runs=1 --seconds=0.3",
    "idle.py --connections=200 --seconds=1",
    "logins.py --connections=200 --runs=1",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split(" --")[0])
def test_command(command: str) -> None:
    script, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
