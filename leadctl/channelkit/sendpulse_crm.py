"""Questions to SendPulse's CRM: what is there already, and whether the pipeline is.

Shapes and paths are those of the vendor's OpenAPI file, https://api.sendpulse.com/.well-known/openapi/crm.yaml
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from leadctl.channelkit import hal
from leadctl.channelkit.fields import NO_WAY, email_address, phone_e164
from leadctl.channelkit.http import nothing_made, of_settings
from leadctl.channelkit.sendpulse_api import Api, missing
from leadctl.domain.errors import Ambiguous, Rejected
from leadctl.domain.masking import clean
from leadctl.domain.model import Absent, CannotTell, Finding, Found, Lead

CRM = "/crm/v1"
PAGE = 100
MAX_EMAIL = 50
_KEY = re.compile(r"\[(lc-[^\[\]]+)\]")


def source_id(key: str) -> int:
    """A positive number of 31 bits: how wide the vendor's integer is, is not documented."""
    return int.from_bytes(sha256(key.encode()).digest()[:4]) >> 1 or 1


def ways_of(lead: Lead) -> dict[str, str]:
    """The phone and the address that the lead's contact can have."""
    ways = {"phone": phone_e164(lead), "email": _short_email(lead)}
    return {kind: text for kind, text in ways.items() if text}


def without_ways(lead: Lead) -> Sequence[str]:
    """``problems`` where a contact is made of every lead."""
    return () if _short_email(lead) or phone_e164(lead) else (NO_WAY,)


def _short_email(lead: Lead) -> str:
    email = email_address(lead) or ""
    return email if len(email) <= MAX_EMAIL else ""


def data_of(body: object) -> Any:
    """``data`` of a good answer. Raises ValueError."""
    if not isinstance(body, dict) or "data" not in body:
        raise ValueError("no data")
    return body["data"]


def matching(kind: str, wanted: str, data: object) -> str | None:
    """The oldest contact that has exactly this phone or address: how the vendor compares is not documented. Raises
    ValueError where the list cannot be read."""
    contacts = data.get("list") if isinstance(data, dict) else data
    ids = [
        hal.identity(contact)
        for contact in hal.entities(contacts)
        for entry in hal.objects(contact.get(f"{kind}s"))
        if same(kind, wanted, str(entry.get(kind)))
    ]
    return str(min(ids)) if ids else None


def same(kind: str, ours: str, theirs: str) -> bool:
    """Whether both are one address, or one phone: the CRM keeps phones as they were typed."""
    if kind == "email":
        return ours.strip().lower() == theirs.strip().lower()
    return ours == phone_e164(Lead(id=0, phone=theirs)) or ours == "+" + re.sub(r"\D", "", theirs)


class Crm:
    """The CRM of one account. Everything raises Rejected where the question itself is refused."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def contact(self, key: str) -> Finding:
        number = str(source_id(key))
        contacts = await self._listed(f"/contacts/external/{number}")
        return _finding(item for item in contacts if str(item.get("externalContactId")) == number)

    async def way(self, contact: str, kind: str, wanted: str) -> Finding:
        """A phone or an address of the contact."""
        found = await self._listed(f"/contacts/{contact}")
        entries = hal.objects(found[0].get(f"{kind}s")) if found else []
        return _finding(entry for entry in entries if same(kind, wanted, str(entry.get(kind))))

    async def deal(self, contact: str, key: str) -> Finding:
        """By sourceId, and among all deals of the contact: only the latter shows an absence, for whether that filter
        works is written nowhere but in the OpenAPI file."""
        condition = {"name": "sourceId", "expression": "eq", "value": str(source_id(key))}
        question = {"filter": [condition], "limit": PAGE, "offset": 0}
        try:
            answer = await self._api.ask("POST", f"{CRM}/deals/get-list", question)
            finding = _finding(deal for deal in hal.entities(data_of(answer)) if _is_deal_of(key, deal))
        except (Rejected, ValueError):
            finding = Absent()
        if isinstance(finding, Found):
            return finding
        answer = await self._api.ask("GET", f"{CRM}/contacts/{contact}/deals")
        if answer is None:
            return CannotTell("the deal's contact has been deleted", final=True)
        return _finding(deal for deal in hal.entities(data_of(answer)) if _is_deal_of(key, deal))

    async def comment(self, deal: str, key: str) -> Finding:
        comments = await self._listed(f"/deals/{deal}/comments")
        return _finding(item for item in comments if key in _KEY.findall(str(item)))

    async def pipeline(self, pipeline_id: int, step_id: int, fields: Iterable[int]) -> str:
        """Names the pipeline. Raises Unusable where the step or one of the fields is not there.

        With a wrong one every single deal would be refused, and nothing would say that the settings are to blame. Whom
        a deal may belong to cannot be checked: the list of users leaves the account's owner out.
        """
        try:
            pipelines = {hal.identity(item): item for item in await self._listed("/pipelines")}
            if pipeline_id not in pipelines:
                raise missing("settings.crm.pipeline_id", pipeline_id)
            steps = hal.objects(pipelines[pipeline_id].get("steps"))
            if step_id not in map(hal.identity, steps):
                raise missing("settings.crm.step_id", step_id)
            if wanted := sorted(fields):
                there = set(map(hal.identity, await self._listed(f"/pipelines/{pipeline_id}/attributes")))
                for field in wanted:
                    if field not in there:
                        raise missing("settings.fields", field)
        except Rejected as error:
            raise of_settings(error) from None
        except ValueError:
            raise nothing_made(Ambiguous("SendPulse's list is not of the documented form")) from None
        return f"pipeline {clean(str(pipelines[pipeline_id].get('name') or ''), 80)} ({pipeline_id})"

    async def _listed(self, path: str) -> Sequence[hal.Entity]:
        """The object or objects at this path; none where there is nothing. Raises ValueError."""
        answer = await self._api.ask("GET", CRM + path)
        data = [] if answer is None else data_of(answer)
        return hal.entities(data if isinstance(data, list) else [data] if data else [])


def _is_deal_of(key: str, deal: hal.Entity) -> bool:
    """By the key in its name; a person may have renamed it, and another key may have the same number."""
    keys = _KEY.findall(str(deal.get("name")))
    return keys[-1] == key if keys else str(deal.get("sourceId")) == str(source_id(key))


def _finding(entries: Iterable[hal.Entity]) -> Finding:
    ids = sorted({hal.identity(entry) for entry in entries})
    return Found(str(ids[0]), duplicates=tuple(map(str, ids[1:]))) if ids else Absent()
