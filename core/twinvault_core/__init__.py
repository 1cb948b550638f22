"""Pure decisions and the vocabulary of twinvault: no I/O, no clock, no framework."""
