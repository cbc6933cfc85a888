"""Point-cloud backbones behind one interface; see ``backbones.base``."""
