"""All that a vendor's file may import, beside the domain."""
