"""What the server costs, beside bounds that are measured in the same run; see README.md here."""
