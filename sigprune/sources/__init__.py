"""Sources: what the name of a model means, and where its files are: a local folder or a Hub snapshot."""
