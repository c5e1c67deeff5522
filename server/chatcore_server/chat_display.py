"""What `chatcore chat` shows: one event in, one line out, for people or for scripts.

Pure text: knows no connection and no screen. Everything that came from others is made harmless for a terminal.
"""

import time
from typing import Protocol

from chatcore import events, operations
from chatcore.errors import ChatError
from chatcore.names import channel_kind, direct_players


def harmless(text: str) -> str:
    """The text without control characters: a message must not move the cursor or change the title of somebody's
    terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class Display(Protocol):
    """Lines for what happens; None where nothing is worth a line."""

    def event(self, event: events.SessionEvent) -> str | None: ...
    def sent(self, channel: str, id: int) -> str | None: ...
    def failed(self, command: str, error: ChatError) -> str: ...
    def note(self, text: str) -> str: ...
    def history(self, message: events.Message) -> str: ...
    def member(self, channel: str, member: operations.MemberState) -> str: ...
    def conversation(self, channel: str, state: operations.ConversationState) -> str: ...
    def joined(self, reply: operations.JoinReply) -> str: ...


class ScriptDisplay:
    """One line per event: a word, then fields by spaces, the free text last. Stable: scripts read it."""

    def event(self, event: events.SessionEvent) -> str | None:
        match event:
            case events.Message():
                return f"message {event.channel} {event.id} {event.sender} {harmless(event.text)}"
            case events.Signal():
                body = harmless(event.body.decode("utf-8", "replace"))
                return f"signal {event.channel} {event.kind} {event.sender} {body}".rstrip()
            case events.Connected():
                return f"connected {event.player} session={event.session} resumed={str(event.resumed).lower()}"
            case events.ConnectionClosed():
                return f"disconnected {event.error.name if event.error else 'connection_lost'}"
            case events.Draining():
                return f"draining deadline_ms={event.deadline_ms}"
            case events.EpochChanged():
                return f"epoch {event.epoch}"
            case events.HashMismatch():
                return f"hash_mismatch {event.channel} {event.id}"
            case events.HistoryTruncated():
                return f"truncated {event.channel} {event.after} {event.before}"
            case events.ChannelLost():
                return f"closed {event.channel} {event.error.name}"
            case _:
                return self._wire_event(event)

    def _wire_event(self, event: events.SessionEvent) -> str | None:
        match event:
            case operations.OpenedEvent():
                return f"opened {event.channel}"
            case operations.ClosedEvent():
                return f"closed {event.channel} {event.code}"
            case operations.JoinedEvent():
                return f"came {event.channel} {event.player}"
            case operations.LeftEvent():
                return f"went {event.channel} {event.player}"
            case operations.MemberEvent():
                return f"member {event.channel} {event.player} {event.role or 'none'} by={event.by}"
            case operations.PresenceEvent():
                return f"presence {event.player} {event.presence}"
            case operations.ReadEvent():
                return f"read {event.channel} {event.id}"
            case _:
                return None

    def sent(self, channel: str, id: int) -> str | None:
        return f"sent {channel} {id}"

    def failed(self, command: str, error: ChatError) -> str:
        return f"error {command} {error.name} {harmless(error.message)}".rstrip()

    def note(self, text: str) -> str:
        return f"note {harmless(text)}"

    def history(self, message: events.Message) -> str:
        return f"history {message.channel} {message.id} {message.sender} {harmless(message.text)}"

    def member(self, channel: str, member: operations.MemberState) -> str:
        return f"who {channel} {member.player} {member.role or 'none'} {member.presence}"

    def conversation(self, channel: str, state: operations.ConversationState) -> str:
        return f"conversation {channel} head={state.head} read={state.read} unread={state.unread}"

    def joined(self, reply: operations.JoinReply) -> str:
        return f"joined {reply.channel} head={reply.head} role={reply.role or 'none'}"


class TerminalDisplay:
    """Lines for a person. `own` is the player at the terminal."""

    def __init__(self, own: str) -> None:
        self.own = own

    def event(self, event: events.SessionEvent) -> str | None:
        match event:
            case events.Message():
                return self._message(event)
            case events.Connected():
                return self._connected(event)
            case events.ConnectionClosed():
                return f"* disconnected ({event.error.name if event.error else 'connection lost'}); coming back ..."
            case events.Draining():
                return "* the server is going down for a moment"
            case events.EpochChanged():
                return "* the server's log was made anew"
            case events.HashMismatch():
                return f"! {event.channel}: what was shown is not what the log holds (message {event.id})"
            case events.HistoryTruncated():
                return f"! {event.channel}: some older messages are no longer kept"
            case events.ChannelLost():
                return f"* you are no longer in {event.channel}: {event.error.name}"
            case _:
                return self._wire_event(event)

    def _connected(self, event: events.Connected) -> str:
        if event.resumed:
            return "* connected again, where we left off"
        unread = {channel: state.unread for channel, state in event.conversations.items() if state.unread}
        told = [f"{number} in {self._place(channel)}" for channel, number in unread.items()]
        return f"* connected as {event.player}" + (f"; unread: {', '.join(told)}" if told else "")

    def _wire_event(self, event: events.SessionEvent) -> str | None:
        match event:
            case operations.ClosedEvent():
                return f"* you are no longer in {event.channel}"
            case operations.JoinedEvent():
                return f"* {event.player} came to {event.channel}"
            case operations.LeftEvent():
                return f"* {event.player} left {event.channel}"
            case operations.MemberEvent():
                done = f"is now {event.role} of" if event.role else "is no longer in"
                return f"* {event.player} {done} {event.channel} (by {event.by})"
            case operations.PresenceEvent():
                return f"* {event.player} is {event.presence}"
            case _:
                return None

    def _message(self, message: events.Message) -> str:
        clock = time.strftime("%H:%M", time.localtime(message.time / 1000))
        return f"{clock} {self._place(message.channel)} <{message.sender}> {harmless(message.text)}"

    def _place(self, channel: str) -> str:
        if channel_kind(channel) != "dm":
            return channel
        first, second = direct_players(channel)
        return f"@{second if first == self.own else first}"

    def sent(self, channel: str, id: int) -> str | None:
        return None  # a person sees the message itself

    def failed(self, command: str, error: ChatError) -> str:
        return f"! {command}: {harmless(str(error))}"

    def note(self, text: str) -> str:
        return text

    def history(self, message: events.Message) -> str:
        return self._message(message)

    def member(self, channel: str, member: operations.MemberState) -> str:
        return f"  {member.player}" + (f" ({member.role})" if member.role else "") + f" {member.presence}"

    def conversation(self, channel: str, state: operations.ConversationState) -> str:
        return f"  {channel}" + (f"  {state.unread} unread" if state.unread else "")

    def joined(self, reply: operations.JoinReply) -> str:
        return f"* you are in {reply.channel}" + (f" as {reply.role}" if reply.role else "")
