"""LPTracker: a lead of a project with its contact, and a comment.

The vendor has no idempotency key and no external id: a repeated request makes a second lead. So a lead's name ends with
the delivery's key, and what is in doubt is looked for by it: among the leads of its contact, and among the new ones of
the project. A contact is looked for by phone and e-mail address before one is made, since nothing is merged.
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import AfterValidator, Field, SecretStr

from leadctl.channelkit import hal
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.fields import email_address, multiline, phone_e164, remarks, without_ways
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, with_status
from leadctl.channelkit.lookup import Listed, find_marked
from leadctl.channelkit.lptracker_api import Api, Custom, missing, resolved
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, never_fails, render
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.masking import clean
from leadctl.domain.model import Absent, CannotTell, Delivery, Destination, Done, Finding, Found, Lead, Receipt, Verdict

#: Seconds behind our own time-out: for some, a new lead is invisible, at least to a comment.
LOOKS = (5.0, 20.0)
BUSY = 20.0
CONTACT = Step("contact", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY, preparatory=True)
LEAD = Step("lead", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY)
COMMENT = Step("comment", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY)

#: Seconds for which project, funnel, owner and fields are taken to be as they were seen.
FRESH = 3600.0
#: Seconds until a comment is tried again on a lead that is not visible yet; one integrator waits 1, 2 and 4.
EARLY_WAIT = 4.0
#: Seconds that the vendor's clock may be behind ours.
CLOCKS_DIFFER = 600
PAGE = 50
MAX_PAGES = 40
#: Lengths are not documented: a name stays inside a column of 255 with the key behind it, a text far inside 64 KB.
MAX_NAME = 150
MAX_TEXT = 15_000
MAX_FIELDS = 50
#: How many contacts of this run are remembered.
MAX_MET = 10_000

#: What has no code of its own, in lower case: the lead is so new that the vendor does not see it yet.
TOO_EARLY = "invalid lead id"
_KEY = re.compile(r"\[(lc-[^\[\]]+)\]")
#: ``view`` has no place for other tags: these go into the comment.
_VIEW = {"source": "utm_source", "campaign": "utm_campaign", "keyword": "utm_term"}


def _one_line(value: str) -> str:
    if not value or clean(value) != value:
        raise ValueError("expected one line, without spaces around it")
    return value


Id = Annotated[int, Field(gt=0)]
Line = Annotated[Text, AfterValidator(_one_line)]
Template = Annotated[Text, AfterValidator(check_template)]


class LpTrackerConfig(ChannelConfig):
    """Login and password of the main account, and the project. ``service`` signs what leadctl does there."""

    login: Line
    password: SecretStr = Field(min_length=1)
    project_id: Id
    service: Line = "leadctl"
    base_url: str = "https://direct.lptracker.ru"


class LpTrackerSettings(ChannelSettings):
    """``funnel``: id of the step where a lead begins (it may start an auto-funnel, which calls or writes to people).
    ``owner``: id of an employee, 0 for nobody. ``fields``: id or name of a lead's field, or ``name`` for the lead's own
    name → a template. ``callback``: LPTracker phones the person, at once."""

    callback: bool = False
    funnel: Id | None = None
    owner: Annotated[int, Field(ge=0)] | None = None
    fields: dict[Line, Template] = Field(default_factory=dict, max_length=MAX_FIELDS)


class LpTracker(HttpChannel[LpTrackerConfig, LpTrackerSettings]):
    """One project of one account."""

    Config = LpTrackerConfig
    Settings = LpTrackerSettings
    spec = ChannelSpec(
        name="lptracker",
        title="LPTracker",
        docs="https://docs.direct.lptracker.ru/",
        steps=(CONTACT, LEAD, COMMENT),
        limits="3 requests/s an account, logins too; we keep 2/s. A lead takes 2 to 5 requests",
        repeat=(
            "makes a second lead; so a lead in doubt is looked for first, by the key in its name, and its contact by "
            "phone and e-mail address"
        ),
        errors={
            "400, 404": "Rejected",
            "401 at the login, or with a new token; 402, 403, 405, 3xx": "Unusable",
            "a project, funnel step, owner or field that is not there": "Unusable",
            "503, as HTTP status or as code; 429 to a question": "Throttled",
            "invalid lead id (a comment that came too early); a question that fails": "Transient",
            '429, 500, 502, 504, any other code or text, no "success", or an answer that cannot be read': "Ambiguous",
        },
        example_data={"login": "you@example.com", "password": "example-password", "project_id": 41823},
        example_settings={
            "callback": False, "funnel": 1230456, "owner": 7301, "fields": {"Бюджет": "{{ lead.answers.budget }}"},
        },
    )  # fmt: skip

    def __init__(self, config: LpTrackerConfig, settings: LpTrackerSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        account = {"login": config.login, "password": config.password.get_secret_value(), "service": config.service}
        self._api = Api(toolbox, super().exchange, config.base_url, account)
        self._labels = LABELS["ru"]
        #: The fields of the settings, by their names there; those given by id are as good as known.
        self._customs = {name: Custom(int(name)) for name in settings.fields if name.isdecimal()}
        self._may_fail = [template for template in settings.fields.values() if not never_fails(template)]
        #: Monotonic time until which the project need not be looked at again.
        self._fresh_until: float | None = None
        #: Contacts made by this run, by phone and address: a search may not show them yet.
        self._met: dict[str, str] = {}

    # Where it leads to

    def destination(self) -> Destination:
        login, project = self.config.login.lower(), str(self.config.project_id)
        return Destination("lptracker", (self._api.host, login), (login, project), project)

    def endpoints(self) -> Sequence[str]:
        return (self._api.base,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(self._api.scope, Limit(rate=2, documented=3)),)

    def problems(self, lead: Lead) -> Sequence[str]:
        if lacking := without_ways(lead):
            return lacking
        try:
            for template in self._may_fail:
                render(template, lead)
        except Rejected as error:
            return (error.message,)
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        return super().judged if self._may_fail else frozenset({"phone", "email"})

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        return super().judge if self._may_fail else without_ways

    def needs(self, step: Step, delivery: Delivery) -> bool:
        if step is CONTACT:
            return LEAD.name not in delivery.done
        return step is LEAD or bool(self._remarks(delivery.lead))

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        (delivery,) = batch
        if step is CONTACT:
            return self._api.post("/contact", self._contact(delivery.lead))
        if step is LEAD:
            return self._api.post("/lead", self._lead(delivery))
        return self._api.post(f"/lead/{delivery.done[LEAD.name]}/comment", {"text": self._comment(delivery)})

    def _contact(self, lead: Lead) -> dict[str, Any]:
        ways = _ways(lead)
        details = [{"type": kind, "data": text} for kind, text in ways.items()]
        name = clean(lead.name, MAX_NAME) or next(iter(ways.values()))  # without one, operators see an empty line
        return {"project_id": self.config.project_id, "name": name, "details": details}

    def _lead(self, delivery: Delivery) -> dict[str, Any]:
        lead, settings = delivery.lead, self.settings
        view = {key: clean(lead.utm.get(tag, ""), 255) for key, tag in _VIEW.items()}
        view["page"] = clean(lead.page_url, 2_000)
        optional = {
            "funnel": settings.funnel,
            "owner": settings.owner,
            "view": {key: text for key, text in view.items() if text} or None,
            "custom": self._values(lead) or None,
        }
        return {
            "contact_id": int(delivery.done[CONTACT.name]),
            "name": self._name(delivery),
            "callback": settings.callback,  # said even where it is false: a call is nothing to leave to a default
            **{key: value for key, value in optional.items() if value is not None},
        }

    def _name(self, delivery: Delivery) -> str:
        lead = delivery.lead
        name = clean(render(self.settings.fields.get("name", ""), lead), MAX_NAME)
        if not name:
            name = clean(f"{self._labels['title']} {lead.id}: {lead.name}", MAX_NAME).rstrip(" :")
        repeat = f"{self._labels['repeat']}: " if delivery.possible_repeat else ""
        return f"{repeat}{name} [{delivery.key}]"

    def _values(self, lead: Lead) -> dict[str, str | list[str]]:
        values: dict[str, str | list[str]] = {}
        for name, template in self.settings.fields.items():
            if name != "name" and (text := multiline(render(template, lead), MAX_TEXT)):
                custom = self._customs[name]
                values[str(custom.id)] = [text] if custom.several else text
        return values

    def _remarks(self, lead: Lead) -> str:
        """What has no field of its own. Of phone and address, both: a contact that was found may have only one."""
        text = remarks(replace(lead, utm={}, page_url=""), self._labels)
        tags = {key: value for key, value in lead.utm.items() if value and key not in _VIEW.values()}
        phone, email = clean(lead.phone, 60), email_address(lead)
        lines = {
            "phone": phone if email else "",
            "email": email if phone else "",
            "utm": ", ".join(f"{clean(key, 100)}={clean(value, 255)}" for key, value in tags.items()),
        }
        told = "\n".join(f"{self._labels[label]}: {value}" for label, value in lines.items() if value)
        return "\n\n".join(part for part in (text, told) if part)

    def _comment(self, delivery: Delivery) -> str:
        mark = f"{self._labels['id']}: {clean(str(delivery.lead.id), MAX_NAME)} [{delivery.key}]"
        return f"{multiline(self._remarks(delivery.lead), MAX_TEXT)}\n\n{mark}"

    # Sending

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        return await self._api.auth.send(request, timeout)

    async def prepare(self, step: Step) -> Mapping[str, str]:
        """When the lead was sent: what is older need not be looked through."""
        return {"since": str(int(self.toolbox.clock.now().timestamp()))} if step is LEAD else {}

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        if self._fresh_until is None or self.toolbox.clock.monotonic() >= self._fresh_until:
            await self._look_around()
        (delivery,) = batch
        if step is LEAD:
            return await self._send_lead(delivery)
        return await (self._send_contact(delivery) if step is CONTACT else super().send(step, batch))

    async def _send_contact(self, delivery: Delivery) -> Verdict:
        """The contact that there is, else a new one. A failure of the search leaves nothing in doubt."""
        ways = _ways(delivery.lead).values()
        known = next((self._met[way] for way in ways if way in self._met), None)
        known = known or await self._search(delivery.lead)
        if known is not None:
            return Verdict({delivery.key: Done(known)})
        verdict = await super().send(CONTACT, [delivery])
        receipt = verdict.receipts[delivery.key]
        if isinstance(receipt, Done) and receipt.remote_id:
            self._met |= dict.fromkeys(ways, receipt.remote_id)
        while len(self._met) > MAX_MET:
            del self._met[next(iter(self._met))]
        return verdict

    async def _send_lead(self, delivery: Delivery) -> Verdict:
        """That a refused token means "nothing was made" is not documented: so before the request is repeated with a
        new one, the lead is looked for."""
        request = self.build(LEAD, [delivery])
        there: list[Found] = []

        async def is_absent() -> bool:
            finding = await self._surely(delivery)
            there.extend([finding] if isinstance(finding, Found) else [])
            return not there

        try:
            answer = await self._api.auth.send(request, may_repeat=is_absent)
            receipts = {delivery.key: Done(there[0].remote_id)} if there else self.parse(LEAD, [delivery], answer)
        except DeliveryError as error:
            error.request_digest = request.digest
            raise
        return Verdict(receipts, answer.status, request.digest)

    async def _surely(self, delivery: Delivery) -> Found | Absent:
        """Raises Ambiguous where the vendor cannot tell."""
        try:
            finding = (await self.find(LEAD, [delivery]))[delivery.key]
        except (Transient, Throttled) as error:
            finding = CannotTell(error.message)
        if isinstance(finding, CannotTell):
            raise Ambiguous(f"the token was refused, and whether the lead is there cannot be asked: {finding.reason}")
        return finding

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        (delivery,) = batch
        try:
            result = self._api.result(answer)
            return {delivery.key: Done(str(hal.identity(result if isinstance(result, dict) else {})))}
        except ValueError:
            raise with_status(Ambiguous("LPTracker's answer is not of the documented form"), answer) from None
        except DeliveryError as error:
            if step is COMMENT and TOO_EARLY in error.message.lower():
                wait = EARLY_WAIT / self.toolbox.scale
                early = Transient("LPTracker does not see the new lead yet", retry_after=wait, vendor_code=TOO_EARLY)
                raise with_status(early, answer) from None
            raise

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        return {delivery.key: await self._find(step, delivery) for delivery in batch}

    async def _find(self, step: Step, delivery: Delivery) -> Finding:
        if step is CONTACT:
            return await self._find_contact(delivery.lead)
        pages = self._leads(delivery) if step is LEAD else self._comments(delivery)
        return (await find_marked(pages, [delivery.key], {}, lambda _: None))[delivery.key]

    async def _find_contact(self, lead: Lead) -> Finding:
        try:
            contact = await self._search(lead)
        except Rejected as error:
            return CannotTell(error.message, final=True)
        return Found(contact) if contact else Absent()

    async def _search(self, lead: Lead) -> str | None:
        """The oldest contact that has exactly this phone, else address: how the vendor compares is not documented."""
        for kind, text in _ways(lead).items():
            wanted = text.removeprefix("+") if kind == "phone" else text.lower()  # phones are kept without the plus
            query = urlencode({"project_id": self.config.project_id, kind: wanted})
            ids = [
                hal.identity(contact)
                for contact in await self._api.list(f"/contact/search?{query}", of_lead=True)
                for detail in hal.objects(contact.get("details"))
                if detail.get("type") == kind and wanted in _forms(kind, str(detail.get("data")))
            ]
            if ids:
                return str(min(ids))
        return None

    async def _leads(self, delivery: Delivery) -> AsyncGenerator[Sequence[Listed], None]:
        """The leads of the contact, together with the first page of the project's new ones; then the other pages.

        A list may leave the custom fields out, so the key stands in the name. A short page is not the end: how many
        leads a page may have is not documented.
        """
        first = await self._of("contact", delivery.done[CONTACT.name], "leads")
        since = int(delivery.context.get("since") or delivery.first_at.timestamp()) - CLOCKS_DIFFER
        how = {"limit": PAGE, "sort[created_at]": 3, "filter[created_at_from]": since}
        offset = 0
        for _ in range(MAX_PAGES):
            query = urlencode({"offset": offset, **how})
            page = await self._api.list(f"/lead/{self.config.project_id}/list?{query}")
            yield [_listed(item, "name") for item in (*first, *page)]
            if not page:
                yield ()
                return
            first = ()
            offset += len(page)

    async def _comments(self, delivery: Delivery) -> AsyncGenerator[Sequence[Listed], None]:
        """All comments of the lead: https://docs.direct.lptracker.ru/lead/comment_list/"""
        yield [_listed(item, "text") for item in await self._of("lead", delivery.done[LEAD.name], "comments")]
        yield ()

    async def _of(self, kind: str, identity: str, what: str) -> Sequence[hal.Entity]:
        """What belongs to a contact or a lead; nothing where that was deleted."""
        try:
            return await self._api.list(f"/{kind}/{identity}/{what}")
        except Unusable as error:
            if error.vendor_code == "404":
                return ()
            raise

    async def check(self) -> str:
        return f"project {await self._look_around()} ({self.config.project_id}) at {self._api.host}"

    async def _look_around(self) -> str:
        """Names the project. Raises Unusable where something that the credential names is not there.

        Ids differ from project to project, and with a wrong one every single lead would be refused.
        """
        project = self.config.project_id
        names = await self._api.named("/projects")
        here = f"/project/{project}"
        if project not in names:
            raise missing("project_id", project)
        if self.settings.funnel and self.settings.funnel not in await self._api.named(f"{here}/funnel"):
            raise missing("settings.funnel", self.settings.funnel)
        if self.settings.owner and self.settings.owner not in await self._api.named("/staff"):
            raise missing("settings.owner", self.settings.owner)
        if wanted := [name for name in self.settings.fields if name != "name"]:
            customs = await self._api.list(f"{here}/customs")
            self._customs = {name: resolved(name, customs) for name in wanted}
        self._fresh_until = self.toolbox.clock.monotonic() + FRESH
        return names[project]


def _ways(lead: Lead) -> dict[str, str]:
    """Type → value of the details that the lead's contact can have."""
    ways = {"phone": phone_e164(lead), "email": email_address(lead)}
    return {kind: text for kind, text in ways.items() if text}


def _forms(kind: str, text: str) -> tuple[str, ...]:
    """The detail of a contact as it may be searched for."""
    if kind == "email":
        return (text.strip().lower(),)
    return (re.sub(r"\D", "", text), (phone_e164(Lead(id=0, phone=text)) or "").removeprefix("+"))


def _listed(item: hal.Entity, where: str) -> Listed:
    """By the last key: ours stands behind all that a lead's own text could hold."""
    return Listed(hal.identity(item), {*_KEY.findall(str(item.get(where)))[-1:]})
