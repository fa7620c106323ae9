"""What certificates say, and how their private keys travel. The one room of the core that needs `cryptography`.

Imported only where there are certificates: the library takes 7 MB.
"""
