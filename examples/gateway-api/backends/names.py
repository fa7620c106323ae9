"""Answers each datagram with its text in capitals. Takes them on PORT."""

from __future__ import annotations

import os
import socket

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking:
    taking.bind(("127.0.0.1", int(os.environ["PORT"])))
    while True:
        data, client = taking.recvfrom(65535)
        taking.sendto(data.upper(), client)
