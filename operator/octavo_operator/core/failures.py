"""Why the children cannot be what the spec asks for: found before anything is written."""

from octavo_operator.core import names
from octavo_operator.core.activator import why_none
from octavo_operator.core.conditions import Failure
from octavo_operator.core.errors import SpecError
from octavo_operator.core.groups import missing_kind
from octavo_operator.core.manifest import Defaults
from octavo_operator.core.names import Reason
from octavo_operator.core.plan import Plan
from octavo_operator.core.profiles import ProfileError, settle
from octavo_operator.core.routes import missing_kinds
from octavo_operator.core.server import Server
from octavo_operator.core.spec import ModelServerSpec


def settled(server: Server, defaults: Defaults) -> tuple[ModelServerSpec | None, Failure | None]:
    """The spec with what its profile says, or why there is none; a paused one is not asked for more than to parse."""
    if server.spec is None or server.spec.paused:
        return server.spec, Failure(Reason.INVALID_SPEC, str(server.error)) if server.error else None
    if absent := missing_kind(server.spec, defaults):
        return None, _kinds_missing(absent)
    try:
        return settle(server.spec, defaults.profiles), None
    except ProfileError as error:
        return None, Failure(Reason.UNKNOWN_PROFILE, str(error))
    except SpecError as error:
        return None, Failure(Reason.INVALID_SPEC, str(error))


def conflict(plan: Plan) -> Failure | None:
    """Names that somebody else has."""
    if not plan.conflicts:
        return None
    taken = " and ".join(plan.conflicts)
    return Failure(Reason.NAME_TAKEN, f"{taken} exists and does not belong to this {names.KIND}: rename one of them")


def missing(spec: ModelServerSpec, defaults: Defaults) -> Failure | None:
    """Kinds that the spec asks for by name and the cluster does not have."""
    absent = missing_kinds(spec, defaults)
    return _kinds_missing(*absent) if absent else None


def _kinds_missing(*kinds: str) -> Failure:
    advice = "which the cluster does not have, or does not let the operator list: install it, or remove the field"
    return Failure(Reason.KIND_MISSING, f"{' and '.join(kinds)}, {advice}")


def no_activator(spec: ModelServerSpec, defaults: Defaults) -> Failure | None:
    """Why nothing could hold requests while there is no replica."""
    why = why_none(spec, defaults)
    return Failure(Reason.APPLY_REJECTED, f"spec.autoscaling.scaleToZero: {why}") if why else None
