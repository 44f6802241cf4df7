"""Reports: what happened in a run, as JSON, figures and model cards."""
