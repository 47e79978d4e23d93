//! Part of copies.
