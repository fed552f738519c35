"""Vast.ai: a market of strangers' machines, on demand and by interruptible bid. See docs/vast.md."""
