"""What was measured, to read: report, audit, comparison, model card and their figures."""
