"""The thread beside each worker: tick, consumer, incarnation. And what its pool's processes share with it."""

import functools
import gc
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from celery import bootsteps, current_app, signals
from celery.worker.control import Panel, control_command, inspect_command
from celery.worker.state import active_requests, reserved_requests
from kombu.utils.url import sanitize_url

from fluxy_sync.connectivity import BEAT_SILENCE_S, TICK_S, Link, Probe, Prober, ProbeResult, Watch
from fluxy_sync.consumer import drop_connection
from fluxy_sync.delivery import boottime, can_be_taken_by_others
from fluxy_sync.errors import ConfigError, FluxySyncError, StorageUnavailable
from fluxy_sync.events import TaskEvents
from fluxy_sync.flush import Flush
from fluxy_sync.flush_task import without_limits
from fluxy_sync.incarnation import Incarnation
from fluxy_sync.journal import Journal, Tick
from fluxy_sync.lease_renewer import Keeper
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import FLUSH
from fluxy_sync.operation_log import quieten
from fluxy_sync.tokens import any_waits, broker_errors, is_spared, queue_is_empty, spare, wake

logger = get_logger(__name__)

CONSUME = "fluxy_consume"
MOST_QUEUES = 8  # that are looked at each second, while a flush runs and no process is free
PATIENCE_LOOKS = 3  # a lane that is due for so many looks wasn't taken up by any token


def make_link(app: Any, journal: Journal) -> Link:
    """The link of this process, announcing the gate's changes to all consumers of the namespace."""
    return Link(journal, Probe(app.fluxy_engine.settings), lambda change: announce(app, change))


def announce(app: Any, change: str) -> None:
    """Tell every worker of the namespace to pause or resume. It may get lost: the stewards look each second."""
    namespace = app.fluxy_engine.settings.namespace
    try:
        app.control.broadcast(CONSUME, arguments={"namespace": namespace, "change": change}, retry=False)
    except broker_errors(app) as error:
        logger.warning("The consumers were not told to %s (%s); they look by themselves.", change, type(error).__name__)


def publish_if_empty(app: Any, journal: Journal) -> bool:
    """What a tick does for a due lane: one token, if none waits. False where the broker takes none."""
    if is_spared(app):
        return False
    began = time.monotonic()
    try:
        return not queue_is_empty(app) or not journal.win_wake() or wake(app)
    except broker_errors(app) as error:
        spare(app, time.monotonic() - began)
        logger.warning("A wake token was not published (%s); the next tick will.", type(error).__name__)
        return False


def flush_here(hostname: str) -> None:
    """Run in a pool's process: a flush that no token woke."""
    app = current_app._get_current_object()
    try:
        app.fluxy_runtime.flush(hostname)
    except StorageUnavailable as error:
        logger.error("A flush ended early: %s; claims come due by themselves.", error)


def flush_in(pool: Any, hostname: str) -> None:
    """Give a flush to the pool, without a token."""
    without_limits(pool.apply_async(flush_here, (hostname,), callback=_ignore, accept_callback=_ignore))


def make_watch(app: Any, role: Any, name: str) -> Watch:
    """The connectivity check of this process."""
    engine = app.fluxy_engine
    journal: Journal = engine.open_journal()
    return Watch(
        journal,
        make_link(app, journal),
        role=role,
        name=name,
        interval_s=engine.settings.probe_interval_s,
        wake=lambda: publish_if_empty(app, journal),
        deliveries_tell=not can_be_taken_by_others(engine.settings),
    )


def give_up_on(error: ConfigError) -> NoReturn:
    """End this process: what is wrong is said in one sentence, with exit code 2."""
    print(f"fluxy-sync: {error}", file=sys.stderr, flush=True)  # noqa: T201 -- a process's last words
    raise SystemExit(2) from None


class Runtime:
    """What the processes of one worker share: the incarnation, made before the pool forks; the rest is made in each."""

    def __init__(self, app: Any, incarnation: Incarnation) -> None:
        self.app, self.incarnation = app, incarnation
        self._pid = 0
        self._lock, self._lock_pid = threading.Lock(), os.getpid()

    def flush(self, hostname: str) -> int:
        """Drain lanes for one slice, in this process. Where the broker is away, that may be the pool's parent."""
        if self._lock_pid != os.getpid():  # a child of the pool: when it was forked, its parent may have held the lock
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        with self._lock:  # threads may be a pool's processes
            if self._pid != os.getpid():
                # Nothing that the parent opened is of use in a child.
                journal = self.app.fluxy_engine.journal
                self._link, self._keeper = make_link(self.app, journal), Keeper(journal)
                self.app.fluxy_engine.delivery.confirm = lambda: self._link.recheck().online
                tells = self.app.fluxy_engine.settings.task_events
                self._events = TaskEvents(self.app, hostname) if tells else None
                self._pid = os.getpid()
                _freeze()
        return Flush(self.app, self.incarnation, self._link, self._keeper, hostname, self._events).run()


def _freeze() -> None:
    """Take what lives as long as this process out of the garbage collector's sight.

    It looks at everything only once new objects make a quarter of what it saw then: a failed delivery leaves half a
    megabyte in cycles, and that would be a hundred of them.
    """
    gc.freeze()  # not collected first: to look at what the parent made would copy its pages
    gc.collect()  # it measures by what it sees now


class Steward(threading.Thread):
    """Looks each second after what its worker owes: consumer and gate in agreement, the dead's claims, the tick."""

    def __init__(self, runtime: Runtime, worker: Any) -> None:
        super().__init__(name="fluxy-steward", daemon=True)
        self._runtime = runtime
        self._app, self._incarnation, self._worker = runtime.app, runtime.incarnation, worker
        settings = self._app.fluxy_engine.settings
        self._queue = settings.queue_name
        self._node = settings.node
        self._opened: Watch | None = None
        self._door = Prober(lambda: self._watch.link.probe(anew=True), self._open_door)
        self._stopped = threading.Event()
        self._store_was_down = False
        self._due_looks = 0
        self._without_broker: list[threading.Thread] = []
        self._lock_files_failed = False
        self._generation: int | None = None

    @property
    def _watch(self) -> Watch:
        """The check, and with it a store connection of its own, once the store can be reached."""
        if self._opened is None:
            self._opened = make_watch(self._app, "steward", self._node)
        return self._opened

    @property
    def _journal(self) -> Journal:
        return self._watch.journal

    def prepare(self) -> None:
        """Before anything is consumed: give the dead's claims up, and read the gate. An unknown gate counts as closed.

        Raises:
            ConfigError: the store doesn't keep what DURABILITY asks for.
        """
        try:
            self._reclaim_dead_workers()
            is_open = self._watch.tick().consumes
        except StorageUnavailable as error:
            logger.error("The worker starts without its store (%s); it goes on trying.", error)
            is_open, self._store_was_down = False, True
        if not is_open:
            self._app.amqp.queues.deselect(self._queue)

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                next_look = boottime() + TICK_S
                self._look()
                self._listen(next_look)
        except BaseException:
            # A worker without its steward would look alive and forget its lanes: whoever supervises it starts another.
            logger.critical("The steward failed: the worker ends.", exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def _listen(self, until: float) -> None:
        """Until the next look: what a flush saw coming due before that gets its token in time."""
        due: list[float] = []
        while not self._stopped.is_set() and (now := boottime()) < until:
            due = [at for at in due if at > now]
            due += self._incarnation.wait_for_bell(min([until, *due]) - now)
            if any(at <= boottime() for at in due):
                self._wake_for_due()

    def _wake_for_due(self) -> None:
        try:
            if self._watch.tick().wants_token:
                publish_if_empty(self._app, self._journal)
        except StorageUnavailable as error:
            logger.warning("A lane came due, but the store is away: %s", error)

    def stop(self, *, wait: bool = True) -> None:
        """End it; ``wait`` for what is under way beside the pool, as a pool does."""
        self._stopped.set()
        self._incarnation.ring(0.0)
        if self.is_alive():
            self.join(timeout=5.0)
        for thread in self._without_broker if wait else ():
            thread.join()

    def _look(self) -> None:
        try:
            self._step()
            if self._store_was_down:
                logger.info("The store is back.")
            self._store_was_down = False
        except StorageUnavailable as error:
            if not self._store_was_down:
                logger.error("The store is away (%s); what it accepted is on its disk.", error)
            self._store_was_down = True

    def _step(self) -> None:
        self._reclaim_dead_workers()
        self._reclaim_dead_children()
        self._look_through_door()
        self._leave_deposed_broker()
        tick = self._watch.tick()
        if tick.beat_age_s is None or tick.beat_age_s > BEAT_SILENCE_S:
            self._watch.check(tick)
        self._agree(tick)
        self._incarnation.others_wait = self._others_wait()
        self._wake_without_broker(tick)

    def _wake_without_broker(self, tick: Tick) -> None:
        """A lane stays due, and the broker takes no token: it is away, or its memory is full until we have drained."""
        self._without_broker = [thread for thread in self._without_broker if thread.is_alive()]
        self._due_looks = self._due_looks + 1 if tick.wants_token and not self._incarnation.door_closed else 0
        if self._due_looks < PATIENCE_LOOKS or self._incarnation.closing:
            return
        if self._worker.consumer.connection is None:
            self._flush_beside_pool()  # its next look follows in a second, as long as the consumer waits for its broker
            return
        self._due_looks = 0
        if not publish_if_empty(self._app, self._journal):
            logger.warning("The broker takes no wake token: this worker goes on without one.")
            self._worker.consumer.call_soon(flush_in, self._worker.consumer.pool, self._worker.hostname)

    def _others_wait(self) -> bool:
        """Whether other messages wait behind a flush: no process is free for them, and one flushes."""
        try:
            active, reserved = [*active_requests], [*reserved_requests]
        except RuntimeError:  # they changed meanwhile: the next look is soon enough
            return False
        if all(request.name != FLUSH for request in active):
            return False
        if len(active) < (self._worker.consumer.pool.num_processes or 1):
            return False
        if any(request.name != FLUSH for request in reserved if request not in active):
            return True
        # Where nothing is prefetched, or the loop itself runs the flush, they wait in the broker.
        others = [name for name in self._app.amqp.queues.consume_from if name != self._queue]
        return any_waits(self._app, others[:MOST_QUEUES])

    def _flush_beside_pool(self) -> None:
        """Deliver in threads of this process: while Celery waits for a broker, it feeds no pool that has an event loop.

        One more at each look, until there are as many as the pool has processes.
        """
        if len(self._without_broker) >= (self._worker.concurrency or 1):
            return
        if not self._without_broker:
            logger.warning("The broker is away: this worker delivers without it.")
        thread = threading.Thread(target=self._flush, name="fluxy-flush", daemon=True)
        self._without_broker.append(thread)
        thread.start()

    def _flush(self) -> None:
        try:
            while self._runtime.flush(self._worker.hostname) and self._worker.consumer.connection is None:
                pass
        except StorageUnavailable as error:
            logger.error("A flush ended early: %s; claims come due by themselves.", error)

    def _leave_deposed_broker(self) -> None:
        """Tokens come to the primary that the sentinels have made: the consumer connects anew."""
        generation, before = self._journal.store.generation, self._generation
        self._generation = generation
        if before is not None and before != generation:
            drop_connection(self._worker.consumer.connection)

    def _agree(self, tick: Tick) -> None:
        """Make the consumer agree with the gate: on level, as a broadcast may have been lost."""
        consume = tick.consumes and not self._incarnation.door_closed and not self._incarnation.closing
        set_consuming(self._worker.consumer, self._queue, consume)

    def _look_through_door(self) -> None:
        """A worker that met a dead link probes for itself, beside its other duties: DNS may be slow."""
        if self._incarnation.door_closed:
            self._door.probe()

    def _open_door(self, result: ProbeResult) -> None:
        if not result.online:
            return
        self._incarnation.door_closed = False
        try:
            tick = self._watch.tick()
            if tick.consumes:
                # By message, to itself, too: nothing else wakes a consumer's loop from another thread.
                announce(self._app, "resume")
            if tick.wants_token:
                publish_if_empty(self._app, self._journal)
        except StorageUnavailable as error:
            logger.warning("The worker's door is open, but the store is away: %s", error)

    def _reclaim_dead_workers(self) -> None:
        for incarnation in self._dead_ones():
            count = self._journal.reclaim(incarnation)
            self._incarnation.forget(incarnation)
            if count:
                logger.warning("Took %d lane(s) over from a worker that died.", count)

    def _dead_ones(self) -> list[str]:
        """Workers that died on this machine. Where that can't be seen, their lanes come due by themselves."""
        try:
            found = self._incarnation.dead_ones()
        except (OSError, ConfigError) as error:
            if not self._lock_files_failed:
                logger.error("The lock files of other workers can't be read (%s).", error)
            self._lock_files_failed = True
            return []
        self._lock_files_failed = False
        return found

    def _reclaim_dead_children(self) -> None:
        own = {pid for incarnation, pid in self._journal.holders() if incarnation == self._incarnation.id}
        alive = [pid for pid in own if is_alive(pid)]
        if len(alive) < len(own):
            # With no process left alive, the parent's own id keeps the list from meaning "all of them".
            count = self._journal.reclaim(self._incarnation.id, [*alive, os.getpid()])
            logger.warning("Took %d lane(s) over from a pool process that died.", count)
            if self._watch.tick().wants_token:
                publish_if_empty(self._app, self._journal)


def _ignore(*_: Any, **__: Any) -> None:
    """A pool calls back; nothing is to be done then."""


def is_alive(pid: int) -> bool:
    """Whether a process of this worker lives. A zombie doesn't, and the pool may take seconds to reap it."""
    if pid == os.getpid():
        return True
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: there a zombie lives until the pool reaps it
        return _exists(pid)
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def set_consuming(consumer: Any, queue: str, consume: bool) -> None:
    """Add or cancel the consumer of a queue, in the consumer's own loop, where that changes something."""
    tasks = getattr(consumer, "task_consumer", None)
    if tasks is None or tasks.consuming_from(queue) == consume:
        return
    consumer.call_soon(consumer.add_task_queue if consume else consumer.cancel_task_queue, queue)


@control_command(name=CONSUME, args=[("namespace", str), ("change", str)], signature="<namespace> <pause|resume>")
def _consume(state: Any, namespace: str = "", change: str = "", **_: Any) -> dict[str, str]:
    """Pause or resume the sync consumer of a namespace; other workers ignore it."""
    runtime: Runtime | None = getattr(state.app, "fluxy_runtime", None)
    if runtime is None or state.app.fluxy_engine.settings.namespace != namespace:
        return {"ok": "not of this namespace"}
    if change == "pause" or not runtime.incarnation.door_closed:
        set_consuming(state.consumer, state.app.fluxy_engine.settings.queue_name, change == "resume")
    return {"ok": change}


@inspect_command(name="fluxy")
def _inspect(state: Any, **_: Any) -> dict[str, Any]:
    """Counts of the journal, and the ids of operations in flight; never a payload."""
    try:
        journal: Journal = state.app.fluxy_engine.journal
        snapshot, in_flight = journal.snapshot(), journal.in_flight()
    except (AttributeError, FluxySyncError) as error:
        return {"error": type(error).__name__}
    names = ("pending", "syncing", "retrying", "held", "dead", "gate", "delivered_total")
    return {name: getattr(snapshot, name) for name in names} | {"in_flight": in_flight}


def _mask_broker(original: Any) -> Any:
    """Celery's ``inspect stats`` drops a broker's password, but a unix socket's URL carries it in the host's name."""

    @functools.wraps(original)
    def stats(state: Any, **options: Any) -> Any:
        answer = original(state, **options)
        broker = answer.get("broker") or {}
        if "@" in str(broker.get("hostname")):
            broker["hostname"] = sanitize_url(broker["hostname"])
        return answer

    return stats


Panel.data["stats"] = _mask_broker(Panel.data["stats"])


class StewardStep(bootsteps.StartStopStep):
    """Celery's hook into the worker's life: the incarnation before the pool, the steward after it."""

    requires = ("celery.worker.components:Timer",)

    def include_if(self, worker: Any) -> bool:
        settings = worker.app.fluxy_engine.settings
        return settings.queue_name in worker.app.amqp.queues.consume_from

    def create(self, worker: Any) -> None:
        engine = worker.app.fluxy_engine
        try:
            _ = engine.vault, engine.settings.upstream_url
            runtime = Runtime(worker.app, Incarnation(engine.settings.runtime_dir, engine.settings.node))
        except ConfigError as error:
            give_up_on(error)
        worker.app.fluxy_runtime = runtime
        quieten()
        # Receivers that only live here would be collected: signals hold them weakly.
        self._on_shutdown = lambda **_: setattr(runtime.incarnation, "closing", True)
        signals.worker_shutting_down.connect(self._on_shutdown)
        # Not by stop(), which comes before the pool's: it may still finish a request, under this node's name.
        self._on_end = lambda **_: runtime.incarnation.close()
        signals.worker_shutdown.connect(self._on_end)

    def start(self, worker: Any) -> None:
        self._steward = Steward(worker.app.fluxy_runtime, worker)
        try:
            self._steward.prepare()
        except ConfigError as error:
            give_up_on(error)
        self._steward.start()

    def stop(self, worker: Any) -> None:
        worker.app.fluxy_runtime.incarnation.closing = True
        self._steward.stop()

    def terminate(self, worker: Any) -> None:
        worker.app.fluxy_runtime.incarnation.closing = True
        self._steward.stop(wait=False)
