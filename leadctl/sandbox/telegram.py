"""Telegram's Bot API: one bot and its chats, as strict as the open-source server (tdlib/telegram-bot-api)."""

import html
import itertools
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox.judge import Creation, Faults, Judge
from leadctl.sandbox.vendor import HttpVendor

MAX_CHARACTERS = 4096
MAX_RAW_BYTES = 32_768

_TAGS = {
    "a": "text_link", "b": "bold", "strong": "bold", "i": "italic", "em": "italic", "s": "strikethrough",
    "strike": "strikethrough", "del": "strikethrough", "u": "underline", "ins": "underline", "tg-spoiler": "spoiler",
    "tg-emoji": "custom_emoji", "tg-time": "time", "span": "spoiler", "pre": "pre", "code": "code",
    "blockquote": "blockquote",
}  # fmt: skip
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#[0-9]+|#[xX][0-9a-fA-F]+);")
_ATTRIBUTE = re.compile(r"""\s+([^\s=>]+)(?:\s*=\s*("[^"]*"|'[^']*'|[A-Za-z0-9.-]+))?""")
_NAME = re.compile(r"[^\s>]*")
#: What leadctl prints at the end of every message.
_MARKER = re.compile(r"(?:№|Lead) (.+) · (?:<code>)?(lc-[^\s<]+)")
#: Each emulated account is another bot, so that they are different destinations.
_bot_ids = itertools.count(700_000_001)


class MarkupError(Exception):
    """Telegram's words after ``can't parse entities: ``."""


@dataclass(slots=True)
class Parsed:
    """A text after parsing; offsets and lengths of ``entities`` are UTF-16 units."""

    text: str
    entities: list[dict[str, Any]] = field(default_factory=list)


class HtmlParser:
    """Telegram's own subset of HTML. Anything outside it refuses the whole message."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._out: list[str] = []
        self._units = 0
        self._open: list[tuple[str, int, int]] = []
        self._entities: list[dict[str, Any]] = []

    def parse(self) -> Parsed:
        position = 0
        while position < len(self._source):
            character = self._source[position]
            if character == "<":
                closing = self._source.startswith("</", position)
                position = self._end(position) if closing else self._start(position)
                continue
            entity = _ENTITY.match(self._source, position) if character == "&" else None
            self._put(html.unescape(entity[0]) if entity else character)
            position = entity.end() if entity else position + 1
        if self._open:
            raise MarkupError(f'Can\'t find end tag corresponding to start tag "{self._open[-1][0]}"')
        return Parsed("".join(self._out), sorted(self._entities, key=lambda found: found["offset"]))

    def _put(self, text: str) -> None:
        self._out.append(text)
        self._units += _units(text)

    def _start(self, begin: int) -> int:
        name = _NAME.match(self._source, begin + 1)
        assert name is not None  # noqa: S101 the pattern matches the empty text too
        tag, at, position = name[0].lower(), self._bytes(begin), name.end()
        if position == len(self._source):
            raise MarkupError(f"Unclosed start tag at byte offset {at}")
        if tag not in _TAGS:
            raise MarkupError(f'Unsupported start tag "{tag}" at byte offset {at}')
        attributes: dict[str, str] = {}
        while attribute := _ATTRIBUTE.match(self._source, position):
            position = attribute.end()
            if attribute[2] is not None:
                attributes[attribute[1].lower()] = html.unescape(attribute[2].strip("\"'"))
            elif not self._source.startswith("=", position):
                raise MarkupError(
                    f'Expected equal sign in declaration of an attribute of the tag "{tag}" at byte offset {at}'
                )
        position = self._skip_spaces(position)
        if not self._source.startswith(">", position):
            raise MarkupError(f"Unclosed start tag at byte offset {at}")
        if tag == "span" and attributes.get("class") != "tg-spoiler":
            raise MarkupError(f'Tag "span" must have class "tg-spoiler" at byte offset {at}')
        self._open.append((tag, self._units, begin))
        return position + 1

    def _end(self, begin: int) -> int:
        at = self._bytes(begin)
        if not self._open:
            raise MarkupError(f"Unexpected end tag at byte offset {at}")
        name = _NAME.match(self._source, begin + 2)
        assert name is not None  # noqa: S101 the pattern matches the empty text too
        position = self._skip_spaces(name.end())
        if not self._source.startswith(">", position):
            raise MarkupError(f"Unclosed end tag at byte offset {at}")
        tag, offset, _ = self._open.pop()
        found = name[0].lower()
        if found not in ("", tag):
            raise MarkupError(f'Unmatched end tag at byte offset {at}, expected "</{tag}>", found "</{found}>"')
        if self._units > offset:
            self._entities.append({"offset": offset, "length": self._units - offset, "type": _TAGS[tag]})
        return position + 1

    def _skip_spaces(self, position: int) -> int:
        while self._source[position : position + 1].isspace():
            position += 1
        return position

    def _bytes(self, position: int) -> int:
        return len(self._source[:position].encode())


class TokenBucket:
    """Short bursts pass, then ``rate`` a second. ``admit`` gives the seconds to wait, 0.0 for a request let through."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = time.monotonic()

    def admit(self) -> float:
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self._rate


@dataclass(slots=True)
class Chat:
    """A chat as the bot meets it."""

    id: int
    type: str
    title: str
    username: str | None = None
    #: The bot's own status: member, administrator, restricted, left, kicked; ``blocked`` by a person.
    status: str = "member"
    can_write: bool = True
    migrated_to: int | None = None
    #: Forum topics, open or closed; None where the chat is no forum.
    topics: dict[int, bool] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def public(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": self.id, "type": self.type}
        shown["first_name" if self.type == "private" else "title"] = self.title
        if self.username:
            shown["username"] = self.username
        if self.topics is not None:
            shown["is_forum"] = True
        return shown


class TelegramRefusal(Exception):
    """An answer with ``ok:false``."""

    def __init__(self, code: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters

    def response(self) -> web.Response:
        body: dict[str, Any] = {"ok": False, "error_code": self.code, "description": self.description}
        headers = {}
        if self.parameters:
            body["parameters"] = self.parameters
        if "retry_after" in self.parameters:
            headers["Retry-After"] = str(self.parameters["retry_after"])
        return web.json_response(body, status=self.code, headers=headers)


class TelegramVendor(HttpVendor):
    """One bot. ``chats`` may be changed by tests: kick the bot, close a topic, let a group migrate."""

    name = "telegram"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        "error_body": ("rejected", "rejected"),
        "broken_answer": ("delivered", "delivered"),
        "half_batch": ("delivered", "delivered"),
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.bot_id = next(_bot_ids)
        self.token = f"{self.bot_id}:AAHsandbox-made-up-token-0123456789"
        self.chats: dict[int, Chat] = {}
        self.add_chat(Chat(-1001234567890, "supergroup", "Sales", topics={42: True, 43: False}))
        self.add_chat(Chat(-1002222222222, "channel", "News", username="sandbox_news", status="administrator"))
        self.add_chat(Chat(-4001, "group", "Old sales"))
        self.add_chat(Chat(5001, "private", "Anna"))
        self._whole_bot = TokenBucket(30 * scale, 30)
        self._per_chat: dict[int, tuple[TokenBucket, ...]] = {}

    def add_chat(self, chat: Chat) -> Chat:
        self.chats[chat.id] = chat
        return chat

    def credential(self) -> Mapping[str, Any]:
        return {"bot_token": self.token, "chat_id": -1001234567890, "base_url": self.url}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.route("*", "/bot{token}/{method}", self._method), web.route("*", "/{any:.*}", self._nothing)]

    def refusal(self, kind: str) -> web.Response:
        if kind == "error_body":
            body = {"ok": False, "error_code": 400, "description": "Bad Request: message text is empty"}
            return web.json_response(body)
        refusals = {
            "rate_limit": TelegramRefusal(429, "Too Many Requests: retry after 1", retry_after=1),
            "server_error": TelegramRefusal(500, "Internal Server Error: restart"),
            "unauthorized": TelegramRefusal(401, "Unauthorized"),
            "reject": TelegramRefusal(400, "Bad Request: text must be non-empty"),
        }
        return refusals[kind].response()

    async def _nothing(self, request: web.Request) -> web.Response:
        del request
        return TelegramRefusal(404, "Not Found").response()

    async def _method(self, request: web.Request) -> web.StreamResponse:
        reads: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "getme": self._get_me,
            "getchat": self._get_chat,
            "getchatmember": self._get_chat_member,
        }
        method = request.match_info["method"].lower()
        try:
            self._authorize(request.match_info["token"])
            parameters = await _parameters(request)
        except TelegramRefusal as refusal:
            return refusal.response()
        if method == "sendmessage":
            lead, key = marker(str(parameters.get("text") or ""))
            send = _answering(lambda: self._send_message(parameters, lead, key))
            return await self.with_faults(request, [lead], send)
        if method not in reads:
            return TelegramRefusal(404, "Not Found: method not found").response()
        read = _answering(lambda: reads[method](parameters))
        # An outage is one for reads too; what refuses a message does not touch them.
        if self.faults.standing(self.name) in (None, "reject", "error_body"):
            return await read(None)
        return await self.with_faults(request, [], read)

    def _authorize(self, token: str) -> None:
        prefix = token.partition(":")[0]
        if ":" not in token or len(token) > 80 or not prefix.isdigit() or prefix.startswith("0"):
            raise TelegramRefusal(404, "Not Found")
        if token != self.token:
            raise TelegramRefusal(401, "Unauthorized")

    def _get_me(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        del parameters
        return {"id": self.bot_id, "is_bot": True, "first_name": "Leads", "username": "sandbox_leads_bot"}

    def _get_chat(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self._chat(parameters).public

    def _get_chat_member(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        chat = self._chat(parameters)
        if str(parameters.get("user_id")) != str(self.bot_id):
            raise TelegramRefusal(400, "Bad Request: user not found")
        member: dict[str, Any] = {"status": chat.status, "user": self._get_me({})}
        if chat.status == "administrator":
            member["can_post_messages"] = chat.can_write
        if chat.status == "restricted":
            member["can_send_messages"] = chat.can_write
        return member

    def _chat(self, parameters: Mapping[str, Any]) -> Chat:
        wanted = str(parameters.get("chat_id") or "").strip()
        if not wanted:
            raise TelegramRefusal(400, "Bad Request: chat_id is empty")
        for chat in self.chats.values():
            named = chat.username is not None and wanted.lower() == f"@{chat.username.lower()}"
            if named or wanted == str(chat.id):
                return chat
        raise TelegramRefusal(400, "Bad Request: chat not found")

    def _send_message(self, parameters: Mapping[str, Any], lead: str, key: str) -> dict[str, Any]:
        parsed = _formatted(str(parameters.get("text") or ""), str(parameters.get("parse_mode") or ""))
        chat = self._chat(parameters)
        _require_access(chat)
        thread = _topic(chat, parameters.get("message_thread_id"))
        self._throttle(chat)
        number = 1 + sum(len(other.messages) for other in self.chats.values())
        message: dict[str, Any] = {
            "message_id": number, "from": self._get_me({}), "chat": chat.public, "date": int(time.time()),
            "text": parsed.text, "entities": parsed.entities,
        }  # fmt: skip
        if thread is not None:
            message |= {"message_thread_id": thread, "is_topic_message": True}
        chat.messages.append(message)
        self.judge.created(Creation(self.name, lead, key, f"{chat.id}/{number}", parsed.text))
        return message

    def _throttle(self, chat: Chat) -> None:
        if chat.id not in self._per_chat:
            chat_bucket = TokenBucket(self.scale, 5)
            group = (TokenBucket(20 * self.scale / 60, 20),) if chat.id < 0 else ()
            self._per_chat[chat.id] = (chat_bucket, *group)
        wait = max(bucket.admit() for bucket in (self._whole_bot, *self._per_chat[chat.id]))
        if wait > 0:
            seconds = math.ceil(wait)
            raise TelegramRefusal(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


def _answering(call: Callable[[], dict[str, Any]]) -> Callable[[str | None], Awaitable[web.Response]]:
    """The call as ``with_faults`` wants it. No method of a bot can be half of a batch."""

    async def execute(kind: str | None) -> web.Response:
        del kind
        try:
            return _success(call())
        except TelegramRefusal as refusal:
            return refusal.response()

    return execute


def marker(text: str) -> tuple[str, str]:
    """The lead's id and the delivery's key that stand at the end of a message."""
    found = _MARKER.findall(text)
    return (html.unescape(found[-1][0]), html.unescape(found[-1][1])) if found else ("", "")


async def _parameters(request: web.Request) -> Mapping[str, Any]:
    found: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        try:
            body = await request.json()
        except ValueError:
            raise TelegramRefusal(400, "Bad Request: can't parse request body as JSON") from None
        if not isinstance(body, dict):
            raise TelegramRefusal(400, "Bad Request: can't parse request body as JSON object")
        return {**found, **body}
    return {**found, **await request.post()}


def _formatted(text: str, mode: str) -> Parsed:
    if not text:
        raise TelegramRefusal(400, "Bad Request: message text is empty")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise TelegramRefusal(400, "Bad Request: strings must be encoded in UTF-8") from None
    if len(raw) > MAX_RAW_BYTES:
        raise TelegramRefusal(400, "Bad Request: text is too long")
    if mode.lower() not in ("", "html"):
        raise TelegramRefusal(400, "Bad Request: unsupported parse_mode")
    try:
        parsed = HtmlParser(text).parse() if mode else Parsed(text)
    except MarkupError as error:
        raise TelegramRefusal(400, f"Bad Request: can't parse entities: {error}") from None
    parsed = _trimmed(parsed)
    if not parsed.text:
        raise TelegramRefusal(400, "Bad Request: text must be non-empty")
    if len(parsed.text) > MAX_CHARACTERS:
        raise TelegramRefusal(400, "Bad Request: message is too long")
    return parsed


def _trimmed(parsed: Parsed) -> Parsed:
    lead = _units(parsed.text) - _units(parsed.text.lstrip())
    text = parsed.text.strip()
    end = _units(text)
    kept = []
    for entity in parsed.entities:
        start = max(0, entity["offset"] - lead)
        length = min(end, entity["offset"] + entity["length"] - lead) - start
        if length > 0:
            kept.append({**entity, "offset": start, "length": length})
    return Parsed(text, kept)


def _require_access(chat: Chat) -> None:
    if chat.migrated_to is not None:
        raise TelegramRefusal(
            400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=chat.migrated_to
        )
    kind = chat.type if chat.type in ("supergroup", "channel") else "group"
    if chat.status == "blocked":
        raise TelegramRefusal(403, "Forbidden: bot was blocked by the user")
    if chat.status == "kicked":
        raise TelegramRefusal(403, f"Forbidden: bot was kicked from the {kind} chat")
    if chat.status == "left":
        raise TelegramRefusal(403, f"Forbidden: bot is not a member of the {kind} chat")
    if not chat.can_write:
        raise TelegramRefusal(400, "Bad Request: not enough rights to send text messages to the chat")


def _topic(chat: Chat, wanted: object) -> int | None:
    """The topic that the message goes to. In a chat that is no forum the field is ignored."""
    text = str(wanted or "")
    if chat.topics is None or not text.isdigit() or int(text) <= 0:
        return None
    if int(text) not in chat.topics:
        raise TelegramRefusal(400, "Bad Request: message thread not found")
    if not chat.topics[int(text)]:
        raise TelegramRefusal(400, "Bad Request: TOPIC_CLOSED")
    return int(text)


def _success(result: dict[str, Any]) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
