"""What every long-running process of ours needs: its log, its clock, and the pages that probes ask for.

Belongs here: what the agent and the operator would otherwise both have. Must not be here: anything of Services or
nodes.
"""
