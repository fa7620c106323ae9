"""What a rule changes on heads. Pure: values in, changed copies out. One module a kind, one line each in `table.FILTERS`."""
