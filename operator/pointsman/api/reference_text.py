"""What the configuration reference says in words around its tables."""

from __future__ import annotations

from typing import Final

from pointsman.api.fields import MAX_CIDRS
from pointsman.api.names import (
    API_VERSION,
    MAX_WEIGHT,
    SCHEDULER_ANNOTATION,
    SCHEDULER_FLAGS_ANNOTATION,
    WEIGHT_ANNOTATION,
)
from pointsman.api.proxyconfig import MAX_NAMESPACE_RANGES
from pointsman.api.reference_example import EXAMPLE
from pointsman.api.schedulers import SCHEDULER_FLAGS

HEAD: Final = f"""\
<!-- Made by `python -m pointsman.api.reference --write` from operator/pointsman/api; edit there. -->

# Configuration

A `ProxyConfig` (`apiVersion: {API_VERSION}`, cluster-scoped, short name `pxc`) says how nodes proxy Services.
Without one, all the defaults below hold. What it means for a node stands in that node's `NodeProxy` (short name `npx`),
which [the operator](operator.md) writes.

- **Which one a node gets.** Of those whose `nodeSelector` matches the node's labels, the one with the highest
  `priority`; among equals, the first by name.
- **Durations** are text with a unit, as everywhere in Kubernetes: `30s`, `50ms`, `1h30m`. **Networks** are CIDRs of
  either IP family, each once and at most {MAX_CIDRS} in a list; `nodePortRanges` has {MAX_NAMESPACE_RANGES} entries \
at most. A field that is
  null counts as absent; unknown fields are ignored, and told (`kubectl` refuses to write them, unless `--validate` says
  otherwise).
- **A node that does not support its mode** uses the next one of `fallbackModes`. The condition `ModeInForce` of its
  `NodeProxy` says why and what to do, and so do the agent's log, an event on the Node (`ProxyModeFellBack`), and the
  column MODE of `kubectl get npx`. The agent looks again each `syncPeriod`.
- **A wrong value** is refused by the API server, with the field and what is allowed. In a directory of manifests the
  agent reports it with the field, the value and what is allowed, and leaves out this ProxyConfig.

## With `kubectl`

```console
$ kubectl apply -f crds/                       # the two custom resources
$ kubectl explain pxc.spec                     # what this page says
$ kubectl apply -f proxyconfig.yaml
$ kubectl get pxc
NAME      MODE       SCHEDULER   READY   ROLLOUT      PROBLEMS   AGE
default   nftables   rr          2/3     RollingOut   1          4m
$ kubectl get npx
NAME     MODE       READY     REASON        SERVICES   ENDPOINTS   PROBLEMS   CONFIG    LAST-SYNC   AGE
node-1   nftables   True      Programmed    1204       4816        0          default   3s          26d
node-2   nftables   True      Programmed    1204       4816        0          default   3s          26d
node-3   nftables   Unknown   AgentSilent   1204       4816        0          default   2m          26d
```

`READY` counts the nodes that do what the ProxyConfig says now, of those that it is for. `-o wide` shows why it is not
all of them; `kubectl describe` shows the problems, each with its object, its field and a remedy. A change of `mode` or
`scheduler` needs no more than `kubectl apply`: nodes follow one after the other, as `rollout` allows.

```console
$ kubectl wait --for=condition=Ready pxc/default
$ kubectl apply --server-side -f proxyconfig.yaml    # several owners can each have their fields
```

In server-side apply the lists of networks and `nodePortAddresses` are sets: each owner keeps its own entries.
`fallbackModes` and `nodePortRanges`, whose order means something, and the selectors belong to one owner as a whole.

## Example

Every field, with a comment on each. Write only those that you need.

```yaml
{EXAMPLE}```
"""

ANNOTATIONS: Final = f"""\
## Annotations

| annotation | on | value | what it does |
|---|---|---|---|
| `{SCHEDULER_ANNOTATION}` | Service | one of the mode's schedulers | How a backend of this Service is chosen; wins \
over `spec.scheduler`. |
| `{SCHEDULER_FLAGS_ANNOTATION}` | Service | some of {", ".join(f"`{flag}`" for flag in SCHEDULER_FLAGS)}, with commas \
between them; empty: none | Variants of the Service's scheduler in mode `ipvs`; wins over `spec.ipvs.schedulerFlags`. \
Those that are not for the scheduler in force are left out, and reported. |
| `{WEIGHT_ANNOTATION}` | EndpointSlice, Endpoints; on a Pod as a **label** | `"0"` to `"{MAX_WEIGHT}"` (in quotes) | \
The share of new connections that the endpoint gets, against the others of its Service; 1 where there is none. \
`"0"` drains: no new connections, existing ones go on. A Pod's wins over its slice's. |
"""

CONDITION: Final = """\
## The condition `pointsman.dev/Programmed` on a Service

With `spec.serviceConditions: true`, each Service has it in `status.conditions`: True when the kernel of every ready
node holds the newest form of the Service and its endpoints, so that this returns when connections go where it says:

```console
$ kubectl wait --for=condition=pointsman.dev/Programmed service/web
```

Headless Services, those of type `ExternalName` and those of another proxy do not have it: there is nothing to wait for.
Nothing else is ever written on a Service.
"""
