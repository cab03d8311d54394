"""How a ModelServer without a replica, or soon to be without one, comes to its number (autoscale.py has the stages)."""

from octavo_operator.core.names import Reason
from octavo_operator.core.wish import BLIND_SECONDS, Case, Wish


def waits_for_activator(case: Case) -> Wish:
    """Idle, but nobody who would wake it has taken over yet."""
    recalled = case.view.recalled
    if recalled.deaf < BLIND_SECONDS:
        return case.keep(Reason.HANDING_OVER, f"idle for {recalled.idle_for:.0f} s, the activator takes over first")
    return case.keep(Reason.ACTIVATOR_SILENT, f"idle for {recalled.idle_for:.0f} s, but the activator is not there")


def asleep(case: Case) -> Wish:
    """0 replicas, until a request is held, or nobody could say whether one is."""
    signals, deaf = case.view.signals, case.view.recalled.deaf
    if signals.held:
        return woken(case)
    if deaf >= BLIND_SECONDS:
        return Wish(1, Reason.ACTIVATOR_SILENT, f"the activator is not there for {deaf:.0f} s, so 1 is woken")
    return case.keep(Reason.AT_ZERO, "no request is held")


def woken(case: Case) -> Wish:
    """No window: a held request waits for its first replica."""
    signals = case.view.signals
    held = f"{signals.held:.0f} held requests of about {signals.held_tokens:.0f} tokens"
    return Wish(case.at_least, Reason.WOKEN, f"{held} need {case.at_least} replicas")
