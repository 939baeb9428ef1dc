"""What is deployed with each installation; Python is imported from here by tools and tests."""
