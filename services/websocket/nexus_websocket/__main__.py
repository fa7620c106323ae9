"""`python -m nexus_websocket`."""

from nexus_websocket.app import run

if __name__ == "__main__":
    run()
