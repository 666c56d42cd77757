"""The mode `ipvs`: a virtual server for each frontend, a real server for each backend.

Belongs here: everything that knows IPVS. Must not be here: Services, policies.
"""
