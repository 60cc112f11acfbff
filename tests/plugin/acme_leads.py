"""A channel that another package brings: a vendor with one call, which knows our key again."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import SecretStr

from leadctl.channelkit.channel import ChannelConfig, ChannelSettings
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Unusable
from leadctl.domain.model import Delivery, Destination, Done, Receipt


class AcmeConfig(ChannelConfig):
    """``data`` of a credential."""

    base_url: str
    api_key: SecretStr


class Acme(HttpChannel[AcmeConfig, ChannelSettings]):
    """``POST /leads`` with our key: the same key twice makes one lead."""

    Config = AcmeConfig
    Settings = ChannelSettings
    spec: ClassVar[ChannelSpec] = ChannelSpec(
        name="acme",
        title="Acme",
        docs="https://acme.example/docs",
        steps=(Step("lead", Retransmit.IDEMPOTENT),),
        limits="10 requests/s an account",
        repeat="makes no second lead: our key travels",
        errors={"400": "Rejected", "401": "Unusable", "429": "Throttled", "5xx": "Ambiguous"},
        example_data={"base_url": "https://acme.example", "api_key": "acme-0123456789"},
    )

    def destination(self) -> Destination:
        host = self.config.base_url.removeprefix("http://").removeprefix("https://")
        return Destination("acme", (host,), (host,), host)

    def endpoints(self) -> Sequence[str]:
        return [self.config.base_url]

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(f"acme:{self.config.base_url}", Limit(10, documented=10))]

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        (delivery,) = batch
        body = {"key": delivery.key, "lead": str(delivery.lead.id), "name": delivery.lead.name}
        return HttpRequest.json("POST", f"{self.config.base_url}/leads", body, self._headers())

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        (delivery,) = batch
        if answer.status == 200:
            return {delivery.key: Done(str(answer.json()["id"]))}
        raise self._error(answer)

    async def check(self) -> str:
        answer = await self.exchange(HttpRequest("GET", f"{self.config.base_url}/me", headers=self._headers()))
        if answer.status != 200:
            raise self._error(answer)
        return str(answer.json()["account"])

    def _headers(self) -> Mapping[str, str]:
        key = self.config.api_key.get_secret_value()
        if not (key.isascii() and key.isprintable()):
            raise Unusable("the api_key is no text that a header may hold")
        return {"Authorization": f"Bearer {key}"}

    def _error(self, answer: Answer) -> DeliveryError:
        kinds: Mapping[int, type[DeliveryError]] = {400: Rejected, 401: Unusable, 429: Throttled}
        kind = kinds.get(answer.status, Ambiguous)
        return kind(f"Acme answers HTTP {answer.status}", http_status=answer.status)
