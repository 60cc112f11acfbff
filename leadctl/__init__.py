"""leadctl: send leads to the integrations they have not reached, once.

The public Python face is loaded lazily, so that ``import leadctl`` stays cheap.
"""

from typing import TYPE_CHECKING, Any

from leadctl.version import __version__

if TYPE_CHECKING:
    from leadctl.domain.errors import ConfigError, LeadNotFound, RunLocked
    from leadctl.services.face import LeadResendService

__all__ = ["ConfigError", "LeadNotFound", "LeadResendService", "RunLocked", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LeadResendService":
        from leadctl.services.face import LeadResendService

        return LeadResendService
    if name in {"ConfigError", "LeadNotFound", "RunLocked"}:
        from leadctl.domain import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
