"""One file per benchmark; metrics apart."""
