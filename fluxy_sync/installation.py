"""``install(app)`` for a user's own Celery app: the app's own class gets ours in front of it.

Nothing here is kept in the app's configuration, which may be read, replaced or changed at any time after ``install``;
what a worker needs of it is added by a boot step, when everything else has had its say.
"""

import contextlib
import functools
import inspect
import weakref
from typing import Any

from billiard import get_start_method
from celery import Celery, bootsteps
from celery.app.trace import setup_worker_optimizations
from celery.concurrency.prefork import TaskPool
from celery.utils.imports import symbol_by_name
from celery.worker.consumer import Consumer
from kombu.utils.objects import cached_property

from fluxy_sync import cancellation, steward
from fluxy_sync.consumer import PatientConsumer
from fluxy_sync.engine import Engine
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.flush_task import FlushTask
from fluxy_sync.http_task import HttpTask, send
from fluxy_sync.kept_result import SealedApp, of_any_task
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import CHECK_CONNECTIVITY, FLUSH, SYNC_OP
from fluxy_sync.sealing import CONTENT_TYPE, register_vault
from fluxy_sync.settings import Settings, load_settings
from fluxy_sync.tasks import SyncTask

logger = get_logger(__name__)

_SEND_TASK = inspect.signature(Celery.send_task)
_OF_THE_ROUTE = ("exchange", "exchange_type", "routing_key")
_engines: weakref.WeakValueDictionary[str, Engine] = weakref.WeakValueDictionary()


@functools.cache
def with_front(front: Any, base: Any) -> Any:
    """The class ``base`` with ``front`` before it, which looks like ``base`` to whoever asks its name."""
    looks = {name: getattr(base, name) for name in ("__doc__", "__module__", "__qualname__")}
    return type(base.__name__, (front, base), looks)


def put_in_front(front: Any, made: Any) -> Any:
    """Let an object that exists already have ``front`` before its class."""
    if not isinstance(made, front):
        of_it: Any = type(made)
        made.__class__ = with_front(front, of_it)
    return made


class Revoking:
    """In front of an app's control: ``revoke`` also cancels in the journal what waits there."""

    def revoke(self: Any, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        ids = task_id if isinstance(task_id, (str, bytes)) or not hasattr(task_id, "__iter__") else list(task_id)
        try:
            return super().revoke(ids, *args, **kwargs)  # type: ignore[misc]
        finally:
            cancellation.cancel_revoked(self.app, [str(one) for one in (ids if isinstance(ids, list) else [ids])])


class KnowingOurQueue:
    """In front of an app's amqp: the sync queue is there also where queues that are missing aren't made."""

    def Queues(self: Any, *args: Any, **kwargs: Any) -> Any:
        return declare_queue(self.app, super().Queues(*args, **kwargs))  # type: ignore[misc]


def declare_queue(app: Any, queues: Any) -> Any:
    """Add the sync queue to those that messages can go to; which of them a worker serves stays as it is."""
    name = app.fluxy_engine.settings.queue_name
    if not queues.create_missing and name not in queues:
        queues.add(queues.new_missing(name))
    return queues


class _ToOurQueue:
    """A router for wake tokens: wherever the app's own routes send things."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def route(self, options: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        queue = self._app.amqp.queues[self._app.fluxy_engine.settings.queue_name]
        return {name: value for name, value in options.items() if name not in _OF_THE_ROUTE} | {"queue": queue}


class Installed:
    """In front of an app's class: SyncTasks go through the journal, also by ``send_task``, and ``revoke`` does."""

    fluxy_engine: Engine

    @functools.wraps(Celery.send_task)
    def send_task(self: Any, name: str, *args: Any, **options: Any) -> Any:
        # A call of Task.apply_async names its task; a SyncTask's own never gets here.
        task = None if "task_type" in options else self._fluxy_registry.get(name)
        if isinstance(task, SyncTask):
            given = dict(_SEND_TASK.bind(self, name, *args, **options).arguments)
            more = given.pop("options", {})
            named = {key: value for key, value in given.items() if key not in ("self", "name", "args", "kwargs")}
            return task.apply_async(given.get("args"), given.get("kwargs"), **named, **more)
        if name == FLUSH:
            options["router"] = _ToOurQueue(self)
        send = self.__dict__.get("fluxy_sends") or super().send_task  # type: ignore[misc]
        return send(name, *args, **options)

    @property
    def _fluxy_registry(self: Any) -> Any:
        # Where an app isn't to be finalized by itself, this is no reason for it either.
        return self.tasks if self.finalized or self.autofinalize else self._tasks

    @cached_property
    def amqp(self) -> Any:
        return put_in_front(KnowingOurQueue, super().amqp)  # type: ignore[misc]

    def _make_control(self) -> Any:
        return put_in_front(Revoking, super().control)  # type: ignore[misc]

    control: Any = cached_property(_make_control, lambda _, given: put_in_front(Revoking, given))

    def __reduce__(self: Any) -> Any:
        # Without the engine: its settings hold secrets, and connections stay in their process.
        made: Any = super().__reduce__()
        make, arguments = made
        base = next(one for one in type(self).__mro__ if one is not type(self) and issubclass(one, Celery))
        plain = tuple(base if one is type(self) else one for one in arguments)
        return _unpickle, (make, plain, self.fluxy_engine.settings.namespace)


def _put_engine(app: Any, engine: Engine) -> None:
    """Make an app an installed one; one that is already, gets another engine."""
    app.fluxy_engine = _engines[engine.settings.namespace] = engine
    if isinstance(app, Installed):
        return
    if "send_task" in app.__dict__:
        app.fluxy_sends = app.__dict__.pop("send_task")
    put_in_front(Installed, app)
    # What was made of them before, or was put there by the user, goes on.
    for name, front in (("amqp", KnowingOurQueue), ("control", Revoking)):
        if name in app.__dict__:
            put_in_front(front, app.__dict__[name])
    if "amqp" in app.__dict__ and "queues" in app.amqp.__dict__:
        declare_queue(app, app.amqp.queues)


def _register_keys(engine: Engine) -> None:
    """Let kombu know the serializers of the engine's namespace, if there are keys by now."""
    if engine.settings.key_texts:
        register_vault(engine.vault, engine.settings.namespace)


class WorkerStep(bootsteps.Step):
    """Celery's hook into a worker that is just being made: what it needs beside the app's own configuration."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        _register_keys(worker.app.fluxy_engine)
        _accept_sealed(worker)
        _leave_operations_where_spawned(worker)
        if symbol_by_name(worker.consumer_cls) is Consumer:
            worker.consumer_cls = PatientConsumer
        elif not issubclass(symbol_by_name(worker.consumer_cls), PatientConsumer):
            logger.warning(
                "The worker's consumer is the app's own, %s: it ends where the broker's memory is full, or a message "
                "can't be read; make it a subclass of fluxy_sync.consumer:PatientConsumer.", worker.consumer_cls,
            )  # fmt: skip


def _leave_operations_where_spawned(worker: Any) -> None:
    """What a worker's processes share, above all the lock that tells that it lives, they inherit by a fork."""
    queues, ours = worker.app.amqp.queues, worker.app.fluxy_engine.settings.queue_name
    is_spawned = worker.pool_start_method != "fork" or get_start_method() != "fork"
    if ours not in queues.consume_from or not is_spawned or not issubclass(worker.pool_cls, TaskPool):
        return
    queues.deselect([ours])
    logger.error(
        "This worker delivers no operations, since its pool starts its processes anew instead of forking them; they "
        "are kept: serve the queue %s with a worker that has worker_pool_start_method='fork', or --pool threads.", ours,
    )  # fmt: skip


def _accept_sealed(worker: Any) -> None:
    """A plain task that follows from an operation comes sealed, whatever else the app accepts."""
    app = worker.app
    accepted: Any = app.conf.accept_content
    if accepted is None or CONTENT_TYPE in accepted:
        return
    app.conf.accept_content = [*accepted, CONTENT_TYPE]
    if getattr(app, "use_fast_trace_task", False):
        setup_worker_optimizations(app, worker.hostname)  # it has read what is accepted already


def install(app: Celery, *, settings: Settings | None = None, engine: Engine | None = None) -> Celery:
    """Add the engine to a Celery app: its tasks, its steward, and journalling for ``send_task`` and ``revoke``.

    The app's other tasks, its configuration and its serializers stay as they are. Call it whenever you like: before or
    after the app is configured, finalized or used; a second call does nothing, unless it brings other settings.

    Raises:
        ConfigError: a setting is missing or wrong.
    """
    unwrap = getattr(app, "_get_current_object", None)  # of celery.current_app
    made: Any = unwrap() if unwrap else app
    if isinstance(made, Installed) and engine is None and settings in (None, made.fluxy_engine.settings):
        return app
    is_new = not isinstance(made, Installed)
    _put_engine(made, engine or _engine_of(settings))
    if is_new:
        register_tasks(made)
        made.steps["worker"] |= {steward.StewardStep, WorkerStep}
    if is_new and not isinstance(made, SealedApp):
        with contextlib.suppress(AttributeError):  # a property of the user's: then sealed values are shown as they are
            made.AsyncResult = of_any_task(made.AsyncResult)
    _register_keys(made.fluxy_engine)
    return app


def _engine_of(settings: Settings | None) -> Engine:
    engine = Engine(
        settings or load_settings(),
        reload=None if settings else load_settings,
        on_store=lambda: _register_keys(engine),
    )
    return engine


def register_tasks(app: Celery) -> None:
    """sync_op, flush and check_connectivity."""

    @app.task(name=SYNC_OP, base=HttpTask, bind=True, shared=False)
    def sync_op(self: HttpTask, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Deliver one HTTP request to the upstream, durably and in the order of its lane."""
        return send(self, method, path, body, headers)

    @app.task(name=FLUSH, base=FlushTask, bind=True, shared=False, ignore_result=True, acks_late=False)
    def flush(self: Any) -> None:
        """Claim lanes one after another and deliver their operations in order."""
        try:
            app.fluxy_runtime.flush(self.request.hostname)
        except StorageUnavailable as error:
            logger.error("A flush ended early: %s; claims come due by themselves.", error)

    @app.task(name=CHECK_CONNECTIVITY, shared=False, ignore_result=True)
    def check_connectivity() -> None:
        """Tick the journal, and probe the upstream when that is due. Our beat runs it in its own process."""
        watch = app.__dict__.get("fluxy_watch") or app.__dict__.setdefault(
            "fluxy_watch", steward.make_watch(app, "beat", "beat")
        )
        watch.check()


def _unpickle(make: Any, arguments: tuple[Any, ...], namespace: str) -> Any:
    """Make a pickled app anew, on the engine that this process has for its namespace, or that its environment names.

    Raises:
        ConfigError: the environment is that of another namespace, or a setting is wrong.
    """
    engine = _engines.get(namespace)
    if engine is None:
        engine = Engine(load_settings(), load_settings)
        found = engine.settings.namespace
        if found != namespace:
            raise ConfigError(
                f"the app that was pickled belongs to the namespace {namespace!r}, and this process's settings to "
                f"{found!r}: set FLUXY_SYNC_NAMESPACE, or install it here before it is unpickled"
            )
    return install(make(*arguments), engine=engine)
