"""Validation rules in the API server's language (CEL), for the schemas of the custom resources.

Each rule says again what a validator in Python says, so that a bad object is refused by the API server alone. See
https://kubernetes.io/docs/reference/using-api/cel/ for the language and its libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pointsman.api.names import Mode

RULES: Final = "x-kubernetes-validations"
"""The schema's key for rules."""

Rule = dict[str, JsonValue]
"""An entry of ``x-kubernetes-validations``."""
Rules = list[JsonValue]
"""Some of them, as pydantic wants the keys of a schema typed."""


def rule(expression: str, message: str, *, field: str = "", words: str = "") -> Rule:
    """Write a rule.

    Args:
        expression: a CEL expression that is true of a good value (`self`).
        message: what to say when it is not. The API server writes the field before it, and for a single value the
            value too.
        field: the field of `self` that the message is about; empty for `self`.
        words: a CEL expression that gives the message, where it has to name values; `message` stands in for it when
            it cannot be evaluated.
    """
    written: Rule = {"rule": expression, "message": message}
    if words:
        written["messageExpression"] = words
    if field:
        written["fieldPath"] = f".{field}"
    return written


def text(value: str) -> str:
    """Write a CEL string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def texts(values: Iterable[str]) -> str:
    """Write a CEL list of strings."""
    return "[" + ", ".join(text(value) for value in values) + "]"


def matching(pattern: str) -> str:
    """Tell whether the whole of `self`, a string, matches a regular expression (RE2)."""
    return f"self.matches({text(f'^(?:{pattern})$')})"


def requirement_rules() -> Rules:
    """Return the rules that `values` fit the `operator` of a label selector's requirement."""
    some, none = "has(self.values) && size(self.values) > 0", "!has(self.values) || size(self.values) == 0"
    return [
        rule(
            f"!(self.operator in ['In', 'NotIn']) || ({some})",
            "allowed: one or more values, as the operator is In or NotIn",
            field="values",
        ),
        rule(
            f"!(self.operator in ['Exists', 'DoesNotExist']) || {none}",
            "allowed: no values, as the operator is Exists or DoesNotExist",
            field="values",
        ),
    ]


def duration_rules(pattern: str, allowed: str) -> Rules:
    """Return the rules of a duration; one that Go cannot hold (292 years) fails in evaluation."""
    return [
        rule(matching(pattern), f"allowed: {allowed}"),
        rule(f"!{matching(pattern)} || duration(self) >= duration('0s')", "allowed: 2562047h at most"),
    ]


def positive_duration_rule(pattern: str, allowed: str) -> Rule:
    """Return the rule of a duration that must not be 0."""
    return rule(f"!{matching(pattern)} || duration(self) > duration('0s')", f"allowed: {allowed}")


def port_range_rules(pattern: str, allowed: str, max_port: int) -> Rules:
    """Return the rules of a range of ports: ``low-high``, ``low+more`` or a single port."""
    low, last, form = "int(self.find('^[0-9]+'))", "int(self.find('[0-9]+$'))", matching(pattern)
    high = f"(self.contains('+') ? {low} + {last} : {last})"
    return [
        rule(form, f"allowed: {allowed}"),
        rule(f"!{form} || ({low} >= 1 && {high} <= {max_port})", f"allowed: {allowed}"),
        rule(f"!{form} || {low} <= {high}", "the first port is above the last"),
    ]


def scheduler_rules(schedulers: Mapping[Mode, Iterable[str]], own: Mapping[Mode, str], hint: str) -> Rules:
    """Return the rules that `scheduler` is one of those of `mode`, each of which names them.

    Args:
        schedulers: by mode; in a mode that is not there every name is good.
        own: patterns (RE2) of names that are good besides, by mode.
        hint: what to say of these.
    """
    rules: Rules = []
    for mode, names in schedulers.items():
        allowed = f"allowed: in mode {mode}: {', '.join(names)}" + (f", or {hint}" if mode in own else "")
        good = f"self.mode != {text(mode)} || !has(self.scheduler) || self.scheduler in {texts(names)}"
        if mode in own:
            good += f" || self.scheduler.matches({text(f'^(?:{own[mode]})$')})"
        words = f"self.scheduler + {text(f' is not allowed; {allowed}')}"
        rules.append(rule(good, allowed, field="scheduler", words=words))
    return rules


def fallback_rules(modes: Sequence[str]) -> Rules:
    """Return the rules that `fallbackModes` does not hold `mode`, nor one mode twice."""
    once = "self.fallbackModes.all(m, self.fallbackModes.exists_one(n, n == m))"
    rules: Rules = []
    for mode in modes:
        good = f"!({text(mode)} in self.fallbackModes) && {once}"
        others = ", ".join(other for other in modes if other != mode)
        allowed = f"allowed: each of {others} at most once (spec.mode is {mode})"
        condition = f"self.mode != {text(mode)} || !has(self.fallbackModes)"
        rules.append(rule(f"{condition} || ({good})", allowed, field="fallbackModes"))
    condition = f"self.mode in {texts(modes)} || !has(self.fallbackModes)"
    good = f"!(self.mode in self.fallbackModes) && {once}"
    allowed = "allowed: each mode at most once, and none that is spec.mode"
    rules.append(rule(f"{condition} || ({good})", allowed, field="fallbackModes"))
    return rules


def period_rule(pattern: str) -> Rule:
    """Return the rule that `minSyncPeriod` is not above `syncPeriod`.

    Where one is no duration, its own rule says so; where one is absent, the default of `spec` is being checked.
    """
    fields = ("syncPeriod", "minSyncPeriod")
    good = " && ".join(f"has(self.{name}) && self.{name}.matches({text(f'^(?:{pattern})$')})" for name in fields)
    allowed = "allowed: a duration not above spec.syncPeriod"
    return rule(
        f"!({good}) || duration(self.minSyncPeriod) <= duration(self.syncPeriod)",
        allowed,
        field="minSyncPeriod",
        words=f"self.minSyncPeriod + ' is not allowed; {allowed} (' + self.syncPeriod + ')'",
    )
