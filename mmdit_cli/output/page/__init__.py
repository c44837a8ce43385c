"""Documents as one page that needs no network."""
