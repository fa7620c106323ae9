"""`python -m nexus_events`."""

from nexus_events.app import run

if __name__ == "__main__":
    run()
