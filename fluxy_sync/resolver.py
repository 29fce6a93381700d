"""Names looked up within a time limit: ``getaddrinfo`` has none, and nothing interrupts it."""

import ipaddress
import os
import socket
import threading
import time

from urllib3.util.connection import allowed_gai_family

# A query of a moment ago may still be answered; one from before the link was back never is. Less than a tick: else each
# second probe would wait for the one before.
AGAIN_S = 0.5
AT_ONCE = 16
KEPT_S = 30.0  # an answer that came when nobody waited any more serves one request so long


class _Name:
    """One name: look-ups in threads of their own, of which the first answer serves all who wait."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._changed = threading.Condition()
        self._begun, self._begun_at, self._running = 0, 0.0, 0
        self._answers, self._answered_at, self._is_taken = 0, 0.0, True
        self._addresses: list[str] = []
        self._failed = 0  # the latest look-up that failed, and why
        self._error: OSError | UnicodeError = OSError()

    def wait(self, timeout_s: float) -> list[str]:
        with self._changed:
            if not self._is_taken and time.monotonic() - self._answered_at < KEPT_S:
                return self._take()
            self._begin_if_due()
            number, seen = self._begun, self._answers
            self._changed.wait_for(lambda: self._answers > seen or self._failed >= number, timeout_s)
            if self._answers > seen:
                return self._take()
            if self._failed >= number:
                raise type(self._error)(*self._error.args)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer in time")

    def _take(self) -> list[str]:
        self._is_taken = True
        return self._addresses

    def _begin_if_due(self) -> None:
        now = time.monotonic()
        if self._running and (now - self._begun_at < AGAIN_S or self._running >= AT_ONCE):
            return
        self._begun, self._begun_at, self._running = self._begun + 1, now, self._running + 1
        thread = threading.Thread(target=self._look_up, args=(self._begun,), name="fluxy-resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # out of threads or memory
            self._running -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "no thread is to be had for a look-up") from error

    def _look_up(self, number: int) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, allowed_gai_family(), socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._end(number, [], error)
        except BaseException as error:
            # Counted as ended whatever it was: of those that run there may only be so many.
            self._end(number, [], socket.gaierror(socket.EAI_FAIL, f"unexpected {type(error).__name__}"))
            raise
        else:
            self._end(number, list(dict.fromkeys(str(address[0]) for *_, address in found)), None)

    def _end(self, number: int, addresses: list[str], error: OSError | UnicodeError | None) -> None:
        with self._changed:
            self._running -= 1
            if error is None:
                self._addresses, self._answered_at = addresses, time.monotonic()
                self._answers, self._is_taken = self._answers + 1, False
            elif number > self._failed:
                self._failed, self._error = number, error
            self._changed.notify_all()


class Resolver:
    """Looks names up, each caller for as long as it can wait."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing: what ran in a parent's threads never ends in its child."""
        self._lock = threading.Lock()
        self._names: dict[tuple[str, int], _Name] = {}

    def resolve(self, host: str, port: int, timeout_s: float) -> list[str]:
        """The numeric addresses of a host, in the order in which they should be tried.

        Raises:
            socket.gaierror: there is none, or no answer came within ``timeout_s`` seconds.
            UnicodeError: it is no host name.
        """
        host = host.strip("[]")
        if _is_numeric(host):
            return [host]
        with self._lock:
            name = self._names.setdefault((host, port), _Name(host, port))
        return name.wait(timeout_s)


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_resolver = Resolver()
os.register_at_fork(after_in_child=_resolver.forget)
resolve = _resolver.resolve
