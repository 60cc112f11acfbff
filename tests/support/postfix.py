"""A private Postfix: its own configuration, queue and ports under a temporary folder; nothing of the system's."""

import email
import email.policy
import os
import pwd
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme

from tests.support.needs import leave_out

LOGIN = "leads@example.org"
PASSWORD = "postfix-app-password"
MAILBOXES = ("maria", "ivan", "olga", LOGIN.partition("@")[0])
#: Messages a minute that the second port takes.
RATE = 3
_MASTER = Path("/usr/lib/postfix/sbin/master")
_QUEUES = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid", "private",
    "public", "saved", "trace",
)  # fmt: skip
#: Answers one policy request: attributes → action (https://www.postfix.org/SMTPD_POLICY_README.html).
Policy = Callable[[Mapping[str, str]], str]


def permit(attributes: Mapping[str, str]) -> str:
    del attributes
    return "DUNNO"


@dataclass
class Postfix:
    """A running instance. ``policy`` is asked for each recipient and may be changed at any time."""

    folder: Path
    port: int
    limited_port: int
    ca_file: Path
    policy: Policy = permit

    def credential(self, **changes: Any) -> dict[str, Any]:
        data: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.port, "security": "starttls", "username": LOGIN, "password": PASSWORD,
            "from": f"Заявки <{LOGIN}>", "to": ["maria@example.org"],
        }  # fmt: skip
        return {**data, **changes}

    def received(self, name: str, *leads: int) -> list[EmailMessage]:
        """All messages in a mailbox (a Maildir), once those of ``leads`` are there."""
        box = self.folder / "mail" / name / "new"
        wanted = {str(lead) for lead in leads}
        deadline = time.monotonic() + 15
        while True:
            files = sorted(box.glob("*"))
            messages = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]
            if wanted <= {message["X-Lead-Id"] for message in messages} or time.monotonic() > deadline:
                return messages
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log" / "maillog").read_text(errors="replace")


def require_postfix() -> None:
    """Skip where there is no Postfix; in CI that is a failure."""
    missing = [name for name in ("postfix", "saslpasswd2") if shutil.which(name) is None]
    if not _MASTER.exists():
        missing.append(str(_MASTER))
    if os.geteuid() != 0:
        missing.append("the rights of root")
    if not missing:
        return
    reason = f"a real Postfix needs {', '.join(missing)} (apt-get install postfix sasl2-bin)"
    leave_out(reason)


@contextmanager
def running_postfix() -> Iterator[Postfix]:
    """Start an instance, and stop it."""
    # Not pytest's folder: Postfix's processes give up root, and must still reach their files.
    folder = Path(tempfile.mkdtemp(prefix="leadctl-postfix-"))
    folder.chmod(0o755)
    server = Postfix(folder, _free_port(), _free_port(), folder / "ca.pem")
    try:
        with _policy_server(server) as policy_port:
            _write_certificates(folder)
            _write_accounts(folder)
            _write_configuration(server, policy_port)
            with _process(server):
                yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _process(server: Postfix) -> Iterator[None]:
    errors = server.folder / "log" / "stderr"
    with errors.open("wb") as stderr:
        master = subprocess.Popen(
            [_MASTER, "-d", "-c", server.folder / "etc"],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # then the master ends its own group, children included
        )
        try:
            for port in (server.port, server.limited_port):
                _wait_for(port, master, errors)
            yield
        finally:
            master.terminate()
            master.wait(20)


def _wait_for(port: int, master: "subprocess.Popen[bytes]", errors: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and master.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if connection.recv(3) == b"220":
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"Postfix does not answer on port {port}: {errors.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_certificates(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")


def _write_accounts(folder: Path) -> None:
    sasl = folder / "etc" / "sasl"
    sasl.mkdir(parents=True)
    database = folder / "sasldb2"
    (sasl / "smtpd.conf").write_text(
        f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {database}\nmech_list: PLAIN LOGIN\n"
    )
    user, _, realm = LOGIN.partition("@")
    subprocess.run(["saslpasswd2", "-p", "-c", "-f", database, "-u", realm, user], input=PASSWORD.encode(), check=True)
    shutil.chown(database, "postfix")


def _write_configuration(server: Postfix, policy_port: int) -> None:
    folder = server.folder
    owner = pwd.getpwnam("nobody")
    for name in ("data", "mail", "log", "queue", *(f"queue/{queue}" for queue in _QUEUES)):
        (folder / name).mkdir()
    for name in ("data", *(f"queue/{queue}" for queue in _QUEUES if queue != "pid")):
        shutil.chown(folder / name, "postfix")
    for name in ("maildrop", "public"):
        shutil.chown(folder / "queue" / name, group="postdrop")
    (folder / "queue" / "maildrop").chmod(0o1730)
    (folder / "queue" / "public").chmod(0o2710)
    (folder / "queue" / "private").chmod(0o700)
    os.chown(folder / "mail", owner.pw_uid, owner.pw_gid)
    maps = "".join(f"{name}@example.org {name}/\n" for name in MAILBOXES)
    (folder / "etc" / "mailboxes").write_text(maps)
    (folder / "etc" / "senders").write_text(f"{LOGIN} {LOGIN}\nboss@example.org boss@example.org\n")
    (folder / "etc" / "main.cf").write_text(_main_cf(folder, policy_port, owner))
    (folder / "etc" / "master.cf").write_text(_master_cf(server))


def _main_cf(folder: Path, policy_port: int, owner: pwd.struct_passwd) -> str:
    settings = {
        "compatibility_level": "3.6",
        "queue_directory": folder / "queue",
        "data_directory": folder / "data",
        "maillog_file": folder / "log" / "maillog",
        "maillog_file_prefixes": f"/var, /dev/stdout, {folder}",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "myhostname": "mail.example.org",
        "mydestination": "",
        "mynetworks": "127.0.0.2/32",
        "smtp_dns_support_level": "disabled",
        "default_transport": "error:no mail leaves this machine",
        "local_recipient_maps": "",
        "alias_maps": "",
        "virtual_mailbox_domains": "example.org",
        "virtual_mailbox_base": folder / "mail",
        "virtual_mailbox_maps": f"texthash:{folder}/etc/mailboxes",
        "virtual_uid_maps": f"static:{owner.pw_uid}",
        "virtual_gid_maps": f"static:{owner.pw_gid}",
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_chain_files": folder / "server.pem",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "cyrus",
        "smtpd_sasl_path": "smtpd",
        "cyrus_sasl_config_path": folder / "etc" / "sasl",  # Debian looks there anyway
        "smtpd_client_event_limit_exceptions": "",
        "smtpd_sender_login_maps": f"texthash:{folder}/etc/senders",
        "smtpd_sender_restrictions": "reject_sender_login_mismatch",
        "smtpd_recipient_restrictions": (
            f"permit_mynetworks, reject_unlisted_recipient, check_policy_service inet:127.0.0.1:{policy_port}, "
            "permit_sasl_authenticated, reject"
        ),
        "smtpd_error_sleep_time": "0",
        "message_size_limit": "100000",
    }
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def _master_cf(server: Postfix) -> str:
    # service, type, private, unprivileged, chroot, wakeup, maxproc, command
    return "\n".join(
        [
            f"127.0.0.1:{server.port} inet n - n - - smtpd",
            f"127.0.0.1:{server.limited_port} inet n - n - - smtpd -o smtpd_client_message_rate_limit={RATE}",
            "cleanup unix n - n - 0 cleanup",
            "qmgr unix n - n 300 1 qmgr",
            "tlsmgr unix - - n 1000? 1 tlsmgr",
            "rewrite unix - - n - - trivial-rewrite",
            "bounce unix - - n - 0 bounce",
            "defer unix - - n - 0 bounce",
            "trace unix - - n - 0 bounce",
            "proxymap unix - - n - - proxymap",
            "anvil unix - - n - 1 anvil",
            "virtual unix - n n - - virtual",
            "error unix - - n - - error",
            "retry unix - - n - - error",
            "postlog unix-dgram n - n - 1 postlogd",
            "",
        ]
    )


@contextmanager
def _policy_server(server: Postfix) -> Iterator[int]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            attributes: dict[str, str] = {}
            for raw in self.rfile:
                name, _, value = raw.decode().rstrip("\n").partition("=")
                if name:
                    attributes[name] = value
                else:
                    self.wfile.write(f"action={server.policy(attributes)}\n\n".encode())
                    attributes = {}

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield int(listener.server_address[1])
        finally:
            listener.shutdown()
            thread.join(5)
