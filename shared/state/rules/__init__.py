"""What may become of the contents of the database: pure changes, by subject."""
