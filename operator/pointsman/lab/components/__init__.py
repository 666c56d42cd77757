"""The programs that the lab runs beside ours, built from their published Go modules, each version checked by hash.

Belongs here: which programs there are, building them once, finding them again. Must not be here: running them.
"""
