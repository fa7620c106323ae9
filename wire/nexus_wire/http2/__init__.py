"""HTTP/2 without I/O: frames, header blocks, requests and responses, limits. Bytes in, values out."""
