"""The gsjax console script, one thin file a subcommand."""
