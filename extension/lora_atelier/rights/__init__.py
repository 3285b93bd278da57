"""Which pictures may be trained on, and the record of it."""
