"""The patches of docs/changing-modes.md are such as the API server takes, and what it says to be refused is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from pointsman.api.proxyconfig import ProxyConfigSpec

_TEXT: Final = (Path(__file__).parents[2] / "docs/changing-modes.md").read_text("utf-8")
_PATCHES: Final[list[dict[str, Any]]] = [
    json.loads(patch)["spec"] for patch in re.findall(r"kubectl patch pxc default --type merge -p '(.*)'", _TEXT)
]


@pytest.mark.parametrize("spec", _PATCHES, ids=str)
def test_each_patch_is_taken(spec: dict[str, Any]) -> None:
    assert ProxyConfigSpec.model_validate(spec).mode == spec["mode"]


def test_a_scheduler_that_the_new_mode_lacks_has_to_go_with_the_same_patch() -> None:
    (patch,) = [spec for spec in _PATCHES if "scheduler" in spec]
    before = {"mode": "nftables", "scheduler": "mh"}
    ProxyConfigSpec.model_validate(before)
    with pytest.raises(ValidationError, match="scheduler"):
        ProxyConfigSpec.model_validate(before | {"mode": patch["mode"]})
    ProxyConfigSpec.model_validate(before | patch)
