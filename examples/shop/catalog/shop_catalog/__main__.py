"""`python -m shop_catalog`."""

from shop_catalog.app import build

if __name__ == "__main__":
    build().run()
