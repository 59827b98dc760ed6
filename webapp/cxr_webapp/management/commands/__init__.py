"""Commands of `cxr_webapp.manage`."""
