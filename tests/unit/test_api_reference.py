"""The configuration reference says what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.reference import PAGE, SECTIONS, main, page
from pointsman.api.reference_example import EXAMPLE

if TYPE_CHECKING:
    import pytest

COMMITTED = Path(__file__).parents[2] / PAGE


def test_the_committed_page_is_what_the_model_says() -> None:
    drifted = "run: python -m pointsman.api.reference --write"
    assert COMMITTED.read_text(encoding="utf-8") == page(), drifted


def test_every_field_is_described() -> None:
    missing = [
        f"{section.title} {name}"
        for section in SECTIONS
        for name, field in section.part.model_fields.items()
        if not field.description
    ]
    assert not missing


def test_every_part_of_the_spec_has_its_table() -> None:
    tables = {section.part.__name__ for section in SECTIONS}
    assert set(ProxyConfigSpec.model_json_schema()["$defs"]) <= tables


def test_the_example_is_complete_and_good() -> None:
    document = yaml.safe_load(EXAMPLE)
    read = ProxyConfig.read(document).spec
    assert set(document["spec"]) == {field.alias for field in ProxyConfigSpec.model_fields.values()}
    for part in ("ipvs", "iptables", "userspace", "conntrack", "rollout"):
        fields = type(getattr(read, part)).model_fields.values()
        assert set(document["spec"][part]) == {field.alias for field in fields}


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out == page()
    target = tmp_path / "docs" / "page.md"
    main(["--write", str(target)])
    assert target.read_text(encoding="utf-8") == page()
