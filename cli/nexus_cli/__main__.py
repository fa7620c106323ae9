"""`python -m nexus_cli`, the same as `nexus`."""

from nexus_cli.app import main

if __name__ == "__main__":
    main()
