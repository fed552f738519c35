"""A slow link on this machine: a network namespace behind a relay that delays, limits and loses packets.

Two TUN devices, one here and one in the namespace, and a loop that carries packets between them. TCP at both ends is
the kernel's own, so that windows, losses and retransmissions are real; only the distance is not. Needs root, `ip` and
`/dev/net/tun`; packet loss is drawn from a seed.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NEAR, FAR = "10.99.86.1", "10.99.86.2"
NAMESPACE, NEAR_DEVICE, FAR_DEVICE = "far-link", "farlink0", "farlink1"
MTU = 1500
QUEUE_S = 0.1
"""What the narrowest router on the way holds back before it drops."""


def missing() -> str | None:
    """Why there can be no such link here, or None."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a link of packets needs root"
    if not os.path.exists("/dev/net/tun"):
        return "a link of packets needs /dev/net/tun"
    return None if shutil.which("ip") else "`ip` is missing: apt-get install iproute2"


@contextlib.contextmanager
def far_link(round_trip_s: float, bytes_per_s: float, loss: float) -> Iterator[list[str]]:
    """Yields the argv that a command is prefixed with to run at FAR; what runs here reaches it there."""
    relay = subprocess.Popen(
        [sys.executable, __file__, str(round_trip_s), str(bytes_per_s), str(loss)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    try:
        assert relay.stdout.readline() == b"ready\n", "the link did not come up"
        yield ["ip", "netns", "exec", NAMESPACE]
    finally:
        relay.stdin.close()
        relay.wait()


class _Way:
    """One direction: a queue before a narrow place, then the distance."""

    def __init__(self, out: int, delay_s: float, bytes_per_s: float, loss: float, chance: random.Random) -> None:
        self._out, self._delay_s, self._rate, self._loss, self._chance = out, delay_s, bytes_per_s, loss, chance
        self._free_at = 0.0
        self._under_way: collections.deque[tuple[float, bytes]] = collections.deque()

    def take(self, packet: bytes, now: float) -> None:
        begins = max(now, self._free_at)
        if begins - now > QUEUE_S or self._chance.random() < self._loss:
            return
        self._free_at = begins + len(packet) / self._rate
        self._under_way.append((self._free_at + self._delay_s, packet))

    def deliver(self, now: float) -> float:
        """Hands over what has arrived; returns when the next will."""
        while self._under_way and self._under_way[0][0] <= now:
            with contextlib.suppress(OSError):
                os.write(self._out, self._under_way.popleft()[1])
        return self._under_way[0][0] if self._under_way else now + 1.0


def _device(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


def _relay(round_trip_s: float, bytes_per_s: float, loss: float) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, -15)  # a cable does not wait for a processor
    subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
    near, far = _device(NEAR_DEVICE), _device(FAR_DEVICE)
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "set", FAR_DEVICE, "netns", NAMESPACE)
        for inside, device, here, there in (
            ([], NEAR_DEVICE, NEAR, FAR),
            (["-n", NAMESPACE], FAR_DEVICE, FAR, NEAR),
        ):
            _ip(*inside, "addr", "add", here, "peer", there, "dev", device)
            _ip(*inside, "link", "set", device, "mtu", str(MTU), "up")
        _ip("-n", NAMESPACE, "link", "set", "lo", "up")
        print("ready", flush=True)
        chance = random.Random(86)
        ways = {
            near: _Way(far, round_trip_s / 2, bytes_per_s, loss, chance),
            far: _Way(near, round_trip_s / 2, bytes_per_s, loss, chance),
        }
        poll = select.poll()
        for descriptor in (near, far, sys.stdin.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            now = time.monotonic()
            due = min(way.deliver(now) for way in ways.values())
            for descriptor, _ in poll.poll(max(0.0, 1000 * (due - time.monotonic()))):
                if descriptor == sys.stdin.fileno():
                    return
                now = time.monotonic()
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        ways[descriptor].take(os.read(descriptor, 65536), now)
    finally:
        _ip("netns", "del", NAMESPACE)


if __name__ == "__main__":
    _relay(*map(float, sys.argv[1:4]))
