"""A scripted SMTP server, for what a well-behaved one never does."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

#: Instead of a reply: the connection is aborted, or nothing is ever said.
CUT = "CUT"
HANG = "HANG"

_USUAL: Mapping[str, str] = {
    "GREETING": "220 mail.example.org ESMTP",
    "EHLO": "250-mail.example.org\r\n250-SIZE 1000000\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN",
    "AUTH": "235 2.7.0 ok",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "BODY": "250 2.0.0 Ok: queued as 4F00",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}


@dataclass
class ScriptedSmtp:
    """Says what ``replies`` holds for a verb; a list is used up one by one, its last entry stays."""

    replies: dict[str, str | list[str]] = field(default_factory=dict)
    #: Cut as soon as so many octets of a message were read.
    cut_in_body: int | None = None
    #: Say this as soon as the first octets of a message were read.
    early: str | None = None
    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    def credential(self, **changes: Any) -> dict[str, Any]:
        data: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.port, "security": "none", "username": "leads@example.org",
            "password": "scripted-password", "from": "leads@example.org", "to": ["maria@example.org"],
        }  # fmt: skip
        return {**data, **changes}

    def verbs(self) -> list[str]:
        return [command.split()[0].upper() for command in self.commands]

    def _reply(self, verb: str) -> str:
        scripted = self.replies.get(verb, _USUAL.get(verb, "502 5.5.1 not known"))
        if isinstance(scripted, str):
            return scripted
        return scripted.pop(0) if len(scripted) > 1 else scripted[0]

    async def _say(self, verb: str, writer: asyncio.StreamWriter) -> str:
        reply = self._reply(verb)
        if reply == HANG:
            await asyncio.sleep(60)
        if reply == CUT:
            writer.transport.abort()
            raise ConnectionResetError
        writer.write(reply.encode() + (b"" if reply.endswith("\r") else b"\r\n"))
        await writer.drain()
        if reply.startswith("421") or reply.endswith("\r"):
            writer.close()
            raise ConnectionResetError
        return reply

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._say("GREETING", writer)
            while line := (await reader.readline()).decode():
                command = line.rstrip("\r\n")
                self.commands.append(command)
                verb = command.split(" ")[0].upper()
                reply = await self._say(verb if verb in _USUAL or verb in self.replies else "AUTH", writer)
                if reply.startswith("354"):
                    await self._read_message(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read_message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.early is not None:
            await reader.readexactly(10)
            writer.write(f"{self.early}\r\n".encode())
            await writer.drain()
        if self.cut_in_body is not None:
            await reader.readexactly(self.cut_in_body)
            writer.transport.abort()
            raise ConnectionResetError
        self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
        await self._say("BODY", writer)


@asynccontextmanager
async def scripted(
    replies: Mapping[str, str | Sequence[str]] | None = None, **more: Any
) -> AsyncIterator[ScriptedSmtp]:
    """The server on a free port of the loopback."""
    ready = {verb: said if isinstance(said, str) else list(said) for verb, said in (replies or {}).items()}
    script = ScriptedSmtp(ready, **more)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(script.talk(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4_000_000)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
