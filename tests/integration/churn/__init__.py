"""Change under load: what it costs requests. `python -m churn` (with `tests/integration` on the path) prints the table."""
