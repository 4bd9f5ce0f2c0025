"""Commands that look: maps, reports, figures."""
