//! berthd
fn main() {}
