"""What the chart's README says in words around its tables."""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
# Pointsman's Helm chart

Installs the node agents (a DaemonSet), the operator (a Deployment) and its admission webhook, the custom resources,
and a ProxyConfig `default`. Needs Kubernetes 1.31 or newer and Helm 3 or 4; nodes with Linux 5.7 or newer.

```console
$ kubectl create namespace pointsman-system
$ kubectl label namespace pointsman-system pod-security.kubernetes.io/enforce=privileged
$ helm install pointsman charts/pointsman --namespace pointsman-system \\
    --set apiServer.host=ADDRESS --set image.repository=YOUR-REGISTRY/pointsman \\
    --set-json 'proxyConfig.spec={"podCIDRs": ["10.244.0.0/16"]}'
$ kubectl get pxc,npx
```

* **`apiServer.host` is required.** A proxy cannot reach the API server by the Service `kubernetes`: that address
  works only once the proxy has programmed it. `kubectl cluster-info` shows an address from outside of the cluster,
  `kubectl --namespace default get endpointslices kubernetes` those of the API servers themselves. With several API
  servers name their load balancer.
* **The namespace's label** is for clusters that enforce Pod Security: agents are on the host's network, mount two of
  the node's directories and have `NET_ADMIN`. They are not privileged, and have no other capability;
  `agent.iptablesLegacy` adds a file and `NET_RAW`, for nodes whose iptables is the legacy one.
* **Names are fixed** (`pointsman-agent`, `pointsman-operator`, …), as roles, webhook and policies name them: one
  release a cluster. Helm refuses a second one, as the objects belong to the first.
* **A value that does not exist is refused** by name, and so is a `proxyConfig.spec` that the CustomResourceDefinition
  does not allow.

## In the place of kube-proxy

Agents come up beside kube-proxy, but for the ports 10256 and 10249 of the node, which they take when kube-proxy
leaves them. Whoever sees a connection first forwards it, to the same endpoints. So a running cluster changes without
a gap:

```console
$ helm install pointsman …                                 # as above
$ kubectl get npx                                          # wait until every node is READY True
$ kubectl -n kube-system rollout history daemonset kube-proxy    # remember the last revision
$ kubectl -n kube-system patch daemonset kube-proxy -p \\
    '{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":"100%"}},"template":{"spec":{"containers":[
    {"name":"kube-proxy","command":["/usr/local/bin/kube-proxy","--cleanup"]}]}}}}'
$ kubectl -n kube-system get pods -l k8s-app=kube-proxy    # each has run to its end at least once: its rules are gone
$ kubectl -n kube-system patch daemonset kube-proxy -p \\
    '{"spec":{"template":{"spec":{"nodeSelector":{"pointsman.dev/kube-proxy":"true"}}}}}'
```

The first patch has kube-proxy remove its own rules on every node, the second one has it run nowhere. Do both: rules
that a stopped kube-proxy leaves behind send connections to endpoints that are gone.

Back to kube-proxy: `kubectl -n kube-system rollout undo daemonset kube-proxy --to-revision=REVISION`, wait until it
runs everywhere, then `helm uninstall pointsman`. The pace of its updates is not undone: `kubectl -n kube-system patch
daemonset kube-proxy -p '{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":1}}}}'`.

A new cluster of kubeadm needs none of this: `kubeadm init --skip-phases=addon/kube-proxy`. (A later `kubeadm upgrade`
wants the same flag.)

## Upgrade

`helm upgrade` with the new chart. A hook brings the CustomResourceDefinitions up to date first; then agents are
replaced node by node. Rules stay in force all the time: an agent that ends leaves them, and the next one adopts them.

* The operator keeps `caBundle` of the webhook's configuration. The chart never writes it, so that no upgrade blanks
  it, and Helm's server-side apply has no conflict with it.
* **The ProxyConfig `default` belongs to the release.** Change it by `helm upgrade --reset-then-reuse-values --set
  proxyConfig.spec.…`. Fields that the values do not have may be changed by `kubectl`, and stay. A field that both have
  is a conflict at the next upgrade, and Helm names it (`--force-conflicts` decides for the values). To go on by hand:
  `kubectl annotate pxc default helm.sh/resource-policy=keep`, then `helm upgrade` with `proxyConfig.create=false`.

## Uninstall

`helm uninstall pointsman` first deletes the DaemonSet and waits: each agent sees that it is gone for good, and
removes what it put into its node's kernel. Nodes that do not answer are named after `hooks.timeoutSeconds`; the
operator and everything else stays then, and Helm calls the release `uninstalling`. Try again, or go on without them:
`helm uninstall pointsman --no-hooks`, which leaves all rules in force. So does `agent.onUninstall: keep`. Without a
proxy the cluster's Services do not work: have another one ready.

What stays: the CustomResourceDefinitions with every NodeProxy and the ProxyConfigs that you made yourself (`default`
goes with the release), the Secret `pointsman-webhook-tls` and the Leases. All of it goes with

```console
$ kubectl delete namespace pointsman-system
$ kubectl delete crd proxyconfigs.pointsman.dev nodeproxies.pointsman.dev
```
"""

TAIL: Final = """\
## Permissions

Agents follow Services, EndpointSlices, Nodes, Namespaces and Pods, and write the status of their NodeProxy, their
Lease and events. The ValidatingAdmissionPolicy `pointsman-agent` (`admissionPolicy.enabled`) ties each to its own
node by the node's name in its ServiceAccount token, which needs tokens that Kubernetes gives to Pods (all of them
since 1.32, and 1.31 by default). The operator writes NodeProxies, status, events, its own Secret and Leases, and
`caBundle` of its webhook. The hooks' accounts exist as long as their Jobs. `files/permissions.yaml` has every rule.
"""
