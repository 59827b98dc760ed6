"""Commands of `webapp.manage`."""
