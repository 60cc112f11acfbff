"""Canary secrets in every credential, and every fault: none of them is in anything that leadctl shows or keeps."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from leadctl.services.results import ALL_FILES
from leadctl.store.schema import metadata
from tests.support.world import CHANNELS, Finished, World, wait_until

#: Faults that a request may meet and the run survives; ``unauthorized`` parks, and has a run of its own.
FAULTS = ("timeout", "reset", "reset_before", "bad_gateway", "error_body", "server_error", "broken_answer", "reject")
#: Raised with the URL in its text, after the claim.
BROKEN_WEBHOOKS = """
from leadctl.channels.webhooks import WebhooksChannel
async def send(self, step, batch):
    raise RuntimeError(f"boom {self.config.url.get_secret_value()} {self.build(step, batch)!r}")
WebhooksChannel.send = send
"""
BROKEN_REPORT = """
from leadctl.services import resending
def run_report(app, *rest):
    raise RuntimeError(" ".join(sorted(app.secrets._values)))
resending.run_report = run_report
"""
PHONE, MAIL = "+79161234567", "private.person@example.com"


class Echo(BaseHTTPRequestHandler):
    """Answers every request with all that it holds, under the status that ``X-Status`` or the class says."""

    status = 400

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        said = f"{self.command} {self.path} {self.headers} {body}"
        detail = {"error": said, "error_description": said, "description": said, "detail": said, "title": said}
        content = json.dumps({**detail, "ok": False, "error_code": self.status}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Location", f"http://127.0.0.1:1{self.path}")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer  # noqa: N815 names of the base

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's name
        """Nothing is written."""


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Watch:
    """A world whose every output is kept, to be searched."""

    world: World
    secrets: dict[str, str] = field(default_factory=dict)
    shown: list[tuple[str, str]] = field(default_factory=list)

    def run(self, *arguments: object, **how: Any) -> Finished:
        done = self.world.run(*arguments, **how)
        self.shown += [(f"stdout of {arguments}", done.out), (f"stderr of {arguments}", done.err)]
        return done

    def add(self, number: int, channel: str, data: Mapping[str, Any], *names: str, **how: Any) -> None:
        """A credential of which these values are secret."""
        self.world.add_credential(number, channel, data, **how)
        self.secrets |= {f"{channel} {number} {name}": str(data[name]) for name in names}

    def look(self) -> None:
        """Search all that was shown and every file but the inputs."""
        inputs = {"leads.db", "leads.db-journal", "leadctl.toml"}
        files = [path for path in self.world.folder.rglob("*") if path.is_file() and path.name not in inputs]
        kept = [(str(path.relative_to(self.world.folder)), path.read_bytes()) for path in files]
        if self.world.server is None:
            assert any(path.name == "leads.db.leadctl.db" for path in files)
        else:
            kept += [(name, repr(self.world.rows(f"SELECT * FROM {name}")).encode()) for name in metadata.tables]
        places = [*kept, *((name, text.encode()) for name, text in self.shown)]
        for what, secret in self.secrets.items():
            for form in {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}:
                for place, content in places:
                    assert form.encode() not in content, f"{what} is in {place}"


@pytest.fixture
def watch(world: World) -> Watch:
    return Watch(world)


def connect(watch: Watch, box: Sandbox) -> None:
    """The vendors' own credentials, which work, are the canaries."""
    amocrm = box.vendor("amocrm")
    assert isinstance(amocrm, AmoCrmVendor)
    oauth = amocrm.oauth_credential(expires_at=0)
    watch.add(11, "amocrm", oauth, "access_token", "refresh_token", "client_secret")
    watch.add(12, "bitrix24", box.vendor("bitrix24").credential(), "webhook_url")
    watch.secrets["bitrix24 code"] = watch.secrets["bitrix24 12 webhook_url"].rstrip("/").rpartition("/")[2]
    watch.add(13, "email", box.vendor("email").credential(), "password")
    watch.add(14, "telegram", box.vendor("telegram").credential(), "bot_token")
    hook = box.vendor("webhooks").credential()
    url = f"{hook['url'].replace('://', '://canary-user:canary-pass@')}?key=canary-query-key"
    watch.add(15, "webhooks", {**hook, "url": url, "headers": {"X-Api-Key": "canary-header-key"}}, "url")
    watch.secrets |= {
        "signing": hook["secrets"][0], "bare signing": hook["secrets"][0].removeprefix("whsec_"),
        "query": "canary-query-key", "header": "canary-header-key", "basic": "canary-pass",
        "basic pair": "canary-user:canary-pass",
    }  # fmt: skip


def break_credentials(watch: Watch) -> None:
    """Credentials that are invalid, with their secrets in all the wrong places."""
    canaries = {f"broken {channel}": f"canary-broken-{channel}-0123456789" for channel in CHANNELS}
    watch.secrets |= canaries
    broken = '{"url": "https://x/canary-broken-webhooks-0123456789"'
    if watch.world.server is not None:  # a JSON column holds it as a text
        broken = json.dumps(broken)
    for number, data in enumerate(
        [
            ("amocrm", {"base_url": "ftp://x", "access_token": canaries["broken amocrm"]}),
            ("bitrix24", {"webhook_url": f"nonsense/{canaries['broken bitrix24']}/x"}),
            ("email", {"host": "127.0.0.1", "port": "x", "password": canaries["broken email"]}),
            ("telegram", {"bot_token": canaries["broken telegram"], "chat_id": "x y"}),
            ("webhooks", {"url": f"http://[{canaries['broken webhooks']}", "secret": "short"}),
            ("webhooks", broken),
            ("telegram", {"bot_token": [canaries["broken telegram"]]}),
        ],
        50,
    ):
        watch.world.add_credential(number, data[0], data[1], entity=5)  # type: ignore[arg-type]


def test_no_secret_is_shown_or_kept(watch: Watch, box: Sandbox) -> None:
    world = watch.world
    connect(watch, box)
    break_credentials(watch)
    leads = world.new_leads(len(FAULTS), phone=PHONE, email=MAIL)
    for lead, fault in zip(leads, FAULTS, strict=True):
        for channel in CHANNELS:
            box.faults.script(channel, lead, [fault])
    (broken,) = world.new_leads(external_entity_id=5)

    noisy = ("-v", "--log-file", "run.log")
    done = watch.run("bulk-resend", *leads, broken, "--json", "--results-dir", "out", "--log-format", "json", *noisy)
    assert done.code == 4, "invalid credentials are linked"
    assert done.json["outcomes"]["delivered"] > 20
    amocrm = box.vendor("amocrm")
    assert isinstance(amocrm, AmoCrmVendor)
    watch.secrets |= {"new access": amocrm.oauth.access_token, "new refresh": amocrm.oauth.refresh_token}
    assert watch.secrets["new access"] != watch.secrets["amocrm 11 access_token"], "it was refreshed"

    for channel in CHANNELS:
        box.faults.always(channel, "unauthorized")
    (refused,) = world.new_leads()
    assert watch.run("resend", refused, *noisy).code == 4
    assert watch.run("channels", "check").code == 4
    box.faults.clear()
    for patch in (BROKEN_WEBHOOKS, BROKEN_REPORT):
        assert watch.run("resend", *world.new_leads(), *noisy, patch=patch).code == 70
    run_id = done.json["run_id"]
    for arguments in (["runs", "show", run_id], ["runs", "show", run_id, "--json"], ["history", leads[0]],
                      ["history", refused, "--json"], ["doctor"], ["doctor", "--json"], ["channels", "check"],
                      ["plan", *leads, broken, "--json"], ["plan", broken]):  # fmt: skip
        watch.run(*arguments)
    watch.look()
    log = (world.folder / "run.log").read_text()
    assert "RuntimeError" in log
    for line in (log, *(text for name, text in watch.shown if name.startswith("stderr"))):
        assert PHONE not in line
        assert MAIL not in line


@pytest.mark.parametrize("status", [302, 400, 401, 500])
def test_a_vendor_that_gives_everything_back(
    watch: Watch, echo: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Echo, "status", status)
    watch.world.write_config("[send]\ntimeout = 1\npatience = 2\n")  # an outage is waited for so long
    token = "canary-access-token-0123456789"
    watch.add(11, "amocrm", {"base_url": echo, "access_token": token}, "access_token")
    watch.add(12, "bitrix24", {"webhook_url": f"{echo}/rest/1/canaryb1tr1xc0de/"}, "webhook_url")
    watch.add(14, "telegram", {"bot_token": f"123456789:{'canary' * 6}", "chat_id": 1, "base_url": echo}, "bot_token")
    url = f"{echo.replace('//', '//user:canary-pass@')}/hooks/canary-path-1?key=canary-query"
    watch.add(15, "webhooks", {"url": url, "headers": {"Authorization-X": "Bearer canary-header"}}, "url")
    watch.secrets |= {"path": "canary-path-1", "query": "canary-query", "header": "canary-header",
                      "basic": "canary-pass", "pair": base64.b64encode(b"user:canary-pass").decode(),
                      "code": "canaryb1tr1xc0de"}  # fmt: skip
    (lead,) = watch.world.new_leads(phone=PHONE, email=MAIL)
    noisy = ("-v", "--log-file", "run.log", "--results-dir", "out")
    done = watch.run("bulk-resend", lead, "--json", *noisy)
    assert done.code in (1, 4, 5, 6)
    watch.run("history", lead)
    watch.run("runs", "show", done.json["run_id"])
    watch.run("channels", "check")
    killed = watch.world.start(
        "bulk-resend", *watch.world.new_leads(3), "-c", "telegram,webhooks", "--results-dir", "cut"
    )
    cut = watch.world.folder / "cut"
    wait_until(lambda: sum(path.read_text().count("\n") for path in cut.glob("*.csv")) > len(ALL_FILES))
    killed.kill()
    watch.world.finish(killed)
    watch.look()
    for text in (done.err, (watch.world.folder / "run.log").read_text()):
        assert PHONE not in text
        assert MAIL not in text


def test_no_secret_of_the_configuration(watch: Watch, box: Sandbox) -> None:
    watch.world.connect(box, ["webhooks"])
    (lead,) = watch.world.new_leads()
    assert watch.run("resend", lead).code == 0
    watch.secrets["database password"] = "canary-p%40ssword"
    for scheme in ("postgresql+psycopg", "mysql+pymysql"):
        url = f"{scheme}://leads:canary-p%40ssword@127.0.0.1:9/leads?password=canary-p%40ssword"
        for command in (["plan", "1"], ["doctor", "--json"], ["resend", "1", "-v", "--json"]):
            assert watch.run(*command, LEADCTL_DATABASE__URL=url).code in (2, 5)
        assert watch.run("resend", "1", "-v", LEADCTL_LEDGER__URL=url).code in (2, 5)
    watch.secrets["decoded password"] = "canary-p@ssword"
    watch.look()
