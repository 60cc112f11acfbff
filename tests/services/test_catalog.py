"""The list of channels, and the schema of each one's credential."""

import pytest
from jsonschema import Draft202012Validator

from leadctl.channels import channel_class, channel_names
from leadctl.domain.errors import ConfigError
from leadctl.services.catalog import channel_rows, channel_schema
from tests.support.schemas import validate


def test_every_channel_is_listed_once() -> None:
    rows = channel_rows()
    validate({"schema": "leadctl.channels/1", "channels": rows})
    assert len({row["name"] for row in rows}) == len(rows)
    assert {row["name"] for row in rows} == set(channel_names())
    assert {row["state"] for row in rows} == {"supported"}
    assert len(rows) == 10


def test_keys_are_told_as_they_are_written_in_data() -> None:
    rows = {row["name"]: row for row in channel_rows()}
    telegram = {key["key"]: key for key in rows["telegram"]["data_keys"]}
    assert telegram["bot_token"] == {"key": "bot_token", "required": True, "secret": True}
    assert telegram["message_thread_id"] == {"key": "message_thread_id", "required": False, "secret": False}
    email = {key["key"]: key for key in rows["email"]["data_keys"]}
    assert email["from"]["required"]
    assert email["password"]["secret"]


@pytest.mark.parametrize("name", channel_names())
def test_the_example_fits_the_schema_and_the_channel(name: str) -> None:
    document = channel_schema(name)
    validate(document)
    for part, model in (("data", channel_class(name).Config), ("settings", channel_class(name).Settings)):
        Draft202012Validator.check_schema(document[part])
        example = document["example"][part]
        Draft202012Validator(document[part]).validate(example)
        model.model_validate(example)
    assert document["example"]["data"]
    assert "on_unknown" in document["settings"]["properties"]


def test_a_channel_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        channel_schema("bitrix")
    assert caught.value.hint == "did you mean bitrix24?"
