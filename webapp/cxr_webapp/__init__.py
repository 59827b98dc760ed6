"""The reading page: a Django web app in front of the REST API, through `cxr_client` alone."""
