"""What applications call things. Order is preference: what stands first is what is taken."""

import re
from collections.abc import Iterable, Mapping, Sequence

#: Tables of Laravel and of its packages: never leads, credentials or links.
FRAMEWORK = re.compile(
    r"(migrations|jobs|job_batches|failed_jobs|cache|cache_locks|sessions|password_resets?|password_reset_tokens"
    r"|personal_access_tokens|oauth_\w+|telescope_\w+|pulse_\w+|horizon_\w+|notifications|media|leadctl_\w+"
    r"|permissions|roles|role_has_permissions|model_has_\w+|activity_log|audits|sqlite_\w+)$"
)

#: Table → how much its name says, of 40.
LEAD_TABLES: Mapping[str, int] = {
    "lead": 40, "request": 32, "application": 32, "submission": 32, "form_submission": 32, "inquiry": 32,
    "enquiry": 32, "bid": 28, "client_request": 32, "lead_request": 34, "form_request": 30, "callback": 24,
    "feedback": 20, "order": 20, "contact": 16, "ticket": 14, "deal": 14, "appeal": 24, "message": 8,
}  # fmt: skip
CREDENTIAL_TABLES: Mapping[str, int] = {
    "credential": 40, "integration": 38, "integration_credential": 40, "integration_account": 36, "connection": 30,
    "integration_setting": 30, "integration_config": 30, "connector": 28, "account": 20, "channel": 22,
    "destination": 26, "service": 14, "crm_account": 30, "crm": 20, "provider": 14, "delivery_channel": 28,
}  # fmt: skip
#: The end of the name of a table that keeps what was sent.
LOG_TABLE = re.compile(r"(^|_)(logs?|deliver(y|ies)|dispatch(es)?|sends?|sent|exports?|syncs?|histor(y|ies)|attempts?"
                       r"|sent_leads?|outbox)$")  # fmt: skip

#: Columns, and places in JSON, of a lead.
LEAD_COLUMNS: Mapping[str, Sequence[str]] = {
    "name": ("name", "full_name", "fullname", "fio", "contact_name", "client_name", "customer_name", "lead_name",
             "user_name", "username", "person", "first_name"),
    "phone": ("phone", "phone_number", "telephone", "tel", "mobile", "mobile_phone", "contact_phone", "client_phone",
              "customer_phone", "user_phone", "msisdn", "telefon"),
    "email": ("email", "e_mail", "mail", "email_address", "contact_email", "client_email", "customer_email",
              "user_email"),
    "comment": ("comment", "comments", "message", "text", "note", "notes", "remark", "description", "question",
                "body"),
    "page_url": ("page_url", "url", "page", "landing_url", "source_url", "page_link", "referer", "referrer", "href",
                 "link"),
    "utm": ("utm", "utms", "utm_data", "utm_params", "utm_tags", "utm_marks"),
    "answers": ("answers", "quiz_answers", "form_answers", "form_data", "form_fields", "quiz", "fields", "questions",
                "custom_fields"),
    "created_at": ("created_at", "created", "created_on", "date_created", "date_create", "submitted_at", "received_at",
                   "createdat", "creation_date", "date", "timestamp"),
}  # fmt: skip
UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term")
#: Only a table of people that log in has these.
PEOPLE = frozenset({"password", "remember_token", "password_hash", "api_token"})

CREDENTIAL_COLUMNS: Mapping[str, Sequence[str]] = {
    "type": ("type", "provider", "channel", "driver", "integration_type", "credential_type", "kind", "service",
             "system", "vendor", "integration", "crm", "platform", "slug", "code", "name"),
    "name": ("name", "title", "label", "display_name", "caption"),
    "enabled": ("enabled", "is_enabled", "active", "is_active", "isactive", "is_on", "turned_on", "status", "state"),
    "disabled": ("disabled", "is_disabled", "inactive", "is_inactive", "paused", "is_paused", "blocked"),
    "data": ("data", "credentials", "credential", "config", "configuration", "secrets", "secret", "auth", "access",
             "payload", "parameters", "params", "properties", "options", "settings", "meta", "value"),
    "settings": ("settings", "options", "preferences", "params", "parameters", "extra", "meta"),
}  # fmt: skip
DELETED_FLAGS = ("is_deleted", "deleted", "is_removed", "removed", "is_archived", "archived")
DELETED_TIMES = ("removed_at", "archived_at", "date_deleted", "deleted_on", "trashed_at")
NEGATIVE = frozenset(
    {"0", "n", "no", "f", "false", "off", "inactive", "disabled", "paused", "archived", "draft", "blocked", "revoked",
     "deleted", "expired", "broken", "error", "failed", "suspended", "stopped", "нет", "выкл"}
)  # fmt: skip
POSITIVE = frozenset(
    {"1", "y", "yes", "t", "true", "on", "active", "enabled", "connected", "ok", "working", "live", "published",
     "running", "да", "вкл"}
)  # fmt: skip
#: What is true for leadctl without a list of values.
PLAIN_TRUTH = frozenset({"0", "1", "y", "n", "yes", "no", "t", "f", "true", "false", "on", "off"})

#: A type with nothing but its letters and digits → the channel, where that is not the channel's own name.
TYPES: Mapping[str, str] = {
    "amo": "amocrm", "kommo": "amocrm", "amocrmv4": "amocrm", "amocrmapi": "amocrm",
    "tg": "telegram", "tgbot": "telegram", "telegrambot": "telegram", "telegramchat": "telegram",
    "bitrix": "bitrix24", "b24": "bitrix24", "bx24": "bitrix24", "bitrix24crm": "bitrix24", "bitrixcrm": "bitrix24",
    "mail": "email", "smtp": "email", "emailsmtp": "email", "mailer": "email", "emails": "email",
    "webhook": "webhooks", "hook": "webhooks", "hooks": "webhooks", "outgoingwebhook": "webhooks",
    "uon": "uontravel", "lpt": "lptracker", "unisenderru": "unisender", "sendpulsecrm": "sendpulse",
    "getresponsecom": "getresponse",
}  # fmt: skip
#: May be meant, may be not.
DOUBTFUL_TYPES = frozenset({"tg", "amo", "bitrix", "hook", "hooks", "lpt", "uon", "mailer", "kommo"})
_TYPE_ENDS = ("integration", "credentials", "credential", "channel", "connection", "account", "driver", "service")

#: channel → our key of ``data`` → what else it is called there.
DATA_KEYS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "amocrm": {
        "subdomain": ("domain", "account", "portal", "host"), "base_url": ("base_domain", "baseurl", "url", "api_url"),
        "access_token": ("token", "long_token", "long_lived_token", "api_token", "api_key", "bearer"),
        "client_id": ("integration_id", "app_id"), "client_secret": ("secret", "secret_key", "app_secret"),
        "redirect_uri": ("redirect_url", "redirect", "callback_url"),
        "expires_at": ("expires", "expired_at", "token_expires_at", "expires_on"),
    },
    "bitrix24": {"webhook_url": ("webhook", "url", "hook", "hook_url", "endpoint", "rest_url", "web_hook")},
    "email": {
        "host": ("smtp_host", "server", "smtp_server", "mail_host"), "port": ("smtp_port", "mail_port"),
        "security": ("encryption", "smtp_encryption", "smtp_secure", "secure", "mail_encryption"),
        "username": ("user", "login", "mailbox", "smtp_user", "smtp_username", "mail_username"),
        "password": ("pass", "pwd", "smtp_password", "smtp_pass", "mail_password", "secret"),
        "from": ("sender", "from_address", "from_email", "mail_from"),
        "to": ("recipients", "recipient", "emails", "email", "addresses", "address", "send_to", "mail_to"),
        "reply_to": ("replyto", "reply"),
    },
    "telegram": {
        "bot_token": ("token", "bot", "api_token", "telegram_token", "key", "api_key"),
        "chat_id": ("chat", "chatid", "channel", "channel_id", "group_id", "group", "telegram_chat_id", "peer_id"),
        "message_thread_id": ("thread_id", "thread", "topic_id", "topic"),
    },
    "webhooks": {
        "url": ("webhook_url", "webhook", "endpoint", "target_url", "callback_url", "uri", "hook_url", "address"),
        "method": ("http_method", "verb"), "body": ("format", "content_type"),
        "secret": ("signing_secret", "secret_key", "key", "signature_key"), "headers": ("http_headers",),
    },
    "getresponse": {
        "api_key": ("key", "token", "apikey", "api_token"),
        "campaign_id": ("campaign", "list_id", "list", "campaign_token"),
    },
    "sendpulse": {
        "client_id": ("user_id", "api_user_id", "id", "rest_id"),
        "client_secret": ("secret", "api_secret", "rest_secret"), "api_key": ("key", "token", "apikey"),
        "address_book_id": ("book_id", "address_book", "book", "list_id", "list", "mailing_list_id"),
    },
    "unisender": {
        "api_key": ("key", "token", "apikey", "api_token"), "list_ids": ("list_id", "lists", "list"),
        "lang": ("language", "locale"),
    },
    "lptracker": {
        "login": ("email", "user", "username", "mail"), "password": ("pass", "pwd"),
        "project_id": ("project", "lp_project_id"), "service": ("service_name",),
    },
    "uontravel": {"api_key": ("key", "token", "apikey", "api_token"), "source": ("source_name", "lead_source")},
}  # fmt: skip
#: One of each of these must be there as well, though no single one is required.
ONE_OF: Mapping[str, Sequence[Sequence[str]]] = {
    "amocrm": (("subdomain", "base_url"),),
    "sendpulse": (("client_id", "api_key"), ("address_book_id", "crm")),
}

ENTITY_WORDS = (
    "entity", "company", "organization", "organisation", "client", "customer", "firm", "agency", "partner", "tenant",
    "team", "office", "branch", "department", "dealer", "shop", "store", "hotel", "clinic", "school", "user", "owner",
)  # fmt: skip
PROJECT_WORDS = (
    "project", "campaign", "site", "website", "landing", "form", "funnel", "object", "complex", "product", "page",
    "widget", "quiz", "source",
)  # fmt: skip

DELIVERY_COLUMNS: Mapping[str, Sequence[str]] = {
    "type": ("channel", "type", "integration_type", "credential_type", "provider", "driver", "service", "integration",
             "destination", "system"),
    "status": ("status", "state", "result", "outcome", "delivery_status", "success", "is_success", "successful",
               "delivered", "is_delivered", "sent", "is_sent"),
    "at": ("delivered_at", "sent_at", "finished_at", "created_at", "created", "date", "time", "updated_at"),
    "remote_id": ("remote_id", "vendor_id", "external_id", "crm_id", "response_id", "remote_lead_id", "message_id"),
}  # fmt: skip
#: Said of a delivery that has arrived, and of one that surely has not (yet).
ARRIVED = frozenset({"1", "true", "t", "y", "yes", "delivered", "success", "successful", "succeeded", "sent", "ok",
                     "done", "completed", "complete", "accepted"})  # fmt: skip
NOT_ARRIVED = frozenset(
    {"0", "false", "f", "n", "no", "fail", "failed", "failure", "error", "pending", "queued", "new", "waiting",
     "processing", "in_progress", "sending", "rejected", "skipped", "canceled", "cancelled", "retry", "retrying",
     "created", "unknown", "timeout", "bounced"}
)  # fmt: skip


def singular(word: str) -> str:
    """Of an English word in snake case, as Laravel names tables: only the last part changes."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def plain(text: str) -> str:
    """A name as it is compared: ``createdAt`` and ``created-at`` are ``created_at``."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text.strip())
    return re.sub(r"[^0-9a-zа-яё]+", "_", snake.lower()).strip("_")


def pick(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names that is there, as it is written there."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain(name), name)
    return next((by_name[word] for word in wanted if word in by_name), None)


def channel_of(raw: str, channels: Iterable[str]) -> tuple[str, bool] | None:
    """Which channel a type means, and whether that is sure; None: none that is known."""
    if raw in channels:
        return raw, True
    letters = re.sub(r"[^0-9a-z]+", "", raw.rpartition("\\")[2].lower())
    shorter = [letters, *(letters.removesuffix(end) for end in _TYPE_ENDS if letters != end)]
    for word in shorter:
        for channel in channels:
            if word == re.sub(r"[^0-9a-z]+", "", channel):
                return channel, True
        if word in TYPES and TYPES[word] in channels:
            return TYPES[word], word not in DOUBTFUL_TYPES
    return None


def class_word(raw: str) -> str:
    """``App\\Models\\Entity``, or the alias ``entities``, as a word: ``entity``."""
    return singular(plain(raw.rpartition("\\")[2]))


def owner_word(column: str) -> str:
    """Whose id a column holds: ``external_entity_id``, ``entity_ref`` and ``entity`` say ``entity``."""
    name = plain(column)
    name = name.removeprefix("external_").removeprefix("ext_")
    for end in ("_external_id", "_crm_id", "_id", "_uuid", "_ref", "_guid", "_key"):
        name = name.removesuffix(end)
    return singular(name)
