"""HTTP/1.1 without I/O: heads and chunks, parsed and checked. Bytes in, values out."""
