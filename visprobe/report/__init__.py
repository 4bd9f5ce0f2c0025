"""Results and figures into report.json and one self-contained HTML page."""
