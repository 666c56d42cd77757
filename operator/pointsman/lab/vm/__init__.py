"""A virtual machine with a stock Debian kernel, which has what the kernel here lacks: IPVS, dummy devices, SCTP.

QEMU runs it under software emulation, on the machine's own files; what it writes is gone when it ends, but for one
shared directory. Belongs here: fetching the kernel, booting it, running one command in it. Must not be here: tests.
"""
