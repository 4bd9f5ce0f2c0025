"""Renders a measurement: report.json and its schema, tables, the page, the notebook view; nothing is measured here."""
