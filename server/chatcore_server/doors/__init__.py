"""Where connections come in: TLS, WebSocket, load balancers that speak for their clients. Exports what opens them."""

from chatcore_server.doors.doors import Doors
from chatcore_server.doors.listening import DoorError

__all__ = ["DoorError", "Doors"]
