"""Telegram over real sockets: the emulated Bot API, as strict as the vendor's, and the channel against it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, Throttled, Transient, Unusable
from leadctl.domain.model import Done, Receipt
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.sandbox.telegram import Chat, HtmlParser, MarkupError, TelegramVendor
from tests.support.channels import make_delivery, make_lead, open_channel

TOKEN = "123456789:AAH-canary_token-0123456789abcdefghi"

# Over real sockets


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with running_sandbox(["telegram"], scale=1000) as box:
        yield box


def vendor_of(box: Sandbox) -> TelegramVendor:
    vendor = box.vendor("telegram")
    assert isinstance(vendor, TelegramVendor)
    return vendor


@asynccontextmanager
async def opened(box: Sandbox, settings: Mapping[str, Any] | None = None, **data: Any) -> AsyncIterator[Any]:
    channel = open_channel("telegram", {**vendor_of(box).credential(), **data}, settings, clock=SystemClock(), scale=60)
    try:
        yield channel
    finally:
        await channel.close()


def sent(box: Sandbox, settings: Mapping[str, Any] | None = None, **data: Any) -> Receipt:
    async def run() -> Receipt:
        async with opened(box, settings, **data) as channel:
            try:
                verdict = await channel.send(channel.steps[0], [make_delivery()])
            except DeliveryError as error:
                return error
            receipt: Receipt = verdict.receipts["lc-abc123-42-7"]
            return receipt

    return asyncio.run(run())


def test_a_message_arrives_with_its_marker(box: Sandbox) -> None:
    receipt = sent(box, message_thread_id=42)
    assert isinstance(receipt, Done)
    (creation,) = box.judge.creations("telegram")
    assert (creation.lead, creation.key, creation.remote_id) == ("42", "lc-abc123-42-7", receipt.remote_id)
    (message,) = vendor_of(box).chats[-1001234567890].messages
    assert message["message_thread_id"] == 42
    assert [entity["type"] for entity in message["entities"]][-1] == "code"


@pytest.mark.parametrize(
    ("change", "data", "kind"),
    [
        (lambda chat: setattr(chat, "status", "kicked"), {}, Unusable),
        (lambda chat: setattr(chat, "status", "left"), {}, Unusable),
        (lambda chat: setattr(chat, "can_write", False), {}, Unusable),
        (lambda chat: None, {"message_thread_id": 43}, Unusable),
        (lambda chat: None, {"message_thread_id": 44}, Unusable),
        (lambda chat: None, {"chat_id": -5}, Unusable),
        (lambda chat: None, {"chat_id": "@nobody_here"}, Unusable),
    ],
)
def test_what_the_chat_refuses(
    box: Sandbox, change: Callable[[Chat], None], data: Mapping[str, Any], kind: type[DeliveryError]
) -> None:
    change(vendor_of(box).chats[-1001234567890])
    assert type(sent(box, **data)) is kind
    assert box.judge.creations("telegram") == []


def test_migration_over_the_socket(box: Sandbox) -> None:
    vendor_of(box).chats[-4001].migrated_to = -1001234567890
    assert isinstance(sent(box, chat_id=-4001), Done)
    assert len(vendor_of(box).chats[-1001234567890].messages) == 1


def test_bad_template_arrives_as_plain_text(box: Sandbox) -> None:
    assert isinstance(sent(box, {"template": "<p>{{ lead.name }}</p>"}), Done)
    (message,) = vendor_of(box).chats[-1001234567890].messages
    assert message["text"].startswith("Анна Ким")
    assert message["entities"] == []


@pytest.mark.parametrize("fault", ["timeout", "reset", "broken_answer", "bad_gateway_after"])
def test_what_is_in_doubt_has_arrived(box: Sandbox, fault: str) -> None:
    box.faults.script("telegram", 42, [fault])
    receipt = sent(box)
    assert isinstance(receipt, Done if fault == "broken_answer" else Ambiguous)
    assert box.judge.by_lead("telegram") == {"42": 1}


def test_group_limit_is_kept_by_the_vendor() -> None:
    with running_sandbox(["telegram"]) as box:
        vendor_of(box).chats[-4001].topics = None

        async def run() -> list[Receipt]:
            found: list[Receipt] = []
            async with opened(box, chat_id=-4001) as channel:
                for number in range(7):
                    try:
                        verdict = await channel.send(channel.steps[0], [make_delivery(make_lead(id=number))])
                        found.extend(verdict.receipts.values())
                    except Throttled as error:
                        found.append(error)
            return found

        receipts = asyncio.run(run())
        assert all(isinstance(receipt, Done) for receipt in receipts[:5])
        assert isinstance(receipts[-1], Throttled)
        assert receipts[-1].retry_after == 1.0
        assert sum(isinstance(receipt, Done) for receipt in receipts) == len(box.judge.creations("telegram"))


def checked(box: Sandbox, **data: Any) -> str:
    async def run() -> str:
        async with opened(box, **data) as channel:
            said: str = await channel.check()
            return said

    return asyncio.run(run())


def test_check_names_bot_and_chat(box: Sandbox) -> None:
    assert checked(box) == "bot @sandbox_leads_bot → supergroup “Sales” (-1001234567890), as member"
    assert checked(box, message_thread_id=42).endswith("; only a message can prove topic 42")
    assert checked(box, chat_id=5001) == "bot @sandbox_leads_bot → private “Anna” (5001)"
    assert checked(box, chat_id="@Sandbox_News").endswith("as administrator")
    assert box.judge.creations("telegram") == []


def test_check_finds_what_is_wrong(box: Sandbox) -> None:
    chats = vendor_of(box).chats
    with pytest.raises(Unusable, match="bot_token is not accepted"):
        checked(box, bot_token=TOKEN)
    with pytest.raises(Unusable, match="chat not found"):
        checked(box, chat_id=-5)
    chats[-1001234567890].status = "left"
    with pytest.raises(Unusable, match="add it"):
        checked(box)
    chats[-1001234567890].status, chats[-1001234567890].can_write = "restricted", False
    with pytest.raises(Unusable, match="give it the right"):
        checked(box)
    chats[-1002222222222].can_write = False
    with pytest.raises(Unusable, match="give it the right"):
        checked(box, chat_id="@sandbox_news")


def test_an_outage_is_one_for_the_check_too(box: Sandbox) -> None:
    box.faults.always("telegram", "server_error")
    with pytest.raises(Transient):
        checked(box)
    box.faults.always("telegram", "reject")
    assert "Sales" in checked(box)


# The emulator's parser is as strict as the vendor's


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Ж<x>a</x>", 'Unsupported start tag "x" at byte offset 2'),
        ("a<br>b", 'Unsupported start tag "br" at byte offset 1'),
        ("a <3", "Unclosed start tag at byte offset 2"),
        ("<b", "Unclosed start tag at byte offset 0"),
        ('<a href="x', "Unclosed start tag at byte offset 0"),
        ("a</b>", "Unexpected end tag at byte offset 1"),
        ("<b>a</i>", 'Unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
        ("<b>a</b", "Unclosed end tag at byte offset 4"),
        ("<i><b>a</b>", 'Can\'t find end tag corresponding to start tag "i"'),
        ("<span>a</span>", 'Tag "span" must have class "tg-spoiler" at byte offset 0'),
        ("<a href>a</a>", 'Expected equal sign in declaration of an attribute of the tag "a" at byte offset 0'),
    ],
)
def test_markup_errors_are_the_vendors(source: str, words: str) -> None:
    with pytest.raises(MarkupError) as caught:
        HtmlParser(source).parse()
    assert str(caught.value) == words


def test_entities_are_counted_in_utf16_units() -> None:
    parsed = HtmlParser('😀<B>Ж😀</B> <a href="https://x.example">l</a>&amp;&eacute;').parse()
    assert parsed.text == "😀Ж😀 l&&eacute;"
    assert parsed.entities == [
        {"offset": 2, "length": 3, "type": "bold"},
        {"offset": 6, "length": 1, "type": "text_link"},
    ]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": "x"}, 400, "chat_id is empty"),
        ({"chat_id": 5001}, 400, "message text is empty"),
        ({"chat_id": 5001, "text": " \n "}, 400, "text must be non-empty"),
        ({"chat_id": 5001, "text": "x" * 4097}, 400, "message is too long"),
        ({"chat_id": 5001, "text": "Ж" * 16_385}, 400, "text is too long"),
        ({"chat_id": 5001, "text": "x", "parse_mode": "XML"}, 400, "unsupported parse_mode"),
        ({"chat_id": 5001, "text": "\ud800"}, 400, "strings must be encoded in UTF-8"),
        ({"chat_id": "5001", "text": "<b>x", "parse_mode": "html"}, 400, "can't parse entities"),
        ({"chat_id": "5001", "text": "x" * 4096}, 200, ""),
    ],
)
def test_emulated_server_is_strict(box: Sandbox, body: Mapping[str, Any], status: int, words: str) -> None:
    vendor = vendor_of(box)
    url = f"{vendor.url}/bot{vendor.token}/SENDMESSAGE"
    answer = httpx.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert words in answer.json().get("description", "")


def test_emulated_server_knows_its_paths(box: Sandbox) -> None:
    vendor = vendor_of(box)
    for path, status in (
        ("/botnonsense/getMe", 404), (f"/bot{TOKEN}/getMe", 401), (f"/bot{vendor.token}/getme", 200),
        (f"/bot{vendor.token}/sendMagic", 404), ("/", 404),
    ):  # fmt: skip
        assert httpx.get(vendor.url + path).status_code == status
    form = httpx.post(f"{vendor.url}/bot{vendor.token}/sendMessage", data={"chat_id": "5001", "text": "Hello"})
    assert form.json()["result"]["text"] == "Hello"
