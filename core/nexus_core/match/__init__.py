"""Which route takes a request. Pure: no sockets, no clock; it knows paths, hosts, methods and headers, not HTTP messages."""
