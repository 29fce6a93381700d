"""A name server that knows one name, and can be wrong, late or silent; and a command that makes a process ask it."""

import dataclasses
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.trial import LeftOut, need

NAME = "upstream.chaos.test"
ADDRESS = "127.0.53.53"  # a loopback address where no other name server listens
PORT = 53  # the C library asks no other
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
TYPE_A = 1
RESPONSE = 0x8180  # an answer, with recursion


@dataclasses.dataclass(frozen=True)
class Mood:
    """How it answers: its response code, after how many seconds, or not at all."""

    code: int = NOERROR
    late_s: float = 0.0
    silent: bool = False


RIGHT = Mood()


class NameServer:
    """Answers queries for NAME with 127.0.0.1, by UDP, in its mood of the moment.

    Raises:
        LeftOut: this machine doesn't let us listen there.
    """

    def __init__(self) -> None:
        self.mood = RIGHT
        self.queries = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((ADDRESS, PORT))
        except OSError as error:
            self._socket.close()
            raise LeftOut(f"it needs to listen on port {PORT} of {ADDRESS}, as root ({error.strerror})") from error
        self._thread = threading.Thread(target=self._serve, name="chaos-dns")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (ADDRESS, PORT))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4096)
            if not query:
                return
            self.queries += 1
            threading.Thread(target=self._answer, args=(query, sender, self.mood), daemon=True).start()

    def _answer(self, query: bytes, sender: tuple[str, int], mood: Mood) -> None:
        time.sleep(mood.late_s)
        if not mood.silent:
            try:
                self._socket.sendto(answer_to(query, mood.code), sender)
            except OSError:
                return  # closed meanwhile


def answer_to(query: bytes, code: int) -> bytes:
    """The answer to a query of one question (RFC 1035): the address 127.0.0.1, or none of that type."""
    question = query[12 : query.index(b"\0", 12) + 5]
    (kind,) = struct.unpack("!H", question[-4:-2])
    has_address = code == NOERROR and kind == TYPE_A
    header = query[:2] + struct.pack("!HHHHH", RESPONSE | code, 1, int(has_address), 0, 0)
    address = struct.pack("!HHHIH4s", 0xC00C, TYPE_A, 1, 0, 4, socket.inet_aton("127.0.0.1"))
    return header + question + (address if has_address else b"")


def asking_us(folder: Path, options: str = "timeout:5 attempts:2") -> list[str]:
    """A launcher: what it executes resolves names by NameServer alone, in a mount namespace of its own.

    Args:
        options: of resolv.conf; the default is the C library's.

    Raises:
        LeftOut: there is no such namespace to be had.
    """
    need("unshare", "util-linux")
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {ADDRESS}\noptions {options}\n")
    script = f'mount --bind {file} /etc/resolv.conf && exec "$@"'
    launcher = ["unshare", "--mount", "sh", "-c", script, "sh"]
    tried = subprocess.run([*launcher, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise LeftOut(f"it needs a mount namespace with a file bound over /etc/resolv.conf, as root: {tried.stderr}")
    return launcher
