"""WebSocket (RFC 6455) without I/O: frames to messages and back, for whoever looks into a tunnel."""

from nexus_wire.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, Broken, Frame, frame, mask_of
from nexus_wire.websocket.reading import MessageReader

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "Broken", "Frame", "MessageReader", "frame", "mask_of"]
