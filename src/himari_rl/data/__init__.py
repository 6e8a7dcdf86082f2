"""Where bars come from: files, an exchange, or a seeded generator."""
