//! Plans over small worlds.
