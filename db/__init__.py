"""What is installed into a database (SQL), and the programs that do it."""
