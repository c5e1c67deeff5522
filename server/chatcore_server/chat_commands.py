"""What a person or a script types into `chatcore chat`: lines in, commands out.

Knows the words of the commands and nothing of connections, screens or clocks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from chatcore.errors import ChatError
from chatcore.names import channel_kind, direct_channel, validate_channel, validate_player

HELP = """\
text                      say it in the current channel (//text for a text that starts with /)
/join CHANNEL             enter room:NAME, group:NAME or dm:A:B and make it the current channel; NAME alone means
room:NAME
/msg PLAYER [TEXT]        private chat: make it the current channel, and say TEXT if given
/to CHANNEL               make a channel that you are in the current one
/leave [CHANNEL]          stop receiving it (a group's membership stays)
/history [NUMBER]         the last messages of the current channel (20)
/who [CHANNEL]            who is here
/list                     your groups and private chats, with unread counts
/read                     mark the current channel as read
/typing                   tell the others that you are typing
/create GROUP             found a group; you are its owner
/add PLAYER [ROLE]        add somebody to the current group (member)
/role PLAYER ROLE         member, officer or owner (hands the group over)
/kick PLAYER              remove somebody from the current group
/quitgroup                leave the current group for good
/block PLAYER  /unblock PLAYER  /blocks
/friend PLAYER  /unfriend PLAYER  /friends
/away  /back              your presence
/sleep SECONDS            wait (for scripts; what arrives meanwhile is shown)
/logout                   end the session, then quit
/quit                     quit; the session may be resumed for a while
/help"""


class CommandError(Exception):
    """The line is not a command that exists, or lacks something. The text says what to type."""


@dataclass(frozen=True, slots=True)
class Command:
    """One line, understood. `name` is the command's word without slash ("say" for plain text).

    `target` is a channel or a player as the command wants it, "" where it has none; `text` is the rest.
    """

    name: str
    target: str = ""
    text: str = ""


def parse_line(line: str, player: str) -> Command | None:
    """The command in a line typed by `player`; None for an empty line. Raises CommandError."""
    line = line.strip()
    if not line:
        return None
    try:
        line.encode()
    except UnicodeEncodeError:
        raise CommandError("the line is not UTF-8") from None
    if not line.startswith("/"):
        return Command("say", text=line)
    if line.startswith("//"):
        return Command("say", text=line[1:])
    word, _, rest = line[1:].partition(" ")
    form = _FORMS.get(word.lower())
    if form is None:
        raise CommandError(f"no command /{word}; /help lists them")
    return form(word.lower(), rest.strip(), player)


def full_channel_name(name: str) -> str:
    """`NAME` alone means `room:NAME`. Raises CommandError for what is no channel's name."""
    channel = name if ":" in name else f"room:{name}"
    try:
        validate_channel(channel)
    except ChatError as error:
        raise CommandError(f"{name!r} is not a channel: {error}") from None
    return channel


def _player_name(name: str) -> str:
    try:
        validate_player(name)
    except ChatError as error:
        raise CommandError(f"{name!r} is not a player's name: {error}") from None
    return name


# Each form takes (word, rest of the line, own player) and gives the command.
_Form = Callable[[str, str, str], Command]


def _alone(word: str, rest: str, player: str) -> Command:
    if rest:
        raise CommandError(f"/{word} takes nothing after it")
    return Command(word)


def _channel(word: str, rest: str, player: str) -> Command:
    if not rest:
        raise CommandError(f"/{word} needs a channel: /{word} room:lobby")
    return Command(word, full_channel_name(rest))


def _optional_channel(word: str, rest: str, player: str) -> Command:
    return Command(word, full_channel_name(rest) if rest else "")


def _group(word: str, rest: str, player: str) -> Command:
    if not rest:
        raise CommandError(f"/{word} needs a group's name: /{word} wolves")
    channel = full_channel_name(rest if ":" in rest else f"group:{rest}")
    if channel_kind(channel) != "group":
        raise CommandError(f"/{word} needs a group, not {channel}")
    return Command(word, channel)


def _player(word: str, rest: str, player: str) -> Command:
    if not rest or " " in rest:
        raise CommandError(f"/{word} needs one player: /{word} bob")
    return Command(word, _player_name(rest))


def _player_and_text(word: str, rest: str, player: str) -> Command:
    other, _, text = rest.partition(" ")
    if not other:
        raise CommandError(f"/{word} needs a player: /{word} bob")
    return Command(word, _player_name(other), text.strip())


def _role(word: str, rest: str, player: str) -> Command:
    command = _player_and_text(word, rest, player)
    role = command.text or ("member" if word == "add" else "")
    if role not in ("member", "officer", "owner"):
        raise CommandError(f"/{word} needs a player and a role (member, officer, owner): /{word} bob officer")
    return Command(word, command.target, role)


def _message(word: str, rest: str, player: str) -> Command:
    command = _player_and_text(word, rest, player)
    if command.target == player:
        raise CommandError("that is you: a private chat has two players")
    return Command(word, direct_channel(player, command.target), command.text)


def _count(word: str, rest: str, player: str) -> Command:
    if rest and not (rest.isdecimal() and 1 <= int(rest) <= 500):
        raise CommandError(f"/{word} takes a number from 1 to 500")
    return Command(word, text=rest or "20")


def _seconds(word: str, rest: str, player: str) -> Command:
    try:
        seconds = float(rest)
    except ValueError:
        raise CommandError(f"/{word} needs a number of seconds: /{word} 1.5") from None
    if not 0 <= seconds <= 3600:
        raise CommandError(f"/{word} takes 0 to 3600 seconds")
    return Command(word, text=rest)


_FORMS: dict[str, _Form] = {
    "join": _channel,
    "to": _channel,
    "leave": _optional_channel,
    "who": _optional_channel,
    "msg": _message,
    "history": _count,
    "list": _alone,
    "read": _alone,
    "typing": _alone,
    "create": _group,
    "add": _role,
    "role": _role,
    "kick": _player,
    "quitgroup": _alone,
    "block": _player,
    "unblock": _player,
    "blocks": _alone,
    "friend": _player,
    "unfriend": _player,
    "friends": _alone,
    "away": _alone,
    "back": _alone,
    "sleep": _seconds,
    "logout": _alone,
    "quit": _alone,
    "help": _alone,
}
COMMAND_WORDS = tuple(f"/{word}" for word in _FORMS)
