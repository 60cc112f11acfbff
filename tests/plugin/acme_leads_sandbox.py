"""The vendor of :mod:`acme_leads`, emulated."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox.judge import Creation, Faults, Judge
from leadctl.sandbox.vendor import HttpVendor

_KEY = "acme-sandbox-0123456789"
_REFUSALS = {"unauthorized": 401, "rate_limit": 429, "reject": 400, "error_body": 400}


class AcmeVendor(HttpVendor):
    """Knows a key again."""

    name: ClassVar[str] = "acme"

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self._ids: dict[str, str] = {}

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "api_key": _KEY}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.get("/me", self._me), web.post("/leads", self._create)]

    def refusal(self, kind: str) -> web.Response:
        return web.json_response({"error": kind}, status=_REFUSALS.get(kind, 500))

    def _knows(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {_KEY}"

    async def _me(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return self.refusal("unauthorized")
        return web.json_response({"account": "Acme Ltd"})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return self.refusal("unauthorized")
        body = await request.json()

        async def execute(kind: str | None) -> web.Response:
            del kind  # no batches
            twin = body["key"] in self._ids
            remote_id = self._ids.setdefault(body["key"], str(len(self._ids) + 1))
            self.judge.created(Creation(self.name, body["lead"], body["key"], remote_id, twin=twin))
            return web.json_response({"id": remote_id})

        return await self.with_faults(request, [body["lead"]], execute)
