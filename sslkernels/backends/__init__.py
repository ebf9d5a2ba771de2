"""The backends, each a package of passes, and the choice between them."""

from sslkernels.passes.selection import BackendStatus, backends, select, use_backend

__all__ = ["BackendStatus", "backends", "select", "use_backend"]
