"""A slow link in one direction, which forwards Ethernet frames with a limited rate and a delay.

It is for machines whose kernel has no netem. This program moves frames between the port of a host
and a tap device that replaces the port at the bridge. Frames that the host sends pass a queue of
200 ms with a rate and a delay. Frames that it receives are forwarded at once.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
from collections import deque
from time import monotonic

_QUEUE_S = 0.2
_FRAME_BYTES = 2**16
_ALL_PROTOCOLS, _SOL_PACKET, _IGNORE_OUTGOING = 3, 263, 23
_ATTACH_TAP, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
_ETHTOOL, _SET_OFF = 0x8946, (0x17, 0x1F, 0x24, 0x2C)  # checksums, TSO, GSO, GRO


def turn_off_offloads(device: str) -> None:
    """Let a device send only complete frames with checksums, as on a wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for setting in _SET_OFF:
            value = ctypes.create_string_buffer(struct.pack("II", setting, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _ETHTOOL, request)


def forward(port: str, tap: str, mbit_s: float, delay_s: float) -> None:
    """Forward frames until the process is ended.

    Args:
        port: device from which the host's frames come.
        tap: device at the bridge.
        mbit_s: rate of what the host sends.
        delay_s: delay of what the host sends.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as host:
        host.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        host.bind((port, 0))
        network = os.open("/dev/net/tun", os.O_RDWR)
        name = struct.pack("16sH22x", tap.encode(), _TAP_WITHOUT_HEADER)
        fcntl.ioctl(network, _ATTACH_TAP, name)
        queue: deque[tuple[float, bytes]] = deque()
        sent_at = 0.0  # time when the last queued frame has left the host
        while True:
            timeout = max(0.0, queue[0][0] - monotonic()) if queue else None
            ready, _, _ = select.select([host, network], [], [], timeout)
            now = monotonic()
            if host in ready:
                frame = host.recv(_FRAME_BYTES)
                if sent_at - now < _QUEUE_S:
                    sent_at = max(now, sent_at) + len(frame) * 8e-6 / mbit_s
                    queue.append((sent_at + delay_s, frame))
            if network in ready:
                host.send(os.read(network, _FRAME_BYTES))
            while queue and queue[0][0] <= now:
                os.write(network, queue.popleft()[1])


if __name__ == "__main__":
    turn_off_offloads(sys.argv[1])
    if len(sys.argv) > 2:
        forward(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
