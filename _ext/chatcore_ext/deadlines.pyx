"""What happens when time runs out; see deadlines.pxd."""

from chatcore_ext.constants cimport LINGER_MS
from chatcore_ext.error_codes cimport ERROR_HEARTBEAT_TIMEOUT, ERROR_HELLO_TIMEOUT
from chatcore_ext.output cimport output_close, output_drop
from chatcore_ext.tables cimport STATE_CLOSING, STATE_GREETING, STATE_LINGERING, STATE_OPEN, STATE_READY, Deadline
from chatcore_ext.timing_wheel cimport Timer, wheel_advance, wheel_set


cdef void set_deadline(HubState* hub, Connection* connection) noexcept nogil:
    cdef unsigned long long deadline
    if connection.state == STATE_OPEN:
        deadline = hub.now_ms + hub.limits.hello_timeout_ms
    elif connection.state == STATE_GREETING or connection.state == STATE_READY:
        deadline = connection.last_seen + hub.limits.heartbeat_timeout_ms
    else:
        deadline = hub.now_ms + LINGER_MS
    wheel_set(&hub.wheel, &connection.deadline.timer, deadline)


cdef void set_grace(HubState* hub, Session* session) noexcept nogil:
    wheel_set(&hub.wheel, &session.deadline.timer, hub.now_ms + hub.limits.resume_grace_ms)


cdef void on_connection_deadline(HubState* hub, Connection* connection) noexcept nogil:
    if connection.state == STATE_OPEN:
        output_close(&hub.output, connection, ERROR_HELLO_TIMEOUT, NULL, 0, 0)
    elif connection.state == STATE_GREETING or connection.state == STATE_READY:
        if hub.now_ms < connection.last_seen + hub.limits.heartbeat_timeout_ms:
            set_deadline(hub, connection)
        else:
            output_close(&hub.output, connection, ERROR_HEARTBEAT_TIMEOUT, NULL, 0, 0)
    elif connection.state == STATE_CLOSING or connection.state == STATE_LINGERING:
        output_drop(&hub.output, connection, 0)


# Whose deadline it is. An offset by way of NULL would do as well, were it not undefined.
cdef inline Session* session_of(Deadline* deadline) noexcept nogil:
    cdef Session any
    return <Session*>(<char*>deadline - (<char*>&any.deadline - <char*>&any))


cdef inline Connection* connection_of(Deadline* deadline) noexcept nogil:
    cdef Connection any
    return <Connection*>(<char*>deadline - (<char*>&any.deadline - <char*>&any))


cdef void on_deadline(Timer* timer, void* context) noexcept nogil:
    cdef:
        HubState* hub = <HubState*>context
        Deadline* deadline = <Deadline*>timer
        Session* session
    if deadline.is_session:
        session = session_of(deadline)
        session.next_expired = hub.expired
        hub.expired = session
    else:
        on_connection_deadline(hub, connection_of(deadline))


cdef void advance_deadlines(HubState* hub) noexcept nogil:
    wheel_advance(&hub.wheel, hub.now_ms, on_deadline, hub)
