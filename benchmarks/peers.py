"""What leadctl is held against: bare loops, each a process of its own. ``python -m benchmarks.peers NAME …``"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

#: A request's headers as leadctl sends them; a bare loop does not sign.
_HEADERS = {"Content-Type": "application/json", "User-Agent": "bare/1", "Accept-Encoding": "identity"}


def scan(database: str, source: str) -> None:
    """Read the three columns of all leads, and write the bytes of ``source`` to stdout."""
    import shutil
    import sqlite3

    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    rows = connection.execute("SELECT id, external_entity_id, external_project_id FROM leads ORDER BY id")
    for _id, _entity, _project in rows:
        pass
    connection.close()
    with open(source, "rb") as bytes_of_the_plan:
        shutil.copyfileobj(bytes_of_the_plan, sys.stdout.buffer)


def aiohttp_loop(url: str, count: str, concurrency: str, size: str) -> None:
    """The fastest bare Python loop: as many requests in flight, a body made before, no ledger."""
    import asyncio

    import aiohttp

    content = b"x" * int(size)
    ids = iter(range(int(count)))

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in ids:
            headers = {**_HEADERS, "webhook-id": f"msg_{number}"}
            async with session.post(url, data=content, headers=headers) as response:
                await response.read()

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=int(concurrency))
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(worker(session) for _ in range(int(concurrency))))

    asyncio.run(main())


def job_loop(url: str, count: str, size: str) -> None:
    """One job, one request, one connection that is kept. Its jobs cost nothing to take."""
    with _keeping(url, size) as post:
        for number in range(int(count)):
            post(number)


def queue_worker(url: str, count: str, size: str, database: str) -> None:
    """The same as a queue worker does it: a job is reserved in a table, carried, and deleted, each durable."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database, isolation_level=None)) as queue, _keeping(url, size) as post:
        queue.execute("PRAGMA journal_mode=WAL")
        queue.execute("PRAGMA synchronous=FULL")
        queue.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, payload TEXT, reserved_at INTEGER)")
        queue.execute("BEGIN")
        queue.executemany("INSERT INTO jobs (payload) VALUES (?)", [("x" * int(size),)] * int(count))
        queue.execute("COMMIT")
        for _ in range(int(count)):
            queue.execute("BEGIN IMMEDIATE")
            first = "SELECT id, payload FROM jobs WHERE reserved_at IS NULL ORDER BY id LIMIT 1"
            number, _payload = queue.execute(first).fetchone()
            queue.execute("UPDATE jobs SET reserved_at = 1 WHERE id = ?", (number,))
            queue.execute("COMMIT")
            post(number)
            queue.execute("DELETE FROM jobs WHERE id = ?", (number,))


@contextmanager
def _keeping(url: str, size: str) -> Iterator[Callable[[int], None]]:
    """Posts over one connection."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    content = b"x" * int(size)

    def post(number: int) -> None:
        connection.request("POST", parts.path, content, {**_HEADERS, "webhook-id": f"msg_{number}"})
        connection.getresponse().read()

    try:
        yield post
    finally:
        connection.close()


def apprise_loop(url: str, count: str, size: str) -> None:
    """Apprise's library as its README has it: one object, a notification at a time. Runs in the Python that has it."""
    from importlib import import_module

    sender = import_module("apprise").Apprise()
    sender.add(url.replace("http://", "json://"))
    filler = "x" * max(0, int(size) - 150)
    for number in range(int(count)):
        if not sender.notify(title="lead", body=f"{number:09d} {filler}"):
            raise SystemExit(f"notification {number} failed")


def smtp_loop(host: str, port: str, username: str, password: str, count: str, connections: str, size: str) -> None:
    """The bare mail loop: kept connections, a text made before, its Message-ID new."""
    import asyncio

    import aiosmtplib

    filler = ("x" * 70 + "\r\n") * (max(0, int(size) - 300) // 72)
    ids = iter(range(int(count)))

    async def worker() -> None:
        client = aiosmtplib.SMTP(hostname=host, port=int(port), start_tls=False)
        await client.connect()
        await client.login(username, password)
        for number in ids:
            text = (
                f"From: {username}\r\nTo: maria@example.org, ivan@example.org\r\nSubject: bare\r\n"
                f"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nMessage-ID: <lc-bare-{number}-1@example.org>\r\n"
                f"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n{filler}"
            )
            try:
                await client.sendmail(username, ["maria@example.org", "ivan@example.org"], text)
            except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPResponseException):
                await client.connect()  # the server takes so many a connection
                await client.login(username, password)
                await client.sendmail(username, ["maria@example.org", "ivan@example.org"], text)
        await client.quit()

    async def main() -> None:
        await asyncio.gather(*(worker() for _ in range(int(connections))))

    asyncio.run(main())


def fast_bitrix24(url: str, count: str) -> None:
    """fast-bitrix24 as its README has it: one call, a list of items. Runs in the Python that has it."""
    from importlib import import_module

    portal = import_module("fast_bitrix24").Bitrix(url, verbose=False)
    items = [
        {"entityTypeId": 1, "fields": {"title": f"Lead {number}", "originId": f"bare-{number}", "originatorId": "bare"}}
        for number in range(int(count))
    ]
    portal.call("crm.item.add", items)


PEERS: Mapping[str, Callable[..., None]] = {
    "scan": scan, "aiohttp": aiohttp_loop, "jobs": job_loop, "queue": queue_worker,
    "apprise": apprise_loop, "smtp": smtp_loop, "bitrix24": fast_bitrix24,
}  # fmt: skip

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
