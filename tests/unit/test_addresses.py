"""Addresses in the words of kombu and of Celery's backends."""

import pytest

from fluxy_sync.addresses import celery_address, read_sentinels


@pytest.mark.parametrize(
    ("ours", "celerys", "options"),
    [
        ("unix://:pw@/run/store.sock", "redis+socket://:pw@/run/store.sock", {}),
        ("redis://:pw@store:6379/2", "redis://:pw@store:6379/2", {}),
        ("amqp://guest@rabbit//", "amqp://guest@rabbit//", {}),
        ("rediss://store", "rediss://store?ssl_cert_reqs=required", {}),
        ("rediss://store?ssl_ca_certs=/ca.pem", "rediss://store?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required", {}),
        ("amqps://u:p@rabbit//?ssl_ca_certs=/ca.pem&heartbeat=5", "amqps://u:p@rabbit//?heartbeat=5", {}),
        ("sentinel://one", "sentinel://one:26379/0", {"master_name": "mymaster"}),
        ("sentinel://one?master_name=shop", "sentinel://one:26379/0", {"master_name": "shop"}),
        (
            "sentinel://user:p%40w@one:5,[::1]:6/shop/3",
            "sentinel://user:p%40w@one:5/3;sentinel://user:p%40w@[::1]:6/3",
            {"master_name": "shop"},
        ),
    ],
)
def test_addresses_for_celery(ours: str, celerys: str, options: dict[str, str]) -> None:
    """The same place; over TLS the certificate is checked, which kombu doesn't do unless it is told to."""
    url, found, _ = celery_address(ours)
    found.pop("sentinel_kwargs", None)
    assert (url, found) == (celerys, options)


def test_a_sentinel_address() -> None:
    """Its password is the store's, and unquoted."""
    found = read_sentinels("sentinel://user:p%40w@one:5,[::1]:6,two/shop/3")
    assert found.nodes == [("one", 5), ("::1", 6), ("two", 26379)]
    assert (found.service, found.database, found.username, found.password) == ("shop", 3, "user", "p@w")
    assert read_sentinels("sentinel://one").password is None


@pytest.mark.parametrize("url", ["sentinel://one:x", "sentinel://:pw@/shop", "sentinel://one/shop/x"])
def test_a_wrong_sentinel_address(url: str) -> None:
    """It is refused."""
    with pytest.raises(ValueError, match=r".+"):
        celery_address(url)
