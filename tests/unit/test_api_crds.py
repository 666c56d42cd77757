"""The CustomResourceDefinitions are structural, complete, and what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from pydantic import ValidationError

from pointsman.api.cel import RULES, text
from pointsman.api.crds import DIRECTORY, documents, files, main
from pointsman.api.errors import validation_problems
from pointsman.api.names import MODES
from pointsman.api.nodeproxy import NodeProxy, NodeProxySpec, resolve
from pointsman.api.proxyconfig import ProxyConfig, ProxyConfigSpec
from pointsman.api.schedulers import SCHEDULERS
from pointsman.api.schema import plain_text, structural
from support.bad_proxyconfigs import BAD, GOOD, Bad

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMITTED: Final = Path(__file__).parents[2] / DIRECTORY
DOCUMENTS: Final = {document["spec"]["names"]["shortNames"][0]: document for document in documents()}


def schema(short: str) -> dict[str, Any]:
    version: dict[str, Any] = DOCUMENTS[short]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return version


def every(node: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every schema inside of one, with its path."""
    if not isinstance(node, dict):
        return
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from every(field, f"{path}.{name}")
    yield from every(node.get("items"), f"{path}[]")
    yield from every(node.get("additionalProperties"), f"{path}.*")


EVERY: Final = [(f"{short}{path}", node) for short in DOCUMENTS for path, node in every(schema(short))]


def test_the_committed_files_are_what_the_model_says() -> None:
    committed = {file.name: file.read_text(encoding="utf-8") for file in COMMITTED.iterdir()}
    assert committed == files(), "run: python -m pointsman.api.crds --write"
    assert [yaml.safe_load(text) for text in committed.values()] == [
        yaml.safe_load(committed[name]) for name in committed
    ]


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == list(documents())
    main(["--write", str(tmp_path / "new")])
    assert {file.name for file in (tmp_path / "new").iterdir()} == set(files())


def test_names_and_scope() -> None:
    assert {short: document["metadata"]["name"] for short, document in DOCUMENTS.items()} == {
        "pxc": "proxyconfigs.pointsman.dev",
        "npx": "nodeproxies.pointsman.dev",
    }
    for document in DOCUMENTS.values():
        assert document["spec"]["scope"] == "Cluster"
        assert document["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_schemas_are_structural() -> None:
    for path, node in EVERY:
        assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "x-type", "x-allowed"} & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert (node.get("type") == "array") == ("x-kubernetes-list-type" in node), path


def test_every_field_of_the_model_is_there_and_described() -> None:
    assert set(schema("pxc")["properties"]["spec"]["properties"]) == {
        field.alias for field in ProxyConfigSpec.model_fields.values()
    }
    silent = [
        path for path, node in EVERY if not node.get("description") and not path.endswith((".metadata", "*", "[]"))
    ]
    assert not silent
    assert not [path for path, node in EVERY if "`" in node.get("description", "")]


def test_what_the_api_server_fills_in_is_what_the_model_takes_for_absent() -> None:
    fill: dict[str, Any] = schema("pxc")["properties"]["spec"]
    assert ProxyConfig.read({"metadata": {"name": "c"}, "spec": filled(fill)}).spec == ProxyConfigSpec()
    written = filled(fill)
    assert written["mode"] == "nftables"
    assert written["ipvs"] == {"strictARP": False, "gracefulTermination": "15m"}
    absent = {"scheduler", "nodePortAddresses", "nodeSelector", "conntrack", "podCIDRs", "fallbackModes"}
    assert not absent & set(written)


def filled(node: dict[str, Any]) -> dict[str, Any]:
    """Do what the API server does with the default of an object."""
    return {
        name: filled(field) if field["type"] == "object" else field["default"]
        for name, field in node["properties"].items()
        if "default" in field and "type" in field
    }


def test_a_status_has_no_defaults() -> None:
    assert not [path for path, node in EVERY if ".status" in path and "default" in node]


def test_lists_merge_as_they_should() -> None:
    types = {path: node["x-kubernetes-list-type"] for path, node in EVERY if node.get("type") == "array"}
    assert {path for path, kind in types.items() if kind == "set"} == {
        f"{short}.spec.{field}"
        for short in ("pxc", "npx")
        for field in ("nodePortAddresses", "podCIDRs", "serviceCIDRs", "ipvs.excludeCIDRs", "ipvs.schedulerFlags")
    }
    keys = {path: node["x-kubernetes-list-map-keys"] for path, node in EVERY if "x-kubernetes-list-map-keys" in node}
    assert keys == {
        "pxc.status.conditions": ["type"],
        "pxc.status.effectiveModes": ["mode"],
        "npx.status.conditions": ["type"],
    }


def test_the_dashboard() -> None:
    columns = {
        short: [c["name"] for c in document["spec"]["versions"][0]["additionalPrinterColumns"] if "priority" not in c]
        for short, document in DOCUMENTS.items()
    }
    assert columns == {
        "pxc": ["Mode", "Scheduler", "Ready", "Rollout", "Problems", "Age"],
        "npx": ["Mode", "Ready", "Reason", "Services", "Endpoints", "Problems", "Config", "Last-Sync", "Age"],
    }


def test_every_rule_has_a_message_on_one_line() -> None:
    for path, node in EVERY:
        for rule in node.get(RULES, ()):
            assert rule["message"], path
            assert "\n" not in rule["message"], path


def test_every_mode_has_its_schedulers_in_a_rule() -> None:
    messages = [rule["message"] for rule in schema("npx")["properties"]["spec"][RULES]]
    for mode in MODES:
        own = ", or one of your own as example.com/name" if mode == "nftables" else ""
        assert f"allowed: in mode {mode}: {', '.join(SCHEDULERS[mode])}{own}" in messages


def test_a_literal_of_the_rules_language() -> None:
    assert text(r"it's \d") == r"'it\'s \\d'"


def test_plain_text() -> None:
    assert plain_text("Of ``x`` and\n`y`.\n\nMore.") == 'Of "x" and "y".\n\nMore.'


def test_defaults_can_be_left_out() -> None:
    assert not [path for path, node in every(structural(NodeProxySpec, defaults=False)) if "default" in node]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_the_api_server_refuses_the_model_refuses_too(bad: Bad) -> None:
    with pytest.raises(ValidationError) as caught:
        ProxyConfig.read({"metadata": {"name": "c"}, "spec": bad.spec})
    fields = [problem.field for problem in validation_problems(caught.value)]
    # A list's duplicate is the list's fault here, and its entry's to the API server.
    assert any(bad.field.startswith(field) for field in fields), fields


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_what_is_good_comes_through_a_node_proxy(spec: dict[str, object]) -> None:
    config = ProxyConfig.read({"metadata": {"name": "c"}, "spec": spec})
    resolved = resolve(config)
    written = resolved.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert NodeProxy.read({"metadata": {"name": "n"}, "spec": written}).spec == resolved
