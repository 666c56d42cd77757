"""What people ask of a node's kernel beside its agent, by `pointsman trace` and `diff`; nothing is changed or sent.

Belongs here: reading, and what a mode should tell if a plan were in force. Must not be here: what a mode needs to work.
"""
