"""Every metric of /metrics: its name, kind and help text, and where its value is found.

docs/metrics.md says what to make of each; a test holds the two together. Names follow
https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows, labels for what adds up. Label
values are known beforehand, so that each series is there from the first scrape on, at 0.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from chatcore_ext.error_codes import ErrorCode, error_text

PREFIX = "chatcore_"
_UNITS = ("seconds", "bytes")


class Family(NamedTuple):
    """`source`: the value's name in the server's counters or histograms; with a label, by the label's value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    source: str | Mapping[str, str]
    label: str = ""

    @property
    def unit(self) -> str:
        last = self.name.rpartition("_")[2]
        return last if last in _UNITS else ""

    @property
    def exposed_name(self) -> str:
        """With its prefix and, for a counter, the `_total` of its samples."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


def _by_value(prefix: str, *values: str) -> dict[str, str]:
    return {value: prefix + value for value in values}


def _codes(lowest: int) -> list[str]:
    return [error_text(code) for code in ErrorCode if code >= lowest]


# What a login may end in.
_LOGIN_FAILURES = [code for code in _codes(200) if code not in _codes(301) or code in _codes(400)]

_CONNECTIONS = (
    Family(
        "connections",
        "gauge",
        "Open connections by state.",
        _by_value("connections_", "half_open", "ready", "closing"),
        "state",
    ),
    Family("connections_accepted", "counter", "Connections that came in.", "connections_accepted"),
    Family(
        "connections_refused",
        "counter",
        "Connections refused at once, over a limit: connections of their address, of the server, bytes unsent to all.",
        {
            "address": "connections_refused_by_address",
            "server": "connections_refused_by_server",
            "pending": "connections_refused_by_pending",
        },
        "limit",
    ),
    Family(
        "connections_closed",
        "counter",
        "Connections that ended, by the code they were told; by_peer: the client or the network ended it.",
        _by_value("closed_", "by_peer", *_codes(0)),
        "code",
    ),
    Family("half_open_gave_way", "counter", "Connections without HELLO closed for newer ones.", "half_open_gave_way"),
    Family(
        "accept_pauses",
        "counter",
        "Pauses of accepting, out of descriptors or memory: at the TCP door, at the others.",
        {"tcp": "accept_pauses", "other": "door_accept_pauses"},
        "door",
    ),
    Family("tls_handshakes_failed", "counter", "TLS handshakes that failed.", "tls_handshakes_failed"),
    Family("proxy_headers_refused", "counter", "Connections without a trusted PROXY header.", "proxy_headers_refused"),
    Family("client_addresses", "gauge", "Addresses of clients that are remembered for their limits.", "addresses"),
)

_PLAYERS = (
    Family("sessions", "gauge", "Sessions, with a connection or within their grace.", "sessions"),
    Family("players", "gauge", "Players with at least one session.", "players"),
    Family("channels", "gauge", "Channels with at least one connection in them.", "channels"),
    Family("subscriptions", "gauge", "Connections in channels, added up over the channels.", "subscriptions"),
    Family("sessions_expired", "counter", "Sessions whose client did not come back in time.", "sessions_expired"),
    Family(
        "logins",
        "counter",
        "HELLOs that were answered: let in as a new or a resumed session, or refused by code.",
        {"new": "logins_new", "resumed": "logins_resumed", **_by_value("logins_failed_", *_LOGIN_FAILURES)},
        "outcome",
    ),
    Family(
        "resumes",
        "counter",
        "HELLOs with a ticket: resumed, logged in anew by the token beside it, or refused by code.",
        {
            "resumed": "logins_resumed",
            "new_session": "resumes_replaced",
            **_by_value("resumes_failed_", *_LOGIN_FAILURES),
        },
        "outcome",
    ),
    Family(
        "channels_lost",
        "counter",
        "Channels that a HELLO asked for and its session is not in, by code.",
        _by_value(
            "lost_",
            *("bad_name", "not_allowed", "no_such_channel", "too_many_channels", "blocked", "channel_full"),
            *("rate_limited", "relations_unavailable"),
        ),
        "code",
    ),
    Family(
        "token_refreshes",
        "counter",
        "New tokens for sessions that go on: refreshed, or refused by code.",
        {
            "refreshed": "token_refreshes",
            **_by_value("token_refreshes_failed_", "bad_token", "token_expired", "not_allowed", "rate_limited"),
        },
        "outcome",
    ),
    Family(
        "authentication_failures",
        "counter",
        "Logins refused for what they were to prove.",
        _by_value("logins_failed_", "bad_token", "token_expired", "bad_ticket"),
        "reason",
    ),
)

_MESSAGES = (
    Family(
        "frames_received",
        "counter",
        "Frames from clients by type; other: of no type that clients send.",
        _by_value("frames_received_", "hello", "ping", "pong", "send", "signal", "request", "other"),
        "type",
    ),
    Family(
        "frames_sent",
        "counter",
        "Frames made for clients by type.",
        _by_value(
            "frames_sent_",
            *("welcome", "pong", "goaway", "close", "ack", "refused", "deliver", "signal", "gap"),
            *("reply", "failed", "event"),
        ),
        "type",
    ),
    Family("received_bytes", "counter", "Bytes from clients.", "bytes_received"),
    Family("sent_bytes", "counter", "Bytes that the kernel or a transport took for clients.", "bytes_sent"),
    Family("sends_accepted", "counter", "SENDs that may go into the log.", "sends_accepted"),
    Family("acks", "counter", "ACKs.", "acks"),
    Family(
        "refusals",
        "counter",
        "REFUSED and FAILED frames by code.",
        _by_value("refused_", *_codes(200)),
        "code",
    ),
    Family("sends_under_way", "gauge", "Messages in the log's hands that are not answered yet.", "sends_under_way"),
    Family("messages_delivered", "counter", "Messages with at least one receiver here.", "messages_delivered"),
    Family("deliveries", "counter", "Messages times their receivers.", "deliveries"),
    Family("deliveries_hidden", "counter", "Deliveries without content: who spoke is blocked.", "deliveries_hidden"),
    Family("signals_relayed", "counter", "Signals with at least one receiver here.", "signals_relayed"),
    Family("signal_deliveries", "counter", "Signals times their receivers.", "signal_deliveries"),
    Family(
        "frames_dropped",
        "counter",
        "Frames of clients that were not answered, over a limit or not allowed.",
        {"signal": "signals_dropped", "ping": "pings_dropped"},
        "type",
    ),
    Family(
        "ack_latency_seconds",
        "histogram",
        "From the turn that took a SEND out of its socket until its ACK (durable) was given to the kernel.",
        "ack_latency",
    ),
    Family(
        "delivery_latency_seconds",
        "histogram",
        "From the turn that took a SEND out of its socket until its DELIVERs were given to the kernel.",
        "delivery_latency",
    ),
)

_OUTPUT = (
    Family("pending_bytes", "gauge", "Bytes that clients have not taken, in memory.", "pending_bytes"),
    Family(
        "slow_receiver_steps",
        "counter",
        "What was done with receivers that read too slowly.",
        {
            "paused": "receivers_paused",
            "signal_coalesced": "signals_coalesced",
            "signal_left_out": "signals_left_out",
            "message_left_out": "deliveries_left_out",
            "gap_told": "gaps",
            "backlog_refused": "backlogs_refused",
            "closed": "closed_slow_receiver",
        },
        "step",
    ),
    Family("send_calls", "counter", "Send calls to sockets and writes to transports.", "send_calls"),
    Family("sends_incomplete", "counter", "Send calls of which the kernel did not take all.", "sends_incomplete"),
    Family(
        "messages_per_send_call",
        "histogram",
        "Frames in a send call that were new in its turn.",
        "frames_per_send_call",
    ),
    Family("flushes_held", "counter", "Times that a client's output waited for the flush window.", "flushes_held"),
    Family("receive_calls", "counter", "Receive calls on sockets.", "receive_calls"),
)

_LOG = (
    Family("log_queue_records", "gauge", "Records that wait to be written to the log.", "log_queue_records"),
    Family("log_queue_bytes", "gauge", "Bytes of the records that wait to be written to the log.", "log_queue_bytes"),
    Family("log_commit_seconds", "histogram", "Transactions of the log, from begin to durable.", "log_commit"),
    Family("log_commit_failures", "counter", "Transactions of the log that failed.", "log_commit_failures"),
    Family("log_records", "counter", "Records that came through the log, replayed ones too.", "records"),
    Family("log_records_repeated", "counter", "Of these: later copies of a send.", "records_repeated"),
    Family("log_records_malformed", "counter", "Of these: not understood.", "records_malformed"),
)

_PROCESS = (
    Family("ready", "gauge", "1 while /readyz says so.", "ready"),
    Family("loop_lag_seconds", "histogram", "How late a timer of the event loop was, ten times a second.", "loop_lag"),
    Family("turns", "counter", "Turns in which sockets were served.", "bursts"),
    Family("connection_table_bytes", "gauge", "Memory of the table of connections.", "connection_table_bytes"),
    Family(
        "admin_requests",
        "counter",
        "Requests to the administration: with the right token, or refused for a wrong one.",
        {"taken": "admin_requests", "refused": "admin_requests_refused"},
        "outcome",
    ),
    Family("keys", "gauge", "Keys that verify tokens.", "keys"),
    Family("key_reads", "counter", "Times that the keys were read again.", "key_reads"),
    Family("key_reads_failed", "counter", "Times that changed keys could not be used.", "key_reads_failed"),
)

FAMILIES = (*_CONNECTIONS, *_PLAYERS, *_MESSAGES, *_OUTPUT, *_LOG, *_PROCESS)
