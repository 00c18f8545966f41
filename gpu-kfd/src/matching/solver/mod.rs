//! Choosing for each of some variables a value, no two the same, under relations of two.
//!
//! It knows nothing of GPUs: variables and values are small numbers.

mod bits;
mod problem;
mod search;
mod symmetry;

pub(super) use bits::Bits;
pub(super) use problem::{FREE, Problem};
pub(super) use search::{Budget, Exhausted, distinct, solve};
