"""The core of Nexus: the model users write, the Snapshot gateways run, and the pure way from one to the other.

Nothing here does I/O, reads a clock or draws random numbers: values go in, values come out.
"""
