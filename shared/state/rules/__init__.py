"""What transactions do to the contents of the database: pure functions, a module a subject."""
