from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.agent.startup import AgentError, check_rights, check_sysctl_root, claim_node


def test_a_network_namespace_has_one_agent_at_a_time() -> None:
    with claim_node(), pytest.raises(AgentError, match="another pointsman agent programs this node; stop it first"):
        claim_node()
    claim_node().close()


@pytest.mark.parametrize(
    ("effective", "enough"), [("0000000000001000", True), ("000001ffffffffff", True), ("000001ffffffefff", False)]
)
def test_net_admin_alone_is_enough(tmp_path: Path, effective: str, enough: bool) -> None:  # noqa: FBT001 (of the table)
    status = tmp_path / "status"
    status.write_text(f"Uid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapEff:\t{effective}\n")
    if enough:
        check_rights(status)
        return
    with pytest.raises(AgentError, match=r"add: \[NET_ADMIN\]"):
        check_rights(status)


def test_a_place_without_kernel_parameters_is_refused(tmp_path: Path) -> None:
    check_sysctl_root(Path("/proc/sys"))
    with pytest.raises(AgentError, match=f"--sysctl-root {tmp_path}: has no net/core"):
        check_sysctl_root(tmp_path)
    (tmp_path / "net" / "core").mkdir(parents=True)
    check_sysctl_root(tmp_path)
