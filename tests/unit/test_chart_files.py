"""What of the Helm chart comes from elsewhere is what is said there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from pydantic import ValidationError

from pointsman import __version__
from pointsman.api import crds
from pointsman.api.chart import DIRECTORY, files, main
from pointsman.api.chart_dashboard import PANELS
from pointsman.api.chart_pages import entries
from pointsman.api.chart_parts import Piece
from pointsman.api.chart_schema import values_schema
from pointsman.api.chart_values import Values
from pointsman.api.names import WEBHOOK_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
COMMITTED: Final = ROOT / DIRECTORY


def pieces(piece: Piece, above: str = "") -> Iterator[tuple[str, Piece]]:
    """Yield each part of the values, by its path."""
    yield above, piece
    for name, value, _ in entries(piece):
        if isinstance(value, Piece):
            yield from pieces(value, f"{above}.{name}")


def test_the_committed_files_are_what_is_made() -> None:
    drifted = [name for name, text in files().items() if (COMMITTED / name).read_text("utf-8") != text]
    assert not drifted, "run: python -m pointsman.api.chart --write"


@pytest.mark.parametrize("directory", ["crds", "files"])
def test_nothing_is_left_that_is_not_made_any_more(directory: str) -> None:
    assert {f"{directory}/{file.name}" for file in (COMMITTED / directory).iterdir()} <= set(files())


def test_the_command_prints_names_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out.splitlines() == list(files())
    main(["--write", str(tmp_path / "new")])
    assert {name: (tmp_path / "new" / name).read_text("utf-8") for name in files()} == files()


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load(files()["Chart.yaml"])
    assert chart["version"] == chart["appVersion"] == __version__
    listed = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    assert [each["name"] for each in listed] == [document["metadata"]["name"] for document in crds.documents()]


def test_the_values_file_is_what_the_model_says() -> None:
    written = yaml.safe_load(files()["values.yaml"])
    assert Values.model_validate(written) == Values()
    assert written == Values().model_dump(mode="json", by_alias=True)


def test_every_value_is_described_in_all_three() -> None:
    readme, commented = files()["README.md"], " ".join(files()["values.yaml"].replace("#", " ").split())
    for path, piece in pieces(Values()):
        for name, value, text in entries(piece):
            assert text, f"{path}.{name}"
            if type(piece).__name__ == "Resources":
                continue
            assert text in commented, f"{path}.{name}"
            if not isinstance(value, Piece) or type(value).__name__ == "Resources":
                assert f"| `{f'{path}.{name}'.removeprefix('.')}` |" in readme


def test_no_value_has_a_field_that_is_not_there() -> None:
    schema = values_schema()
    assert "$ref" not in json.dumps(schema)
    for path, _ in pieces(Values()):
        node: dict[str, Any] = schema
        for name in path.split(".")[1:]:
            node = node["properties"][name]
        assert node["additionalProperties"] is False, path


def test_the_model_refuses_what_the_schema_refuses() -> None:
    with pytest.raises(ValidationError, match="agnet"):
        Values.model_validate({"agnet": {}})
    with pytest.raises(ValidationError, match="replicas"):
        Values.model_validate({"operator": {"replicas": -1}})


def test_a_configurations_schema_is_the_custom_resources() -> None:
    (definition,) = [found for found in crds.documents() if found["spec"]["names"]["shortNames"] == ["pxc"]]
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    mine = values_schema()["properties"]["proxyConfig"]["properties"]["spec"]
    assert set(mine["properties"]) == set(spec["properties"])
    assert mine["properties"]["mode"]["pattern"].startswith("^(nftables|ipvs|iptables|userspace|")
    assert mine["properties"]["localDetection"]["enum"] == [*spec["properties"]["localDetection"]["enum"], None]
    assert mine["properties"]["rollout"]["properties"]["maxUnavailable"]["type"] == ["integer", "string", "null"]
    assert "x-kubernetes" not in json.dumps(mine)


def test_the_webhooks_service_is_the_one_whose_certificate_the_operator_makes() -> None:
    (service,) = {
        each["clientConfig"]["service"]["name"] for each in yaml.safe_load(files()["files/webhooks.yaml"])["webhooks"]
    }
    assert service == WEBHOOK_SERVICE
    for name in ("service.yaml", "certificate.yaml"):
        text = (COMMITTED / "templates" / "webhook" / name).read_text("utf-8")
        assert f"name: {service}\n" in text


def test_panels_fill_their_rows() -> None:
    boxes = [panel["gridPos"] for panel in json.loads(files()["files/dashboard.json"])["panels"]]
    rows = {box["y"]: sum(other["w"] for other in boxes if other["y"] == box["y"]) for box in boxes}
    assert set(rows.values()) == {24}
    assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes) == len(PANELS)
