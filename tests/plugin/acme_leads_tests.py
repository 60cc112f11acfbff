"""What that package's own tests are: the contract suite, and nothing that leadctl's tree must know."""

from collections.abc import Mapping
from typing import ClassVar

from leadctl.testing.contract import ChannelContract


class TestContract(ChannelContract):
    name = "acme"
    data: ClassVar[Mapping[str, object]] = {"base_url": "https://acme.example", "api_key": "canary-0123456789"}
    bad_data: ClassVar[Mapping[str, object]] = {"api_key": "wrong-0123456789"}
