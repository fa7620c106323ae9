"""The proxies under test and what is around them: how each is configured and started. `table.py` lists them."""
