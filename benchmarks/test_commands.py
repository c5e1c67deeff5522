"""The measurements that are commands of their own, as short as can be: each runs to its end, so none rots."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# Where Python does not look beside a script by itself (PYTHONSAFEPATH, by which CI measures the installed wheel).
PATHS = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
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
        [sys.executable, FOLDER / script, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
