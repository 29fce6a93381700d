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
    def dead_index(self) -> str:
        return f"{self.prefix}dead:index"

    @property
    def gate(self) -> str:
        return f"{self.prefix}gate"

    @property
    def wake(self) -> str:
        return f"{self.prefix}wake"

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def secret(self) -> str:
        """What once keys are hashed with, sealed."""
        return f"{self.prefix}secret"

    @property
    def samples(self) -> str:
        """An hour of the counts, for a plot."""
        return f"{self.prefix}samples"

    @property
    def histogram(self) -> str:
        """How long operations waited, and answers took."""
        return f"{self.prefix}histogram"

    @property
    def audit(self) -> str:
        return f"{self.prefix}audit"

    @property
    def cancelled(self) -> str:
        """Tombstones in each lane."""
        return f"{self.prefix}cancelled"

    @property
    def held(self) -> str:
        return f"{self.prefix}held"

    @property
    def pulse(self) -> str:
        return f"{self.prefix}pulse"

    @property
    def auth(self) -> str:
        """The OAuth2 access token, sealed."""
        return f"{self.prefix}auth"

    @property
    def auth_lock(self) -> str:
        """Whose turn it is to fetch one."""
        return f"{self.prefix}auth:lock"

    @property
    def fixed(self) -> tuple[str, ...]:
        """The keys that every script declares, in the order of ``lua/_prelude.lua``."""
        names = (
            "counts ready claims retries held oldest dead dead:index gate wake events pulse recent recent:old "
            "cancelled once once:ends held:why large"
        )
        return tuple(f"{self.prefix}{name}" for name in names.split())
