"""The Hub: checkpoints pushed in one commit, and pulled whole or not at all."""
