"""From the bytes of an AdmissionReview to the bytes of its answer; pure (admission.k8s.io/v1).

A refusal carries the same `metav1.Status` that the API server makes of its own validation (`errors.NewInvalid`): code
422, reason Invalid, which object, and a cause for each field. kubectl then prints exactly what it prints for those.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pointsman.api.names import GROUP
from pointsman.controller.admission.causes import Cause, Verdict, invalid
from pointsman.controller.admission.proxyconfigs import review_proxy_config
from pointsman.controller.admission.services import review_service
from pointsman.controller.admission.written import Facts, WrittenService, facts
from pointsman.model.type_errors import explain_type_error

if TYPE_CHECKING:
    from pointsman.controller.admission.picture import Picture

API_VERSION: Final = "admission.k8s.io/v1"
_MOST_CAUSES: Final = 50
_MOST_WARNINGS: Final = 10
_REVIEWED: Final = ("CREATE", "UPDATE")


class NotAReviewError(ValueError):
    """The bytes are no AdmissionReview of the version that we speak."""


class Kind(msgspec.Struct, rename="camel"):
    """A GroupVersionKind."""

    group: str = ""
    version: str = ""
    kind: str = ""


class Request(msgspec.Struct, rename="camel"):
    """`request` of an AdmissionReview; the objects are not read yet."""

    uid: str
    kind: Kind
    operation: str
    name: str = ""
    namespace: str = ""
    sub_resource: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")
    dry_run: bool | None = None

    @property
    def full_name(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    request: Request


class _Metadata(msgspec.Struct):
    name: str = ""


class _Named(msgspec.Struct):
    metadata: _Metadata


class _StatusCause(msgspec.Struct):
    field: str
    message: str
    reason: str


class _Details(msgspec.Struct, omit_defaults=True):
    name: str
    kind: str
    causes: list[_StatusCause]
    group: str = ""


class _Status(msgspec.Struct):
    code: int
    message: str
    reason: str
    details: _Details
    status: Literal["Failure"] = "Failure"


class _Response(msgspec.Struct, omit_defaults=True):
    uid: str
    allowed: bool
    status: _Status | None = None
    warnings: list[str] = []


class _Answer(msgspec.Struct, rename="camel"):
    response: _Response
    api_version: str = API_VERSION
    kind: str = "AdmissionReview"


_REVIEW: Final = msgspec.json.Decoder(_Review)
_SERVICE: Final = msgspec.json.Decoder(WrittenService)
_ANSWER: Final = msgspec.json.Encoder()


def read_request(body: bytes) -> Request:
    """Read an AdmissionReview.

    Raises:
        NotAReviewError: it is none; the API server leaves it to the webhook's failurePolicy what comes of that.
    """
    try:
        review = _REVIEW.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAReviewError(f"this is no AdmissionReview: {error}") from error
    if (review.api_version, review.kind) != (API_VERSION, "AdmissionReview"):
        raise NotAReviewError(f"{review.api_version} {review.kind} is not known; send {API_VERSION} AdmissionReview")
    request = review.request
    if not request.name:  # the API server has made it up by `metadata.generateName`
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request.name = msgspec.json.decode(request.object, type=_Named).metadata.name
    return request


def judge(request: Request, picture: Picture) -> Verdict:
    """Apply the rules to a request. Nothing is raised: an object that cannot be read is refused, and says why."""
    if request.operation not in _REVIEWED or request.sub_resource:
        return Verdict()
    try:
        match request.kind.group, request.kind.kind:
            case "", "Service":
                return _service(request, picture)
            case group, "ProxyConfig" if group == GROUP:
                return _proxy_config(request, picture)
            case _:
                return Verdict(warnings=(f"pointsman does not review objects of kind {request.kind.kind}",))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Verdict((_unreadable(request.object, error),))
    except RecursionError:
        return Verdict((invalid("", "{...}", "it is nested too deep"),))


def answer(request: Request, verdict: Verdict) -> bytes:
    """Write the answer to a request."""
    status = _status(request, verdict.causes) if verdict.causes else None
    warnings = list(verdict.warnings[:_MOST_WARNINGS])
    if len(verdict.warnings) > _MOST_WARNINGS:
        warnings.append(f"and {len(verdict.warnings) - _MOST_WARNINGS} more warnings")
    return _ANSWER.encode(_Answer(_Response(request.uid, status is None, status, warnings)))


def _service(request: Request, picture: Picture) -> Verdict:
    written = _SERVICE.decode(request.object)
    if written.metadata is not None and written.metadata.deletion_timestamp:
        return Verdict()  # it is on its way out: whoever takes its finalizers off must not be stopped
    old = facts(_SERVICE.decode(request.old_object)) if request.operation == "UPDATE" else Facts()
    dry_run = bool(request.dry_run)
    return review_service(request.name, request.namespace, facts(written), old, picture, dry_run=dry_run)


def _proxy_config(request: Request, picture: Picture) -> Verdict:
    new = msgspec.json.decode(request.object)
    old = msgspec.json.decode(request.old_object) if request.operation == "UPDATE" else None
    return review_proxy_config(new, old, picture)


def _unreadable(written: msgspec.Raw, error: Exception) -> Cause:
    try:
        plain = msgspec.json.decode(written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return invalid("", "...", f"it cannot be read: {error}")
    problem = explain_type_error(str(error), plain)
    return Cause(problem.field, f"Invalid value: {problem.message}; {problem.remedy}", "FieldValueInvalid")


def _status(request: Request, causes: tuple[Cause, ...]) -> _Status:
    """Make what `errors.NewInvalid` makes: one cause is written as it is, several in brackets."""
    kept = causes[:_MOST_CAUSES]
    texts = [str(cause) for cause in kept]
    if len(causes) > _MOST_CAUSES:
        texts.append(f"and {len(causes) - _MOST_CAUSES} more")
    what = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{request.kind.kind}.{request.kind.group}" if request.kind.group else request.kind.kind
    return _Status(
        code=422,
        message=f'{kind} "{request.name}" is invalid: {what}',
        reason="Invalid",
        details=_Details(
            name=request.name,
            kind=request.kind.kind,
            group=request.kind.group,
            causes=[_StatusCause(*cause) for cause in kept],
        ),
    )
