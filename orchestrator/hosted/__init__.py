"""Runs that train as a hosted job: no machine is rented, so no SSH, no supervisor, no checkpoint (ADR 0012)."""
