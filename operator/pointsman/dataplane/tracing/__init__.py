"""What the kernel knows of one client's connections to one frontend, for people; nothing is changed, nothing is sent.

Belongs here: reading. Must not be here: what a mode needs to work.
"""
