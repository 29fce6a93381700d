"""The one place where keys are built. All share one hash tag, so that each script works on one cluster slot."""

import msgspec


class Keys(msgspec.Struct, frozen=True):
    """The journal's keys in one namespace."""

    namespace: str

    @property
    def prefix(self) -> str:
        return f"{{{self.namespace}}}:"

    @property
    def lane_prefix(self) -> str:
        return f"{self.prefix}lane:"

    def lane(self, lane: str) -> str:
        return f"{self.lane_prefix}{lane}"

    @property
    def claims(self) -> str:
        return f"{self.prefix}claims"

    @property
    def oldest(self) -> str:
        return f"{self.prefix}oldest"

    @property
    def dead(self) -> str:
        return f"{self.prefix}dead"

    @property
    def wake(self) -> str:
        return f"{self.prefix}wake"

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def fixed(self) -> tuple[str, ...]:
        """The keys that every script declares, in the order of ``lua/_prelude.lua``."""
        names = (
            "counts ready claims retries held oldest dead dead:index gate wake events pulse recent recent:old cancelled"
        )
        return tuple(f"{self.prefix}{name}" for name in names.split())
