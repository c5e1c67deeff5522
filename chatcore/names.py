"""Names of players and channels: what is valid, and what a channel's name says about it.

Names are identifiers, never texts to show: ASCII only, so that no two of them look alike by Unicode tricks.
"""

import re
from typing import Literal

from chatcore.errors import BadName
from chatcore_ext.constants import MAX_NAME_SIZE

ChannelKind = Literal["room", "group", "dm"]

_NAME = re.compile(rf"[A-Za-z0-9._@|+-]{{1,{MAX_NAME_SIZE}}}", re.ASCII)


def validate_player(name: str) -> str:
    """The name itself. Raises BadName unless it is 1 to 64 characters of `A-Z a-z 0-9 . _ - @ | +`."""
    if not _NAME.fullmatch(name):
        raise BadName(f"a name is 1 to {MAX_NAME_SIZE} characters of A-Z a-z 0-9 . _ - @ | +, not {_shown(name)}")
    return name


def validate_channel(channel: str) -> str:
    """The channel's name itself. Raises BadName unless it is `room:NAME`, `group:NAME` or `dm:A:B` with A < B."""
    kind, _, rest = channel.partition(":")
    if kind in ("room", "group"):
        validate_player(rest)
    elif kind == "dm":
        first, _, second = rest.partition(":")
        if not validate_player(first) < validate_player(second):
            raise BadName(f"the players of a private chat stand in byte order and differ: {_shown(channel)}")
    else:
        raise BadName(f"a channel is room:NAME, group:NAME or dm:A:B, not {_shown(channel)}")
    return channel


def channel_kind(channel: str) -> ChannelKind:
    """The kind of a valid channel name."""
    kind = channel.partition(":")[0]
    assert kind in ("room", "group", "dm")
    return kind  # type: ignore[return-value]  # mypy does not narrow str to Literal by `in`


def room_channel(name: str) -> str:
    return validate_channel(f"room:{name}")


def group_channel(name: str) -> str:
    return validate_channel(f"group:{name}")


def direct_channel(player: str, other: str) -> str:
    """The private chat of two players, in either order. Raises BadName for invalid names and for a player with
    itself."""
    if player == other:
        raise BadName("a private chat needs two different players")
    first, second = sorted((validate_player(player), validate_player(other)))
    return f"dm:{first}:{second}"


def direct_players(channel: str) -> tuple[str, str]:
    """The two players of a valid `dm:` channel name."""
    _, first, second = channel.split(":")
    return first, second


def _shown(name: str) -> str:
    """At most 40 characters, escaped: names come from outside and end up in logs and terminals."""
    return ascii(name if len(name) <= 40 else name[:40] + "...")
