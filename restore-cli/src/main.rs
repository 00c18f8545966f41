//! Thaw.
fn main() {}
