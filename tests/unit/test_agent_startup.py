from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.agent.startup import AgentError, check_open_files, check_rights, check_sysctl_root, claim_node


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


def test_too_few_open_files_are_refused_with_the_remedy() -> None:
    check_open_files(lambda: 512)
    with pytest.raises(AgentError, match=r"may have 511 open files, and needs 512 at least; raise .*LimitNOFILE="):
        check_open_files(lambda: 511)


@pytest.mark.parametrize(("hard", "said"), [(64, "may have 64 open files"), (600, "600 600")])
def test_the_limit_of_open_files_is_raised_before_anything_is_opened(hard: int, said: str) -> None:
    """The limit of this process stays: a shell of its own has another one."""
    code = (
        "import resource; from pointsman.agent.startup import check_open_files; check_open_files(); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -Sn 60; ulimit -Hn {hard}; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in found.stdout + found.stderr
