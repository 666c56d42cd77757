"""Where objects come from.

Belongs here: turning a directory of manifests (or an API server) into batches of changes. Must not be here: what
the changes mean; that is `policy`.
"""
