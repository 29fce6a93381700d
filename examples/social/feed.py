"""What the seed calls PostController: optimistic posts, queued for later, and what becomes of them."""

import threading
import uuid

from examples.social.posts import Post, Posts
from fluxy_sync import (
    AcceptanceUnknown,
    FluxySync,
    FluxySyncError,
    KeptAnswer,
    OperationFailed,
    ResultNotKept,
    ResultTimeout,
)

LANE = "posts"  # one lane: posts arrive in the order in which they were written
PATH = "/api/v1/posts"
ON_ITS_WAY = frozenset({"pending", "syncing", "retrying"})
NO_ANSWER = "no-answer"  # reasons of our own
NEVER_QUEUED = "never-queued"


class Feed:
    """Writes posts and follows them. Safe to use from several threads of one process."""

    def __init__(self, posts: Posts, sync: FluxySync) -> None:
        self.posts = posts
        self._sync = sync
        self._lock = threading.RLock()  # one change at a time; nobody who only looks at the posts waits for it

    def create_post(self, content: str, local_id: str = "") -> Post:
        """Show a post at once, and queue it.

        Args:
            local_id: made by ``new_local_id``; a form that is sent again with the same one posts once.

        Raises:
            FluxySyncError: it couldn't be queued, and is gone again.
        """
        with self._lock:
            known = self.posts.find(local_id)
            if known is not None and known.content == content:
                return known
            post = self.posts.add(local_id if local_id and known is None else new_local_id(), content)
            try:
                return self._queue(post)
            except AcceptanceUnknown:
                return post  # it may be on its way: `follow` asks until that is known
            except FluxySyncError:
                self.posts.remove(post.local_id)  # nothing was accepted
                raise

    def _queue(self, post: Post) -> Post:
        """Queue it; however often this is called, and whoever died in between, it is queued once."""
        operation = self._sync.queue(
            "POST", PATH, body=_body(post.local_id, post.content), lane=LANE, once=post.local_id, keep_result=True
        )
        return self.posts.queued(post.local_id, operation.id)

    def follow(self) -> None:
        """Ask what became of each post that isn't delivered.

        Raises:
            StorageUnavailable: the store can't be read.
        """
        with self._lock:
            for post in self.posts.in_state("refused"):  # an operator may have replayed it
                if post.operation_id:
                    self._look(post)
            self._follow_sending()

    @property
    def is_unsure(self) -> bool:
        """Whether some post isn't known to be queued, which is to be asked until it is."""
        return any(not post.operation_id for post in self.posts.in_state("sending"))

    def _follow_sending(self) -> None:
        on_its_way = False
        for post in self.posts.in_state("sending"):
            known = post if post.operation_id else self._queue_again(post)
            if known is not None and not on_its_way:  # a lane keeps its order: behind one that waits, all wait
                on_its_way = self._look(known)

    def _queue_again(self, post: Post) -> Post | None:
        """Ask about a post that isn't known to be queued, as we died, or the store did; None if it still isn't."""
        try:
            return self._queue(post)
        except AcceptanceUnknown:
            return None
        except FluxySyncError:
            self.posts.refused(post.local_id, NEVER_QUEUED)
            return None

    def _look(self, post: Post) -> bool:
        """Learn what became of a queued post; whether it still waits."""
        operation = self._sync.operation(post.operation_id, LANE)
        if operation.state in ON_ITS_WAY:
            if post.state == "refused":
                self.posts.send_again(post.local_id, post.content)
            return True
        try:
            answer = operation.get(timeout=0)
        except ResultTimeout:  # replayed at this very moment
            return True
        except OperationFailed as error:
            self.posts.refused(post.local_id, error.reason)
        except ResultNotKept:  # taken out of the queue, or delivered so long ago that the answer isn't kept any more
            self.posts.refused(post.local_id, NO_ANSWER)
        else:
            self.posts.delivered(post.local_id, *_told(answer, post))
        return False

    def send_again(self, local_id: str, content: str) -> None:
        """Send a refused post once more, with another text.

        Raises:
            FluxySyncError: that didn't work, and it stays as it was.
        """
        with self._lock:
            post = self.posts.find(local_id)
            if post is None or post.state != "refused":
                return
            state = self._sync.operation(post.operation_id, LANE).state if post.operation_id else NEVER_QUEUED
            if state == "dead" and self._sync.replay(post.operation_id, body=_body(local_id, content)):
                self.posts.send_again(local_id, content)
            elif state not in ON_ITS_WAY:  # nothing is left of its operation: it becomes another post
                self.create_post(content)
                self.posts.remove(local_id)

    def discard(self, local_id: str) -> None:
        """Forget a refused post.

        Raises:
            FluxySyncError: that didn't work, and it stays as it was.
        """
        with self._lock:
            post = self.posts.find(local_id)
            if post is not None and post.state == "refused":
                if post.operation_id:
                    self._sync.drop(post.operation_id)
                self.posts.remove(local_id)


def new_local_id() -> str:
    """A temporary id, for as long as the server hasn't given its own."""
    return f"temp_{uuid.uuid4().hex[:12]}"


def _body(local_id: str, content: str) -> dict[str, str]:
    return {"content": content, "local_id": local_id}


def _told(answer: KeptAnswer, post: Post) -> tuple[str, str]:
    """The server's id, and the content as it has it: an edit may have been made elsewhere."""
    try:
        told = answer.json()
        return str(told["id"]), str(told["content"])
    except (ValueError, TypeError, LookupError):
        return "", post.content
