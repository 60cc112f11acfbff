"""Telegram: the message, the error table, and the emulated Bot API over real sockets."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx
import pytest

from leadctl.channelkit.channel import Channel
from leadctl.channels.telegram import MAX_BYTES, TelegramSettings, compose, plain
from leadctl.domain.errors import (
    Ambiguous,
    DatabaseUnreachable,
    DeliveryError,
    InvalidCredential,
    Rejected,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Event, Notice
from leadctl.domain.model import Answer, CredentialId, Delivery, Done, Receipt, Verdict
from leadctl.sandbox.telegram import HtmlParser
from leadctl.testing.contract import ChannelContract
from tests.support.channels import MemoryCredentials, make_delivery, make_lead, open_channel

TOKEN = "123456789:AAH-canary_token-0123456789abcdefghi"
DATA: Mapping[str, Any] = {"bot_token": TOKEN, "chat_id": -1001234567890}
SENT = {"ok": True, "result": {"message_id": 777, "chat": {"id": -1001234567890, "type": "supergroup"}}}
RU, EN = TelegramSettings(), TelegramSettings(locale="en")


class TestContract(ChannelContract):
    name = "telegram"
    data = DATA
    bad_data: ClassVar = {"bot_token": "123456789:AAH-nobody-knows-this-one"}
    broken_answer_is_done = True  # a 200 comes only after the message is stored


def refusal(code: int, description: str, **parameters: Any) -> httpx.Response:
    body: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    if parameters:
        body["parameters"] = parameters
    return httpx.Response(code, json=body)


class Bot:
    """Answers in order, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers.pop(0)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]


def send(channel: Channel[Any, Any], delivery: Delivery | None = None) -> Verdict:
    async def run() -> Verdict:
        try:
            return await channel.send(channel.steps[0], [delivery or make_delivery()])
        finally:
            await channel.close()

    return asyncio.run(run())


def answered(*answers: httpx.Response, data: Mapping[str, Any] = DATA) -> Receipt:
    """What the channel says after these answers; every one of them must be used."""
    bot = Bot(*answers)
    try:
        receipt = send(open_channel("telegram", data, handler=bot)).receipts["lc-abc123-42-7"]
    except DeliveryError as error:
        receipt = error
    assert bot.answers == []
    return receipt


# The request


def test_request_is_exact() -> None:
    bot = Bot(httpx.Response(200, json=SENT))
    verdict = send(open_channel("telegram", {**DATA, "message_thread_id": 42}, {"locale": "en"}, handler=bot))
    request = bot.requests[0]
    assert (request.method, str(request.url)) == ("POST", f"https://api.telegram.org/bot{TOKEN}/sendMessage")
    assert request.headers["content-type"] == "application/json"
    assert bot.bodies == [
        {
            "chat_id": -1001234567890,
            "message_thread_id": 42,
            "text": "<b>New lead</b>\n<b>Name:</b> Анна Ким\n<b>Phone:</b> +7 900 000-00-01\n"
            "<b>E-mail:</b> anna@example.com\n<b>Comment:</b> Перезвоните после 18:00\n"
            "<b>Answers:</b>\nbudget: 100 000\n<b>Page:</b> https://example.com/p\n"
            "<b>Tags:</b> utm_source=yandex, utm_medium=cpc\n<b>Created:</b> 2026-03-01 10:00 UTC\n\n"
            "Lead 42 · <code>lc-abc123-42-7</code>",
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
    ]
    receipt = verdict.receipts["lc-abc123-42-7"]
    assert receipt == Done("-1001234567890/777", "https://t.me/c/1234567890/777")
    assert verdict.http_status == 200
    assert verdict.request_digest


def test_thread_is_left_out_for_general() -> None:
    for thread in (None, 1, "1", 0, -5, ""):
        bot = Bot(httpx.Response(200, json=SENT))
        send(open_channel("telegram", {**DATA, "message_thread_id": thread}, handler=bot))
        assert "message_thread_id" not in bot.bodies[0]


def test_base_url_of_a_local_server() -> None:
    bot = Bot(httpx.Response(200, json=SENT))
    send(open_channel("telegram", {**DATA, "base_url": "https://bots.example:8081/api/"}, handler=bot))
    assert str(bot.requests[0].url) == f"https://bots.example:8081/api/bot{TOKEN}/sendMessage"


def test_public_channel_has_a_link() -> None:
    result = {"message_id": 5, "chat": {"id": -100777, "type": "channel", "username": "acme_news"}}
    receipt = answered(httpx.Response(200, json={"ok": True, "result": result}))
    assert receipt == Done("-100777/5", "https://t.me/acme_news/5")


# The text


def text_of(delivery: Delivery, settings: TelegramSettings = RU) -> str:
    return HtmlParser(compose(delivery, settings)).parse().text


def test_every_value_is_escaped() -> None:
    hostile = "<b>x</b> & <script>alert(1)</script> <3 &lt;"
    lead = make_lead(name=hostile, comment=hostile, page_url=hostile, answers=(Answer(hostile, hostile),))
    markup = compose(make_delivery(lead), RU)
    assert "<script" not in markup
    assert text_of(make_delivery(lead)).count(hostile) == 5


def test_own_template_escapes_values_and_does_not_render_them() -> None:
    settings = TelegramSettings(
        subject="{{ lead.name }} & Co", template="<i>{{ lead.comment }}</i> {{ lead.answers.budget }}"
    )
    lead = make_lead(name="<u>{{ 7 * 7 }}", comment='"</i>{{ 7 * 7 }}')
    assert compose(make_delivery(lead), settings) == (
        "<b>&lt;u&gt;{{ 7 * 7 }} &amp; Co</b>\n<i>&#34;&lt;/i&gt;{{ 7 * 7 }}</i> 100 000\n\n"
        "№ 42 · <code>lc-abc123-42-7</code>"
    )


def test_a_template_alone_has_no_title_of_ours() -> None:
    settings = TelegramSettings(template="{{ lead.phone }}")
    assert text_of(make_delivery(), settings) == "+7 900 000-00-01\n\n№ 42 · lc-abc123-42-7"


def test_possible_repeat_is_the_first_line() -> None:
    for settings, line in ((RU, "⚠️ Возможный повтор: № 42"), (EN, "⚠️ Possible repeat: Lead 42")):
        assert text_of(make_delivery(possible_repeat=True), settings).split("\n")[0] == line


def test_control_direction_and_surrogate_characters_are_gone() -> None:
    bad = "a\x00b\ud800c\u202ed\u200fe\u2066f\x1b[31m\x07"
    text = text_of(make_delivery(make_lead(name=bad, comment=bad, answers=(Answer(bad, bad),))))
    assert not {"\x00", "\ud800", "\u202e", "\u200f", "\u2066", "\x1b", "\x07"} & set(text)
    text.encode()


@pytest.mark.parametrize("filler", ["a", "Ж", "漢", "&", "😀", "\n", "👩‍👧"])
def test_long_lead_is_cut_to_the_limit(filler: str) -> None:
    lead = make_lead(comment=f"start {filler * 100_000}", answers=(Answer("q", filler * 5_000), Answer("r", "last")))
    markup = compose(make_delivery(lead), RU)
    text = HtmlParser(markup).parse().text
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    assert len(markup.encode()) <= MAX_BYTES
    for kept in ("Анна Ким", "+7 900 000-00-01", "anna@example.com", "№ 42 · lc-abc123-42-7", "start"):
        assert kept in text


def test_the_cut_uses_the_room_there_is() -> None:
    text = text_of(make_delivery(make_lead(comment="Ж" * 100_000)))
    assert len(text) == 4096
    assert "budget: 100 000" in text, "short answers are whole beside a long comment"


def test_a_template_that_is_too_long_by_itself_is_rejected() -> None:
    settings = TelegramSettings(template="x" * 5000)
    with pytest.raises(Rejected, match=r"shorten settings\.template"):
        compose(make_delivery(), settings)


def test_plain_is_what_the_parser_leaves() -> None:
    for markup in ("<b>a</b> &amp;lt; &#128512; &eacute; &quot;", compose(make_delivery(), RU)):
        assert plain(markup) == HtmlParser(markup).parse().text.strip()


# What is mended within one send


def test_migration_is_followed_kept_and_told() -> None:
    bot = Bot(
        refusal(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-100987),
        httpx.Response(200, json=SENT),
        httpx.Response(200, json=SENT),
    )
    events: list[Event] = []
    credentials = MemoryCredentials({7: {**DATA, "chat_id": -4001}})
    channel = open_channel("telegram", {**DATA, "chat_id": -4001}, handler=bot, events=events, credentials=credentials)
    before = channel.destination()

    async def run() -> None:
        await channel.send(channel.steps[0], [make_delivery()])
        await channel.send(channel.steps[0], [make_delivery(make_lead(id=43))])

    asyncio.run(run())
    assert [body["chat_id"] for body in bot.bodies] == [-4001, -100987, -100987]
    assert credentials.rows[7]["chat_id"] == -100987
    assert channel.destination() == before
    (notice,) = events
    assert isinstance(notice, Notice)
    assert (notice.channel, notice.credential_id, notice.code) == ("telegram", 7, "chat_migrated")
    assert "-4001" in notice.message
    assert "credential's data" in notice.message


class BrokenStore(MemoryCredentials):
    async def keep(self, credential_id: CredentialId, key: str, value: Any) -> str:
        raise DatabaseUnreachable("the database does not answer")


@pytest.mark.parametrize(
    ("credentials", "said"),
    [(MemoryCredentials(read_only=True), "in the ledger"), (BrokenStore(), "set chat_id to -100987")],
)
def test_migration_where_the_row_cannot_be_written(credentials: MemoryCredentials, said: str) -> None:
    bot = Bot(
        refusal(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-100987),
        httpx.Response(200, json=SENT),
    )
    events: list[Event] = []
    verdict = send(open_channel("telegram", DATA, handler=bot, events=events, credentials=credentials))
    assert isinstance(verdict.receipts["lc-abc123-42-7"], Done)
    assert isinstance(events[0], Notice)
    assert said in events[0].message


def test_a_chat_that_keeps_moving_is_unusable() -> None:
    moved = [refusal(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-100 - n) for n in range(2)]
    assert isinstance(answered(*moved), Unusable)


def test_markup_that_is_refused_goes_once_as_plain_text() -> None:
    bad = refusal(400, 'Bad Request: can\'t parse entities: Unsupported start tag "x" at byte offset 52')
    bot = Bot(bad, httpx.Response(200, json=SENT))
    channel = open_channel("telegram", DATA, {"template": "<x>{{ lead.name }}</x>"}, handler=bot)
    verdict = send(channel, make_delivery(make_lead(name="A & B")))
    assert isinstance(verdict.receipts["lc-abc123-42-7"], Done)
    assert "parse_mode" not in bot.bodies[1]
    assert bot.bodies[1]["text"] == "A & B\n\n№ 42 · lc-abc123-42-7"
    assert isinstance(answered(bad, bad), Rejected)


@pytest.mark.parametrize("words", ["message is too long", "text is too long"])
def test_too_long_goes_once_shortened(words: str) -> None:
    long = refusal(400, f"Bad Request: {words}")
    bot = Bot(long, httpx.Response(200, json=SENT))
    send(open_channel("telegram", DATA, handler=bot), make_delivery(make_lead(comment="Ж" * 9000)))
    first, second = (len(plain(body["text"])) for body in bot.bodies)
    assert (first, second) == (4096, 2000)
    assert isinstance(answered(long, long), Rejected)


def test_a_mended_message_may_be_in_doubt() -> None:
    first = refusal(400, "Bad Request: message is too long")
    assert isinstance(answered(first, httpx.Response(502, text="<html>")), Ambiguous)


# The error table of the sheet

FORBIDDEN = [
    "bot was blocked by the user", "user is deactivated", "bot can't initiate conversation with a user",
    "the bot can't send messages to the bot", "bot was kicked from the group chat",
    "bot was kicked from the supergroup chat", "bot is not a member of the channel chat", "the group chat was deleted",
]  # fmt: skip
ROWS: list[tuple[httpx.Response, type[DeliveryError]]] = [
    (refusal(400, "Bad Request: chat not found"), Unusable),
    (refusal(400, "Bad Request: chat_id is empty"), Unusable),
    (refusal(400, "Bad Request: message thread not found"), Unusable),
    (refusal(400, "Bad Request: TOPIC_CLOSED"), Unusable),
    (refusal(400, "Bad Request: group chat was upgraded to a supergroup chat"), Unusable),
    (refusal(400, "Bad Request: message text is empty"), Rejected),
    (refusal(400, "Bad Request: text must be non-empty"), Rejected),
    (refusal(400, "Bad Request: unsupported parse_mode"), Rejected),
    (refusal(400, "Bad Request: strings must be encoded in UTF-8"), Rejected),
    (refusal(400, "Bad Request: something that nobody has seen"), Rejected),
    (refusal(400, "Bad Request: not enough rights to send text messages to the chat"), Unusable),
    (refusal(400, "Bad Request: have no write access to the chat"), Unusable),
    (refusal(400, "Bad Request: CHAT_WRITE_FORBIDDEN"), Unusable),
    (refusal(400, "Bad Request: need administrator rights in the channel chat"), Unusable),
    (refusal(401, "Unauthorized"), Unusable),
    (refusal(401, "Unauthorized: invalid token specified"), Unusable),
    *((refusal(403, f"Forbidden: {words}"), Unusable) for words in FORBIDDEN),
    (refusal(404, "Not Found"), Unusable),
    (refusal(404, "Not Found: method not found"), Unusable),
    (refusal(421, "Misdirected Request: unallowed token specified"), Unusable),
    (refusal(429, "Too Many Requests: retry after 35", retry_after=35), Throttled),
    (refusal(500, "Internal Server Error: restart"), Transient),
    (refusal(502, "Bad Gateway"), Transient),
    (httpx.Response(200, json={"ok": False, "error_code": 400, "description": "Bad Request: x"}), Rejected),
    (httpx.Response(200, json=["not", "the", "API"]), Ambiguous),
    (httpx.Response(301, headers={"Location": "https://elsewhere.example/"}), Unusable),
    (httpx.Response(400), Rejected),
    (httpx.Response(408), Ambiguous),
    (httpx.Response(413), Rejected),
    (httpx.Response(415), Rejected),
    (httpx.Response(431), Rejected),
    (httpx.Response(505), Rejected),
    (httpx.Response(403, text="<html>blocked</html>"), Unusable),
    (httpx.Response(429, headers={"Retry-After": "7"}), Throttled),
    (httpx.Response(500), Ambiguous),
    (httpx.Response(502, text="<html><title>502 Bad Gateway</title></html>"), Ambiguous),
    (httpx.Response(503, json={"error": "no ok in it"}), Ambiguous),
    (httpx.Response(504, text="<html>"), Ambiguous),
]


@pytest.mark.parametrize(("answer", "kind"), ROWS)
def test_error_table(answer: httpx.Response, kind: type[DeliveryError]) -> None:
    receipt = answered(answer)
    assert type(receipt) is kind
    assert receipt.message
    assert receipt.http_status == answer.status_code
    assert receipt.vendor_code
    assert receipt.request_digest


def test_wait_is_the_vendors_word() -> None:
    in_the_body = answered(refusal(429, "Too Many Requests: retry after 35", retry_after=35))
    assert isinstance(in_the_body, Throttled)
    assert in_the_body.retry_after == 35.0
    in_the_header = answered(httpx.Response(429, headers={"Retry-After": "7"}))
    assert isinstance(in_the_header, Throttled)
    assert in_the_header.retry_after == 7.0


@pytest.mark.parametrize("body", [b"", b'{"ok":tr', b"<html>", b'{"ok":true}', b'{"ok":true,"result":[]}'])
def test_a_200_that_cannot_be_read_is_delivered(body: bytes) -> None:
    assert answered(httpx.Response(200, content=body)) == Done()


# The credential


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"chat_id": 1}, "data.bot_token"),
        ({"bot_token": TOKEN}, "data.chat_id"),
        ({**DATA, "bot_token": "canary"}, "data.bot_token"),
        ({**DATA, "bot_token": "canary:abc"}, "data.bot_token"),
        ({**DATA, "bot_token": "0123:canary"}, "data.bot_token"),
        ({**DATA, "bot_token": "123:canary/../x"}, "data.bot_token"),
        ({**DATA, "bot_token": "123:canary" + "a" * 80}, "data.bot_token"),
        ({**DATA, "bot_token": 123}, "data.bot_token"),
        ({**DATA, "chat_id": "Sales canary"}, "data.chat_id"),
        ({**DATA, "chat_id": "@x"}, "data.chat_id"),
        ({**DATA, "chat_id": [1]}, "data.chat_id"),
        ({**DATA, "chat_id": True}, "data.chat_id"),
        ({**DATA, "chat_id": 0}, "data.chat_id"),
        ({**DATA, "chat_id": 2**60}, "data.chat_id"),
        ({**DATA, "message_thread_id": "canary"}, "data.message_thread_id"),
        ({**DATA, "message_thread_id": 2**60}, "data.message_thread_id"),
        ({**DATA, "base_url": "canary"}, "data.base_url"),
        ({**DATA, "base_url": "https://u:canary@host"}, "data.base_url"),
        ({**DATA, "base_url": "smtp://canary"}, "data.base_url"),
    ],
)
def test_bad_data_names_the_key_and_hides_the_value(data: Mapping[str, Any], key: str) -> None:
    with pytest.raises(InvalidCredential) as caught:
        open_channel("telegram", data)
    assert str(caught.value).startswith(key)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"locale": "de"}, "settings.locale"), ({"template": "{% if %}"}, "settings.template"),
     ({"subject": "{{ x"}, "settings.subject"), ({"template": ["x"]}, "settings.template")],
)  # fmt: skip
def test_bad_settings_name_the_key(settings: Mapping[str, Any], key: str) -> None:
    with pytest.raises(InvalidCredential, match=f"^{key}"):
        open_channel("telegram", DATA, settings)


def test_base_url_must_pass_the_guard() -> None:
    with pytest.raises(InvalidCredential, match="127"):
        open_channel("telegram", {**DATA, "base_url": "https://127.0.0.1"}, allow_private=())


@pytest.mark.parametrize(
    ("chat", "thread", "target"),
    [(-1001234567890, 42, "-1001234567890/42"), ("-1001234567890", "42", "-1001234567890/42"),
     ("@Acme_News", None, "@Acme_News"), (4503599627370, 1, "4503599627370")],
)  # fmt: skip
def test_destination(chat: int | str, thread: int | str | None, target: str) -> None:
    channel = open_channel("telegram", {**DATA, "chat_id": chat, "message_thread_id": thread})
    destination = channel.destination()
    assert destination.target == target
    assert destination.account == ("123456789",)
    assert destination.parts == ("123456789", str(chat).lower(), "42" if thread and thread != 1 else "")


def test_destination_does_not_depend_on_the_tokens_secret_half() -> None:
    other = {**DATA, "bot_token": "123456789:BBB-another-token-of-the-same-bot", "chat_id": str(DATA["chat_id"])}
    assert open_channel("telegram", other).destination() == open_channel("telegram", DATA).destination()


@pytest.mark.parametrize(("chat", "lane"), [(5001, (1.0, 1.0)), (-4001, (20.0, 60.0)), ("@acme_news", (20.0, 60.0))])
def test_the_narrowest_bucket_is_the_lane(chat: int | str, lane: tuple[float, float]) -> None:
    buckets = open_channel("telegram", {**DATA, "chat_id": chat}).buckets()
    assert [bucket.limit.documented is not None for bucket in buckets] == [False] * (len(buckets) - 1) + [True]
    assert (buckets[-1].limit.rate, buckets[-1].limit.per) == lane
    assert buckets[0].limit.rate == 25.0
    other = open_channel("telegram", {**DATA, "chat_id": -9}).buckets()
    assert other[0] == buckets[0], "all chats of a bot share its limit"
    assert other[-1].scope != buckets[-1].scope
