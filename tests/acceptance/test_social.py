"""The social example: the seed's "master implementation", over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.social.feed import LANE, PATH, Feed
from examples.social.posts import Posts
from examples.social.upstream import Shelf
from fluxy_sync import AcceptanceUnknown, FluxySync, StorageUnavailable
from fluxy_sync.client import QueuedOperation
from fluxy_sync.settings import Settings, load_settings
from fluxy_sync.vault import new_key
from tests.conftest import ROOT, ended, wait_until
from tests.social import Listener, Social, left_behind

MAX_PENDING = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Social]:
    folder = tmp_path_factory.mktemp("social")
    with Social(folder, "--max-pending", str(MAX_PENDING), "--answer-after", "0.1") as social:
        yield social


@pytest.fixture
def social(running: Social) -> Iterator[Social]:
    """The example with its server up, and nothing of an earlier test on its page."""
    yield running
    running.clean()


def test_a_post_written_offline_arrives_once_the_server_is_back(social: Social) -> None:
    """It shows at once, survives a reload and a killed application, and gets the server's id when it is delivered."""
    social.turn("down")
    page = social.post("from the ferry")
    (post,) = page.posts
    assert (page.status, post.state, post.content) == (200, "sending", "from the ferry")
    assert post.local_id.startswith("temp_")
    social.wait_record("gate", "offline")
    social.wait_record("pending", 1)
    assert social.page().posts == [post]

    social.restart_application()
    assert social.page().posts == [post]
    social.wait_record("pending", 1)

    social.turn("up")
    (post,) = social.wait_states("delivered").posts
    assert social.at_upstream()[-1] == (post.server_id, post.local_id, "from the ferry")
    social.wait_record("pending", 0)


def test_each_post_arrives_once_though_the_worker_is_killed(social: Social) -> None:
    """kill -9 of the worker in the middle of sending: the server has each post once, in order, under the id shown."""
    social.turn("down")
    for n in range(MAX_PENDING):
        social.post(f"post {n}")
    before = len(social.at_upstream())
    social.turn("up")
    wait_until(lambda: len(social.at_upstream()) > before, 40)
    social.kill("worker")
    page = social.wait_states(*["delivered"] * MAX_PENDING, timeout=60)
    told = [(post.server_id, post.local_id, post.content) for post in reversed(page.posts)]
    assert social.at_upstream()[before:] == told
    assert [content for _, _, content in told] == [f"post {n}" for n in range(MAX_PENDING)]


def test_any_process_may_be_killed(social: Social) -> None:
    """kill -9 of store, server, application, worker and beat, one after another, while posts wait and are sent."""
    before = len(social.at_upstream())
    social.turn("down")
    for n in range(MAX_PENDING):
        social.post(f"whatever {n}")
    social.kill("store")
    social.turn("up")
    for part in ("upstream", "social", "worker", "beat"):
        social.kill(part)
    wait_until(social.answers)
    social.wait_states(*["delivered"] * MAX_PENDING, timeout=60)
    assert [content for _, _, content in social.at_upstream()[before:]] == [f"whatever {n}" for n in range(MAX_PENDING)]


def test_a_full_queue_rolls_the_post_back(social: Social) -> None:
    """The post is gone from the page again, a message says why, and its text is still in the form."""
    social.turn("down")
    for n in range(MAX_PENDING):
        social.post(f"waits {n}")
    page = social.post("one too many")
    assert (page.status, page.draft) == (503, "one too many")
    assert "too many posts wait" in page.error
    assert [post.content for post in reversed(page.posts)] == [f"waits {n}" for n in range(MAX_PENDING)]
    social.wait_record("pending", MAX_PENDING)
    social.turn("up")
    social.wait_states(*["delivered"] * MAX_PENDING)
    assert "one too many" not in [content for _, _, content in social.at_upstream()]


def test_without_a_store_the_post_is_rolled_back(tmp_path: Path) -> None:
    """Nothing was accepted: nothing is shown."""
    settings = Settings(redis_url=f"unix://{tmp_path}/nobody", keys=new_key(), upstream="http://127.0.0.1:1")
    with closing(Posts(tmp_path / "social.sqlite")) as posts:
        feed = Feed(posts, FluxySync(settings))
        with pytest.raises(StorageUnavailable):
            feed.create_post("nowhere to go")
        assert posts.shown() == []


def test_a_post_shows_while_the_store_hangs_and_is_never_doubled(social: Social) -> None:
    """Optimistic means at once: others see it before the store has answered; a late answer changes nothing."""
    social.turn("down")
    store = social.process_of("store")
    store.suspend()
    try:
        posting = threading.Thread(target=social.post, args=("patience",))
        posting.start()
        wait_until(lambda: social.page().states == ["sending"], 5)
    finally:
        store.resume()
    posting.join(30)
    social.turn("up")
    (post,) = social.wait_states("delivered").posts
    assert social.at_upstream()[-1] == (post.server_id, post.local_id, "patience")
    assert sum(content == "patience" for _, _, content in social.at_upstream()) == 1


class Forgetful(FluxySync):
    """The store's answer to the first operation gets lost."""

    lost = False

    def queue(self, *arguments: Any, **options: Any) -> QueuedOperation:
        operation = super().queue(*arguments, **options)
        if not self.lost:
            self.lost = True
            raise AcceptanceUnknown("no answer", (operation.id,))
        return operation


def test_a_post_of_which_nobody_knows_is_asked_for(social: Social, tmp_path: Path) -> None:
    """Where the store's answer was lost the post stays, as it may be on its way, and it is queued once."""
    social.turn("down")
    with closing(Posts(tmp_path / "other.sqlite")) as posts:
        feed = Feed(posts, Forgetful(load_settings(data_dir=social.data)))
        feed.create_post("who knows")
        assert (posts.shown()[0].state, feed.is_unsure) == ("sending", True)
        feed.follow()
        assert (posts.shown()[0].state, feed.is_unsure) == ("sending", False)
        social.wait_record("pending", 1)
        social.turn("up")
        wait_until(lambda: feed.follow() or posts.shown()[0].state == "delivered")


def producer(social: Social) -> FluxySync:
    """Somebody else on the same machine."""
    return FluxySync(load_settings(data_dir=social.data))


@pytest.mark.parametrize("died", ["before it was queued", "after it was queued"])
def test_a_crash_in_mid_post_loses_and_doubles_nothing(social: Social, died: str) -> None:
    """An application that died between showing a post and knowing that it is queued asks again, under the same key."""
    local_id = f"temp_{died.replace(' ', '_')}"
    body = {"content": died, "local_id": local_id}
    if died.startswith("after"):
        producer(social).queue("POST", PATH, body=body, lane=LANE, once=local_id, keep_result=True)
    with closing(Posts(social.data / "social.sqlite")) as posts:
        posts.add(local_id, died)
    social.restart_application()
    (post,) = social.wait_states("delivered").posts
    assert [row for row in social.at_upstream() if row[1] == local_id] == [(post.server_id, local_id, died)]


def test_a_form_that_is_sent_again_posts_once(social: Social) -> None:
    """A second click, or one after a lost answer, changes nothing; another text is another post."""
    form = {"content": "once", "local_id": "temp_0123456789ab"}
    for _ in range(2):
        assert social.ask("/posts", form).status == 200
    social.ask("/posts", form | {"content": "twice"})
    page = social.wait_states("delivered", "delivered")
    assert [post.content for post in page.posts] == ["twice", "once"]
    assert page.posts[1].local_id == "temp_0123456789ab"


def test_a_refused_post_can_be_edited_and_sent_again(social: Social) -> None:
    """The server takes no spam; the edited text goes out under a new key, and what arrives is what is shown."""
    social.post("lovely SPAM")
    (post,) = social.wait_states("refused").posts
    assert post.content == "lovely SPAM"
    assert "422" in social.page().text
    social.wait_record("dead", 1)
    page = social.ask(f"/posts/{post.local_id}/replay", {"content": " "})
    assert (page.status, page.posts[0].state) == (422, "refused")
    social.ask(f"/posts/{post.local_id}/replay", {"content": "lovely ham"})
    (mended,) = social.wait_states("delivered").posts
    assert (mended.local_id, mended.content) == (post.local_id, "lovely ham")
    assert social.at_upstream()[-1] == (mended.server_id, mended.local_id, "lovely ham")
    social.wait_record("dead", 0)


def test_a_refused_post_can_be_discarded(social: Social) -> None:
    """It is gone from the page and from the dead letters."""
    social.post("spam")
    (post,) = social.wait_states("refused").posts
    assert social.ask(f"/posts/{post.local_id}/discard", {}).posts == []
    social.wait_record("dead", 0)


def test_what_an_operator_does_is_noticed(social: Social) -> None:
    """A dropped dead letter can still be sent, as a new post; one that was cleared from the queue can, too."""
    social.post("spam")
    social.wait_states("refused")
    producer(social).drop()
    (post,) = social.page().posts
    social.ask(f"/posts/{post.local_id}/replay", {"content": "ham"})
    (again,) = social.wait_states("delivered").posts
    assert again.local_id != post.local_id
    social.turn("down")
    social.post("cleared")
    producer(social).clear_queue()
    social.wait_states("delivered", "refused")
    assert "may or may not have arrived" in social.page().text


def test_what_people_write_is_text(social: Social) -> None:
    """Markup in a post stays text, wherever it is shown, and the policy lets no script in."""
    evil = "<script>alert(1)</script>\"'</textarea><img src=x onerror=alert(1)>"
    for content in (evil, f"spam {evil}"):
        social.post(content)
    page = social.wait_states("delivered", "refused")
    assert "<img" not in page.text
    assert "<script>" not in page.text
    assert [post.content for post in page.posts] == [f"spam {evil}", evil]
    page = social.post(evil * 50)
    assert page.status == 422
    assert "<img" not in page.text
    assert "default-src 'self'" in social.headers()["Content-Security-Policy"]
    assert "style=" not in page.text


def test_other_sites_cannot_post(social: Social) -> None:
    """A form on another site, or another name for this address, gets nowhere."""
    form = {"content": "forged"}
    assert social.ask("/posts", form, Origin="https://evil.example").status == 403
    assert social.ask("/posts", form, Origin="null").status == 403
    assert social.ask("/posts", form, Sec_Fetch_Site="cross-site", Origin=social.url).status == 403
    assert social.ask("/upstream", {"state": "down"}, Sec_Fetch_Site="same-site").status == 403
    assert social.ask("/", Host="evil.example").status == 400
    assert social.page().posts == []
    assert social.ask("/posts", {"content": "mine"}, Sec_Fetch_Site="same-origin", Origin=social.url).status == 200


def test_bad_requests_are_refused(social: Social) -> None:
    """Each with a status, and the application goes on."""
    assert social.post("   ").status == 422
    assert social.post("x" * 20_000).status == 413
    assert social.ask("/upstream", {"state": "sideways"}).status == 400
    assert social.ask("/posts/temp_unknown/discard", {}).status == 200
    assert social.ask("/nowhere").status == 404
    assert social.page().posts == []


def test_every_page_hears_of_each_change(social: Social) -> None:
    """The stream begins with the whole record and tells each change; it ends when the application ends."""
    first, second = Listener(social), Listener(social)
    wait_until(lambda: first.records and second.records)
    assert first.records[0]["pending"] == 0
    assert first.records[0].keys() >= {"boot", "namespace", "gate", "stale", "rev"}
    social.turn("down")
    social.post("heard")
    for listener in (first, second):
        wait_until(lambda listener=listener: listener.records[-1]["pending"] == 1)
    social.restart_application(signal.SIGTERM)
    wait_until(lambda: first.ended and second.ended, 10)


def test_it_ends_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C ends everything, with 0, and the temporary data is gone."""
    folder = tmp_path / "t"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "FLUXY_SYNC_REDIS_URL": "redis://127.0.0.1:1/0"}
    command = [sys.executable, "-m", "examples.social", "--no-dashboard"]
    log = tmp_path / "log"
    with log.open("w") as output:
        example = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
    with ended(example):
        wait_until(lambda: "Ctrl-C" in log.read_text() or example.poll() is not None, 60)
        example.send_signal(signal.SIGINT)
        assert example.wait(60) == 0, log.read_text()
    assert list(folder.iterdir()) == []
    assert list(left_behind(folder)) == []


def test_a_port_that_is_taken_is_told() -> None:
    """In one sentence, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "examples.social", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: port {port} is taken; name another with --port, or none\n"


# --- its server


def test_the_server_keeps_one_post_for_one_key(tmp_path: Path) -> None:
    """The same key gets the same answer; another body under it is refused, and nothing is kept of that."""
    shelf = Shelf(tmp_path / "upstream.sqlite")
    body = b'{"content": "hello", "local_id": "temp_1"}'
    first = shelf.take("key", body)
    assert (first.status, first.document["id"]) == (201, 1)
    assert Shelf(tmp_path / "upstream.sqlite").take("key", body) == first
    assert shelf.take("key", b'{"content": "other", "local_id": "temp_1"}').status == 422
    assert shelf.take("key2", b"no post").status == 422
    assert [post["content"] for post in shelf.posts()] == ["hello"]


def test_the_switch_really_refuses_connections(social: Social) -> None:
    """Down is down: nobody listens. The port stays its own meanwhile."""
    address = ("127.0.0.1", load_upstream_port(social))
    social.turn("down")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    social.turn("up")
    socket.create_connection(address, timeout=5).close()


def load_upstream_port(social: Social) -> int:
    return int(load_settings(data_dir=social.data).upstream_url.rpartition(":")[2])
