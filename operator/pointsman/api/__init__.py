"""The custom resources and annotations of Pointsman, typed once.

Belongs here: `ProxyConfig` as a pydantic model, its validation, which one a node gets, names of annotations and
labels. Must not be here: anything that knows of a file, a kernel or an API server. Imports nothing of ours.
"""
