"""`chatcore chat`: a terminal client, for people (with an input line) and for scripts (commands in, one line per
event out).

A user of chatcore.Client like any other: knows nothing of frames.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ssl import SSLContext

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.patch_stdout import patch_stdout

from chatcore import Client, ConnectionLost, Reconnect, operations
from chatcore.errors import ChatError
from chatcore.events import Message, Signal
from chatcore_server.chat_commands import COMMAND_WORDS, HELP, Command, CommandError, parse_line
from chatcore_server.chat_display import Display, ScriptDisplay, TerminalDisplay

TYPING_EVERY_S = 3.0  # how often typing is told while somebody types
TYPING_SHOWN_S = 5.0  # how long it is shown without being told again


class Chat:
    """One person or script at one client. `show` gets each line of output."""

    def __init__(self, client: Client, player: str, display: Display, show: Callable[[str], None]) -> None:
        self.client = client
        self.player = player
        self.display = display
        self.show = show
        self.current = ""
        self.typists: dict[tuple[str, str], float] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # gets what ends a send
        self._actions: dict[str, Callable[[Command], Awaitable[None]]] = {
            "say": self._say,
            "msg": self._msg,
            "join": self._join,
            "to": self._to,
            "leave": self._leave,
            "history": self._history,
            "who": self._who,
            "list": self._list,
            "read": self._read,
            "typing": self._typing,
            "create": self._create,
            "add": self._add,
            "role": self._role,
            "kick": self._kick,
            "quitgroup": self._quit_group,
            "block": lambda command: self.client.block(command.target),
            "unblock": lambda command: self.client.unblock(command.target),
            "blocks": self._blocks,
            "friend": self._friend,
            "unfriend": lambda command: self.client.remove_friend(command.target),
            "friends": self._friends,
            "away": lambda command: self.client.set_presence("away"),
            "back": lambda command: self.client.set_presence("online"),
            "sleep": lambda command: asyncio.sleep(float(command.text)),
            "logout": lambda command: self.client.logout(),
            "help": self._help,
        }

    async def run(self, lines: AsyncIterator[str]) -> None:
        """Work through the lines until they end or one says /quit. Ends with ChatError if the client gives up."""
        showing = asyncio.create_task(self._show_events())
        working = asyncio.create_task(self._work(lines))
        try:
            await asyncio.wait({showing, working, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is None:
                await self._finish_sends()
            for part in (working, showing, self._broken):
                if part.done():
                    part.result()
        finally:
            for task in (showing, working):
                task.cancel()
            await asyncio.gather(showing, working, return_exceptions=True)  # one error is told, that from above

    async def _work(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            try:
                command = parse_line(line, self.player)
            except CommandError as error:
                self.show(self.display.failed("input", ChatError(str(error), code=0, name="bad_command")))
                continue
            if command is None:
                continue
            if command.name == "quit":
                return
            await self._do(command)
            if command.name == "logout":
                return

    async def _do(self, command: Command) -> None:
        try:
            await self._actions[command.name](command)
        except ConnectionLost:
            if command.name != "logout":
                raise
        except ChatError as error:
            self.show(self.display.failed(command.name, error))

    async def _show_events(self) -> None:
        async for event in self.client.events():
            if isinstance(event, Signal) and event.kind == 1:
                self._note_typing(event)
            if isinstance(event, Message):
                self.typists.pop((event.channel, event.sender), None)
            if isinstance(event, operations.ClosedEvent) and event.channel == self.current:
                self.current = ""
            line = self.display.event(event)
            if line is not None:
                self.show(line)

    def _note_typing(self, signal: Signal) -> None:
        if signal.body == b"\0":
            self.typists.pop((signal.channel, signal.sender), None)
        else:
            self.typists[signal.channel, signal.sender] = time.monotonic()

    async def _finish_sends(self) -> None:
        if self._sends:
            await asyncio.wait(self._sends)

    # Commands

    def _need_current(self) -> str:
        if not self.current:
            raise ChatError("you are in no channel; try /join lobby", code=0, name="no_channel")
        return self.current

    async def _say(self, command: Command) -> None:
        self._send(self._need_current(), command.text)

    def _send(self, channel: str, text: str) -> None:
        """Sends do not wait for one another: the acknowledgement comes when it comes, the order is kept by the
        session."""
        task = asyncio.create_task(self._send_and_tell(channel, text))
        self._sends.add(task)
        task.add_done_callback(self._end_send)

    def _end_send(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)
            self._broken.exception()  # asyncio need not tell it: `run` raises it, or something else has ended the chat

    async def _send_and_tell(self, channel: str, text: str) -> None:
        try:
            receipt = await self.client.send(channel, text)
        except ChatError as error:
            self.show(self.display.failed("say", error))
            return
        line = self.display.sent(channel, receipt.id)
        if line is not None:
            self.show(line)

    async def _msg(self, command: Command) -> None:
        await self._join(command)
        if command.text:
            self._send(command.target, command.text)

    async def _join(self, command: Command) -> None:
        if command.target not in self.client.channels:
            self.show(self.display.joined(await self.client.join(command.target)))
        self.current = command.target

    async def _to(self, command: Command) -> None:
        if command.target not in self.client.channels:
            raise ChatError(f"you are not in {command.target}; /join it", code=0, name="not_joined")
        self.current = command.target

    async def _leave(self, command: Command) -> None:
        channel = command.target or self._need_current()
        await self.client.leave(channel)
        if channel == self.current:
            self.current = ""

    async def _history(self, command: Command) -> None:
        for message in await self.client.history(self._need_current(), limit=int(command.text)):
            self.show(self.display.history(message))

    async def _who(self, command: Command) -> None:
        channel = command.target or self._need_current()
        for member in await self.client.members(channel):
            self.show(self.display.member(channel, member))

    async def _list(self, command: Command) -> None:
        for channel, state in (await self.client.conversations()).items():
            self.show(self.display.conversation(channel, state))

    async def _read(self, command: Command) -> None:
        messages = await self.client.history(self._need_current(), limit=1)
        if messages:
            await self.client.mark_read(self.current, messages[-1].id)

    async def _typing(self, command: Command) -> None:
        self.client.typing(self._need_current())

    async def _create(self, command: Command) -> None:
        await self.client.create_group(command.target)
        await self._join(command)

    async def _add(self, command: Command) -> None:
        await self.client.add_member(self._need_current(), command.target, _role(command.text))

    async def _role(self, command: Command) -> None:
        await self.client.set_role(self._need_current(), command.target, _role(command.text))

    async def _kick(self, command: Command) -> None:
        await self.client.remove_member(self._need_current(), command.target)

    async def _quit_group(self, command: Command) -> None:
        await self.client.leave_group(self._need_current())
        self.current = ""

    async def _blocks(self, command: Command) -> None:
        self.show(self.display.note("blocked: " + (", ".join(await self.client.blocks()) or "nobody")))

    async def _friend(self, command: Command) -> None:
        mutual = await self.client.add_friend(command.target)
        told = "is your friend now" if mutual else "becomes your friend by adding you too"
        self.show(self.display.note(f"{command.target} {told}"))

    async def _friends(self, command: Command) -> None:
        reply = await self.client.friends()
        for player, presence in reply.friends.items():
            self.show(self.display.member("", operations.MemberState(player, "friend", presence)))
        for player in reply.asked:
            self.show(self.display.note(f"{player} has added you; /friend {player} makes you friends"))

    async def _help(self, command: Command) -> None:
        for line in HELP.splitlines():
            self.show(self.display.note(line))


def _role(text: str) -> operations.Role:
    assert text in ("owner", "officer", "member")
    return text  # type: ignore[return-value]  # mypy does not narrow str to Literal by `in`


# ---- Where lines come from and go to
# ----------------------------------------------------------------------------------


async def _script_lines() -> AsyncIterator[str]:
    """Lines of standard input, which may be a file, a pipe or a terminal: read in a thread, since a file cannot be
    awaited. In UTF-8 as the protocol, whatever the locale; what is none keeps its place, and parse_line refuses it."""
    while True:
        line = await asyncio.to_thread(sys.stdin.buffer.readline)
        if not line:
            return
        yield line.decode("utf-8", "surrogateescape")


def _print_line(line: str) -> None:
    print(line, flush=True)


async def _prompt_lines(chat: Chat, session: "PromptSession[str]") -> AsyncIterator[str]:
    while True:
        try:
            yield await session.prompt_async(lambda: f"{chat.current or '(no channel)'}> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            return


def _prompt_session(chat: Chat) -> "PromptSession[str]":
    last_told = 0.0

    def toolbar() -> str:
        now = time.monotonic()
        names = [
            who for (where, who), at in chat.typists.items() if where == chat.current and now - at < TYPING_SHOWN_S
        ]
        typing = f"{', '.join(names)} typing ..." if names else ""
        return ("connected  " if chat.client.connected else "DISCONNECTED  ") + typing

    def tell_typing(buffer: Buffer) -> None:
        nonlocal last_told
        now = time.monotonic()
        if chat.current and buffer.text and not buffer.text.startswith("/") and now - last_told > TYPING_EVERY_S:
            last_told = now
            chat.client.typing(chat.current)

    session: PromptSession[str] = PromptSession(
        completer=WordCompleter(list(COMMAND_WORDS), sentence=True),
        bottom_toolbar=toolbar,
        refresh_interval=1.0,
        erase_when_done=True,  # what was said shows when it comes back from the server
    )
    session.default_buffer.on_text_changed += tell_typing
    return session


async def chat(address: str, token: Callable[[], str], encryption: SSLContext | None) -> None:
    """Run the client until its user quits. Raises ChatError if the first connection fails or the client gives up,
    ValueError for an address that is none, and OSError for an output that takes no more."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    reconnect = Reconnect(limit_ms=3000)
    client = Client(address, token=token, name="chatcore-chat", reconnect=reconnect, ssl=encryption)
    async with client:
        display: Display = TerminalDisplay(client.player) if interactive else ScriptDisplay()
        talk = Chat(client, client.player, display, _print_line)
        if not interactive:
            await talk.run(_script_lines())
            return
        with patch_stdout():
            print("type /help for what you can do, /join lobby to start")
            await talk.run(_prompt_lines(talk, _prompt_session(talk)))
