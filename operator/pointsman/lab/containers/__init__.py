"""Real nodes on one machine: a containerd and a kubelet each, in a network and a mount namespace, and what runs there.

Belongs here: images, and how they are built; nodes; a whole Kubernetes cluster of them. Must not be here: what is
tested with it.
"""
