"""The fuzz targets by name. Each takes any bytes and returns, or raises for a bug; the corpus of each is a folder."""

from collections.abc import Callable
from pathlib import Path

from fuzz import codec, connections, credentials, doors, frames

TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames.one_input,
    "codec": codec.one_input,
    "credentials": credentials.one_input,
    "connections": connections.one_input,
    "doors": doors.one_input,
}
CORPUS = Path(__file__).parent / "corpus"


def kept_inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())
