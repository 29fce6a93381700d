"""Addresses that no page links to."""

import pytest

from tests.dashboard import Dashboard


@pytest.mark.parametrize(
    "path", ["/sync/static/%00", "/sync/static/sync.js/%00", "/static/%00", "/static/js/flower.js%00"]
)
def test_a_name_that_no_file_can_have_is_not_there(shown: Dashboard, path: str) -> None:
    """Also among Flower's own; it is no error of the dashboard."""
    assert shown.get(path).status_code in (403, 404)
    assert "Traceback" not in shown.log


def test_results_need_a_key(shown: Dashboard) -> None:
    """The dashboard has none, and says so."""
    answer = shown.get("/api/task/result/some-id")
    assert (answer.status_code, answer.json()["error"][:31]) == (403, "the dashboard has no keys, so i")
