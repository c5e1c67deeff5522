"""The backends that need no services: one SQLite file. `EmbeddedStore` is the way in."""

from chatcore_server.embedded.database import EmbeddedStoreError
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.store import EmbeddedStore

__all__ = ["EmbeddedSettings", "EmbeddedStore", "EmbeddedStoreError"]
