"""Signal propagation: singular values, gains, findings, calibration, and the repair of isometry."""
