"""An example of a page that shows the connecting instances and changes with the database."""
