"""`python -m shop_web`."""

from shop_web.app import build

if __name__ == "__main__":
    build().run()
