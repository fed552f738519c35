"""The tables of the ledger, as the steps that made them."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "0001-runs-machines-moves",
        """
        CREATE TABLE runs (
            name TEXT PRIMARY KEY, created_at REAL NOT NULL, provider TEXT NOT NULL,
            spec_json TEXT NOT NULL, plan_json TEXT NOT NULL,
            state TEXT NOT NULL, wish TEXT NOT NULL, reason TEXT, attempt INTEGER NOT NULL,
            driver_epoch INTEGER NOT NULL, ended_at REAL
        ) STRICT;
        CREATE TABLE machines (
            tag TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES runs(name), attempt INTEGER NOT NULL,
            provider TEXT NOT NULL, offer_id TEXT NOT NULL, price_per_hour_usd REAL NOT NULL,
            intent_at REAL NOT NULL, machine_id TEXT, created_at REAL, absent_at REAL
        ) STRICT;
        CREATE TABLE moves (
            id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs(name), at REAL NOT NULL,
            epoch INTEGER NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL, why TEXT NOT NULL
        ) STRICT;
        CREATE TABLE artifacts (
            run TEXT NOT NULL REFERENCES runs(name), kind TEXT NOT NULL, step INTEGER NOT NULL,
            folder TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (run, kind, step, manifest_sha256)
        ) STRICT;
        CREATE TABLE installation (id TEXT NOT NULL) STRICT;
        """,
    ),
    (
        "0002-what-a-machine-costs-and-why-it-failed",
        """
        ALTER TABLE machines ADD COLUMN market TEXT NOT NULL DEFAULT 'on-demand';
        ALTER TABLE machines ADD COLUMN disk_per_day_usd REAL NOT NULL DEFAULT 0;
        ALTER TABLE machines ADD COLUMN rescue_usd REAL NOT NULL DEFAULT 0;
        ALTER TABLE machines ADD COLUMN trouble TEXT;
        ALTER TABLE machines ADD COLUMN trouble_why TEXT;
        ALTER TABLE machines ADD COLUMN keeps TEXT;
        ALTER TABLE machines ADD COLUMN keeps_since REAL;
        CREATE TABLE rates (
            id INTEGER PRIMARY KEY, tag TEXT NOT NULL REFERENCES machines(tag), at REAL NOT NULL,
            usd_per_hour REAL NOT NULL, stopped INTEGER NOT NULL
        ) STRICT;
        """,
    ),
    ("0003-what-the-provider-billed", "ALTER TABLE machines ADD COLUMN billed_usd REAL"),
    (
        "0004-what-an-unanswered-create-may-cost",
        """
        ALTER TABLE machines ADD COLUMN first_lease_s REAL;
        ALTER TABLE machines ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
        """,
    ),
    ("0005-which-gpu", "ALTER TABLE machines ADD COLUMN gpu TEXT NOT NULL DEFAULT ''"),
    ("0006-what-the-way-costs", "ALTER TABLE machines ADD COLUMN traffic_usd REAL NOT NULL DEFAULT 0"),
    (
        "0007-pictures-that-a-service-makes",
        """
        CREATE TABLE predictions (
            tag TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES runs(name), provider TEXT NOT NULL,
            model TEXT NOT NULL, wish_json TEXT NOT NULL, usd_per_s REAL, intent_at REAL NOT NULL,
            prediction TEXT, over_at REAL, outcome TEXT, usd REAL
        ) STRICT
        """,
    ),
)
"""Applied in order, once each; never edited after a release."""
