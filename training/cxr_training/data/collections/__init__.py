"""Readers of public and of own film collections: from a collection's own tables to candidates for a data folder."""
