"""Networks that more than one system can use."""
