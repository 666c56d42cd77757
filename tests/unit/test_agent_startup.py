from __future__ import annotations

import pytest

from pointsman.agent.startup import AgentError, claim_node


def test_a_network_namespace_has_one_agent_at_a_time() -> None:
    with claim_node(), pytest.raises(AgentError, match="another pointsman agent programs this node; stop it first"):
        claim_node()
    claim_node().close()
