"""Reports of measurements: report.json and its schema, tables, the page, the notebook view; it measures nothing."""
