"""Effects: what touches the clock, the disk, the network or a training framework."""
