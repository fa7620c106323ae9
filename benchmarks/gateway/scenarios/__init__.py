"""What is measured, one module a kind. `table.py` lists the scenarios and what each is for."""
