"""Work on a cluster that is done once: putting the custom resources in, taking the agents out.

Belongs here: what runs as a Job before or after the rest is there. Must not be here: anything that goes on.
"""
