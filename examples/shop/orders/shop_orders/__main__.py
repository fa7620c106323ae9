"""`python -m shop_orders`."""

from shop_orders.app import build

if __name__ == "__main__":
    build().run()
