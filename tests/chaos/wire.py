"""A cable between two machines: network namespaces with a pair of virtual interfaces, and what may happen to it."""

import os
import subprocess
from types import TracebackType
from typing import Self

from tests.chaos.trial import LeftOut, need

SERVER, GATEWAY, MOVED = "10.213.77.1", "10.213.77.2", "10.213.77.3"
MASK = "29"


class Wire:
    """The cable: this end has the address SERVER; the other lies in a namespace, and has the address GATEWAY.

    ``launcher`` executes the command behind it on the other end. Packets get lost by netfilter rules of that end.

    Raises:
        LeftOut: this machine lets us make no such thing.
    """

    def __init__(self) -> None:
        self._ip, self._iptables = need("ip", "iproute2"), need("iptables", "iptables")
        self._name = f"fluxy-{os.getpid()}"
        self._near, self._far = f"fx{os.getpid()}a", f"fx{os.getpid()}b"
        self.launcher = [self._ip, "netns", "exec", self._name]

    def __enter__(self) -> Self:
        try:
            self._run(self._ip, "netns", "add", self._name)
            self._run(self._ip, "link", "add", self._near, "type", "veth", "peer", "name", self._far)
            self._run(self._ip, "link", "set", self._far, "netns", self._name)
            self._run(self._ip, "address", "add", f"{SERVER}/{MASK}", "dev", self._near)
            self._run(self._ip, "link", "set", self._near, "up")
            self._inside(self._ip, "link", "set", "lo", "up")
            self._inside(self._ip, "address", "add", f"{GATEWAY}/{MASK}", "dev", self._far)
            self._inside(self._ip, "link", "set", self._far, "up")
            self._inside(self._iptables, "-L", "-n")
        except subprocess.CalledProcessError as error:
            self.__exit__(None, None, None)
            raise LeftOut(f"it needs network namespaces and iptables, as root: {error.stderr.strip()}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for order in (["link", "delete", self._near], ["netns", "delete", self._name]):
            subprocess.run([self._ip, *order], capture_output=True, check=False)  # it may not be there

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, text=True)

    def _inside(self, *command: str) -> None:
        self._run(*self.launcher, *command)

    # --- what may happen to it

    def pull(self) -> None:
        """The cable is out at the server's end: no carrier."""
        self._run(self._ip, "link", "set", self._near, "down")

    def plug_in(self) -> None:
        """It is in again."""
        self._run(self._ip, "link", "set", self._near, "up")

    def switch_off(self) -> None:
        """The gateway's interface is down: there is no route."""
        self._inside(self._ip, "link", "set", self._far, "down")

    def switch_on(self) -> None:
        """It is up again."""
        self._inside(self._ip, "link", "set", self._far, "up")

    def filter(self, chain: str, *rule: str) -> None:
        """Let a rule hold for what the gateway sends (OUTPUT) or gets (INPUT)."""
        self._inside(self._iptables, "-A", chain, "-o" if chain == "OUTPUT" else "-i", self._far, *rule)

    def pass_all(self) -> None:
        """No rule holds any more."""
        self._inside(self._iptables, "-F")

    def move(self, to: str) -> None:
        """The gateway gets another address, as after a change of networks: earlier connections lead nowhere."""
        self._inside(self._ip, "address", "flush", "dev", self._far)
        self._inside(self._ip, "address", "add", f"{to}/{MASK}", "dev", self._far)
