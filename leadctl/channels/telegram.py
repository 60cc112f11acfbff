"""Telegram: a message of a bot to one chat.

Telegram has no idempotency key and a bot cannot read what it wrote, so an attempt in doubt stays in doubt
(https://github.com/tdlib/telegram-bot-api/issues/482). The number of the lead and the delivery's key stand at the
end of every message: people have nothing else to recognise a repeat by.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr

from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Toolbox
from leadctl.channelkit.fields import answers_text, multiline, utm
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, with_status
from leadctl.channelkit.shorten import longest, shortened, utf16_units
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.domain.errors import Ambiguous, DeliveryError, LeadctlError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean
from leadctl.domain.model import Answer as FormAnswer
from leadctl.domain.model import Delivery, Destination, Done, Lead, Receipt, Verdict

ChatId = int | str

#: Characters after entity parsing. Telegram counts code points, its entities UTF-16 units: the larger count fits both.
MAX_UNITS = 4096
#: Bytes of ``text`` before parsing.
MAX_BYTES = 32_768
#: Telegram finds a message too long although our count says otherwise: it is sent again with this many.
SHORTER_UNITS = 2000
#: Chat ids have at most 52 significant bits.
_MAX_ID = 2**52
#: Topic 1 is General, which must be addressed by leaving the field out (tdlib/telegram-bot-api#798).
_GENERAL_TOPIC = 1

_TOKEN = re.compile(r"([1-9][0-9]{0,16}):[A-Za-z0-9_-]{1,70}")
_PUBLIC_NAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TAG = re.compile(r"<[^>]*>")
#: The only entities that Telegram decodes; any other stays as written.
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#[0-9]+|#[xX][0-9a-fA-F]+);")

#: What a refusal with status 400 means, by a lower-case part of its description: Telegram gives no finer code.
#: A text that is not here is Rejected.
TEXTS: tuple[tuple[str, type[DeliveryError]], ...] = (
    ("chat not found", Unusable),
    ("chat_id is empty", Unusable),
    ("group chat was upgraded", Unusable),
    ("thread not found", Unusable),
    ("topic_closed", Unusable),
    ("topic_deleted", Unusable),
    ("not enough rights", Unusable),
    ("have no write access", Unusable),
    ("chat_write_forbidden", Unusable),
    ("need administrator rights", Unusable),
)
_BAD_MARKUP = "can't parse entities"
_TOO_LONG = "is too long"


def _token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not _TOKEN.fullmatch(text) or len(text) > 80:
        raise ValueError("not a bot token: expected 123456789:AAH…, as BotFather shows it")
    return SecretStr(text)


def _chat(value: object) -> object:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and _PUBLIC_NAME.fullmatch(text):
        return text
    number = _integer(text)
    if number is None or number == 0 or abs(number) >= _MAX_ID:
        raise ValueError(
            "expected the number of a chat (groups are negative) or the @name of a public group or channel"
        )
    return number


def _thread(value: object) -> object:
    if value is None or value == "":
        return None
    number = _integer(value.strip() if isinstance(value, str) else value)
    if number is None or number >= _MAX_ID:
        raise ValueError("expected the number of a topic")
    return number if number > _GENERAL_TOPIC else None


def _integer(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        return int(value)
    return None


def _base_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@]+(/[^?#@]*)?", value, re.IGNORECASE):
        raise ValueError("expected https://HOST of a Bot API server")
    return value.rstrip("/")


TemplateText = Annotated[str, AfterValidator(check_template)]


class TelegramConfig(ChannelConfig):
    """``credentials.data``: the bot, and the chat that it writes to."""

    bot_token: Annotated[SecretStr, AfterValidator(_token)]
    chat_id: Annotated[int | str, BeforeValidator(_chat)]
    message_thread_id: Annotated[int | None, BeforeValidator(_thread)] = None
    base_url: Annotated[str, AfterValidator(_base_url)] = "https://api.telegram.org"

    @property
    def bot_id(self) -> str:
        """The public half of the token."""
        return self.bot_token.get_secret_value().partition(":")[0]


class TelegramSettings(ChannelSettings):
    """``credentials.settings``: what the message says. ``template`` is HTML; every value is escaped."""

    subject: TemplateText | None = None
    template: TemplateText | None = None
    locale: Literal["ru", "en"] = "ru"


@dataclass(frozen=True, slots=True)
class _Draft:
    """How the message is put this time. A complete refusal may show a better way."""

    chat: ChatId
    html: bool = True
    units: int = MAX_UNITS
    moved: bool = False


class TelegramChannel(HttpChannel[TelegramConfig, TelegramSettings]):
    """Delivers a lead as a text message."""

    Config = TelegramConfig
    Settings = TelegramSettings
    spec = ChannelSpec(
        name="telegram",
        title="Telegram",
        docs="https://core.telegram.org/bots/api#sendmessage",
        steps=(Step("message", Retransmit.BLIND),),
        limits="1 message/s a chat, 20/min a group or channel, 30/s a bot; we keep 25/s a bot",
        repeat="makes a second message: what is in doubt stays unknown until a person, or --retry-unknown, decides",
        concurrency=1,
        request_timeout=60.0,
        errors={
            "400 chat or topic not found, topic closed, no rights": "Unusable",
            "400 can't parse entities, after it was sent once more as plain text": "Rejected",
            "400 message is too long, after it was sent once more, shortened": "Rejected",
            "any other 400, and 413, 431, 505 with an empty body": "Rejected",
            "401, 403, 404, 421, 3xx; 400 with migrate_to_chat_id after it was sent to the new chat": "Unusable",
            "429": "Throttled",
            "5xx with ok:false": "Transient",
            "any other 5xx, 408, a 200 that is JSON but no answer of the API": "Ambiguous",
        },
        example_data={"bot_token": "123456789:AAHexampleexampleexampleexampleexamp", "chat_id": -1001234567890},
        example_settings={"locale": "en", "template": "<b>{{ lead.name }}</b>\n{{ lead.phone }}"},
    )

    def __init__(self, config: TelegramConfig, settings: TelegramSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        #: Where messages go: not the configured chat once that has become a supergroup.
        self._chat: ChatId = config.chat_id

    def destination(self) -> Destination:
        chat, thread = str(self.config.chat_id), self.config.message_thread_id
        parts = (self.config.bot_id, chat.lower(), str(thread or ""))
        return Destination("telegram", (self.config.bot_id,), parts, f"{chat}/{thread}" if thread else chat)

    def endpoints(self) -> Sequence[str]:
        return (self.config.base_url,)

    def buckets(self) -> Sequence[Bucket]:
        bot = f"telegram:{hashlib.sha256(self.config.bot_id.encode()).hexdigest()[:16]}"
        chat = f"{bot}:{str(self.config.chat_id).lower()}"
        widest = Bucket(bot, Limit(25.0, burst=25.0))
        if isinstance(self.config.chat_id, int) and self.config.chat_id > 0:
            return (widest, Bucket(chat, Limit(1.0, burst=3.0, documented=1.0)))
        # A public @name is a group or a channel too.
        minute = Bucket(f"{chat}:minute", Limit(20.0, 60.0, burst=5.0, documented=20.0))
        return (widest, Bucket(chat, Limit(1.0, burst=3.0)), minute)

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        del step
        return self._message(batch[0], _Draft(self._chat))

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        del step
        body = answer.json_or_none()
        if answer.status == 200 and body is None:
            return {batch[0].key: Done()}  # Telegram answers 200 only after it has stored the message
        return {batch[0].key: _receipt(self._result(answer, body))}

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        """Send one message, and again at once where a complete refusal (so: not sent) shows what to mend."""
        draft = _Draft(self._chat)
        while True:
            request = self._message(batch[0], draft)
            try:
                answer = await self.exchange(request)
                better = _mended(draft, answer)
                if better is None:
                    receipts = self.parse(step, batch, answer)
                    return Verdict(receipts, answer.status, request.digest)
            except DeliveryError as error:
                error.request_digest = request.digest
                raise
            if better.chat != draft.chat:
                await self._follow(better.chat)
            draft = better

    async def check(self) -> str:
        bot = await self._call("getMe")
        chat = await self._call("getChat", chat_id=self._chat)
        text = f"bot @{clean(str(bot.get('username')), 64)} → {_chat_name(chat)}"
        if chat.get("type") != "private":
            member = await self._call("getChatMember", chat_id=self._chat, user_id=int(self.config.bot_id))
            _require_rights(chat, member)
            text += f", as {clean(str(member.get('status')), 40)}"
        if self.config.message_thread_id:
            text += f"; only a message can prove topic {self.config.message_thread_id}"
        return text

    def _message(self, delivery: Delivery, draft: _Draft) -> HttpRequest:
        text = compose(delivery, self.settings, draft.units)
        body: dict[str, Any] = {"chat_id": draft.chat, "text": text if draft.html else plain(text)}
        if self.config.message_thread_id is not None:
            body["message_thread_id"] = self.config.message_thread_id
        if draft.html:
            body["parse_mode"] = "HTML"
        body["link_preview_options"] = {"is_disabled": True}
        return self._post("sendMessage", body)

    def _post(self, method: str, body: Mapping[str, object]) -> HttpRequest:
        return HttpRequest.json(
            "POST", f"{self.config.base_url}/bot{self.config.bot_token.get_secret_value()}/{method}", body
        )

    async def _call(self, method: str, **parameters: object) -> Mapping[str, Any]:
        answer = await self.exchange(self._post(method, parameters))
        result = self._result(answer, answer.json_or_none())
        return result if isinstance(result, Mapping) else {}

    def _result(self, answer: Answer, body: object) -> object:
        """``result`` of a success. Raises what any other answer means."""
        wait = answer.retry_after(self.toolbox.clock.now().timestamp())
        if not isinstance(body, Mapping) or not isinstance(body.get("ok"), bool):
            raise with_status(_foreign(answer, wait), answer)
        if body["ok"]:
            return body.get("result")
        raise with_status(_refusal(answer, body, wait), answer)

    async def _follow(self, chat: ChatId) -> None:
        """The group became a supergroup, with a new id for good."""
        old, self._chat = self._chat, chat
        try:
            kept = await self.toolbox.credentials.keep(self.toolbox.credential_id, "chat_id", chat)
        except LeadctlError:
            kept = "nowhere"
        where = {
            "data": "it is kept in the credential's data",
            "ledger": "it is kept in the ledger, since the credential's row cannot be written",
        }.get(kept, f"it could not be kept: set chat_id to {chat}")
        message = f"the group {old} became the supergroup {chat}: messages go to the new id; {where}"
        self.toolbox.notify(Notice("telegram", self.toolbox.credential_id, "chat_migrated", message))


def compose(delivery: Delivery, settings: TelegramSettings, units: int = MAX_UNITS) -> str:
    """The message as HTML that is at most ``units`` long once it is parsed.

    A long lead loses parts of its comment and answers, cut before they are escaped. Raises Rejected if the
    template makes too much of the rest.
    """
    lead = _capped(delivery.lead)

    def text(room: int) -> str:
        return _markup(replace(delivery, lead=shortened(lead, room)), settings)

    def fits(room: int) -> bool:
        markup = text(room)
        return utf16_units(plain(markup)) <= units and len(markup.encode()) <= MAX_BYTES

    room = units if fits(units) else longest(units, fits)
    if room is None:
        raise Rejected(
            f"longer than {units} characters even without comment and answers: shorten settings.template",
            vendor_code="template",
        )
    return text(room)


def plain(markup: str) -> str:
    """What Telegram's parser leaves of a message."""
    return _ENTITY.sub(lambda match: unescape(match[0]), _TAG.sub("", markup)).strip()


def _capped(lead: Lead) -> Lead:
    """The lead on clean lines, with absurd lengths cut."""
    return replace(
        lead,
        name=clean(lead.name, 500),
        phone=clean(lead.phone, 100),
        email=clean(lead.email, 320),
        comment=multiline(lead.comment, MAX_UNITS),
        page_url=clean(lead.page_url, 1000),
        utm={key: clean(value, 255) for key, value in lead.utm.items()},
        answers=tuple(FormAnswer(clean(a.question, 200), multiline(a.answer, MAX_UNITS)) for a in lead.answers),
    )


def _markup(delivery: Delivery, settings: TelegramSettings) -> str:
    lead, labels = delivery.lead, LABELS[settings.locale]
    number = _escaped(f"{'Lead' if settings.locale == 'en' else '№'} {clean(str(lead.id), 100)}")
    parts = [f"⚠️ <b>{labels['repeat']}: {number}</b>"] if delivery.possible_repeat else []
    if settings.subject:
        parts.append(f"<b>{_escaped(clean(render(settings.subject, lead), 200))}</b>")
    elif not settings.template:
        parts.append(f"<b>{labels['title']}</b>")
    parts.append(render(settings.template, lead, html=True).strip() if settings.template else _body(lead, labels))
    parts.append(f"\n{number} · <code>{_escaped(delivery.key)}</code>")
    return _UNREADABLE.sub("", "\n".join(parts))


def _body(lead: Lead, labels: Mapping[str, str]) -> str:
    answers = answers_text(lead)
    rows = {
        "name": lead.name,
        "phone": lead.phone,
        "email": lead.email,
        "comment": lead.comment,
        "answers": f"\n{answers}" if answers else "",
        "page_url": lead.page_url,
        "utm": ", ".join(f"{key}={value}" for key, value in utm(lead).items()),
        "created_at": f"{lead.created_at:%Y-%m-%d %H:%M} UTC" if lead.created_at else "",
    }
    return "\n".join(f"<b>{labels[key]}:</b> {_escaped(value)}" for key, value in rows.items() if value).replace(
        "</b> \n", "</b>\n"
    )


def _escaped(text: str) -> str:
    return escape(text, quote=False)


def _mended(draft: _Draft, answer: Answer) -> _Draft | None:
    """The next draft after a refusal that can be mended, each way once; None where there is nothing to mend."""
    body = answer.json_or_none()
    if not isinstance(body, Mapping) or body.get("ok") is not False or _code(answer, body) != 400:
        return None
    new = _parameters(body).get("migrate_to_chat_id")
    if isinstance(new, int) and not draft.moved:
        return replace(draft, chat=new, moved=True)
    words = str(body.get("description")).lower()
    if _BAD_MARKUP in words and draft.html:
        return replace(draft, html=False)
    if _TOO_LONG in words and draft.units > SHORTER_UNITS:
        return replace(draft, units=SHORTER_UNITS)
    return None


def _code(answer: Answer, body: Mapping[str, Any]) -> int:
    code = body.get("error_code")
    return code if isinstance(code, int) else answer.status


def _parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = body.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}


def _refusal(answer: Answer, body: Mapping[str, Any], header_wait: float | None) -> DeliveryError:
    """A complete answer with ``ok:false``: Telegram says that nothing was sent."""
    code = _code(answer, body)
    words = clean(str(body.get("description") or ""), 200)
    message, vendor_code = f"Telegram answers {code}: {words}", str(code)
    if code == 429:
        wait = _parameters(body).get("retry_after")
        named = float(wait) if isinstance(wait, int) else header_wait
        return Throttled(message, retry_after=named, vendor_code=vendor_code)
    if code >= 500:
        return Transient(message, vendor_code=vendor_code)
    if code == 401 or code == 404:
        return Unusable(f"{message}: bot_token is not accepted", vendor_code=vendor_code)
    if code == 403 or code == 421:
        return Unusable(message, vendor_code=vendor_code)
    meant = next((kind for text, kind in TEXTS if code == 400 and text in words.lower()), Rejected)
    return meant(message, vendor_code=vendor_code)


def _foreign(answer: Answer, wait: float | None) -> DeliveryError:
    """An answer that is not the Bot API's: a front end, a proxy, another server."""
    status, vendor_code = answer.status, str(answer.status)
    message = f"HTTP {status} without an answer of the Bot API"
    if status == 429:
        return Throttled(message, retry_after=wait, vendor_code=vendor_code)
    if 300 <= status < 400 or status in (401, 403, 404, 421):
        return Unusable(f"{message}: base_url does not lead to a Bot API server", vendor_code=vendor_code)
    if (400 <= status < 500 and status != 408) or (status == 505 and not answer.body):
        return Rejected(f"{message}: the request was not read", vendor_code=vendor_code)
    return Ambiguous(message, vendor_code=vendor_code)


def _receipt(result: object) -> Done:
    message = result if isinstance(result, Mapping) else {}
    chat = message.get("chat")
    chat = chat if isinstance(chat, Mapping) else {}
    number, chat_id = message.get("message_id"), chat.get("id")
    if not isinstance(number, int) or not isinstance(chat_id, int):
        return Done()
    place = chat.get("username") or str(chat_id)
    if not chat.get("username") and place.startswith("-100"):
        place = f"c/{place.removeprefix('-100')}"
    public = chat_id < 0 and re.fullmatch(r"c/[0-9]+|[A-Za-z0-9_]+", str(place))
    return Done(f"{chat_id}/{number}", f"https://t.me/{place}/{number}" if public else None)


def _chat_name(chat: Mapping[str, Any]) -> str:
    title = chat.get("title") or chat.get("username") or chat.get("first_name") or ""
    return f"{clean(str(chat.get('type')), 40)} “{clean(str(title), 60)}” ({clean(str(chat.get('id')), 40)})"


def _require_rights(chat: Mapping[str, Any], member: Mapping[str, Any]) -> None:
    """Raise Unusable where the bot cannot write."""
    status = member.get("status")
    if status in ("left", "kicked"):
        raise Unusable(f"the bot is not a member of the {_chat_name(chat)}: add it", vendor_code="403")
    muted = status == "restricted" and member.get("can_send_messages") is False
    reader = chat.get("type") == "channel" and status != "creator" and member.get("can_post_messages") is not True
    if muted or reader:
        raise Unusable(f"the bot may not write to the {_chat_name(chat)}: give it the right", vendor_code="403")
