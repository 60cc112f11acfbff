"""The builders of ``leadctl.testing.fakes``, under the name that the tests import."""

from leadctl.testing.fakes import NOW, FakeClock, MemoryCredentials, make_delivery, make_lead, open_channel

__all__ = ["NOW", "FakeClock", "MemoryCredentials", "make_delivery", "make_lead", "open_channel"]
