"""Label selectors (metav1.LabelSelector)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from pointsman.api import cel
from pointsman.api.resource import Part
from pointsman.api.values import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUIREMENTS: Final = 64
"""So many conditions a selector may have; the API server wants bounds for what its rules look at."""


class Requirement(Part):
    """One condition on one label."""

    model_config = ConfigDict(json_schema_extra={cel.RULES: cel.requirement_rules()})

    key: str
    """The label's name."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label relates to `values`."""

    values: tuple[str, ...] = Field(default=(), validate_default=True)
    """For `In` and `NotIn`: one or more values. For `Exists` and `DoesNotExist`: none."""

    @field_validator("values")
    @classmethod
    def _values_fit_the_operator(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        operator = info.data.get("operator")
        if operator in ("In", "NotIn") and not values:
            raise refuse([], f"one or more values, as the operator is {operator}")
        if operator in ("Exists", "DoesNotExist") and values:
            raise refuse(list(values), f"no values, as the operator is {operator}")
        return values

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an object with `labels` meets this condition; an absent label is not in any set of values."""
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(Part):
    """Which objects are meant, by their labels. An empty selector means all."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    match_labels: dict[str, str] = Field(default_factory=dict)
    """Labels with their values; an object has to have all of them."""

    match_expressions: tuple[Requirement, ...] = Field(default=(), max_length=MAX_REQUIREMENTS)
    """Conditions (`key`, `operator` In, NotIn, Exists or DoesNotExist, `values`); an object has to meet all of them."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an object with `labels` is meant."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )
