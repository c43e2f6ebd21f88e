"""One file per published system, which puts the stages together. No system imports another."""
