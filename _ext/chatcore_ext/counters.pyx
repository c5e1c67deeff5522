"""What a hub counts, by name. The names are those of the metrics, without their prefix."""

from chatcore_ext.constants cimport (
    FRAME_CLOSE, FRAME_EVENT, FRAME_FAILED, FRAME_GOAWAY, FRAME_HELLO, FRAME_PING, FRAME_PONG, FRAME_REFUSED,
    FRAME_REPLY, FRAME_REQUEST, FRAME_SEND, FRAME_SIGNAL, FRAME_WELCOME,
)
from chatcore_ext.error_codes cimport error_name


cdef tuple RECEIVED = (
    (<int>FRAME_HELLO, "hello"), (<int>FRAME_PING, "ping"), (<int>FRAME_PONG, "pong"), (<int>FRAME_SEND, "send"),
    (<int>FRAME_SIGNAL, "signal"), (<int>FRAME_REQUEST, "request"),
)
# Those without a counter of their own.
cdef tuple SENT = (
    (<int>FRAME_WELCOME, "welcome"), (<int>FRAME_PONG, "pong"), (<int>FRAME_GOAWAY, "goaway"),
    (<int>FRAME_CLOSE, "close"), (<int>FRAME_REFUSED, "refused"), (<int>FRAME_REPLY, "reply"),
    (<int>FRAME_FAILED, "failed"), (<int>FRAME_EVENT, "event"),
)


cdef dict counters_as_dict(const Counters* counters):
    cdef dict result = totals_of(counters)
    add_frames_received(result, counters)
    add_frames_sent(result, counters)
    add_codes(result, counters)
    return result


cdef dict totals_of(const Counters* counters):
    return {
        "bursts": counters.bursts,
        "connections_accepted": counters.connections_accepted,
        "connections_refused": counters.connections_refused,
        "connections_refused_by_address": counters.connections_refused_by_address,
        "connections_refused_by_pending": counters.connections_refused_by_pending,
        "half_open_gave_way": counters.half_open_gave_way,
        "accept_pauses": counters.accept_pauses,
        "receive_calls": counters.receive_calls,
        "bytes_received": counters.bytes_received,
        "send_calls": send_calls_of(counters),
        "frames_in_send_calls": counters.frames_in_send_calls,
        "sends_incomplete": counters.sends_incomplete,
        "bytes_sent": counters.bytes_sent,
        "flushes_held": counters.flushes_held,
        "records": counters.records,
        "records_malformed": counters.records_malformed,
        "records_repeated": counters.records_repeated,
        "messages_delivered": counters.messages_delivered,
        "deliveries": counters.deliveries,
        "deliveries_hidden": counters.deliveries_hidden,
        "deliveries_left_out": counters.deliveries_left_out,
        "gaps": counters.gaps,
        "receivers_paused": counters.receivers_paused,
        "backlogs_refused": counters.backlogs_refused,
        "signals_coalesced": counters.signals_coalesced,
        "signals_left_out": counters.signals_left_out,
        "signals_relayed": counters.signals_relayed,
        "signal_deliveries": counters.signal_deliveries,
        "signals_dropped": counters.signals_dropped,
        "pings_dropped": counters.pings_dropped,
        "sends_accepted": counters.sends_accepted,
        "acks": counters.acks,
        "sessions_expired": counters.sessions_expired,
    }


cdef int add_frames_received(dict result, const Counters* counters) except -1:
    cdef:
        unsigned long long total = 0
        unsigned long long others
        int code
    for code in range(N_FRAME_TYPES):
        total += counters.frames_received[code]
    others = total
    for code, name in RECEIVED:
        result[f"frames_received_{name}"] = counters.frames_received[code]
        others -= counters.frames_received[code]
    result["frames_received"] = total
    result["frames_received_other"] = others  # of a type that does not exist, or that only servers send
    return 0


cdef int add_frames_sent(dict result, const Counters* counters) except -1:
    cdef int code
    for code, name in SENT:
        result[f"frames_sent_{name}"] = counters.frames_sent[code]
    result["frames_sent_ack"] = counters.acks
    result["frames_sent_deliver"] = counters.deliveries
    result["frames_sent_signal"] = counters.signal_deliveries
    result["frames_sent_gap"] = counters.gaps
    return 0


# They appear once they were used: a dict of all of them would be mostly zeros.
cdef int add_codes(dict result, const Counters* counters) except -1:
    cdef int code
    result["closed_by_peer"] = counters.closed[0]
    for code in range(1, N_CODES):
        if counters.refused[code]:
            result[f"refused_{name_of(code)}"] = counters.refused[code]
        if counters.closed[code]:
            result[f"closed_{name_of(code)}"] = counters.closed[code]
    return 0


cdef unsigned long long send_calls_of(const Counters* counters) noexcept:
    cdef:
        unsigned long long n_calls = 0
        int bucket
    for bucket in range(N_SEND_CALL_BUCKETS):
        n_calls += counters.send_calls_by_frames[bucket]
    return n_calls


cdef tuple send_calls_as_tuple(const Counters* counters):
    cdef:
        list buckets = []
        unsigned long long n_calls = 0
        int bucket
    for bucket in range(N_SEND_CALL_BUCKETS):
        n_calls += counters.send_calls_by_frames[bucket]
        buckets.append((float(1 << bucket) if bucket < N_SEND_CALL_BUCKETS - 1 else float("inf"), n_calls))
    return buckets, float(counters.frames_in_send_calls)


cdef str name_of(int code):
    return error_name(code).decode("ascii") or str(code)
