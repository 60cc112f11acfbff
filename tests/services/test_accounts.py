"""Credentials from files, and what is laid over them."""

import hashlib
from pathlib import Path

import pytest

from leadctl.channels import channel_names
from leadctl.domain.errors import ConfigError
from leadctl.domain.model import Account
from leadctl.services.accounts import (
    check_channel,
    effective_account,
    load_accounts_file,
    load_settings_file,
)


def write(path: Path, text: str | bytes) -> Path:
    file = path / "file.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_the_ten_channels_of_the_contract_are_known() -> None:
    assert set(channel_names()) == {
        "email", "amocrm", "telegram", "bitrix24", "webhooks",
        "getresponse", "sendpulse", "unisender", "lptracker", "uontravel",
    }  # fmt: skip


def test_an_unknown_channel_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        check_channel("telegramm")
    assert caught.value.hint == "did you mean telegram?"
    assert check_channel("telegram") == "telegram"


def test_a_name_is_compared_exactly() -> None:
    with pytest.raises(ConfigError, match="no such channel: Email"):
        check_channel("Email")


def test_accounts_file_takes_one_or_several_a_channel(tmp_path: Path) -> None:
    file = write(
        tmp_path, '\ufeff{"telegram": {"chat_id": "ы", "bot_token": "t"}, "email": [{"host": "a"}, {"host": "b"}]}'
    )
    accounts = load_accounts_file(file)
    assert [(a.channel, dict(a.data)) for a in accounts] == [
        ("telegram", {"chat_id": "ы", "bot_token": "t"}), ("email", {"host": "a"}), ("email", {"host": "b"}),
    ]  # fmt: skip
    canonical = '{"bot_token":"t","chat_id":"ы"}'
    assert accounts[0].credential_id == "file:" + hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert len({a.credential_id for a in accounts}) == 3
    assert all(a.enabled for a in accounts)


def test_the_order_of_keys_does_not_make_another_credential(tmp_path: Path) -> None:
    first = load_accounts_file(write(tmp_path, '{"email": {"host": "a", "port": 25}}'))
    second = load_accounts_file(write(tmp_path, '{"email": [{"port": 25, "host": "a"}, {"host": "a", "port": 25}]}'))
    assert [a.credential_id for a in first] == [a.credential_id for a in second]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"email": ', "not valid JSON: Expecting value at line 1, column 11"),
        ("[]", "the document is not a JSON object"),
        ('{"email": 5}', "email: credential 1 is not a JSON object"),
        ('{"email": [{}, "s3cr3t!"]}', "email: credential 2 is not a JSON object"),
        ('{"emial": {}}', "no such channel: emial"),
        ('{"email": {}, "email": {}}', "the key email stands there twice"),
        ('{"email": {"port": NaN}}', "NaN is not a JSON number"),
        (b'{"email": "\xff"}', "cannot be read: not UTF-8"),
        ('{"email": ' + "[" * 200_000, "nested too deep"),
        ('{"email": {"port": ' + "9" * 5000 + "}}", "Exceeds the limit"),
    ],
)
def test_a_bad_accounts_file_is_named_with_the_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_accounts_file(file)
    assert caught.value.message.startswith(str(file))
    assert said in caught.value.message
    assert "s3cr3t!" not in str(caught.value.as_json())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings_file(tmp_path / "none.json")


def test_settings_file(tmp_path: Path) -> None:
    assert load_settings_file(write(tmp_path, '{"amocrm": {"tags": ["x"]}}')) == {"amocrm": {"tags": ["x"]}}
    with pytest.raises(ConfigError, match="amocrm: settings must be a JSON object"):
        load_settings_file(write(tmp_path, '{"amocrm": ["x"]}'))


def test_overrides_and_overlay_are_laid_over_one_account() -> None:
    account = Account(7, "telegram", data={"chat_id": "1", "bot_token": "t"}, settings={"locale": "ru", "subject": "s"})
    changed = effective_account(account, {7: {"chat_id": "-1002"}, 8: {"chat_id": "x"}}, {"telegram": {"locale": "en"}})
    assert changed.data == {"chat_id": "-1002", "bot_token": "t"}
    assert changed.settings == {"locale": "en", "subject": "s"}
    assert account.data["chat_id"] == "1"


def test_nothing_to_lay_over_leaves_the_account_itself() -> None:
    account = Account(7, "telegram", data={"chat_id": "1"})
    assert effective_account(account, {8: {"chat_id": "2"}}, {"email": {"locale": "en"}}) is account


def test_a_broken_account_stays_broken() -> None:
    account = Account(7, "telegram", problem="data is not valid JSON")
    assert effective_account(account, {7: {"chat_id": "2"}}, {"telegram": {"locale": "en"}}) is account
