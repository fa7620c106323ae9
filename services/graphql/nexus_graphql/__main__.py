"""`python -m nexus_graphql`."""

from nexus_graphql.app import main

if __name__ == "__main__":
    main()
