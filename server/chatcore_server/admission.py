"""Who may come in, and into which channels: verifies tickets and tokens and looks up what they do not say.

For many at once: after a lost network thousands say hello together, and a look-up costs mostly its round. What is wrong
with one of them is that one's own; when a backend does not answer, all who need it fail with its retryable code, and
nobody is let in unchecked. Lets nobody in: that is login.py's.
"""

import asyncio
import secrets
from collections.abc import Iterable, Sequence

import msgspec

from chatcore.errors import AuthenticationError, BadName, BadTicket, ChatError, TooManyChannels
from chatcore.operations import ConversationState, Hello
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.authentication import Authenticator, Identity
from chatcore_server.backends import BackendUnavailable, Conversation, Profile, ResumeState
from chatcore_server.channels import conversation_states
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.permissions import Permissions, channel_name, is_direct_of
from chatcore_server.tickets import ChannelSet, Ticket, unpack_channels

# A ticket is issued by the server's clock and control records bear the log's: the two may differ by as much.
_CLOCK_SLACK_MS = 10_000


class Admission(msgspec.Struct):
    """A session that may come in, with all that was looked up for it."""

    session: int
    player: bytes
    resumed: bool
    token_expires_ms: int
    grants: ChannelSet | None
    blocks: list[bytes]
    conversations: dict[str, ConversationState]
    serial: int  # of the recent controls, before anything was looked up
    friends: list[bytes] | None = None
    roles: dict[bytes, str] = {}
    vouched: ChannelSet = frozenset()  # by the ticket
    issued_ms: int = 0
    channels: list[bytes] = []
    lost: dict[str, int] = {}


class Candidate(msgspec.Struct):
    """Who said hello; after `admit` with either an admission or an error."""

    connection: int
    address: int | None  # the hub's limited_address
    hello: Hello
    admission: Admission | None = None
    error: Exception | None = None


class Admissions:
    """Raises nothing about a candidate: it is written to the candidate."""

    def __init__(self, context: Context, authenticator: Authenticator, permissions: Permissions) -> None:
        self._context = context
        self._authenticator = authenticator
        self._permissions = permissions

    async def admit(self, candidates: Sequence[Candidate]) -> None:
        """By the ticket, if it still works; otherwise by the token."""
        await self._resume([candidate for candidate in candidates if candidate.hello.ticket])
        await self._log_in([one for one in candidates if one.admission is None and one.error is None])

    # ---- By a ticket -------------------------------------------------------------------------------------------------

    async def _resume(self, candidates: Sequence[Candidate]) -> None:
        """The session store is asked once, and the relations about nothing."""
        verified = self._verify_tickets(candidates)
        if not verified:
            return
        serial = self._context.recent.serial
        asked = [(ticket.session, ticket.player) for _, ticket in verified]
        try:
            states = await self._context.backends.sessions.resume(asked, self._context.settings.limits.conversations)
        except Exception as error:
            _refuse_all((candidate for candidate, _ in verified), error)
            return
        for (candidate, ticket), state in zip(verified, states, strict=True):
            if state.ended:
                _refuse_ticket(candidate, BadTicket("the session is over"))
            else:
                candidate.admission = _resumed(ticket, state, serial)

    def _verify_tickets(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Ticket]]:
        now, verified = now_ms(), []
        for candidate in candidates:
            try:
                verified.append((candidate, self._context.signer.verify(candidate.hello.ticket, now)))
            except BadTicket as error:
                _refuse_ticket(candidate, error)
        return verified

    # ---- By a token --------------------------------------------------------------------------------------------------

    async def _log_in(self, candidates: Sequence[Candidate]) -> None:
        verified = self._verify_tokens(candidates)
        if not verified:
            return
        serial = self._context.recent.serial
        backends, limit = self._context.backends, self._context.settings.limits.conversations
        try:
            profiles = await backends.relations.profiles([identity.player for _, identity in verified])
            asked = [
                (identity.player, [group for group, _ in profile.groups])
                for (_, identity), profile in zip(verified, profiles, strict=True)
            ]
            found = await backends.sessions.conversations(asked, limit)
        except Exception as error:
            _refuse_all((candidate for candidate, _ in verified), error)
            return
        for (candidate, identity), profile, conversations in zip(verified, profiles, found, strict=True):
            candidate.admission = self._logged_in(identity, profile, conversations, serial)

    def _verify_tokens(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Identity]]:
        verified = []
        for candidate in candidates:
            try:
                if not candidate.hello.token:
                    raise AuthenticationError("HELLO has neither token nor ticket")
                verified.append((candidate, self._authenticator.verify(candidate.hello.token)))
            except Exception as error:
                candidate.error = error
        return verified

    def _logged_in(
        self, identity: Identity, profile: Profile, conversations: list[Conversation], serial: int
    ) -> Admission:
        return Admission(
            secrets.randbits(64) or 1,  # 0 is no session
            identity.player,
            False,
            identity.expires_ms,
            None if identity.channels is None else self._context.signer.channel_set(identity.channels),
            profile.blocks,
            conversation_states(conversations),
            serial,
            profile.friends,
            dict(profile.groups),
        )

    # ---- Which channels it may be in again ---------------------------------------------------------------------------

    def sort_channels(self, asked_for: Iterable[str], admission: Admission) -> list[bytes]:
        """Fills in `channels` and `lost`. What is returned has to be given to `check_rights`."""
        limit = self._context.settings.limits.channels
        names = list(asked_for)
        if len(names) > limit:
            admission.lost.update(dict.fromkeys(names[limit:], TooManyChannels.code))
            del names[limit:]
        unknown = []
        for name in names:
            try:
                channel = channel_name(name)
            except BadName as error:
                admission.lost[name] = error.code
                continue
            if not self._context.signer.allows(admission.grants, channel):
                admission.lost[name] = ErrorCode.ERROR_NOT_ALLOWED
            elif self._is_vouched_for(admission, channel):
                admission.channels.append(channel)
            else:
                unknown.append(channel)
        return unknown

    async def check_rights(self, channels: Iterable[bytes], admission: Admission) -> None:
        """Asks the relations; fills in `channels` and `lost`."""
        await asyncio.gather(*(self._check_right(admission, channel) for channel in channels))

    async def _check_right(self, admission: Admission, channel: bytes) -> None:
        try:
            await self._permissions.check_right(admission.player, channel)
            admission.channels.append(channel)
        except (ChatError, BackendUnavailable) as error:
            admission.lost[channel.decode("ascii")] = error.code

    def _is_vouched_for(self, admission: Admission, channel: bytes) -> bool:
        """Rooms are open. A fresh login has read the player's groups; a ticket vouches for what it names, if nothing
        has changed since.
        """
        if channel.startswith(b"room:") or channel in admission.roles:
            return True
        if not admission.vouched or self._context.signer.digest(channel) not in admission.vouched:
            return False
        if is_direct_of(channel, admission.player) and set(channel.split(b":")[1:]) & set(admission.blocks):
            return False
        return not self._context.recent.changed_since(channel, admission.issued_ms - _CLOCK_SLACK_MS)


def _resumed(ticket: Ticket, state: ResumeState, serial: int) -> Admission:
    return Admission(
        ticket.session,
        ticket.player,
        True,
        ticket.token_expires_ms,
        None if ticket.grants is None else unpack_channels(ticket.grants),
        state.blocks,
        conversation_states(state.directs),
        serial,
        vouched=unpack_channels(ticket.checked),
        issued_ms=ticket.issued_ms,
    )


def _refuse_ticket(candidate: Candidate, error: BadTicket) -> None:
    """A token is the way out."""
    if not candidate.hello.token:
        candidate.error = error


def _refuse_all(candidates: Iterable[Candidate], error: Exception) -> None:
    for candidate in candidates:
        candidate.error = error
