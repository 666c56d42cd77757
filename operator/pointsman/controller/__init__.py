"""The operator: ProxyConfig objects into one NodeProxy a node, admission, certificates."""
