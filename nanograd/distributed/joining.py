"""Joining a Ray cluster that others run: whatever is in the way is found before `ray.init`.

That would try for half a minute to several before it says so, or ends the process. The cluster's
control service answers the same questions in milliseconds. (`GcsClient` is Ray's own, and not
promised to stay: the pin in constraints.txt and the tests in tests/hosts keep watch.)
"""

import logging
import os
import platform
import socket
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from nanograd.distributed.quiet import first_line, without_core_messages
from nanograd.errors import ClusterError, UsageError

_ANSWER_S = 5
# What every gRPC server answers with settings of its own: the preface of RFC 9113, 3.4, and an
# empty frame of settings (type 4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HELP = "check --address and RAY_ADDRESS, or leave them out for a private Ray on this machine"


def join(address: str) -> None:
    """Join a cluster that runs, as one of its hosts.

    Args:
        address: host:port of its control service, or auto.

    Raises:
        UsageError: an address for something else.
        ClusterError: nobody answers, we are refused, versions differ, or this is no host of it.
    """
    if "://" in address:
        raise UsageError(
            f"{address} is no address to train or predict at: that is host:port, and from a host "
            "of the cluster; from elsewhere `ray job submit --address http://...`"
        )
    try:
        found = canonicalize_bootstrap_address(address)
        if found is None:
            raise ConnectionError("no Ray runs on this machine")
        _knock(found)
        with without_core_messages():
            client: Any = GcsClient(address=found)
        _compare_versions(client, address)
        _find_this_host(client, address)
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {address} refuses our token; put the cluster's token into "
            "~/.ray/auth_token or RAY_AUTH_TOKEN and set RAY_AUTH_MODE=token"
        ) from error
    except (RayError, RuntimeError, ConnectionError, TimeoutError, OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({first_line(error)}); {_HELP}"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens, or something else than Ray."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(_HELLO)
        if connection.recv(9)[3:4] != b"\4":
            raise ConnectionError("what listens there is not Ray")


def _compare_versions(client: Any, address: str) -> None:
    from ray._common.usage.usage_lib import get_cluster_metadata  # noqa: PLC0415 - slow to import

    found: dict[str, str] = get_cluster_metadata(client)
    theirs = (found["ray_version"], found["python_version"])
    ours = (ray.__version__, platform.python_version())
    if theirs != ours:
        raise ClusterError(
            "the Ray cluster at {} has Ray {} and Python {}, here are Ray {} and Python {}; "
            "use the cluster's versions".format(address, *theirs, *ours)
        )


def _find_this_host(client: Any, address: str) -> None:
    """A driver needs a raylet beside it; without one Ray looks for it for a minute."""
    nodes = client.get_all_node_info(timeout=_ANSWER_S).values()
    hosts = {node.node_manager_address for node in nodes if node.state == GcsNodeInfo.ALIVE}
    if not any(map(_is_ours, hosts)):
        raise ClusterError(
            f"this machine is no host of the Ray cluster at {address}; run the command on one of "
            f"{', '.join(sorted(hosts))}, or use `ray job submit`"
        )


def _is_ours(ip_address: str) -> bool:
    """Whether an address is one of this machine's: only then can it be bound to."""
    try:
        family = socket.AF_INET6 if ":" in ip_address else socket.AF_INET
        socket.create_server((ip_address, 0), family=family).close()
    except OSError:
        return False
    return True
