"""Objects and configuration in, the node's plan out; pure and incremental.

Belongs here: which objects count, which endpoints answer, who is masqueraded, and why (`explain`). Must not be here:
input, output, time, and the kernel's words (chains, sets, rules).
"""
