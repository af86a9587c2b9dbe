"""The cluster's network namespace: how it is made, laid out and entered.

Pod and Service addresses must be real to kube-proxy, EndpointSlices and every client, and reach
nobody else; so all processes of one cluster share a network namespace that nothing routes to.
Several clusters use the same addresses side by side. Knows nothing of Kubernetes' processes.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import ClusterError

POD_RANGE = ipaddress.IPv4Network("10.244.0.0/16")
SERVICE_RANGE = ipaddress.IPv4Network("10.96.0.0/16")
CONTROL_PLANE_IP = "10.244.255.1"
PROMETHEUS_IP = "10.244.255.2"
SOURCE_IP = "10.244.255.254"

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

# Every pod address is local ("AnyIP"), so a listener needs no address of its own made first.
# Traffic to Services leaves through lo, where kube-proxy's rules catch it, and carries a source
# address that is not 127.x, which the kernel would refuse to route.
_LAYOUT = f"""\
link set lo up
route add local {POD_RANGE} dev lo
addr add {SOURCE_IP}/32 dev lo
route add {SERVICE_RANGE} dev lo src {SOURCE_IP}
"""


def unshare() -> bool:
    """Move this process (single-threaded) into a new network namespace.

    Returns True if that took a user namespace as well, as it does without root. Raises
    ClusterError where neither is allowed.
    """
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return False
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ClusterError(
            f"cannot make a network namespace ({reason}): run as root, or allow unprivileged user "
            "namespaces (see sysctl user.max_user_namespaces)"
        )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return True


def lay_out(ip: Path) -> None:
    """Give the current namespace its loopback, routes and source address. `ip` is iproute2's."""
    done = subprocess.run([ip, "-batch", "-"], input=_LAYOUT, text=True, capture_output=True)
    if done.returncode != 0:
        raise ClusterError(f"cannot lay out the network namespace: {done.stderr.strip()}")


def enter_command(pid: int, user_namespace: bool) -> list[str]:
    """The command prefix that runs a program in the namespaces of process `pid`."""
    user = ["--user", "--preserve-credentials"] if user_namespace else []
    return ["nsenter", "--target", str(pid), *user, "--net", "--"]


def contains(address: str) -> bool:
    """Whether this is an address of a pod or a Service, the only ones worth reaching inside."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return ip in POD_RANGE or ip in SERVICE_RANGE


def die_with_parent(parent: int) -> Callable[[], None]:
    """A `preexec_fn` that has the kernel kill the child when `parent` ends, however it ends."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    return prepare
