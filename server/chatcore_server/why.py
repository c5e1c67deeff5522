"""Why did X not see M: what can be told after the fact, from who is here now and from history.

Says what is known and keeps to it: of the moment when the message came only a trace that ran then can tell. Reads
everything, changes nothing.
"""

import asyncio
from typing import Any

import msgspec

from chatcore.names import direct_players
from chatcore_server.backends import HistoryEntry
from chatcore_server.context import Context
from chatcore_server.trace_events import connection_text

_ONLY_A_TRACE = (
    "Whether it was so when the message came is not kept; a trace that runs then shows it:"
    " chatcore trace --player {player} --channel {channel}"
)


class Answer(msgspec.Struct):
    """`verdict` is one of the keys of _SENTENCES, for machines; `answer` says the same in words."""

    verdict: str
    answer: str
    player: str
    channel: str
    id: int
    facts: dict[str, Any]


_SENTENCES = {
    "no_such_message": "There is no message {id} in the history of {channel}: it was never written, or it is a repeated"
    " copy of an earlier send, or it is older than what is kept.",
    "is_sender": "{player} sent it, and was told its id by an ACK.",
    "hidden": "{player} has blocked {sender}: the message is shown to {player} as an empty entry.",
    "not_a_participant": "{player} is not one of the two players of this private chat.",
    "not_a_member": "{player} is not a member of this group now, so no device of theirs may join it.",
    "not_here": "{player} has no session here now. What came meanwhile is in history, where a client finds it at the"
    " next login.",
    "disconnected": "{player} is logged in but has no connection now. What comes meanwhile is in history, where the"
    " client finds it when it resumes.",
    "not_joined": "{player} is connected but not in {channel}: messages go to those who have joined.",
    "left_out": "{player} reads too slowly: messages from {first_left_out} on were left out. A GAP tells it when all"
    " that is pending is out, and the client fetches them from history.",
    "pending": "{player} is in {channel}, and {pending} bytes wait to be sent to it, which its connection does not take"
    " now. The message may be among them.",
    "sent": "{player} is in {channel} now, nothing waits to be sent and nothing was left out. If it was in the channel"
    " when the message came, its connection was given it.",
}


class Why:
    """Loop thread only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ask(self, player: bytes, channel: bytes, id: int) -> Answer:
        """Raises BackendUnavailable: what would have to be known cannot be looked up now."""
        entries, _ = await self._context.backends.history.before(channel, id + 1, 1, 0)
        entry = entries[0] if entries and entries[0].id == id else None
        devices = self._devices(player, channel)
        verdict = await self._verdict(player, channel, entry, devices)
        names: dict[str, Any] = {"player": player.decode(), "channel": channel.decode(), "id": id}
        facts: dict[str, Any] = {"in_history": entry is not None, "devices": devices}
        if entry is not None:
            facts |= {"sender": entry.sender.decode(), "time": entry.time, "size": len(entry.body)}
        words = names | {"sender": facts.get("sender", "")} | _worst(devices)
        answer = _SENTENCES[verdict].format(**words)
        if verdict in ("not_joined", "not_here", "disconnected", "sent", "hidden"):
            answer += " " + _ONLY_A_TRACE.format(**words)
        return Answer(verdict, answer, names["player"], names["channel"], id, facts)

    async def _verdict(
        self, player: bytes, channel: bytes, entry: HistoryEntry | None, devices: list[dict[str, Any]]
    ) -> str:
        """The first that explains it: what no device of the player could have changed comes first."""
        if entry is None:
            return "no_such_message"
        if channel.startswith(b"dm:") and player.decode() not in direct_players(channel.decode()):
            return "not_a_participant"
        if entry.sender == player:
            return "is_sender"
        is_member, blocks = await asyncio.gather(
            self._is_member(player, channel), self._context.backends.relations.blocks(player)
        )
        if not is_member:
            return "not_a_member"
        if entry.sender in blocks:
            return "hidden"
        if not devices:
            return "not_here"
        if not any(device["connection"] for device in devices):
            return "disconnected"
        joined = [device for device in devices if device["joined"]]
        if not joined:
            return "not_joined"
        if any(0 < device["first_left_out"] <= entry.id for device in joined):
            return "left_out"
        return "pending" if any(device["pending"] for device in joined) else "sent"

    async def _is_member(self, player: bytes, channel: bytes) -> bool:
        if not channel.startswith(b"group:"):
            return True
        return bool(await self._context.backends.relations.role(channel, player))

    def _devices(self, player: bytes, channel: bytes) -> list[dict[str, Any]]:
        hub = self._context.hub
        devices = []
        for session, connection in hub.sessions_of(player):
            found = hub.reception(connection, channel) if connection else None
            joined, first_left_out, pending, is_slow = found or (False, 0, 0, False)
            devices.append(
                {
                    "session": session,
                    "connection": connection_text(connection),
                    "joined": joined,
                    "first_left_out": first_left_out,
                    "pending": pending,
                    "slow": is_slow,
                }
            )
        return devices


def _worst(devices: list[dict[str, Any]]) -> dict[str, int]:
    """What the sentences name of the devices."""
    left_out = [device["first_left_out"] for device in devices if device["first_left_out"]]
    return {
        "first_left_out": min(left_out, default=0),
        "pending": max((device["pending"] for device in devices), default=0),
    }
