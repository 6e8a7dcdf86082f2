"""Google Cloud: the jobs that run there. SDKs are imported inside functions."""
