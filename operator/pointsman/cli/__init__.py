"""The command line: one module a command, no logic of its own.

Belongs here: options, output for people and for machines, exit codes. Must not be here: anything that a library user
would want to call.
"""
