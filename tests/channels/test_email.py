from typing import Any, ClassVar
from leadctl.testing.contract import ChannelContract
class TestContract(ChannelContract):
    name = "email"
    data = {"host": "smtp.example.org", "port": 587, "security": "starttls", "username": "leads@example.org", "password": "canary-0123456789", "from": "Leads <leads@example.org>", "to": ["maria@example.org"]}
    bad_data = {"password": "wrong-0123456789"}
