"""Everything SQLAlchemy."""
