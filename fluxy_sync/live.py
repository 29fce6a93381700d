"""Live values: what waits, kept up to date in the background while somebody looks, and told to who wants to know."""

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from fluxy_sync.engine import Engine
from fluxy_sync.errors import FluxySyncError, StorageUnavailable
from fluxy_sync.live_source import Reading, SourceName, Sources
from fluxy_sync.picture import Picture, Signals
from fluxy_sync.status import Status
from fluxy_sync.watcher import Watcher

if TYPE_CHECKING:
    from reaktiv import Effect, Signal

T = TypeVar("T")

IDLE_S = 10.0  # nobody has looked for so long, and nobody waits for changes: the background thread ends
END_S = 1.0  # what its end is waited for at most
FORK_S = 0.5  # what a fork waits at most for effects that are running
Name = Literal["pending", "is_syncing", "status"]


class LiveValue(Generic[T]):
    """A value that keeps itself up to date. An effect of reaktiv that reads it runs again whenever it changes.

    Reading it raises StorageUnavailable (ConfigError: a setting is wrong) where it was never known and can't be read;
    afterwards it keeps what was last known, and ``status.stale`` tells that.
    """

    def __init__(self, live: "Live", name: Name) -> None:
        self._live = live
        self._name = name

    def get(self) -> T:
        """The value now. The first time it is read from the dashboard or the store, which blocks."""
        found: T = self._live.read(self._name)
        return found

    __call__ = get

    @property
    def value(self) -> T:
        """The value now, as ``get`` gives it."""
        return self.get()

    def __bool__(self) -> bool:
        raise TypeError("a live value is neither true nor false: ask for its .value")

    def subscribe(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Call back with the new value after each change, until what this returns is called.

        The background thread calls: be quick there. What the callback raises is printed, and changes nothing.

        Raises: as ``get``.
        """
        return self._live.subscribe(self._name, callback)

    def changes(self) -> AsyncIterator[T]:
        """For asyncio: the value now, then the newest one after each change; it ends with ``close()``.

        Whoever takes long misses values in between, never the last one. The first step raises as ``get`` does.
        """
        return Changes(self._live, self._name)

    def __repr__(self) -> str:
        return f"LiveValue({self._name})"


class Changes(AsyncIterator[T]):
    """The values of a LiveValue, one after another, for one task."""

    def __init__(self, live: "Live", name: Name) -> None:
        self._live = live
        self._name = name
        self._wake = asyncio.Event()
        self._mark: Any = None
        self._effect: Effect | None = None

    async def __anext__(self) -> T:
        if self._effect is None:
            await asyncio.to_thread(self._live.use)
            self._effect = self._live.watch(self._name, _waker(asyncio.get_running_loop(), self._wake))
        while True:
            self._wake.clear()
            mark = self._live.mark(self._name)
            if mark != self._mark:
                self._mark = mark
                found: T = self._live.present(self._name, mark)
                return found
            if self._live.is_closed:
                raise StopAsyncIteration
            await self._wake.wait()


def _waker(loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> Callable[[], None]:
    """What wakes a task from any thread. It doesn't hold the Changes: they end when nobody iterates any more."""

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(wake.set)

    return tell


class Live:
    """The live values of one queue. One background thread keeps them up to date, from the first use of one until
    nobody looks any more, or until ``close()``; after a fork, the child begins anew.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_closed = False
        self.pending_count: LiveValue[int] = LiveValue(self, "pending")
        self.is_syncing: LiveValue[bool] = LiveValue(self, "is_syncing")
        self.status: LiveValue[Status] = LiveValue(self, "status")
        self._begin()
        _lives[id(self)] = self

    def _begin(self) -> None:
        self._lock = threading.RLock()  # an effect's clean-up may come in between, wherever memory is freed
        self.telling = threading.RLock()  # held by the background thread while effects run
        self._picture = Picture()
        self._signals: Signals | None = None
        self._sources: Sources | None = None
        self._watcher: Watcher | None = None
        self._kept: set[Effect] = set()
        self._doubt: FluxySyncError | None = None
        self._is_known = False  # the signals show what the watcher would show
        self._used_at = 0.0

    # --- what is known

    @property
    def source(self) -> SourceName | None:
        """Where the last reading came from."""
        return self._picture.source

    @property
    def namespace(self) -> str:
        """The namespace that was read; empty before that."""
        return self._picture.namespace

    @property
    def trouble(self) -> str:
        """Why the dashboard isn't followed, where one is named, or why the store can't be read; mostly empty."""
        watcher, doubt = self._watcher, self._doubt
        return (watcher.trouble if watcher is not None else "") or ("" if doubt is None else str(doubt))

    @property
    def stale_since(self) -> datetime | None:
        """When the values were last known to be true, where that isn't now."""
        with self._lock:
            status = self._picture.status
            return self._picture.read_at if status is not None and status.stale else None

    def changes(self) -> AsyncIterator[Status]:
        """``status.changes()``."""
        return self.status.changes()

    def close(self) -> None:
        """End the background thread. Nothing is live any more; a value that is read is read from the store."""
        with self._lock:
            self.is_closed = True
            watcher, self._watcher = self._watcher, None
            self._is_known = False
            self._kept.clear()
        if watcher is not None:
            watcher.stop()
            if watcher is not threading.current_thread():
                watcher.join(END_S)
        if self._signals is not None:
            self._signals.closed.set(True)

    # --- what live values are made of

    def read(self, name: Name) -> Any:
        """A live value, as ``LiveValue.get`` gives it."""
        signal = self._signal(name)
        try:
            self.use()
        except FluxySyncError:
            if signal.get() is None:  # an effect that reads it here hears of it once it is known
                raise
        return self.present(name, signal.get())

    def use(self) -> None:
        """See to it that the values are known, and stay so for a while.

        Raises:
            StorageUnavailable: they were never known, and can't be read.
            ConfigError: a setting is wrong.
        """
        with self._lock:
            self._used_at = time.monotonic()
            sources = self._start()
            if self._is_known and not self.is_closed:
                return
            if self._doubt is not None and self._watcher is not None and self._picture.status is None:
                raise StorageUnavailable(str(self._doubt)) from self._doubt
        try:
            self._note(sources.read())
        except FluxySyncError as error:
            if not self._note_doubt(error):
                raise

    def present(self, name: Name, mark: Any) -> Any:
        """A signal's value as users see it."""
        return self._picture.aged(time.monotonic()) if name == "status" else mark

    def mark(self, name: Name) -> Any:
        """A signal's value, which tells one from the next; nothing depends on this look."""
        from reaktiv import untracked

        with untracked():
            return self._signal(name).get()

    def watch(self, name: Name, on_change: Callable[[], object]) -> "Effect":
        """An effect that calls ``on_change`` now, after each change and at the end, as long as the effect is kept."""
        from reaktiv import Effect, untracked

        signal, closed = self._signal(name), self._all_signals().closed

        def run() -> None:
            signal.get()
            closed.get()
            with untracked():
                on_change()

        return Effect(run)

    def subscribe(self, name: Name, callback: Callable[[Any], object]) -> Callable[[], None]:
        """As ``LiveValue.subscribe``."""
        self.use()
        last = self.mark(name)

        def on_change() -> None:
            nonlocal last
            before, last = last, self.mark(name)
            if last != before:
                callback(self.present(name, last))

        effect = self.watch(name, on_change)
        self._kept.add(effect)

        def unsubscribe() -> None:
            effect.dispose()
            self._kept.discard(effect)

        return unsubscribe

    def _signal(self, name: Name) -> "Signal[Any]":
        found: Signal[Any] = getattr(self._all_signals(), name)
        return found

    def _all_signals(self) -> Signals:
        with self._lock:
            if self._signals is None:
                self._signals = Signals()
            return self._signals

    def _start(self) -> Sources:
        """See to it that the values are watched; gives what they are read from."""
        if self._sources is None or (self._watcher is None and not self.is_closed):
            self._sources = Sources(self._engine)  # an earlier watcher closes its own
        if self._watcher is None and not self.is_closed:
            watcher = Watcher(self._sources, self)
            with contextlib.suppress(RuntimeError):  # no thread is to be had, e.g. as the interpreter ends
                watcher.start()
                self._watcher, self._doubt = watcher, None
        return self._sources

    # --- what the watcher tells

    def take(self, reading: Reading) -> None:
        """It was read in the background."""
        with self.telling:
            self._note(reading)

    def doubt(self, error: FluxySyncError) -> None:
        """Nothing can be read in the background."""
        with self.telling:
            self._note_doubt(error)

    def wants(self, watcher: Watcher) -> bool:
        """Whether somebody still looks."""
        with self._lock:
            if self._watcher is not watcher:
                return False
            recently = time.monotonic() - self._used_at < IDLE_S
            if recently or (self._signals is not None and self._signals.are_watched):
                return True
            self._watcher, self._is_known = None, False
            return False

    def ended(self, watcher: Watcher) -> None:
        """The background thread ends."""
        with self._lock:
            if self._watcher is not watcher:
                return
            self._watcher = None
        self._note_doubt(FluxySyncError("the background thread ended"))
        self._is_known = False

    def _note(self, reading: Reading) -> None:
        with self._lock:
            self._doubt = None
            self._picture.take(reading, datetime.now(UTC))
        self._show()

    def _note_doubt(self, error: FluxySyncError) -> bool:
        """Mark what is known as stale; False where nothing is known."""
        with self._lock:
            self._doubt = error
            if self._picture.status is None:
                return False
            self._picture.doubt()
        self._show()
        return True

    def _show(self) -> None:
        """Let the signals show the picture. No lock is held: effects run in here, and may do what they like."""
        signals = self._all_signals()
        while (status := self._picture.status) is not None:
            signals.show(status, self._know)
            if self._picture.status is status:  # else another thread may have shown an older one last
                return

    def _know(self) -> None:
        self._is_known = True


_lives: "weakref.WeakValueDictionary[int, Live]" = weakref.WeakValueDictionary()
_forking = threading.local()


def _every_live() -> list[Live]:
    return [live for reference in _lives.valuerefs() if (live := reference()) is not None]


def _before_fork() -> None:
    # A child must not inherit locks of reaktiv that the background thread was just holding.
    _forking.held = [live.telling for live in _every_live() if live.telling.acquire(timeout=FORK_S)]


def _after_fork_in_parent() -> None:
    for telling in _forking.held:
        telling.release()


def _after_fork_in_child() -> None:
    for live in _every_live():
        live._begin()


def _close_all() -> None:
    for live in _every_live():
        live.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_close_all)
