"""What happens when time runs out: hello, heartbeat, the end of a closing connection, the grace of a session."""

from chatcore_ext.hub_state cimport HubState
from chatcore_ext.tables cimport Connection, Session

# The deadline of the state that the connection is in. A frame that comes in does not move it: when it fires, it is
# compared with `last_seen` and set again, so a busy connection costs nothing.
cdef void set_deadline(HubState* hub, Connection* connection) noexcept nogil
cdef void set_grace(HubState* hub, Session* session) noexcept nogil
# Closes what has overstayed, and links the sessions whose grace has ended to hub.expired.
cdef void advance_deadlines(HubState* hub) noexcept nogil
