"""The outcome table: what becomes of an operation, for each answer and each way of getting none."""

import itertools
import socket
import ssl
from collections.abc import Mapping

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.delivery import RETRY_AFTER_CAP_S, DeadlinePassed, what_happened
from fluxy_sync.errors import InvalidOperation
from fluxy_sync.operation import METHODS, Outcome, Verdict
from fluxy_sync.outcome import (
    OVERRIDES,
    Answer,
    Expired,
    Happened,
    Lost,
    NoConnection,
    NoCredentials,
    UnknownTask,
    Unsealable,
    Unsendable,
    WorkerError,
    check_rules,
    outcome_of,
)

statuses = st.integers(100, 599)
pauses = st.none() | st.floats(0, RETRY_AFTER_CAP_S)
answers = st.builds(Answer, statuses, pauses, st.booleans(), st.booleans(), st.binary(max_size=8))
methods = st.sampled_from(METHODS)
status_names = statuses.map(str) | st.sampled_from(["1xx", "2xx", "3xx", "4xx", "5xx"])
rule_names = status_names | st.tuples(methods, status_names).map(" ".join)
rules = st.dictionaries(rule_names, st.sampled_from([str(verdict) for verdict in OVERRIDES]), max_size=4)

# --- answers

TABLE = {
    Verdict.DELIVERED: [range(200, 300)],
    Verdict.RETRY: [range(408, 409), range(425, 426), range(429, 430), range(500, 600)],
    Verdict.DEAD: [
        range(100, 200),
        range(300, 401),
        range(402, 408),
        range(409, 425),
        range(426, 429),
        range(430, 500),
    ],
}
BY_STATUS = {status: verdict for verdict, spans in TABLE.items() for span in spans for status in span}


def expected(answer: Answer) -> Verdict:
    """The table as it is written down, status by status."""
    if answer.foreign_redirect:
        return Verdict.UNREACHABLE
    if answer.status == 401:
        return Verdict.UNAUTHORIZED if answer.ours else Verdict.HOLD
    if answer.status == 409 and answer.retry_after_s is not None:
        return Verdict.RETRY
    return BY_STATUS[answer.status]


def test_the_table_knows_each_status_once() -> None:
    """All from 100 to 599 but 401, whose row asks whose credentials they were."""
    assert sum(len(span) for spans in TABLE.values() for span in spans) == len(BY_STATUS)
    assert sorted([*BY_STATUS, 401]) == list(range(100, 600))


def test_the_table_of_answers() -> None:
    """Each status, with Retry-After or without, redirecting to a foreign origin or not, with our credentials or not."""
    either = (False, True)
    for status, pause, foreign, ours in itertools.product(range(100, 600), (None, 0.0, 7.5), either, either):
        answer = Answer(status, pause, foreign, ours, b"why")
        outcome = outcome_of(answer, "POST")
        verdict = expected(answer)
        assert (outcome.verdict, outcome.status) == (verdict, status)
        assert outcome.reason == {
            Verdict.UNREACHABLE: "captive-portal",
            Verdict.HOLD: "credentials",
        }.get(verdict, str(status))
        assert outcome.detail == (b"why" if verdict is Verdict.DEAD else b"")
        assert outcome.retry_after_s == (pause if verdict is Verdict.RETRY else None)
        assert outcome.whole_upstream is (status == 429 and not foreign)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED),
        (201, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (300, Verdict.DEAD),
        (302, Verdict.DEAD),
        (304, Verdict.DEAD),
        (400, Verdict.DEAD),
        (401, Verdict.UNAUTHORIZED),
        (403, Verdict.DEAD),
        (404, Verdict.DEAD),
        (408, Verdict.RETRY),
        (409, Verdict.DEAD),
        (410, Verdict.DEAD),
        (413, Verdict.DEAD),
        (422, Verdict.DEAD),
        (425, Verdict.RETRY),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (501, Verdict.RETRY),
        (502, Verdict.RETRY),
        (503, Verdict.RETRY),
        (504, Verdict.RETRY),
        (507, Verdict.RETRY),
        (599, Verdict.RETRY),
    ],
)
def test_the_statuses_that_are_met_most(status: int, verdict: Verdict) -> None:
    """Written down one by one, so that a wrong span above can't hide."""
    assert outcome_of(Answer(status)).verdict is verdict


@given(answers)
def test_every_answer_has_one_outcome(answer: Answer) -> None:
    """Only 2xx delivers, whatever else is said; only what is definitely refused dies; no reason carries a payload."""
    outcome = outcome_of(answer, "POST")
    assert (outcome.verdict is Verdict.DELIVERED) is (200 <= answer.status < 300 and not answer.foreign_redirect)
    if outcome.verdict is Verdict.DEAD:
        assert not answer.foreign_redirect
        assert answer.status < 500
        assert answer.status not in (401, 408, 425, 429)
    assert outcome.reason in (str(answer.status), "captive-portal", "credentials")
    assert outcome.verdict is Verdict.DEAD or outcome.detail == b""


@given(pauses)
def test_retry_after_is_a_floor_for_what_is_tried_again(pause: float | None) -> None:
    """For 5xx, 429 and the like it is carried over; only 429 makes the whole upstream wait."""
    for status in (408, 425, 429, 500, 503):
        outcome = outcome_of(Answer(status, pause))
        assert (outcome.retry_after_s, outcome.whole_upstream) == (pause, status == 429)
    assert outcome_of(Answer(401, pause)).retry_after_s is None
    assert outcome_of(Answer(400, pause)).verdict is Verdict.DEAD


def test_a_conflict_is_tried_again_only_while_the_first_try_runs() -> None:
    """409 with Retry-After says so; without, it is a refusal."""
    assert outcome_of(Answer(409, 0.0)).verdict is Verdict.RETRY
    assert outcome_of(Answer(409)).verdict is Verdict.DEAD


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_foreign_origin_is_the_link(status: int) -> None:
    """A captive portal: nothing of the operation is at fault."""
    answer = Answer(status, foreign_redirect=True)
    assert outcome_of(answer) == Outcome(Verdict.UNREACHABLE, "captive-portal", status)


def test_only_the_gateways_own_credentials_close_its_gate() -> None:
    """A 401 of a foreign origin, or of an operation with its own Authorization, holds that lane alone."""
    assert outcome_of(Answer(401, ours=True)) == Outcome(Verdict.UNAUTHORIZED, "401", 401)
    assert outcome_of(Answer(401, ours=False)) == Outcome(Verdict.HOLD, "credentials", 401)


# --- everything else that can happen


@pytest.mark.parametrize(
    ("happened", "outcome"),
    [
        (NoConnection("dns"), Outcome(Verdict.UNREACHABLE, "dns")),
        (Lost("read-timeout"), Outcome(Verdict.RETRY, "read-timeout")),
        (NoCredentials("token-unreachable"), Outcome(Verdict.UNAUTHORIZED, "token-unreachable")),
        (Expired(), Outcome(Verdict.DEAD, "expired")),
        (Unsealable(), Outcome(Verdict.DEAD, "corrupt")),
        (Unsealable("ab12cd34"), Outcome(Verdict.HOLD, "key:ab12cd34")),
        (UnknownTask("app.tasks.pay"), Outcome(Verdict.HOLD, "task:app.tasks.pay")),
        (WorkerError("KeyError"), Outcome(Verdict.HOLD, "worker-error:KeyError")),
        (Unsendable("invalid-url"), Outcome(Verdict.DEAD, "invalid-url")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_rest_of_the_table(happened: Happened, outcome: Outcome) -> None:
    """Each row without an answer; no rule changes it, as rules are about answers."""
    assert outcome_of(happened) == outcome
    everything = {f"{n}xx": "delivered" for n in range(1, 6)}
    assert outcome_of(happened, "POST", everything, everything) == outcome


# --- overrides


@pytest.mark.parametrize(
    ("given_rules", "verdict"),
    [
        ({}, Verdict.DEAD),
        ({"404": "delivered"}, Verdict.DELIVERED),
        ({"4xx": "retry"}, Verdict.RETRY),
        ({"DELETE 404": "delivered"}, Verdict.DELIVERED),
        ({"DELETE 4xx": "delivered"}, Verdict.DELIVERED),
        ({"POST 404": "delivered"}, Verdict.DEAD),
        ({"405": "delivered", "5xx": "delivered"}, Verdict.DEAD),
        ({"4xx": "retry", "404": "delivered"}, Verdict.DELIVERED),
        ({"404": "retry", "DELETE 4xx": "delivered"}, Verdict.DELIVERED),
        ({"DELETE 4xx": "retry", "DELETE 404": "delivered"}, Verdict.DELIVERED),
    ],
)
def test_the_most_specific_rule_counts(given_rules: Mapping[str, str], verdict: Verdict) -> None:
    """With the method before without, the status before its class; others don't fit."""
    assert outcome_of(Answer(404, detail=b"no such thing"), "DELETE", given_rules).verdict is verdict


def test_the_operations_rules_come_before_its_tasks() -> None:
    """Even a class of the operation before a status of the task; where it says nothing the task's hold."""
    assert outcome_of(Answer(404), "DELETE", {"4xx": "retry"}, {"DELETE 404": "delivered"}).verdict is Verdict.RETRY
    assert outcome_of(Answer(404), "DELETE", {"5xx": "dead"}, {"404": "delivered"}).verdict is Verdict.DELIVERED
    assert outcome_of(Answer(503), "DELETE", {"5xx": "dead"}, {"404": "delivered"}).verdict is Verdict.DEAD


def test_a_ruled_outcome_keeps_what_belongs_to_it() -> None:
    """What is to be retried keeps the floor, what dies the answer's first bytes, a 429 its reach."""
    assert outcome_of(Answer(404, 5.0), "GET", {"404": "retry"}) == Outcome(Verdict.RETRY, "404", 404, 5.0)
    assert outcome_of(Answer(503, detail=b"why"), "GET", {"503": "dead"}).detail == b"why"
    assert outcome_of(Answer(404, detail=b"why"), "GET", {"404": "delivered"}).detail == b""
    assert outcome_of(Answer(429), "GET", {"4xx": "retry"}).whole_upstream


@given(answers, methods, rules, rules)
def test_no_rule_hides_a_captive_portal(answer: Answer, method: str, own: dict[str, str], task: dict[str, str]) -> None:
    """What it says is not the upstream's answer."""
    verdict = outcome_of(answer, method, own, task).verdict
    assert (verdict is Verdict.UNREACHABLE) is answer.foreign_redirect


@given(answers, methods, rules, rules)
def test_an_outcome_is_a_rules_or_the_tables(
    answer: Answer, method: str, own: dict[str, str], task: dict[str, str]
) -> None:
    """Nothing else, and rules that don't fit change nothing."""
    outcome, plain = outcome_of(answer, method, own, task), outcome_of(answer, method)
    status = str(answer.status)
    fitting = {f"{method} {status}", f"{method} {status[0]}xx", status, f"{status[0]}xx"}
    said = [found[name] for found in (own, task) for name in fitting & set(found)]
    assert outcome == plain if not said or answer.foreign_redirect else outcome.verdict in said


@given(rules)
def test_rules_are_stored_as_they_are_given(given_rules: dict[str, str]) -> None:
    """Checked once, they come back the same."""
    assert check_rules(given_rules) == given_rules
    assert check_rules(check_rules(given_rules)) == given_rules


def test_rules_may_be_written_in_short() -> None:
    """A status as a number, a verdict as itself."""
    assert check_rules({404: "delivered", "5xx": Verdict.DEAD}) == {"404": "delivered", "5xx": "dead"}
    assert check_rules({}) == {}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["404"], "outcomes= is a dictionary"),
        ("404", "outcomes= is a dictionary"),
        (None, "outcomes= is a dictionary"),
        ({"600": "dead"}, "takes a status"),
        ({"99": "dead"}, "takes a status"),
        ({"40x": "dead"}, "takes a status"),
        ({"xx": "dead"}, "takes a status"),
        ({"": "dead"}, "takes a status"),
        ({"404 ": "dead"}, "takes a status"),
        ({"404\n": "dead"}, "takes a status"),
        ({"delete 404": "dead"}, "takes a status"),
        ({"BREW 404": "dead"}, "takes a status"),
        ({"DELETE": "dead"}, "takes a status"),
        ({404: "unreachable"}, "gives 'delivered', 'retry' or 'dead'"),
        ({404: "hold"}, "gives 'delivered', 'retry' or 'dead'"),
        ({404: ""}, "gives 'delivered', 'retry' or 'dead'"),
        ({404: None}, "gives 'delivered', 'retry' or 'dead'"),
    ],
)
def test_a_wrong_rule_is_refused_at_the_door(wrong: object, sentence: str) -> None:
    """In one sentence that says what may stand there, and that nothing was accepted."""
    with pytest.raises(InvalidOperation, match=rf"{sentence}.*nothing was accepted"):
        check_rules(wrong)


# --- no answer


def connection_error(reason: Exception) -> requests.ConnectionError:
    """As requests wraps what urllib3 raised."""
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, "/", reason))  # type: ignore[arg-type]


def new_connection_error(cause: Exception) -> urllib3.exceptions.NewConnectionError:
    error = urllib3.exceptions.NewConnectionError(None, "failed")  # type: ignore[arg-type]
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (connection_error(new_connection_error(ConnectionRefusedError())), Verdict.UNREACHABLE, "refused"),
        (connection_error(new_connection_error(OSError(113, "no route"))), Verdict.UNREACHABLE, "no-route"),
        (
            connection_error(urllib3.exceptions.NameResolutionError("h", None, socket.gaierror())),  # type: ignore[arg-type]
            Verdict.UNREACHABLE,
            "dns",
        ),
        (requests.ConnectTimeout(), Verdict.UNREACHABLE, "connect-timeout"),
        (DeadlinePassed(), Verdict.UNREACHABLE, "connect-timeout"),
        (requests.exceptions.SSLError(), Verdict.UNREACHABLE, "tls"),
        (requests.ReadTimeout(), Verdict.RETRY, "read-timeout"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), Verdict.RETRY, "read-timeout"),  # type: ignore[arg-type]
        (TimeoutError(), Verdict.RETRY, "read-timeout"),
        (
            requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())),
            Verdict.RETRY,
            "connection-lost",
        ),
        (urllib3.exceptions.IncompleteRead(3, 10), Verdict.RETRY, "connection-lost"),
        (requests.exceptions.ChunkedEncodingError(), Verdict.RETRY, "connection-lost"),
        (ConnectionResetError(), Verdict.RETRY, "connection-lost"),
        (BrokenPipeError(), Verdict.RETRY, "connection-lost"),
        (requests.exceptions.InvalidURL(), Verdict.DEAD, "invalid-url"),
        (urllib3.exceptions.LocationParseError("x"), Verdict.DEAD, "invalid-url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_table_of_errors(error: Exception, verdict: Verdict, reason: str) -> None:
    """What could not connect is the link; what was lost later may have arrived, and is tried again."""
    assert outcome_of(what_happened(error)) == Outcome(verdict, reason)


def test_tls_that_breaks_while_writing_is_the_link() -> None:
    """Under TLS 1.3 a server refuses a client's certificate only then, mostly by closing the connection."""
    broken = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    assert what_happened(requests.exceptions.SSLError(broken)) == NoConnection("tls")
