"""Training that survives: hooks and loops of MMEngine's, by ``type=`` in a config."""
