"""What a load consists of: the options of `chatcore load`, and who is in which channel.

A plan follows from the options alone: the same seed gives the same players, rooms and pairs. Opens nothing.
"""

import math
import random

import msgspec

from chatcore.names import direct_channel
from chatcore_ext.load_checker import MIN_BODY_SIZE

DEFAULT_ROOMS = 10
MAX_CONNECTIONS = 1_000_000
MAX_MESSAGES = 20_000_000  # 60 bytes of memory each, and a bit per delivery, while the run lasts


class LoadError(Exception):
    """The load cannot be run. The text says why and what to do."""


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are per second and for all connections together."""

    host: str = "127.0.0.1"
    port: int = 7400
    connections: int = 100
    rooms: int = DEFAULT_ROOMS
    rate: float = 100.0
    duration_s: float = 10.0
    ramp_s: float = 0.0
    seed: int = 1
    body_bytes: int = 64
    private_share: float = 0.0
    storm: bool = False
    processes: int = 1
    audience: str = ""  # of the players' tokens, as the issuer
    issuer: str = ""

    @property
    def n_messages(self) -> int:
        return max(1, round(self.rate * self.duration_s))


class ClientPlan(msgspec.Struct, frozen=True):
    """A player and its channels: the room, and the private chat if it has a partner."""

    name: str
    channels: list[str]


class Share(msgspec.Struct, frozen=True):
    """What one process plays. Rooms and pairs never reach over processes, so each checks its own alone."""

    index: int
    run: int  # in every body: tells this run from others in the same channels
    clients: list[ClientPlan]
    rate: float
    n_messages: int


def check_options(options: LoadOptions) -> None:
    """Raises LoadError."""
    rules = [
        (1 <= options.connections <= MAX_CONNECTIONS, f"--connections is 1 to {MAX_CONNECTIONS:,}"),
        (1 <= options.rooms <= options.connections, "--rooms is 1 to --connections: nobody would be in the others"),
        (options.rate > 0 and math.isfinite(options.rate), "--rate is a finite number above 0"),
        (
            options.duration_s > 0 and math.isfinite(options.duration_s),
            "--duration is a finite number of seconds above 0",
        ),
        (options.ramp_s >= 0 and math.isfinite(options.ramp_s), "--ramp is a finite number of seconds, 0 or more"),
        (0 <= options.seed < 1 << 32, "--seed is 0 to 4,294,967,295"),
        (
            options.body_bytes >= MIN_BODY_SIZE,
            f"--body-bytes is at least {MIN_BODY_SIZE}: they tell messages apart",
        ),
        (0 <= options.private_share <= 1, "--private-share is 0 to 1"),
        (
            1 <= options.processes <= options.rooms,
            f"--processes is 1 to --rooms, which is {options.rooms}: a room lies in one process, which checks all of"
            " its deliveries",
        ),
        (
            options.rate * options.duration_s <= MAX_MESSAGES,
            f"--rate times --duration is over {MAX_MESSAGES:,} messages: each is remembered to the end",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise LoadError(message)


def plan_shares(options: LoadOptions, run: int) -> list[Share]:
    """One for each process. Raises LoadError."""
    check_options(options)
    players = list(range(options.connections))
    random.Random(options.seed).shuffle(players)
    in_process: list[list[tuple[int, int]]] = [[] for _ in range(options.processes)]  # (player, room)
    for place, player in enumerate(players):
        room = place % options.rooms
        in_process[room % options.processes].append((player, room))
    messages = _in_parts(options.n_messages, [len(found) for found in in_process])
    return [
        Share(
            index,
            (run + index) % (1 << 64),
            _client_plans(options, found),
            options.rate * messages[index] / options.n_messages,
            messages[index],
        )
        for index, found in enumerate(in_process)
    ]


def _client_plans(options: LoadOptions, found: list[tuple[int, int]]) -> list[ClientPlan]:
    names = [f"load-{options.seed}-{player}" for player, _ in found]
    plans = []
    for place, (_, room) in enumerate(found):
        channels = [f"room:load-{options.seed}-{room}"]
        partner = place ^ 1
        if options.private_share and partner < len(found):
            channels.append(direct_channel(names[place], names[partner]))
        plans.append(ClientPlan(names[place], channels))
    return plans


def _in_parts(total: int, weights: list[int]) -> list[int]:
    """Whole numbers in proportion to the weights, whose sum is the total."""
    parts, taken, so_far = [], 0, 0
    for weight in weights:
        so_far += weight
        end = total * so_far // sum(weights)
        parts.append(end - taken)
        taken = end
    return parts
