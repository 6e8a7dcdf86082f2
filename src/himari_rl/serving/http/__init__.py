"""The wire: HTTP in, HTTP out, around the decisions of serving/."""
