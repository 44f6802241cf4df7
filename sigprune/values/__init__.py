"""The values that algorithms see: layouts, weights, views, masks, operators, spectra, problems."""
