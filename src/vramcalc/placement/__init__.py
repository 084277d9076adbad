"""Who holds which share; pure."""
