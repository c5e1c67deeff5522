"""The middle of `LoadClients`; not used by itself."""

from typing_extensions import disjoint_base

from chatcore_ext.load_checker import LoadChecker

@disjoint_base
class LoadSockets(LoadChecker): ...
