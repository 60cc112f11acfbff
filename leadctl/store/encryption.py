"""What a Laravel application encrypts: reading ``data``, ``settings`` and lead columns, and writing as was found.

A column is peeled like an onion: ciphertext, a serialized PHP string, a JSON string, and at the core a JSON object or
a serialized PHP array, whose single fields may be ciphertexts again. :class:`Form` remembers the layers, and puts a
new value back into the very same ones.
"""

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from leadctl.domain.errors import ConfigError
from leadctl.store.phpvalues import MAX_DEPTH, PhpError, is_serialized, serialize, unserialize

#: Base64 of ``{"iv":``: how every value that Laravel's Crypt has encrypted begins.
SEALED = "eyJpdiI6"
#: A JSON web token may begin so too, but has dots.
_MARKED = re.compile(SEALED + r"[A-Za-z0-9+/]*={0,2}")
_KEY_PREFIX = "base64:"
_KEY_SIZES = (16, 32)
_CBC_IV, _GCM_IV, _TAG = 16, 12, 16
#: Characters of a text that looks like a ciphertext and is no word of anybody's.
_SHORTEST = 60
#: Characters of one ciphertext: sixty times what a MySQL TEXT holds.
_MAX_PAYLOAD = 4 * 2**20
#: Strings within strings; Laravel's casts make three at the most.
_MAX_LAYERS = 8
#: Keys that a message may name.
_NAMEABLE = re.compile(r"[\w.-]{1,100}", re.ASCII)


class Unreadable(Exception):
    """A column cannot be read. The message goes behind the column's name, and holds no value and no key."""


class _As(Enum):
    """One layer of a value."""

    CBC = "AES-CBC with a MAC"
    GCM = "AES-GCM"
    JSON = "JSON text"
    PHP = "PHP's serialize()"


_Chain = tuple[_As, ...]
#: A JSON column: the driver gives and takes the object itself.
_PLAIN: _Chain = ()


class _Payload(NamedTuple):
    cipher: _As
    iv: bytes
    value: bytes
    signed: bytes
    """What the MAC is of."""
    mac: bytes
    """In hexadecimal."""
    tag: bytes


class Keyring:
    """The application's keys, the current one first. False where there is none."""

    def __init__(self, app_key: str | None = None, previous_keys: Iterable[str] = ()) -> None:
        """Keys as Laravel has them: ``base64:…``, or raw text; 16 or 32 bytes each. Raises ConfigError."""
        previous = [_key(text, "database.previous_keys") for text in previous_keys]
        if previous and app_key is None:
            raise ConfigError(
                "database.previous_keys is set without database.app_key",
                hint="set app_key in [database] to the application's current APP_KEY",
            )
        self._keys = [] if app_key is None else [_key(app_key, "database.app_key"), *previous]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)}>"

    def decrypt(self, text: str, place: str = "") -> tuple[bytes, _As]:
        """What any of the keys opens, and the cipher. ``place`` goes into the message of :class:`Unreadable`."""
        if not self._keys:
            raise Unreadable(f"is encrypted{place}; set [database] app_key")
        payload = _payload(text)
        if payload is None:
            raise Unreadable(f"is encrypted{place}, and damaged: this is no whole value of Laravel's encrypter")
        for key in self._keys:
            try:
                plain = _decrypted(payload, key)
            except ValueError:
                raise Unreadable(f"is encrypted{place}, and damaged: the MAC is right, the rest is not") from None
            if plain is not None:
                return plain, payload.cipher
        proof = "MAC" if payload.cipher is _As.CBC else "tag"
        raise Unreadable(
            f"is encrypted{place}, and the {proof} does not match: another app_key wrote it, or it was changed"
        )

    def encrypt(self, plain: bytes, cipher: _As) -> str:
        """A payload of the current key, as Laravel writes it."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self._keys[0]
        iv = os.urandom(_CBC_IV if cipher is _As.CBC else _GCM_IV)
        mac = tag = ""
        if cipher is _As.CBC:
            value = _base64(_cbc_encrypted(plain, key, iv))
            mac = _mac(key, (_base64(iv) + value).encode()).decode()
        else:
            sealed = AESGCM(key).encrypt(iv, plain, None)
            value, tag = _base64(sealed[:-_TAG]), _base64(sealed[-_TAG:])
        payload = {"iv": _base64(iv), "value": value, "mac": mac, "tag": tag}
        return _base64(json.dumps(payload, separators=(",", ":")).encode())


def _key(text: str, name: str) -> bytes:
    hint = 'copy the application\'s APP_KEY as it is, "base64:" included'
    key = text.encode()
    if text.startswith(_KEY_PREFIX):
        encoded = text.removeprefix(_KEY_PREFIX).strip().rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except ValueError:
            raise ConfigError(f"{name}: what follows {_KEY_PREFIX} is not base64", hint=hint) from None
    if len(key) not in _KEY_SIZES:
        raise ConfigError(f"{name}: a key of {len(key)} bytes; Laravel's have 16 or 32", hint=hint)
    return key


def _payload(text: str) -> _Payload | None:
    """The parts of a ciphertext by the rules of Laravel's encrypter; None where it is not a whole one."""
    if len(text) > _MAX_PAYLOAD:
        return None
    try:
        parts = json.loads(base64.b64decode(text, validate=True).decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(parts, dict):
        return None
    iv, value, mac = (parts.get(name) for name in ("iv", "value", "mac"))
    tag = parts.get("tag")
    tag = "" if tag is None else tag  # CBC had none before Laravel 8
    if not (isinstance(iv, str) and isinstance(value, str) and isinstance(mac, str) and isinstance(tag, str)):
        return None
    try:
        raw_iv, raw_value, raw_tag = (base64.b64decode(part, validate=True) for part in (iv, value, tag))
    except ValueError:
        return None
    cipher = {(_CBC_IV, 0): _As.CBC, (_GCM_IV, _TAG): _As.GCM}.get((len(raw_iv), len(raw_tag)))
    if cipher is None:
        return None
    return _Payload(cipher, raw_iv, raw_value, (iv + value).encode(), mac.encode(errors="replace"), raw_tag)


def _decrypted(payload: _Payload, key: bytes) -> bytes | None:
    """None: this is not the key, or it was changed. Raises ValueError: it is the key, but what it signed is rubbish."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if payload.cipher is _As.CBC:
        if not hmac.compare_digest(_mac(key, payload.signed), payload.mac):
            return None
        return _cbc_decrypted(payload.value, key, payload.iv)
    try:
        return AESGCM(key).decrypt(payload.iv, payload.value + payload.tag, None)
    except InvalidTag:
        return None


def _cbc_decrypted(value: bytes, key: bytes, iv: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(decryptor.update(value) + decryptor.finalize()) + unpadder.finalize()


def _cbc_encrypted(plain: bytes, key: bytes, iv: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).hexdigest().encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Field(NamedTuple):
    """A single encrypted field: what it holds, and how."""

    value: Any
    chain: _Chain


class _Template(NamedTuple):
    """How new fields beside encrypted ones are written."""

    chain: _Chain
    numbers: bool


class Form:
    """How a column was written, and with it how to write a new value there."""

    def __init__(
        self, keyring: Keyring, chain: _Chain, raw: dict[str, Any], fields: dict[str, _Field], *, binary: bool
    ) -> None:
        """``raw`` is the object with its encrypted fields as found; ``fields`` are these, by their ciphertext."""
        self._keyring = keyring
        self._chain = chain
        self._raw = raw
        self._fields = fields
        self._binary = binary

    def seal(self, value: dict[str, Any]) -> Any:
        """The column's new value: a dict where a dict, a list or None was found, else str or bytes, as found.

        Encrypted with the current key. A field that was encrypted singly stays so, unchanged ones with their very
        ciphertext; new fields are plain, unless all that have text beside them were encrypted.
        Raises ValueError where the form has no room for the value (half a surrogate pair, a huge integer for PHP).
        """
        sealed = self._through(self._chain, self._closed(value, self._raw, None))
        return sealed.encode() if self._binary else sealed

    def _through(self, chain: _Chain, value: Any) -> Any:
        for layer in reversed(chain):
            if layer is _As.JSON:
                value = json.dumps(value)
            elif layer is _As.PHP:
                value = serialize(value).decode()
            else:
                value = self._keyring.encrypt(value.encode(), layer)
        return value

    def _closed(self, new: Any, old: Any, template: _Template | None) -> Any:
        """``new`` in place of ``old``, which is as found; ``template`` is of the object around it."""
        known = self._field(old)
        if known is not None:
            return old if _same(new, known.value) else self._encrypted(new, known.chain)
        if isinstance(new, dict):
            before = old if isinstance(old, dict) else {}
            within = self._template(before.values(), all) if before else template
            return {key: self._closed(item, before.get(key), within) for key, item in new.items()}
        if isinstance(new, list):
            return self._closed_list(new, old if isinstance(old, list) else [], template)
        if template is None or new is None or new == "" or old not in (None, ""):
            return new
        return self._encrypted(new, template.chain) if isinstance(new, str) or template.numbers else new

    def _closed_list(self, new: list[Any], old: list[Any], template: _Template | None) -> list[Any]:
        """Items move within lists: one that was encrypted is found by its value, and none loses its encryption."""
        within = self._template(old, any) if old else template
        closed = []
        for place, item in enumerate(new):
            kept = next((raw for raw in old if (f := self._field(raw)) is not None and _same(item, f.value)), None)
            before = old[place] if place < len(old) else None
            if kept is None and not isinstance(before, (dict, list)) and self._field(before) is None:
                before = next((raw for raw in old if _same(item, raw)), None)
            closed.append(kept if kept is not None else self._closed(item, before, within))
        return closed

    def _field(self, raw: Any) -> _Field | None:
        return self._fields.get(raw) if isinstance(raw, str) else None

    def _template(self, siblings: Iterable[Any], enough: Any) -> _Template | None:
        """``enough``: ``all`` or ``any`` of the texts must be encrypted."""
        siblings = list(siblings)
        fields = [self._field(raw) for raw in siblings if isinstance(raw, str) and raw]
        chains = [known.chain for known in fields if known is not None]
        if not chains or not enough(known is not None for known in fields):
            return None
        # Only serialized numbers stay numbers.
        numbers = chains[0][-1] is _As.PHP and not any(isinstance(raw, (int, float)) for raw in siblings)
        return _Template(chains[0], numbers)

    def _encrypted(self, value: Any, chain: _Chain) -> Any:
        if chain[-1] is not _As.PHP:
            if value is None:
                return None
            value = _php_text(value)
        return self._through(chain, value)


def _php_text(value: Any) -> str:
    """As PHP turns a value into text; an array, which it does not, as JSON."""
    if isinstance(value, bool):
        return "1" if value else ""
    return value if isinstance(value, str) else json.dumps(value)


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: for Python 1 is True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@dataclass(frozen=True)
class Opened:
    """A column's JSON object, and how it was written."""

    value: dict[str, Any] = field(repr=False)
    form: Form = field(repr=False)


def open_value(raw: Any, keyring: Keyring) -> Opened:
    """``data`` or ``settings`` as a driver gives it: None, str, bytes, or a JSON column's value.

    Nothing, and PHP's empty array, is an empty object. Raises :class:`Unreadable`.
    """
    value, chain = raw, _PLAIN
    if isinstance(raw, bytes):
        try:
            value = raw.decode()
        except UnicodeDecodeError:
            raise Unreadable("is not valid JSON") from None
    if isinstance(value, str):
        value, chain = _peeled(value, keyring)
    if value is None or value == []:
        value = {}
    if not isinstance(value, dict):
        raise Unreadable("is not a JSON object")
    fields: dict[str, _Field] = {}
    opened = _opened(value, keyring, fields, ())
    return Opened(opened, Form(keyring, chain, value, fields, binary=isinstance(raw, bytes)))


def read_value(raw: Any, keyring: Keyring) -> dict[str, Any]:
    """The object of :func:`open_value`, where nothing will be written back."""
    if isinstance(raw, str) and raw.startswith("{") and _is_plain(raw):
        with suppress(ValueError):  # open_value says what is wrong with it
            plain: dict[str, Any] = json.loads(raw)
            return plain
    return open_value(raw, keyring).value


def _is_plain(text: str) -> bool:
    """Most are: no field of this JSON can be encrypted, none is nested too deeply: nothing need be looked through."""
    return SEALED not in text and "\\u00" not in text and text.count("{") + text.count("[") <= MAX_DEPTH


def _peeled(text: str, keyring: Keyring) -> tuple[Any, _Chain]:
    """The first value that is no text, and the layers around it."""
    chain: list[_As] = []
    for _ in range(_MAX_LAYERS):
        text = text.strip()
        if not text:
            return None, (*chain, _As.JSON)
        if text.startswith(SEALED):
            value, layers = _decrypted_text(text, keyring)
            chain += layers
            if layers[-1] is not _As.PHP:
                text = value
                continue
        else:
            value = _json(text, within=bool(chain) and chain[-1] in (_As.JSON, _As.PHP))
            chain.append(_As.JSON)
        if not isinstance(value, str):
            return value, tuple(chain)
        text = value
    raise Unreadable("is not a JSON object")


def _json(text: str, *, within: bool) -> Any:
    """``within``: a string of JSON or PHP, which may well hold no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("is not a JSON object" if within else "is not valid JSON") from None


def _decrypted_text(text: str, keyring: Keyring, place: str = "") -> tuple[Any, _Chain]:
    plain, cipher = keyring.decrypt(text, place)
    try:
        if is_serialized(plain):
            return unserialize(plain), (cipher, _As.PHP)
        return plain.decode(), (cipher,)
    except PhpError as error:
        raise Unreadable(f"is encrypted{place}, and holds {error}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"is encrypted{place}, and holds text that is not UTF-8") from None


def _opened(value: Any, keyring: Keyring, fields: dict[str, _Field], path: tuple[str, ...]) -> Any:
    """``value`` with its encrypted fields decrypted; they are noted in ``fields``."""
    if len(path) > MAX_DEPTH:
        raise Unreadable("is nested too deeply")
    if isinstance(value, dict):
        return {key: _opened(item, keyring, fields, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item, keyring, fields, (*path, str(place))) for place, item in enumerate(value)]
    if isinstance(value, str) and _MARKED.fullmatch(value):
        if value not in fields:
            fields[value] = _Field(*_decrypted_text(value, keyring, _place(path)))
        return fields[value].value
    return value


def _place(path: tuple[str, ...]) -> str:
    name = ".".join(path)
    return f" at {name}" if _NAMEABLE.fullmatch(name) else " in a field"


def decrypt_text(raw: str, keyring: Keyring) -> str:
    """A lead's column: the text in a ciphertext; any other text as it is. Raises :class:`Unreadable`."""
    if not raw.startswith(SEALED):
        return raw
    if _payload(raw) is None:
        if len(raw) < _SHORTEST or not _MARKED.fullmatch(raw):
            return raw
        raise Unreadable("is encrypted, and damaged: a column that is too short may have cut it off")
    value, _ = _decrypted_text(raw, keyring)
    if isinstance(value, (dict, list)):
        raise Unreadable("is encrypted, and holds no text")
    return "" if value is None else _php_text(value)
