"""Proxying below HTTP: TCP connections (TLS passed through or terminated), and UDP by client address."""
