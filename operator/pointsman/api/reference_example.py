"""The example of the configuration reference; a test reads it and compares its fields with the model."""

from __future__ import annotations

from typing import Final

EXAMPLE: Final = """\
apiVersion: pointsman.dev/v1alpha1
kind: ProxyConfig
metadata:
  name: workers
spec:
  mode: nftables                  # the dataplane
  fallbackModes: [iptables]       # for nodes whose kernel has no nftables
  scheduler: random               # for Services without the annotation pointsman.dev/scheduler

  nodeSelector:                   # which nodes; absent: all
    matchLabels:
      node-role.example.com/worker: "true"
    matchExpressions:
      - {key: example.com/edge, operator: DoesNotExist}
  priority: 10                    # wins over configurations with a lower priority

  nodePortRange: 30000-32767      # the same as kube-apiserver's --service-node-port-range
  nodePortRanges:                 # exceptions, by namespace
    - namespaceSelector:
        matchLabels:
          team: games
      range: 32000-32099
  nodePortAddresses: [primary, 192.0.2.0/24]

  podCIDRs: [10.244.0.0/16, "fd00:10:244::/56"]
  localDetection: ClusterCIDR     # pods are clients in podCIDRs
  serviceCIDRs: [10.96.0.0/12]    # only needed without ServiceCIDR objects
  masqueradeAll: false

  syncPeriod: 30s                 # look at the kernel at least this often
  minSyncPeriod: 50ms             # and change it at most this often

  ipvs:                           # read in mode ipvs alone
    strictARP: true               # for MetalLB in layer 2 mode
    tcpTimeout: 15m
    tcpFinTimeout: 2m
    udpTimeout: 5m
    excludeCIDRs: [192.0.2.128/25]
    gracefulTermination: 15m
    schedulerFlags: [mh-port]     # for Services without the annotation pointsman.dev/scheduler-flags

  iptables:                       # read in mode iptables alone
    masqueradeBit: 14
    localhostNodePorts: false

  userspace:                      # read in mode userspace alone
    udpIdleTimeout: 2m

  drainTimeout: 15m               # after a change of mode, for connections that the former one carries

  conntrack:                      # absent fields leave the kernel's values alone
    maxPerCore: 32768
    min: 131072
    tcpEstablishedTimeout: 24h
    tcpCloseWaitTimeout: 1h
    tcpBeLiberal: false
    udpTimeout: 30s
    udpStreamTimeout: 3m

  serviceConditions: true         # kubectl wait --for=condition=pointsman.dev/Programmed service/web

  rollout:
    maxUnavailable: 10%           # nodes that may be changing at one time, or not ready
"""
