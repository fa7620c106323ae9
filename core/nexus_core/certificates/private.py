"""Private keys out of PEM, in a time that does not depend on who wrote them.

The library proves that the factors of an RSA key are primes: a third of a second for the usual 4096 bits, and hours for a key whose
author chose large ones. Here a key has to agree with itself, which takes a few multiplications; that its modulus is the
certificate's is the caller's to see, and one that was made badly harms its author alone.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def load(pem: bytes) -> PrivateKeyTypes:
    """Return the key, an RSA key not yet proved to agree with itself. Raises ValueError or UnsupportedAlgorithm for what is none, and
    TypeError for one with a passphrase.
    """
    return load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)


def agrees(key: PrivateKeyTypes) -> bool:
    """Whether the parts of an RSA key belong together; of other kinds loading has told.

    Source: RFC 8017, section 3.2.
    """
    if not isinstance(key, rsa.RSAPrivateKey):
        return True
    it = key.private_numbers()
    n, e = it.public_numbers.n, it.public_numbers.e
    return (
        min(it.p, it.q) > 2
        and it.p * it.q == n
        and (it.d * e - 1) % (it.p - 1) == 0
        and (it.d * e - 1) % (it.q - 1) == 0
        and it.dmp1 == it.d % (it.p - 1)
        and it.dmq1 == it.d % (it.q - 1)
        and it.iqmp * it.q % it.p == 1
    )
